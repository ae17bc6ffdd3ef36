"""Evaluation of a model: loss, accuracy, per-class accuracy and the confusion matrix. No torch."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_mlp.recipes import CLASSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How well a model does on a set of samples.

    Attributes:
        loss: mean over samples, in nats.
        confusion: `confusion[true][predicted]` is a number of samples, for the classes 0 to 9.
    """

    loss: float
    confusion: tuple[tuple[int, ...], ...]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(self.class_counts)

    @property
    def correct(self) -> int:
        """Number of samples classified correctly."""
        return sum(self.class_correct)

    @property
    def accuracy(self) -> float:
        """Share of samples classified correctly, 0 to 1."""
        return self.correct / self.samples

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of samples of each class."""
        return tuple(sum(row) for row in self.confusion)

    @property
    def class_correct(self) -> tuple[int, ...]:
        """Number of samples of each class that were classified correctly."""
        return tuple(row[label] for label, row in enumerate(self.confusion))

    @property
    def class_accuracies(self) -> tuple[float | None, ...]:
        """Share of each class's samples classified correctly (its recall), 0 to 1; None for a class without samples."""
        return tuple(
            right / count if count else None for right, count in zip(self.class_correct, self.class_counts, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; a loss that is infinite or not a number becomes None."""
        return {
            "samples": self.samples,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "accuracy": self.accuracy,
            "per_class_accuracy": list(self.class_accuracies),
            "confusion_matrix": [list(row) for row in self.confusion],
        }


def evaluate_predictions(loss: float, predicted: npt.ArrayLike, labels: npt.ArrayLike) -> Evaluation:
    """Compare `predicted` with `labels`, (n,) int each, 0 to 9, of at least one sample."""
    pairs = CLASSES * np.asarray(labels, dtype=np.int64) + np.asarray(predicted, dtype=np.int64)
    counts = np.bincount(pairs, minlength=CLASSES * CLASSES).reshape(CLASSES, CLASSES)
    return Evaluation(loss=loss, confusion=tuple(tuple(row) for row in counts.tolist()))
