"""Safe inspection of files that `torch.save` wrote, without executing or allocating anything that they ask for.

`torch.load(weights_only=True)` calls only functions on its own list, but some of those allocate any size that they are
given, and it does not check a storage's length. So an untrusted file is inspected here first. It is a zip archive of
stored records, one of which is a pickle. The pickle may use only the few opcodes that `torch.save` writes for plain
values and tensors. It is unpickled with stand-ins for tensors, whose sizes are checked against their records. The
records are then written to a new archive for `torch.load`, because its zip reader might find other records in a
manipulated file than Python's does.
"""

import io
import itertools
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mnist_mlp.errors import WorkloadError

MAX_ARCHIVE_BYTES: Final = 256 * 1024**2
"""Largest checkpoint: 67 million parameters. Loading takes about three times as much memory."""

MAX_PICKLE_BYTES: Final = 1024**2
"""Largest pickle inside; a 64-layer model's has 20 KB."""

_MAX_RECORDS: Final = 1000
_DIRECTORY: Final = 0x10
"""The bit of a zip entry's external attributes by which MS-DOS marks folders."""

_FLOAT32_BYTES: Final = 4

_VERSION: Final = b"3\n"
"""Format version of torch.save, the same in every file since torch 1.6."""

_OPCODES: Final = re.compile(
    "PROTO|STOP|MARK|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|EMPTY_(DICT|LIST|TUPLE)|TUPLE[123]?"
    "|APPENDS?|SETITEMS?|(LONG_)?BIN(PUT|GET)|GLOBAL|BINPERSID|REDUCE|BUILD"
)

_NAMES: Final = ("collections OrderedDict", "torch FloatStorage", "torch._utils _rebuild_tensor_v2")
"""Everything that a file of float32 tensors refers to: module and name."""


class CheckpointError(WorkloadError):
    """A file cannot be loaded as a checkpoint, or a model cannot be saved as one."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Stands for a contiguous float32 tensor: its shape, and the record that holds this tensor only."""

    shape: tuple[int, ...]
    record: str


def read_structure(content: bytes) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return the object in `content`, a file of `torch.save`, with a `TensorSpec` in place of each tensor.

    Nothing that the file refers to is called, and memory use stays within a few times the size of its pickle.

    Raises:
        CheckpointError: it is not such a file, or contains more than plain values and contiguous float32 tensors.
    """
    try:
        pickled, records = _read_records(content)
        _check_opcodes(pickled)
        return _Reader(io.BytesIO(pickled), records).load()
    except CheckpointError:
        raise
    # pickle, zipfile and the stand-ins may raise anything for malformed input.
    except Exception as error:
        raise CheckpointError(f"it is damaged or was not made by torch.save ({type(error).__name__})") from error


def rewritten(content: bytes) -> bytes:
    """Return a new archive with only those records of `content` that `read_structure` has inspected."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (pickled,) = _pickles(archive)
        folder = pickled.filename.split("/")[0]
        wanted = {pickled.filename: "data.pkl"}
        wanted |= {name: name.removeprefix(f"{folder}/") for name in archive.namelist() if _is_read(name, folder)}
        clean = io.BytesIO()
        with zipfile.ZipFile(clean, "w") as target:
            target.writestr("archive/version", _VERSION)
            for name, plain in wanted.items():
                target.writestr(f"archive/{plain}", archive.read(name))
    return clean.getvalue()


def _is_read(name: str, folder: str) -> bool:
    return name == f"{folder}/byteorder" or name.startswith(f"{folder}/data/")


