"""Datasets that need no files: the digits that scikit-learn contains, and random noise."""

import importlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mnist_mlp.data.layout import IMAGE_SIDE, TEST_SAMPLES, TRAIN_SAMPLES, Arrays
from mnist_mlp.errors import DatasetUnavailableError
from mnist_mlp.recipes import CLASSES

DIGITS_TRAIN_SAMPLES: Final = 1437
"""The first 1437 of scikit-learn's 1797 digits, four fifths, are the training set, the other 360 the test set.

The digits are ordered by writer, so the test set contains writers that are not in the training set, as in MNIST.
"""

SYNTHETIC_SEED: Final = 20_240_229
"""An arbitrary fixed number, so that the noise is the same everywhere."""

_DIGITS_MAX: Final = 16
_DIGITS_ENLARGEMENT: Final = 3
_DIGITS_PADDING: Final = 2


def digits() -> Arrays:
    """Return scikit-learn's 1797 real handwritten digits in MNIST's form, 1437 for training and 360 for testing.

    The originals have 8 by 8 pixels from 0 to 16. Each value v becomes rint(v * 255 / 16), each pixel becomes 3 by 3
    pixels, and a border of 2 zero pixels completes 28 by 28.

    Raises:
        DatasetUnavailableError: scikit-learn cannot be imported.
    """
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise DatasetUnavailableError(
            f"dataset digits needs scikit-learn, which cannot be imported ({error}): "
            f"run `uv sync`, or use --dataset synthetic for timing only"
        ) from error
    bunch = datasets.load_digits()
    images = resize_digits(bunch.images)
    labels = bunch.target.astype(np.uint8)
    return Arrays(
        train_images=images[:DIGITS_TRAIN_SAMPLES],
        train_labels=labels[:DIGITS_TRAIN_SAMPLES],
        test_images=images[DIGITS_TRAIN_SAMPLES:],
        test_labels=labels[DIGITS_TRAIN_SAMPLES:],
    )


def resize_digits(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Convert images, (n, 8, 8) from 0 to 16, to (n, 28, 28) uint8 from 0 to 255, as `digits` describes."""
    pixels = np.rint(images * 255 / _DIGITS_MAX).astype(np.uint8)
    enlarged = pixels.repeat(_DIGITS_ENLARGEMENT, axis=1).repeat(_DIGITS_ENLARGEMENT, axis=2)
    border = (_DIGITS_PADDING, _DIGITS_PADDING)
    return np.pad(enlarged, ((0, 0), border, border))


def synthetic() -> Arrays:
    """Return noise of MNIST's shape: 60 000 and 10 000 images of independent uniform pixels, with random labels.

    It is for timing only, because there is nothing to learn. It uses the raw output of PCG64, which numpy guarantees
    never to change, unlike that of its distributions.
    """
    words = np.random.PCG64(SYNTHETIC_SEED)

    def noise(samples: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        pixels = words.random_raw(samples * IMAGE_SIDE**2 // 8).astype("<u8", copy=False).view(np.uint8)
        labels = (words.random_raw(samples) % CLASSES).astype(np.uint8)
        return pixels.reshape(samples, IMAGE_SIDE, IMAGE_SIDE), labels

    train_images, train_labels = noise(TRAIN_SAMPLES)
    test_images, test_labels = noise(TEST_SAMPLES)
    return Arrays(
        train_images=train_images, train_labels=train_labels, test_images=test_images, test_labels=test_labels
    )
