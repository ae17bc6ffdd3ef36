"""Files that commands write beside the stored runs: whole or not at all, and the summary page of a CI job."""

import contextlib
import errno
import os
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Final, TextIO

import click

from bench.errors import BadInputError, StorageError

STEP_SUMMARY: Final = "GITHUB_STEP_SUMMARY"
"""The variable by which GitHub Actions names the file whose Markdown it shows beside a job."""


_WINDOWS_DEVICE: Final = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", re.IGNORECASE)
_WINDOWS_FORBIDDEN: Final = re.compile(r'[<>:"|?*\x00-\x1f]')


def windows_problem(path: PureWindowsPath) -> str | None:
    """Return why Windows would not make a file of that name at `path`; None if it would.

    What is written to NUL is lost, and a colon leads to a stream within another file.
    Source: Microsoft, "Naming Files, Paths, and Namespaces".
    """
    for name in path.parts[bool(path.anchor) :]:
        if _WINDOWS_DEVICE.fullmatch(name.partition(".")[0].rstrip()):
            return f"{name!r} is the name of a device on Windows"
        if _WINDOWS_FORBIDDEN.search(name):
            return f'{name!r} has one of < > : " | ? *, which no name has on Windows'
        if name != ".." and name.endswith((".", " ")):
            return f"{name!r} ends with a dot or a blank, which Windows leaves out"
    return None


def require_nameable(path: Path) -> None:
    """Refuse a name that this system would take for another one.

    Raises:
        BadInputError: it is such a name.
    """
    problem = windows_problem(PureWindowsPath(path)) if sys.platform == "win32" else None
    if problem is not None:
        raise BadInputError(f"{path} cannot be written: {problem}; name another file")


def require_writable(path: Path) -> None:
    """Refuse a file that could not be written, before anything is measured for it.

    Raises:
        BadInputError: `path` is a folder, or its folder is missing or may not be written to, or its name is none here.
    """
    require_nameable(path)
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        reason = "it is a folder" if path.is_dir() else f"{folder} is no folder that you may write to"
        raise BadInputError(f"{path} cannot be written: {reason}; name another file")
    require_short_name(path)


def require_writable_folder(folder: Path) -> None:
    """Make `folder`, with its parents, where it is missing, and refuse it if no file can be made in it.

    Raises:
        BadInputError: it is no folder, or cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise BadInputError(f"{folder} is no folder that can be written: {reason}; name another one") from error


def require_short_name(path: Path) -> None:
    """Refuse a name too long for the temporary file that `write_atomically` makes beside it.

    Raises:
        BadInputError: it is that long.
    """
    try:
        _temporary(path).lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadInputError(f"{path} cannot be written: {error.strerror}; choose a shorter name") from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def write_atomically(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Write `content`, or its pieces, to `path`, text in UTF-8, at once: a reader sees the old file or the new one.

    Raises:
        StorageError: it cannot be written; a file that was at `path` before is untouched.
    """
    temporary = _temporary(path)
    try:
        pieces = (content,) if isinstance(content, str | bytes) else content
        with temporary.open("xb") as file:
            file.writelines(piece.encode() if isinstance(piece, str) else piece for piece in pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror}; what was there before is untouched: choose another place or "
            "make room"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_abandoned(path: Path) -> None:
    """Remove what a `write_atomically` to `path` left that was killed. Only for who alone may write `path` now."""
    with contextlib.suppress(OSError):
        for each in path.parent.iterdir():
            if each.name.startswith(f".{path.name}.") and each.suffix == ".tmp":
                each.unlink()


def command_text(*words: str) -> str:
    """Return the command of these words as a user can paste it into a shell: a word with blanks is quoted."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def nowhere() -> TextIO:
    """Return a stream to put in place of one that cannot be written.

    What that one holds back could not be written when Python ends, either, and Python would end with a code of its own.
    """
    return open(os.devnull, "w")  # noqa: PTH123 - no file


@contextlib.contextmanager
def output_told(kept: str = "") -> Iterator[None]:
    """Within this context, make a failure of standard output an error that ends with what is `kept` all the same.

    Raises:
        StorageError: standard output took not all of what was written to it.
    """
    try:
        yield
    except OSError as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_code is not click.echo.__code__:  # by which all output goes, click's own too
            raise
        sys.stdout = nowhere()
        remedy = "" if isinstance(error, BrokenPipeError) else "; make room, or write it elsewhere"
        raise StorageError(f"the output cannot be written: {error.strerror}{remedy}{kept}") from error


def say(text: str, *, end: str = "\n", stream: TextIO | None = None) -> None:
    """Write `text` for people to `stream`, by default standard error.

    A log on a full disk, a reader that is gone: that is no reason to end a run, nor to end with another exit code.
    """
    try:
        print(text, file=stream or sys.stderr, end=end, flush=True)
    except OSError:
        if stream is None or stream is sys.stderr:
            sys.stderr = nowhere()


def append_step_summary(markdown: str) -> str | None:
    """Append `markdown` to the CI job's summary, where there is one; return a warning if it cannot be written."""
    name = os.environ.get(STEP_SUMMARY)
    if not name:
        return None
    try:
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(f"{markdown}\n\n")
    except OSError as error:
        return f"{STEP_SUMMARY} names a file that cannot be written ({error.strerror}): the summary is left out"
    return None
