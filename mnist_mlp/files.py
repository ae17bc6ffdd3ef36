"""Files written atomically, and checked before the work begins."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from mnist_mlp.errors import InvalidValueError, WorkloadError

ABANDONED_SECONDS: Final = 24 * 3600.0
"""An older temporary file or folder was left behind by a killed process: no writing or download takes that long."""


class OutputError(WorkloadError):
    """A file or folder cannot be written."""


def check_writable_folder(folder: Path) -> None:
    """Create `folder` and its parents if missing, and check that a file can be created in it.

    Raises:
        OutputError: it is not a folder, or cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(
            f"{str(folder)!r} cannot be a folder, because it is a file or lies in one: name another path"
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def check_no_figure(what: str, path: Path, folder: Path, figures: Iterable[str]) -> None:
    """Check that no figure that `--plots` writes to `folder` would overwrite `path`.

    Args:
        what: what `path` is, for the message.
        path: a file to be kept or written.
        folder: the folder for the figures.
        figures: names of the figures, without ``.png``.

    Raises:
        InvalidValueError: one would.
    """
    if any(os.path.realpath(path) == os.path.realpath(folder / f"{figure}.png") for figure in figures):
        raise InvalidValueError(
            f"{what} {str(path)!r} would be overwritten by a figure of --plots {str(folder)!r}: name another path"
        )


def check_writable_file(path: Path) -> None:
    """Check that `write_file` will be able to write `path`; create its folder if missing.

    Raises:
        OutputError: `path` is a folder or a device, it or its folder is read-only, or its name is too long.
    """
    target = Path(os.path.realpath(path))
    try:
        exists, is_file = target.exists(), target.is_file()
    except OSError as error:
        raise _unwritable(path, error) from error
    if exists and not is_file:
        raise OutputError(f"{str(path)!r} is a folder or a device, so it cannot be written: name another path")
    if exists and not os.access(target, os.W_OK):
        raise OutputError(f"{str(path)!r} is read-only: name another path, or make it writable")
    check_writable_folder(target.parent)
    try:
        # With a name as long as that of the temporary file that `write_file` creates.
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.{os.getpid()}-", suffix=".tmp"):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; a link is followed.

    Raises:
        OutputError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        store_files({target.name: content}, target.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{str(path)!r} cannot be written ({error.strerror or error}): name a path that can")


def store_files(files: Mapping[str, bytes], directory: Path) -> None:
    """Write `files` (file name → content) into `directory`, each one atomically; create the folder if missing.

    A reader sees the old file or the new one, never a part, even after a crash. If two processes write the same file,
    the last one to finish wins. Temporary files that killed processes left behind a day ago or earlier are removed.

    Raises:
        OSError: the folder or a file cannot be written; no temporary file is left behind.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _write_atomically(directory / name, content)
        _remove_abandoned(directory / name)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` that are a day older than `path` itself, which was just written."""
    with contextlib.suppress(OSError):
        now = path.stat().st_mtime
        for each in path.parent.iterdir():
            is_temporary = each.name.startswith(f".{path.name}.") and each.suffix == ".tmp"
            if is_temporary and now - each.stat().st_mtime > ABANDONED_SECONDS:
                each.unlink()


def _write_atomically(path: Path, content: bytes) -> None:
    # Not by tempfile, whose files are private to the user whatever the umask: a data root may be shared.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except PermissionError:
        # Windows replaces no file that is open: another process, which is writing the same, may just be reading it.
        if not path.is_file() or path.read_bytes() != content:
            raise
    finally:
        temporary.unlink(missing_ok=True)
