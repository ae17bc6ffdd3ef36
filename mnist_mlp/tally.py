"""Losses and outputs of a stretch of training or of an evaluation, kept on the device until they are asked for."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
    """Losses and outputs of a stretch of batches, still on the device."""

    def __init__(self) -> None:
        """Start with no batch."""
        self._losses: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, output: Tensor, loss: Tensor, labels: Tensor) -> None:
        """Keep a batch: output (batch, classes), its mean loss (scalar) and labels (batch,). No device work."""
        self._outputs.append(output)
        self._losses.append(loss)
        self._labels.append(labels)

    def read(self) -> Score:
        """Reduce on the device and read the sums back: the stretch's only host read."""
        outputs, labels = torch.cat(self._outputs), torch.cat(self._labels)
        sizes = torch.tensor([len(batch) for batch in self._labels], dtype=torch.float64)
        losses = torch.stack(self._losses).cpu().to(torch.float64)
        return Score(
            samples=len(labels),
            loss=float((losses * sizes).sum() / sizes.sum()),
            correct=int((outputs.argmax(dim=1) == labels).sum()),
        )

    def predictions(self) -> tuple[Tensor, Tensor]:
        """Return the predicted and the true classes, (n,) int64 each, on the CPU, in the order of the samples."""
        return torch.cat(self._outputs).argmax(dim=1).cpu(), torch.cat(self._labels).cpu()
