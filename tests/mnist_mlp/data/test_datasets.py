from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mnist_mlp import data
from mnist_mlp.data.layout import FILE_NAMES, TEST_SAMPLES, TRAIN_SAMPLES, Arrays, encode_files
from mnist_mlp.data.sources import DownloadSource, RootSource
from mnist_mlp.errors import DatasetUnavailableError, InvalidValueError
from mnist_mlp.recipes import DATASETS

# What `sha256sum <the four files of MNIST> | sha256sum` prints.
MNIST_SHA256 = "d0a3eec1f5a454401d758fdbf15b9b0163a7034963586d671960c180b97e2c1a"
DIGITS_SHA256 = "38d5221d6dc1f9a033d973c08ac32709f35b7a60305ee1c6822ca767aba3c161"
SYNTHETIC_SHA256 = "44adcc5adefd073a4488a3bc30b19abce59a8824c326c9db1ff07eaf252c6a3f"


def check_tensors(dataset: data.Dataset, train_samples: int, test_samples: int) -> None:
    assert dataset.train_images.shape == (train_samples, 28, 28)
    assert dataset.train_labels.shape == (train_samples,)
    assert dataset.test_images.shape == (test_samples, 28, 28)
    assert dataset.test_labels.shape == (test_samples,)
    assert dataset.train_images.dtype == dataset.test_images.dtype == torch.uint8
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == torch.int64


@pytest.mark.mnist
def test_mnist_is_loaded_from_the_prepared_root(mnist_root: Path) -> None:
    dataset = data.load("mnist", mnist_root)
    check_tensors(dataset, 60_000, 10_000)
    assert (dataset.name, dataset.source, dataset.sha256) == ("mnist", "root", MNIST_SHA256)
    assert data.load("mnist", str(mnist_root)).source == "root"
    assert dataset.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    # The training set's well-known mean and standard deviation.
    assert dataset.train_images.double().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert dataset.train_images.double().std().item() / 255 == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.mnist
def test_torchvision_reads_the_same_mnist_from_the_root(mnist_root: Path) -> None:
    torchvision_datasets = pytest.importorskip("torchvision.datasets")
    dataset = data.load("mnist", mnist_root)
    train = torchvision_datasets.MNIST(mnist_root, train=True, download=False)
    test = torchvision_datasets.MNIST(mnist_root, train=False, download=False)
    assert torch.equal(train.data, dataset.train_images)
    assert torch.equal(train.targets, dataset.train_labels)
    assert torch.equal(test.data, dataset.test_images)
    assert torch.equal(test.targets, dataset.test_labels)


