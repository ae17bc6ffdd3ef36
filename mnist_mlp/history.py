"""Losses and accuracies of a training, epoch by epoch."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from mnist_mlp.files import write_file
from mnist_mlp.paths import expanded


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One pass over the training samples, and the evaluations after it.

    Losses are means over samples, in nats; accuracies are fractions, 0 to 1.

    Attributes:
        epoch: its number, from 1.
        train_loss: measured while training, each batch with the weights before its step; usually higher than with the
            weights at the end of the epoch.
        train_accuracy: measured in the same way; usually lower.
        validation_loss: with the weights at the end of the epoch; None without a validation split.
        validation_accuracy: with the same weights.
        test_loss: with the weights at the end of the epoch.
        test_accuracy: with the same weights.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    test_loss: float
    test_accuracy: float


class History(Sequence[Epoch]):
    """The epochs of one training, in order; an immutable sequence."""

    def __init__(self, epochs: Iterable[Epoch] = ()) -> None:
        """Keep `epochs`, in order."""
        self._epochs = tuple(epochs)

    @overload
    def __getitem__(self, index: int) -> Epoch: ...

    @overload
    def __getitem__(self, index: slice) -> "History": ...

    def __getitem__(self, index: int | slice) -> "Epoch | History":
        """Return the epoch at position `index`, from 0, or the history of a slice."""
        return History(self._epochs[index]) if isinstance(index, slice) else self._epochs[index]

    def __iter__(self) -> Iterator[Epoch]:
        """Go through the epochs in order."""
        return iter(self._epochs)

    def __len__(self) -> int:
        """Return the number of epochs."""
        return len(self._epochs)

    def __eq__(self, other: object) -> bool:
        """Return whether `other` is a history of equal epochs."""
        return self._epochs == other._epochs if isinstance(other, History) else NotImplemented

    def __hash__(self) -> int:
        """Return the hash of the epochs."""
        return hash(self._epochs)

    def __repr__(self) -> str:
        """Return the epochs, one per line."""
        return "History([" + "".join(f"\n  {epoch}," for epoch in self._epochs) + "\n])"

    def to_csv(self, path: Path | str) -> None:
        """Write one unrounded row per epoch, with the fields of `Epoch` as columns; a field that is None is empty.

        Raises:
            OutputError: `path` cannot be written.
            InvalidValueError: `path` starts with ``~``, but there is no home folder.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in dataclasses.fields(Epoch))
        writer.writerows(dataclasses.astuple(epoch) for epoch in self)
        write_file(expanded(path), text.getvalue().encode())
