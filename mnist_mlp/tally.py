"""Losses and outputs of a stretch of training or of an evaluation, kept on the device until they are asked for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mnist_mlp.recipes import CLASSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Loss and correct answers over `samples` samples. `loss` is the mean over samples, in nats."""

    samples: int
    loss: float
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of correct answers, 0 to 1."""
        return self.correct / self.samples


class Tally:
    """Losses and outputs of a stretch of batches, still on the device.

    Their memory is allocated before the first batch: tensors kept one by one, from amid all those that a step gives
    back, would leave holes too small to be used again, and the steps would pay for fresh memory (docs/measuring.md).
    """

    def __init__(self, outputs: Tensor, losses: Tensor, labels: Tensor, *, batch_size: int) -> None:
        """Hold a stretch of n samples in batches of `batch_size`, the last one perhaps short.

        Args:
            outputs: (n, classes).
            losses: each batch's mean, (batches,).
            labels: (n,) int64.
            batch_size: at least 1.
        """
        self._outputs = outputs
        self._losses = losses
        self._labels = labels
        self._batch_size = batch_size
        self._free: list[tuple[Tensor, Tensor, Tensor]] = []

    @classmethod
    def for_batches(cls, samples: int, batch_size: int, device: torch.device) -> "Tally":
        """Return one to `add` every batch of `samples` samples to."""
        losses = torch.empty(-(-samples // batch_size), device=device)
        outputs = torch.empty(samples, CLASSES, device=device)
        labels = torch.empty(samples, dtype=torch.int64, device=device)
        tally = cls(outputs, losses, labels, batch_size=batch_size)
        places = zip(outputs.split(batch_size), losses.unbind(), labels.split(batch_size), strict=True)
        tally._free = list(places)[::-1]
        return tally

    def add(self, output: Tensor, loss: Tensor, labels: Tensor) -> None:
        """Copy the next batch: output (batch, classes), its mean loss (scalar) and labels (batch,)."""
        outputs, losses, targets = self._free.pop()
        outputs.copy_(output)
        losses.copy_(loss)
        targets.copy_(labels)

    def read(self) -> Score:
        """Reduce on the device and read the sums back: the stretch's only host read."""
        samples, batch_size = len(self._labels), self._batch_size
        sizes = torch.full((len(self._losses),), batch_size, dtype=torch.float64)
        sizes[-1] = samples - batch_size * (len(sizes) - 1)
        losses = self._losses.cpu().to(torch.float64)
        return Score(
            samples=samples,
            loss=float((losses * sizes).sum() / samples),
            correct=int((self._outputs.argmax(dim=1) == self._labels).sum()),
        )

    def predictions(self) -> tuple[Tensor, Tensor]:
        """Return the predicted and the true classes, (n,) int64 each, on the CPU, in the order of the samples."""
        return self._outputs.argmax(dim=1).cpu(), self._labels.cpu()
