import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mnist_mlp.data import idx
from mnist_mlp.errors import CorruptDatasetError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def test_images_are_encoded_as_the_format_says() -> None:
    header = b"\x00\x00\x08\x03" + struct.pack(">III", 2, 3, 4)
    assert idx.encode(IMAGES) == header + bytes(range(24))


def test_values_are_written_in_row_major_order_whatever_the_memory_order() -> None:
    assert idx.encode(np.asfortranarray(IMAGES)) == idx.encode(IMAGES)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)))
def test_decoding_gives_back_what_was_encoded(array: np.ndarray) -> None:
    decoded = idx.decode(idx.encode(array), name="x", dimensions=array.ndim)
    assert decoded.shape == array.shape
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, array)


@given(st.data())
def test_a_flipped_bit_is_either_refused_or_confined_to_a_value(data: st.DataObject) -> None:
    content = bytearray(idx.encode(IMAGES))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    if at < 16:
        with pytest.raises(CorruptDatasetError, match=r"^images "):
            idx.decode(bytes(content), name="images", dimensions=3)
    else:
        assert (idx.decode(bytes(content), name="images", dimensions=3) != IMAGES).sum() == 1


@given(st.binary(max_size=64), st.integers(1, 3))
def test_arbitrary_bytes_are_refused_or_decoded_exactly(content: bytes, dimensions: int) -> None:
    try:
        array = idx.decode(content, name="x", dimensions=dimensions)
    except CorruptDatasetError:
        return
    assert idx.encode(array) == content


@pytest.mark.parametrize("size", [0, 3, 4, 15])
def test_truncated_header_is_refused_with_the_rule(size: int) -> None:
    with pytest.raises(CorruptDatasetError, match=rf"images has {size} bytes.*takes 16: delete it .*--data-root"):
        idx.decode(idx.encode(IMAGES)[:size], name="images", dimensions=3)


@pytest.mark.parametrize("change", [-1, 1])
def test_length_that_differs_from_the_header_is_refused_with_both_numbers(change: int) -> None:
    content = (idx.encode(IMAGES) + b"\x00")[: 16 + 24 + change]
    with pytest.raises(
        CorruptDatasetError, match=rf"images announces 2 x 3 x 4 = 24 values but contains {24 + change}:"
    ):
        idx.decode(content, name="images", dimensions=3)


def test_signed_bytes_are_refused_with_the_magic_number_that_was_expected() -> None:
    content = b"\x00\x00\x09\x01" + struct.pack(">I", 1) + b"\x00"
    with pytest.raises(CorruptDatasetError, match=r"labels starts with 00000901, .* starts with 00000801"):
        idx.decode(content, name="labels", dimensions=1)


def test_labels_where_images_belong_are_refused() -> None:
    with pytest.raises(CorruptDatasetError, match="00000801"):
        idx.decode(idx.encode(np.zeros(99, np.uint8)), name="images", dimensions=3)


def test_header_that_announces_more_values_than_any_memory_holds_is_refused() -> None:
    content = b"\x00\x00\x08\x03" + b"\xff" * 12
    with pytest.raises(CorruptDatasetError, match=str((2**32 - 1) ** 3)):
        idx.decode(content, name="images", dimensions=3)


def test_sizes_whose_product_overflows_64_bits_to_the_true_length_are_refused() -> None:
    # 2^22 * 2^21 * 2^21 = 2^64, which is 0 in 64-bit arithmetic: the number of values in this file.
    shape = (2**22, 2**21, 2**21)
    assert math.prod(shape) == 2**64
    with pytest.raises(CorruptDatasetError, match="contains 0"):
        idx.decode(b"\x00\x00\x08\x03" + struct.pack(">III", *shape), name="images", dimensions=3)


def test_file_is_read_whole(tmp_path: Path) -> None:
    content = os.urandom(100)
    (tmp_path / "file").write_bytes(content)
    assert idx.read_bytes(tmp_path / "file") == content


def test_file_of_exactly_the_allowed_size_is_read(tmp_path: Path) -> None:
    _make_sparse_file(tmp_path / "file", idx.MAX_FILE_BYTES)
    assert len(idx.read_bytes(tmp_path / "file")) == idx.MAX_FILE_BYTES


def test_larger_file_is_refused_by_its_base_name_and_the_limit(tmp_path: Path) -> None:
    _make_sparse_file(tmp_path / "file", idx.MAX_FILE_BYTES + 1)
    with pytest.raises(CorruptDatasetError, match=rf"^file holds more than the {idx.MAX_FILE_BYTES} bytes allowed: "):
        idx.read_bytes(tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no endless file")
def test_endless_file_is_refused() -> None:
    with pytest.raises(CorruptDatasetError, match=r"^zero holds more"):
        idx.read_bytes(Path("/dev/zero"))


def _make_sparse_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
