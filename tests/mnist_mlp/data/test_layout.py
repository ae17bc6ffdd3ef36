import hashlib
from dataclasses import replace

import numpy as np
import pytest

from mnist_mlp.data import idx
from mnist_mlp.data.layout import (
    FILE_NAMES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    Layout,
    combined_sha256,
    decode_files,
    encode_files,
    verify_hashes,
)
from mnist_mlp.errors import CorruptDatasetError

Files = dict[str, bytes]


def test_encoded_files_decode_to_the_same_arrays(small_layout: Layout, small_files: Files) -> None:
    arrays = decode_files(small_layout, small_files)
    assert arrays.train_labels.tolist() == [0, 9, 3, 3, 7]
    assert arrays.test_labels.tolist() == [1, 2, 9]
    assert arrays.train_images.shape == (5, 28, 28)
    assert arrays.test_images.shape == (3, 28, 28)
    assert encode_files(arrays) == small_files


@pytest.mark.parametrize(
    ("name", "array"),
    [
        (TRAIN_IMAGES, np.zeros((4, 28, 28), np.uint8)),
        (TRAIN_IMAGES, np.zeros((5, 28, 27), np.uint8)),
        (TRAIN_LABELS, np.zeros(6, np.uint8)),
        (TEST_LABELS, np.zeros(0, np.uint8)),
    ],
)
def test_well_formed_file_of_another_shape_is_refused(
    small_layout: Layout, small_files: Files, name: str, array: np.ndarray
) -> None:
    with pytest.raises(CorruptDatasetError, match=f"^{name} has shape .*, not "):
        decode_files(small_layout, small_files | {name: idx.encode(array)})


def test_label_outside_of_the_classes_is_refused(small_layout: Layout, small_files: Files) -> None:
    files = small_files | {TEST_LABELS: idx.encode(np.array([0, 10, 1], np.uint8))}
    with pytest.raises(CorruptDatasetError, match=f"^{TEST_LABELS} contains label 10, but the classes are 0 to 9"):
        decode_files(small_layout, files)


def test_combined_hash_is_that_of_what_sha256sum_prints(small_layout: Layout, small_files: Files) -> None:
    lines = [
        f"{hashlib.sha256(small_files[name]).hexdigest()}  {name}\n"
        for name in (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        )
    ]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert verify_hashes(small_layout, small_files) == expected
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in reversed(small_files.items())}
    assert combined_sha256(digests) == expected


@pytest.mark.parametrize("name", FILE_NAMES)
def test_each_file_is_compared_with_its_pinned_hash(small_layout: Layout, small_files: Files, name: str) -> None:
    changed = small_files[name][:-1] + bytes([small_files[name][-1] ^ 1])
    with pytest.raises(CorruptDatasetError, match=f"^{name} has SHA-256 {hashlib.sha256(changed).hexdigest()}, but"):
        verify_hashes(small_layout, small_files | {name: changed})


def test_hash_of_a_dataset_without_expected_hashes_distinguishes_other_files(
    small_layout: Layout, small_files: Files
) -> None:
    unpinned = replace(small_layout, sha256=None)
    other = small_files | {TEST_LABELS: idx.encode(np.array([1, 2, 8], np.uint8))}
    assert verify_hashes(unpinned, small_files) == verify_hashes(small_layout, small_files)
    assert verify_hashes(unpinned, other) != verify_hashes(unpinned, small_files)
