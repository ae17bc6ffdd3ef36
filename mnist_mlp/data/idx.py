"""IDX files of unsigned bytes: the uncompressed format in which MNIST and similar datasets are distributed.

A file is two zero bytes, the type code (8 for unsigned bytes), the number of dimensions, each dimension's size as
a big-endian unsigned 32-bit number, then the values in row-major order. Source: the format's description on the MNIST
page of LeCun, Cortes and Burges.
"""

import math
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mnist_mlp.errors import CorruptDatasetError

MAX_FILE_BYTES: Final = 64 * 1024**2
"""Larger files are refused; the largest genuine one, 60 000 images, has 47 040 016 bytes."""

_UNSIGNED_BYTE_TYPE: Final = 8
_REMEDY: Final = "delete it to have it fetched again, or name another folder with --data-root"


def read_bytes(path: Path) -> bytes:
    """Return the content of the file `path`.

    Raises:
        CorruptDatasetError: the file is larger than `MAX_FILE_BYTES`.
        OSError: the file is missing or cannot be read.
    """
    with path.open("rb") as file:
        # The size that the system reports may be outdated, or 0 for a special file.
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise CorruptDatasetError(f"{path.name} holds more than the {MAX_FILE_BYTES} bytes allowed: {_REMEDY}")
    return content


def decode(data: bytes, *, name: str, dimensions: int) -> NDArray[np.uint8]:
    """Return the array in the IDX file `data`. It is a read-only view of `data`, so a false header costs no memory.

    Args:
        data: the whole file.
        name: the file's base name, for messages.
        dimensions: how many dimensions the array must have: 3 for images, 1 for labels.

    Raises:
        CorruptDatasetError: the file is shorter than its header, has another type or number of dimensions, or does not
            contain exactly as many values as its header announces.
    """
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise CorruptDatasetError(
            f"{name} has {len(data)} bytes, but the header for {dimensions} dimensions alone takes {start}: {_REMEDY}"
        )
    magic = bytes((0, 0, _UNSIGNED_BYTE_TYPE, dimensions))
    if data[:4] != magic:
        raise CorruptDatasetError(
            f"{name} starts with {data[:4].hex()}, but an IDX file of unsigned bytes in {dimensions} dimensions "
            f"starts with {magic.hex()}: {_REMEDY}"
        )
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4))
    announced = math.prod(shape)
    if len(data) - start != announced:
        raise CorruptDatasetError(
            f"{name} announces {' x '.join(map(str, shape))} = {announced} values but contains {len(data) - start}: "
            f"{_REMEDY}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def encode(array: NDArray[np.uint8]) -> bytes:
    """Return the IDX file that holds `array`."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, _UNSIGNED_BYTE_TYPE, array.ndim)) + sizes + array.tobytes()
