"""Outputs of a stretch of training or of an evaluation, kept on the device until they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from mnist_mlp.recipes import CLASSES

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Outputs (n, classes) and labels (n,) → their mean loss, a scalar."""


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
    """Outputs of a stretch of batches, with their labels, still on the device.

    The memory for outputs is allocated before the first batch: tensors kept one by one, from amid all those that a step
    gives back, would leave holes too small to be used again, and the steps would pay for fresh memory
    (docs/measuring.md). Losses are worked out when they are read, in float64: a step need not keep its own.
    """

    def __init__(self, outputs: Tensor, labels: list[Tensor], loss: Loss) -> None:
        """Hold `outputs`, (n, classes), their `labels` in pieces, (n,) int64 in all, and what their loss is."""
        self._outputs = outputs
        self._labels = labels
        self._loss = loss
        self._free: list[Tensor] = []

    @classmethod
    def for_batches(cls, samples: int, batch_size: int, device: torch.device, loss: Loss) -> "Tally":
        """Return one to `add` every batch of `samples` samples to; the last batch may be short."""
        outputs = torch.empty(samples, CLASSES, device=device)
        tally = cls(outputs, [], loss)
        tally._free = list(outputs.split(batch_size))[::-1]
        return tally

    def add(self, output: Tensor, labels: Tensor) -> None:
        """Copy the next batch's output, (batch, classes), and keep its labels, (batch,)."""
        self._free.pop().copy_(output)
        self._labels.append(labels)

    def read(self) -> Score:
        """Bring the outputs to the host, the stretch's only read, and work out their scores."""
        outputs, labels = self._outputs.cpu(), torch.cat(self._labels).cpu()
        return Score(
            samples=len(labels),
            loss=float(self._loss(outputs.double(), labels)),
            correct=int((outputs.argmax(dim=1) == labels).sum()),
        )

    def predictions(self) -> tuple[Tensor, Tensor]:
        """Return the predicted and the true classes, (n,) int64 each, on the CPU, in the order of the samples."""
        return self._outputs.argmax(dim=1).cpu(), torch.cat(self._labels).cpu()
