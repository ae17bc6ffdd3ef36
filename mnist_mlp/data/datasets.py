"""Datasets by name, as tensors, whatever their source."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mnist_mlp.checks import check_choice, check_name, check_type
from mnist_mlp.data import generated
from mnist_mlp.data.layout import FASHION_MNIST, IMAGE_SIDE, MNIST, Arrays, Layout, encode_files, verify_hashes
from mnist_mlp.data.sources import Found, Source, SourceName, default_sources, obtain
from mnist_mlp.data.storage import default_root
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import CLASSES, DATASETS

_LAYOUTS = (MNIST, FASHION_MNIST)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """A dataset in host memory, with what identifies it.

    Attributes:
        name: one of `DATASETS`; for data of your own, any other.
        sha256: SHA-256 of the text that `sha256sum` prints for the dataset's four decoded IDX files, in the order
            train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte: a line
            "<hash>  <file name>" each. For datasets that are not kept in files, of the files that would hold them.
        source: where it came from, in fixed words without any path.
        train_images: (n, 28, 28) uint8; ink is high, paper is 0.
        train_labels: (n,) int64, 0 to 9.
        test_images: (m, 28, 28) uint8.
        test_labels: (m,) int64, 0 to 9.

    Raises:
        InvalidValueError: a tensor is not as above.
    """

    name: str
    sha256: str
    source: SourceName
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    def __post_init__(self) -> None:
        """Check every field but the source."""
        check_name("dataset name", self.name)
        check_type("sha256", self.sha256, str, "64 hexadecimal digits, or an empty text")
        if re.fullmatch("([0-9a-f]{64})?", self.sha256) is None:
            raise InvalidValueError(
                f"sha256 {self.sha256!r} is not a SHA-256: give 64 hexadecimal digits, or an empty text if unknown"
            )
        _check_tensors("train", self.train_images, self.train_labels)
        _check_tensors("test", self.test_images, self.test_labels)

    def __repr__(self) -> str:
        """Return what it is, without its tensors."""
        counts = f"{len(self.train_labels)} training and {len(self.test_labels)} test images"
        return f"Dataset({self.name!r}, {counts}, source {self.source!r})"


def _check_tensors(part: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    for name, tensor in ((f"{part}_images", images), (f"{part}_labels", labels)):
        check_type(name, tensor, torch.Tensor, "a tensor, for example torch.from_numpy(array)")
    count = labels.numel()
    for name, tensor, shape, dtype in (
        (f"{part}_labels", labels, (count,), torch.int64),
        (f"{part}_images", images, (count, IMAGE_SIDE, IMAGE_SIDE), torch.uint8),
    ):
        if count == 0 or tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise InvalidValueError(
                f"{name} of shape {tuple(tensor.shape)} and type {tensor.dtype} do not fit: give at least one label, "
                f"(n,) torch.int64, and as many images, (n, 28, 28) torch.uint8 with 0 for paper and 255 for full ink"
            )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= CLASSES:
        raise InvalidValueError(
            f"{part}_labels go from {low} to {high}, but classes are 0 to {CLASSES - 1}: renumber them"
        )


def prepare(name: str, root: Path | str | None = None, *, sources: Sequence[Source] | None = None) -> SourceName:
    """Make sure that the dataset `name` can be loaded, and return which source supplied it.

    MNIST and Fashion-MNIST are in `root` afterwards, in torchvision's layout, verified: MNIST by the SHA-256 of each
    file; Fashion-MNIST, for which none is pinned, by its structure (and by torchvision's MD5 when it is downloaded).
    Any number of processes may prepare at once. The other datasets are made on the spot and leave `root` alone.

    Args:
        name: one of `DATASETS`.
        root: the folder to keep files in; by default `default_root()`.
        sources: where to look for files, in order; by default `default_sources` of the dataset.

    Raises:
        InvalidValueError: `name` is unknown, or `root` cannot be written or is nowhere.
        DatasetUnavailableError: no source has the dataset.
    """
    return _find(name, root, sources).source


def load(name: str, root: Path | str | None = None, *, sources: Sequence[Source] | None = None) -> Dataset:
    """Return the dataset `name`, prepared as `prepare` does it and verified on every load (0.1 s).

    Where Fashion-MNIST is concerned, `Dataset.sha256` is what was found, not what was expected: no hash of it is
    pinned, but results of different files are told apart by it. Arguments and errors are those of `prepare`.
    """
    found = _find(name, root, sources)
    return Dataset(
        name=name,
        sha256=found.sha256,
        source=found.source,
        # torch.tensor copies: into memory that is writable and aligned as torch's own is, unlike the file's contents.
        train_images=torch.tensor(found.arrays.train_images),
        train_labels=torch.tensor(found.arrays.train_labels, dtype=torch.int64),
        test_images=torch.tensor(found.arrays.test_images),
        test_labels=torch.tensor(found.arrays.test_labels, dtype=torch.int64),
    )


def check_root_is_used(name: str, root: Path | None) -> None:
    """Raise `InvalidValueError` where `root` was named for a dataset that is kept in no files, so would be ignored."""
    if root is not None and name in DATASETS and name not in {layout.name for layout in _LAYOUTS}:
        raise InvalidValueError(
            f"--data-root {str(root)!r} is of datasets that are kept in files, and {name!r} is made from none: "
            f"leave it out"
        )


def _find(name: str, root: Path | str | None, sources: Sequence[Source] | None) -> Found:
    check_type("dataset", name, str, "its name, or a Dataset")
    check_choice("dataset", name, DATASETS)
    if name == "digits":
        return _found_here(name, generated.digits(), "scikit-learn")
    if name == "synthetic":
        return _found_here(name, generated.synthetic(), "generated")
    layout = next(layout for layout in _LAYOUTS if layout.name == name)
    return obtain(
        layout,
        default_root() if root is None else Path(root),
        default_sources(layout) if sources is None else sources,
    )


def _found_here(name: str, arrays: Arrays, source: SourceName) -> Found:
    unpinned = Layout(name=name, folder="")
    return Found(arrays=arrays, sha256=verify_hashes(unpinned, encode_files(arrays)), source=source)