@pytest.mark.mnist
def test_root_from_the_environment_is_the_default(mnist_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_MLP_DATA", str(mnist_root))
    assert data.load("mnist").source == "root"


@pytest.mark.mnist
def test_loaded_tensors_may_be_written_to(mnist_root: Path) -> None:
    data.load("mnist", mnist_root).train_images[0] = 1
    assert data.load("mnist", mnist_root).source == "root"


def test_digits_are_loaded_without_touching_the_root(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    dataset = data.load("digits", tmp_path / "root")
    check_tensors(dataset, 1437, 360)
    assert (dataset.source, dataset.sha256) == ("scikit-learn", DIGITS_SHA256)
    assert not (tmp_path / "root").exists()


def test_synthetic_is_the_same_everywhere(tmp_path: Path) -> None:
    dataset = data.load("synthetic", tmp_path / "root")
    check_tensors(dataset, 60_000, 10_000)
    assert (dataset.source, dataset.sha256) == ("generated", SYNTHETIC_SHA256)
    assert not (tmp_path / "root").exists()


def test_fashion_mnist_is_downloaded_once_then_read_from_the_root(tmp_path: Path) -> None:
    downloads = []

    def download(class_name: str, directory: Path) -> None:
        downloads.append(class_name)
        raw = directory / class_name / "raw"
        raw.mkdir(parents=True)
        arrays = Arrays(
            train_images=np.zeros((TRAIN_SAMPLES, 28, 28), np.uint8),
            train_labels=np.full(TRAIN_SAMPLES, 9, np.uint8),
            test_images=np.ones((TEST_SAMPLES, 28, 28), np.uint8),
            test_labels=np.full(TEST_SAMPLES, 3, np.uint8),
        )
        for name, content in encode_files(arrays).items():
            (raw / name).write_bytes(content)

    sources = (RootSource(), DownloadSource(download))
    assert data.load("fashion-mnist", tmp_path, sources=sources).source == "torchvision download"
    dataset = data.load("fashion-mnist", tmp_path, sources=sources)
    check_tensors(dataset, 60_000, 10_000)
    assert (dataset.name, dataset.source) == ("fashion-mnist", "root")
    assert dataset.test_labels[[0, -1]].tolist() == [3, 3]
    assert downloads == ["FashionMNIST"]
    assert {path.name for path in (tmp_path / "FashionMNIST" / "raw").iterdir()} == set(FILE_NAMES)


def test_load_reports_that_no_source_has_the_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailableError, match=r"(?s)supply fashion-mnist.*FashionMNIST/raw"):
        data.load("fashion-mnist", tmp_path, sources=[RootSource()])


def test_dataset_is_loaded_into_host_memory_whatever_torchs_default_device() -> None:
    with torch.device("meta"):
        dataset = data.load("digits")
    assert dataset.train_images.device == dataset.test_labels.device == torch.device("cpu")


def test_unknown_dataset_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"dataset 'minst' is unknown .*'mnist'"):
        data.load("minst", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": torch.zeros(3, 28, 28)}, r"train_images of shape \(3, 28, 28\) and type torch\.float32"),
        ({"train_images": torch.zeros(3, 784, dtype=torch.uint8)}, r"train_images of shape \(3, 784\)"),
        ({"train_images": torch.zeros(2, 28, 28, dtype=torch.uint8)}, r"as many images, \(n, 28, 28\) torch\.uint8"),
        ({"train_images": torch.zeros(2, 28, 28, dtype=torch.uint8)}, r"type torch\.uint8 beside 3 labels do not fit"),
        ({"train_labels": torch.zeros(3)}, r"train_labels of shape \(3,\) and type torch\.float32"),
        ({"train_labels": torch.tensor([0, 1, 10])}, r"train_labels go from 0 to 10, but the classes are 0 to 9"),
        ({"test_labels": torch.tensor([-1, 1, 2])}, r"test_labels go from -1 to 2"),
        ({"train_labels": torch.tensor(3)}, r"train_labels of shape \(\) and type"),
        ({"train_labels": [0, 1, 2]}, r"train_labels \[0, 1, 2\] is of type list: .* torch\.from_numpy"),
        ({"train_labels": None}, "train_labels None is of type NoneType"),
        ({"name": None}, "dataset name None is of type NoneType: give text"),
        ({"name": "two\nlines"}, "dataset name .* cannot be stored"),
        ({"name": "mnist"}, "dataset name 'mnist' is a built-in dataset's: give your own data a name of its own"),
        ({"name": ""}, "dataset name '' is empty: give"),
        ({"sha256": "abc"}, "sha256 'abc' is not a SHA-256: give 64 hexadecimal digits"),
        ({"test_images": np.zeros((3, 28, 28), np.uint8)}, r"test_images .* is of type ndarray: .* torch\.from_numpy"),
    ],
)
def test_dataset_with_a_field_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    images, labels = torch.zeros(3, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 2])
    tensors = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    with pytest.raises(InvalidValueError, match=message):
        data.Dataset(**{"name": "mine", "sha256": "", "source": "generated", **tensors, **changes})


def test_your_own_data_needs_a_name_and_an_empty_hash_but_no_source() -> None:
    images, labels = torch.zeros(3, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 2])
    dataset = data.Dataset(
        name="mine", sha256="", train_images=images, train_labels=labels, test_images=images, test_labels=labels
    )
    assert repr(dataset) == "Dataset('mine', 3 training and 3 test images, source 'generated')"


def test_every_dataset_name_is_known_to_load(tmp_path: Path) -> None:
    for name in DATASETS:
        if name in {"digits", "synthetic"}:
            continue
        with pytest.raises(DatasetUnavailableError, match=f"no source could supply {name}"):
            data.load(name, tmp_path, sources=[])
