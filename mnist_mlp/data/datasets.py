"""Loading datasets by name, as tensors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mnist_mlp.checks import check_choice, check_name, check_type
from mnist_mlp.data import generated
from mnist_mlp.data.layout import FASHION_MNIST, IMAGE_SIDE, MNIST, Arrays, Layout, encode_files, verify_hashes
from mnist_mlp.data.root import default_root
from mnist_mlp.data.sources import Found, Source, SourceName, default_sources, obtain
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.paths import expanded
from mnist_mlp.recipes import CLASSES, DATASETS

_LAYOUTS = (MNIST, FASHION_MNIST)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """A dataset in host memory, with its identity.

    Attributes:
        name: one of `DATASETS`; for your own data, any other name.
        sha256: one hash of the dataset's four IDX files, see `mnist_mlp.data.layout.combined_sha256`; a generated
            dataset is hashed as if it were written to such files. For your own data, an empty text.
        source: where the dataset came from; leave it out for your own data.
        train_images: (n, 28, 28) uint8; 0 is paper, 255 full ink.
        train_labels: (n,) int64, 0 to 9.
        test_images: (m, 28, 28) uint8.
        test_labels: (m,) int64, 0 to 9.

    Raises:
        InvalidValueError: a field is not as described.
    """

    name: str
    sha256: str
    source: SourceName = "generated"
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
        if not self.name or (self.name in DATASETS and not self.sha256):
            whose = "is a built-in dataset's" if self.name else "is empty"
            raise InvalidValueError(f"dataset name {self.name!r} {whose}: give your own data a name of its own")
        _check_tensors("train", self.train_images, self.train_labels)
        _check_tensors("test", self.test_images, self.test_labels)

    def __repr__(self) -> str:
        """Return name, sizes and source, without the tensors."""
        counts = f"{len(self.train_labels)} training and {len(self.test_labels)} test images"
        return f"Dataset({self.name!r}, {counts}, source {self.source!r})"


def _check_tensors(part: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    for name, tensor in ((f"{part}_images", images), (f"{part}_labels", labels)):
        check_type(name, tensor, torch.Tensor, "a tensor, for example torch.from_numpy(array)")
    count = labels.numel()
    for name, tensor, shape, dtype, beside in (
        (f"{part}_labels", labels, (count,), torch.int64, ""),
        (f"{part}_images", images, (count, IMAGE_SIDE, IMAGE_SIDE), torch.uint8, f" beside {count} labels"),
    ):
        if count == 0 or tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise InvalidValueError(
                f"{name} of shape {tuple(tensor.shape)} and type {tensor.dtype}{beside} do not fit: give at least one "
                "label, (n,) torch.int64, and as many images, (n, 28, 28) torch.uint8 with 0 for paper and 255 for "
                "full ink"
            )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= CLASSES:
        raise InvalidValueError(
            f"{part}_labels go from {low} to {high}, but the classes are 0 to {CLASSES - 1}: renumber them"
        )


def load(name: str, root: Path | str | None = None, *, sources: Sequence[Source] | None = None) -> Dataset:
    """Return the dataset `name`, which is verified on every load (0.1 s).

    Afterwards MNIST and Fashion-MNIST are in `root`, in torchvision's layout, and verified: MNIST by the SHA-256 of
    each file, Fashion-MNIST by its structure (and by torchvision's MD5 when it is downloaded). No hash of Fashion-MNIST
    is known in advance: its `Dataset.sha256` is that of the files found, which distinguishes results on different
    files. Several processes may do this at the same time. The other datasets are generated and do not use `root`.

    Args:
        name: one of `DATASETS`.
        root: the folder for the files; by default `default_root()`.
        sources: where to look for the files, in order; by default `default_sources` of the dataset.

    Raises:
        InvalidValueError: `name` is unknown, `root` cannot be written, or there is no default root.
        DatasetUnavailableError: no source has the dataset.
    """
    found = _find(name, root, sources)
    return Dataset(
        name=name,
        sha256=found.sha256,
        source=found.source,
        # torch.tensor copies into memory that is writable and aligned for torch, unlike the bytes of the file.
        train_images=torch.tensor(found.arrays.train_images, device="cpu"),
        train_labels=torch.tensor(found.arrays.train_labels, dtype=torch.int64, device="cpu"),
        test_images=torch.tensor(found.arrays.test_images, device="cpu"),
        test_labels=torch.tensor(found.arrays.test_labels, dtype=torch.int64, device="cpu"),
    )


def check_root_is_used(name: str, root: Path | None) -> None:
    """Raise `InvalidValueError` if `root` was given for a dataset without files, where it would be ignored."""
    if root is not None and name in DATASETS and name not in {layout.name for layout in _LAYOUTS}:
        raise InvalidValueError(
            f"--data-root {str(root)!r} only applies to datasets that are kept in files, but {name!r} is generated: "
            f"leave it out"
        )


def _find(name: str, root: Path | str | None, sources: Sequence[Source] | None) -> Found:
    check_type("dataset", name, str, "the name of a dataset, or a Dataset")
    check_choice("dataset", name, DATASETS)
    if name == "digits":
        return _generated(name, generated.digits(), "scikit-learn")
    if name == "synthetic":
        return _generated(name, generated.synthetic(), "generated")
    layout = next(layout for layout in _LAYOUTS if layout.name == name)
    return obtain(
        layout,
        default_root() if root is None else expanded(root),
        default_sources(layout) if sources is None else sources,
    )


def _generated(name: str, arrays: Arrays, source: SourceName) -> Found:
    unpinned = Layout(name=name, folder="")
    return Found(arrays=arrays, sha256=verify_hashes(unpinned, encode_files(arrays)), source=source)
