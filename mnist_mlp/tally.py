"""Outputs of part of a training or of an evaluation, kept on the device until they are read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from mnist_mlp.recipes import CLASSES

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Outputs (n, classes), labels (n,) → their mean loss, a scalar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Mean loss, in nats, and number of correct predictions over `samples` samples."""

    samples: int
    loss: float
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, 0 to 1."""
        return self.correct / self.samples


class Tally:
    """Outputs of several batches, with their labels, still on the device.

    The memory for all outputs is allocated before the first batch. Keeping each step's own tensor instead would
    fragment the heap, so that later steps would need fresh memory (docs/measuring.md). The loss is computed in float64
    when it is read, so a step need not keep its own.
    """

    def __init__(self, outputs: Tensor, labels: list[Tensor], loss: Loss) -> None:
        """Keep `outputs`, (n, classes) float32, their `labels` in pieces, together (n,) int64, and their loss."""
        self._outputs = outputs
        self._labels = labels
        self._loss = loss
        self._free: list[Tensor] = []

    @classmethod
    def for_batches(cls, samples: int, batch_size: int, device: torch.device, loss: Loss) -> "Tally":
        """Return an empty tally for `samples` samples, to `add` their batches to; the last one may be short."""
        outputs = torch.empty(samples, CLASSES, dtype=torch.float32, device=device)
        tally = cls(outputs, [], loss)
        tally._free = list(outputs.split(batch_size))[::-1]
        return tally

    def add(self, output: Tensor, labels: Tensor) -> None:
        """Copy the next batch's output, (batch, classes), and keep its labels, (batch,)."""
        self._free.pop().copy_(output)
        self._labels.append(labels)

    def read(self) -> Score:
        """Copy the outputs to the host, the only synchronisation with the device, and compute their score."""
        outputs, labels = self._outputs.cpu(), torch.cat(self._labels).cpu()
        return Score(
            samples=len(labels),
            loss=float(self._loss(outputs.double(), labels)),
            correct=int((outputs.argmax(dim=1) == labels).sum()),
        )

    def predictions(self) -> tuple[Tensor, Tensor]:
        """Return predicted and true classes, (n,) int64 each on the CPU, in the order of the samples."""
        return self._outputs.argmax(dim=1).cpu(), torch.cat(self._labels).cpu()
