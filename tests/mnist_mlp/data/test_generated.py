import sys

import numpy as np
import pytest

from mnist_mlp.data.generated import digits, resize_digits, synthetic
from mnist_mlp.data.layout import Arrays
from mnist_mlp.errors import DatasetUnavailableError


@pytest.fixture(scope="module")
def noise() -> Arrays:
    return synthetic()


def test_digits_are_scaled_enlarged_and_padded() -> None:
    image = np.zeros((1, 8, 8))
    image[0, 0, :] = [0, 1, 2, 4, 8, 12, 15, 16]
    resized = resize_digits(image)
    assert resized.dtype == np.uint8
    assert resized.shape == (1, 28, 28)
    # rint(v * 255 / 16): 15.94, 31.9, 63.75, 127.5 (to even), 191.25, 239.1, 255.
    row = [0, 0, *np.repeat([0, 16, 32, 64, 128, 191, 239, 255], 3).tolist(), 0, 0]
    assert [resized[0, y].tolist() for y in (2, 3, 4)] == [row] * 3
    assert not resized[0, :2].any()
    assert not resized[0, 5:].any()


def test_digits_keep_their_orientation() -> None:
    image = np.zeros((1, 8, 8))
    image[0, 7, 0] = 16
    assert np.argwhere(resize_digits(image)[0]).min(axis=0).tolist() == [23, 2]


def test_digits_are_split_in_their_original_order() -> None:
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    arrays = digits()
    assert (len(arrays.train_images), len(arrays.test_images)) == (1437, 360)
    assert np.concatenate([arrays.train_labels, arrays.test_labels]).tolist() == bunch.target.tolist()
    assert np.array_equal(arrays.test_images, resize_digits(bunch.images[-360:]))


def test_digits_without_scikit_learn_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DatasetUnavailableError, match=r"digits needs scikit-learn.*`uv sync`.*--dataset synthetic"):
        digits()


def test_synthetic_has_the_shape_of_mnist(noise: Arrays) -> None:
    assert noise.train_images.shape == (60_000, 28, 28)
    assert noise.train_labels.shape == (60_000,)
    assert noise.test_images.shape == (10_000, 28, 28)
    assert noise.test_labels.shape == (10_000,)
    assert noise.train_images.dtype == noise.test_labels.dtype == np.uint8


def test_synthetic_pixels_and_labels_are_uniform(noise: Arrays) -> None:
    counts = np.bincount(noise.test_images.reshape(-1), minlength=256)
    # 7 840 000 / 256 = 30 625 of each, with a standard deviation of 175.
    assert np.abs(counts - 30_625).max() < 6 * 175
    assert np.bincount(noise.train_labels).shape == (10,)
    # 60 000 / 10 = 6000 of each, with a standard deviation of 73.
    assert np.abs(np.bincount(noise.train_labels) - 6_000).max() < 6 * 73


def test_synthetic_images_differ(noise: Arrays) -> None:
    assert len(np.unique(noise.test_images.reshape(10_000, -1)[:, :8], axis=0)) == 10_000
    assert not np.array_equal(noise.test_images, noise.train_images[:10_000])
