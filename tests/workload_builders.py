"""Datasets, models and runs of the command line for the tests of `mnist_mlp`'s user-facing side."""

import io
import zipfile
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from mnist_mlp.cli import cli
from mnist_mlp.data import Dataset
from mnist_mlp.recipes import Recipe

RECIPE = Recipe(name="784-16-10", layers=(784, 16, 10), learning_rate=0.01, batch_size=20, test_batch_size=30, epochs=3)

DIGITS = ("--dataset", "digits", "--device", "cpu")
SMALL = ("784-16-10", *DIGITS, "--epochs", "2", "--batch-size", "32")
"""Arguments of `mnist-mlp train` for a training that takes a fraction of a second."""


def bars() -> Dataset:
    """Return 200 training and 70 test images that a small model learns at once: class k has a bar in row 2k + 4."""
    random = np.random.default_rng(0)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = random.permutation(np.arange(count) % 10)
        images = random.integers(0, 40, (count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4, 4:24] = 255
        return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))

    (train_images, train_labels), (test_images, test_labels) = draw(200), draw(70)
    return Dataset(
        name="digits",
        sha256="1" * 64,
        source="generated",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def rewrite_archive(
    content: bytes, changes: Mapping[str, Callable[[bytes], bytes]], *, compression: int = zipfile.ZIP_STORED
) -> bytes:
    """Return the zip archive `content` with records, named by their last part, changed; stored or compressed."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(result, "w", compression) as target:
        for entry in source.infolist():
            data, change = source.read(entry), changes.get(entry.filename.split("/")[-1])
            target.writestr(entry.filename, data if change is None else change(data))
    return result.getvalue()


class CommandLine:
    """Runs `mnist-mlp` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli([str(argument) for argument in arguments], prog_name="mnist-mlp")
        out, err = self._capsys.readouterr()
        code = exit_.value.code
        assert isinstance(code, int)
        return code, out, err
