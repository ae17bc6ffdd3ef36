"""The four decoded files of MNIST: their names, their place below a data root, and their required content.

The layout is torchvision's (`<root>/MNIST/raw/train-images-idx3-ubyte`, …), so that `torchvision.datasets.MNIST` reads
the same files. Fashion-MNIST has the same four names in a folder of its own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mnist_mlp.data import idx
from mnist_mlp.errors import CorruptDatasetError
from mnist_mlp.recipes import CLASSES

IMAGE_SIDE: Final = 28
"""Height and width of one image, in pixels."""

TRAIN_IMAGES: Final = "train-images-idx3-ubyte"
TRAIN_LABELS: Final = "train-labels-idx1-ubyte"
TEST_IMAGES: Final = "t10k-images-idx3-ubyte"
TEST_LABELS: Final = "t10k-labels-idx1-ubyte"

FILE_NAMES: Final = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
"""Names of the decoded files, in the order used by `combined_sha256`."""

TRAIN_SAMPLES: Final = 60_000
TEST_SAMPLES: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrays:
    """A dataset as arrays, all uint8: images (n, 28, 28), labels (n,)."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One dataset on disk: `folder` is torchvision's class name, `sha256` the expected hash of each file, if known."""

    name: str
    folder: str
    sha256: Mapping[str, str] | None = None
    train_samples: int = TRAIN_SAMPLES
    test_samples: int = TEST_SAMPLES


MNIST: Final = Layout(
    name="mnist",
    folder="MNIST",
    sha256=MappingProxyType(
        {
            TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        }
    ),
)
"""MNIST, with the SHA-256 of the official files after decompression."""

FASHION_MNIST: Final = Layout(name="fashion-mnist", folder="FashionMNIST")
"""Fashion-MNIST. The SHA-256 of its decoded files is not known in advance: only their structure is checked."""


def encode_files(arrays: Arrays) -> dict[str, bytes]:
    """Return file name → content of the four IDX files that hold `arrays`."""
    contents = (arrays.train_images, arrays.train_labels, arrays.test_images, arrays.test_labels)
    return {name: idx.encode(array) for name, array in zip(FILE_NAMES, contents, strict=True)}


def decode_files(layout: Layout, files: Mapping[str, bytes]) -> Arrays:
    """Return the arrays in `files` (file name → content); they are read-only views.

    Raises:
        CorruptDatasetError: a file is no IDX file, or not of the shape that `layout` states, or a label is no class.
    """
    train_images, train_labels = _decode_split(files, TRAIN_IMAGES, TRAIN_LABELS, layout.train_samples)
    test_images, test_labels = _decode_split(files, TEST_IMAGES, TEST_LABELS, layout.test_samples)
    return Arrays(
        train_images=train_images, train_labels=train_labels, test_images=test_images, test_labels=test_labels
    )


def _decode_split(
    files: Mapping[str, bytes], images_name: str, labels_name: str, samples: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = idx.decode(files[images_name], name=images_name, dimensions=3)
    labels = idx.decode(files[labels_name], name=labels_name, dimensions=1)
    for name, array, expected in (
        (images_name, images, (samples, IMAGE_SIDE, IMAGE_SIDE)),
        (labels_name, labels, (samples,)),
    ):
        if array.shape != expected:
            raise CorruptDatasetError(
                f"{name} has shape {array.shape}, not {expected}: replace it with the genuine file"
            )
    if labels.size and labels.max() >= CLASSES:
        raise CorruptDatasetError(
            f"{labels_name} contains label {labels.max()}, but the classes are 0 to {CLASSES - 1}: "
            f"replace it with the genuine file"
        )
    return images, labels


def verify_hashes(layout: Layout, files: Mapping[str, bytes]) -> str:
    """Check `files` against the expected hashes in `layout`, if any, and return their `combined_sha256`.

    Raises:
        CorruptDatasetError: a file has another hash.
    """
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in FILE_NAMES}
    for name, expected in (layout.sha256 or {}).items():
        if digests[name] != expected:
            raise CorruptDatasetError(
                f"{name} has SHA-256 {digests[name]}, but the genuine file of {layout.name} has {expected}: "
                f"delete it to have it fetched again"
            )
    return combined_sha256(digests)


def combined_sha256(digests: Mapping[str, str]) -> str:
    """Return one hash that identifies a dataset, from the SHA-256 of each of its files by name.

    It is the SHA-256 of the text that `sha256sum` prints for the four decoded files in the order of `FILE_NAMES`, so
    that anyone can check it in the folder `raw`:

        sha256sum {train,t10k}-{images-idx3,labels-idx1}-ubyte | sha256sum
    """
    listing = "".join(f"{digests[name]}  {name}\n" for name in FILE_NAMES)
    return hashlib.sha256(listing.encode("ascii")).hexdigest()