def _pickles(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [each for each in archive.infolist() if each.filename.count("/") == 1 and each.filename.endswith(".pkl")]


def _read_records(content: bytes) -> tuple[bytes, Mapping[str, int]]:
    """Return the pickle, and the size in bytes of each tensor's record by its key."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise CheckpointError("it is not a zip archive such as torch.save writes")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(entries) > _MAX_RECORDS or len({name.casefold() for name in names}) < len(names):
            raise CheckpointError(f"it has too many records ({len(entries)}), or two of the same name")
        # For such a record torch returns a tensor of uninitialised memory, without an error.
        if any(entry.is_dir() or entry.external_attr & _DIRECTORY for entry in entries):
            raise CheckpointError("one of its records is marked as a folder, which torch.save never does")
        # A compressed record could be a thousand times larger than the file.
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > len(content):
            raise CheckpointError("its records are compressed or overlap, which torch.save never does")
        if (damaged := archive.testzip()) is not None:
            raise CheckpointError(f"its record {damaged!r} is damaged: the checksum is wrong")
        pickles = _pickles(archive)
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"it does not contain exactly one pickle of at most {MAX_PICKLE_BYTES} bytes")
        folder = pickles[0].filename.split("/")[0]
        prefix = f"{folder}/data/"
        sizes = {
            entry.filename.removeprefix(prefix): entry.file_size
            for entry in entries
            if entry.filename.startswith(prefix)
        }
        return archive.read(pickles[0]), sizes


def _check_opcodes(pickled: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(pickled):
        if not _OPCODES.fullmatch(opcode.name):
            raise CheckpointError(
                f"its pickle uses {opcode.name}, which a file of plain values and tensors never needs"
            )
        if opcode.name == "GLOBAL" and argument not in _NAMES:
            name = str(argument)[:100].replace(" ", ".")
            raise CheckpointError(
                f"it refers to {name!r}, and loading it could run code: "
                f"only plain values and float32 tensors are accepted"
            )
        # The unpickler allocates a memo table up to the highest number.
        if opcode.name == "LONG_BINPUT" and (argument is None or argument > len(pickled)):
            raise CheckpointError("its pickle refers to more objects than it can contain")


class _Values(dict[Any, Any]):
    """Stands for OrderedDict; the attributes of a state_dict are dropped."""

    def __setstate__(self, state: object) -> None:
        """Drop `state`."""


class _FloatStorage:
    """Stands for the type of a float32 storage."""


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    numbers: int


class _Reader(pickle.Unpickler):
    """Unpickles with stand-ins for `_NAMES`; any other name is a KeyError."""

    def __init__(self, file: io.BytesIO, records: Mapping[str, int]) -> None:
        super().__init__(file)
        self._records = records
        self._used: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's signature
        known = {
            "collections OrderedDict": _Values,
            "torch FloatStorage": _FloatStorage,
            "torch._utils _rebuild_tensor_v2": self._rebuild_tensor,
        }
        return known[f"{module} {name}"]

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 - pickle's signature
        kind, storage_type, key, location, numbers = pid
        if kind != "storage" or storage_type is not _FloatStorage or type(location) is not str:
            raise CheckpointError("it refers to something that is not a float32 storage")
        if type(numbers) is not int or self._records[key] != numbers * _FLOAT32_BYTES:
            raise CheckpointError(f"its tensor record {key!r} is not as long as it says")
        return _Storage(key, numbers)

    def _rebuild_tensor(self, storage: object, *layout: Any) -> TensorSpec:  # noqa: ANN401 - from a stranger's file
        offset, shape, stride, _requires_grad, hooks = layout
        steps = tuple(itertools.accumulate(reversed(shape[1:]), initial=1, func=lambda product, size: product * size))
        if not isinstance(storage, _Storage) or math.prod(shape) != storage.numbers or offset != 0:
            raise CheckpointError("a tensor is smaller or larger than its record")
        if any(type(size) is not int or size < 1 for size in shape) or stride != steps[::-1] or hooks:
            raise CheckpointError(f"the tensor in record {storage.key!r} is not contiguous")
        if storage.key in self._used:
            raise CheckpointError(f"two tensors share the record {storage.key!r}")
        self._used.add(storage.key)
        return TensorSpec(tuple(shape), storage.key)
