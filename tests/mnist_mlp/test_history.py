"""The epochs of a training, in memory and as CSV."""

import csv
from pathlib import Path

import pytest

from mnist_mlp import Epoch, History
from mnist_mlp.files import OutputError

PLAIN = Epoch(epoch=1, train_loss=0.1 + 0.2, train_accuracy=0.5, test_loss=0.4, test_accuracy=0.75)
VALIDATED = Epoch(
    epoch=2,
    train_loss=0.2,
    train_accuracy=0.625,
    validation_loss=0.25,
    validation_accuracy=0.5,
    test_loss=0.3,
    test_accuracy=0.875,
)


def test_history_is_a_sequence_of_its_epochs() -> None:
    history = History([PLAIN, VALIDATED])
    assert len(history) == 2
    assert list(history) == [PLAIN, VALIDATED]
    assert history[-1] is VALIDATED
    assert list(history[1:]) == [VALIDATED]
    assert isinstance(history[1:], History)
    assert VALIDATED in history


def test_csv_keeps_every_digit_and_leaves_out_what_was_not_measured(tmp_path: Path) -> None:
    History([PLAIN, VALIDATED]).to_csv(tmp_path / "history.csv")
    with (tmp_path / "history.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == list(Epoch.__dataclass_fields__)
    assert float(first["train_loss"]) == PLAIN.train_loss
    assert first["validation_loss"] == ""
    assert (second["epoch"], second["validation_accuracy"]) == ("2", "0.5")


def test_csv_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        History([PLAIN]).to_csv(str(tmp_path))


def test_history_shows_one_epoch_a_line() -> None:
    assert repr(History([PLAIN, VALIDATED])).count("\n  Epoch(") == 2


def test_histories_of_equal_epochs_are_equal() -> None:
    assert History([PLAIN, VALIDATED]) == History([PLAIN, VALIDATED])
    assert hash(History([PLAIN])) == hash(History([PLAIN]))
    assert History([PLAIN]) != History([VALIDATED])
    assert History([PLAIN]) != [PLAIN]


def test_csv_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    History([PLAIN]).to_csv("~/history.csv")
    assert (tmp_path / "history.csv").is_file()
