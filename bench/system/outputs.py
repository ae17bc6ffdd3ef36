"""Output other than the stored runs: files written completely or not at all, messages, a CI job's summary page."""

import contextlib
import errno
import os
import re
import secrets
import shlex
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Final, TextIO

import click

from bench.errors import BadInputError, StorageError
from mnist_mlp.streams import nowhere

STEP_SUMMARY: Final = "GITHUB_STEP_SUMMARY"
"""The environment variable with the file whose Markdown GitHub Actions shows on a job's page."""


_WINDOWS_DEVICE: Final = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", re.IGNORECASE)
_WINDOWS_FORBIDDEN: Final = re.compile(r'[<>:"|?*\x00-\x1f]')


def windows_problem(path: PureWindowsPath) -> str | None:
    """Return why Windows would not create a file with the name of `path`; None if it would.

    Writing to NUL loses the data, and a colon refers to a stream within another file.
    Source: Microsoft, "Naming Files, Paths, and Namespaces".
    """
    for name in path.parts[bool(path.anchor) :]:
        if _WINDOWS_DEVICE.fullmatch(name.partition(".")[0].rstrip()):
            return f"{name!r} is the name of a device on Windows"
        if _WINDOWS_FORBIDDEN.search(name):
            return f'{name!r} contains one of < > : " | ? *, which names on Windows cannot have'
        if name != ".." and name.endswith((".", " ")):
            return f"{name!r} ends with a dot or a blank, which Windows removes"
    return None


def require_nameable(path: Path) -> None:
    """Check that this system would create a file with exactly this name.

    Raises:
        BadInputError: it would not.
    """
    problem = windows_problem(PureWindowsPath(path)) if sys.platform == "win32" else None
    if problem is not None:
        raise BadInputError(f"{path} cannot be written: {problem}; name another file")


def is_empty(path: Path) -> bool:
    """Return whether `path` is a file, and not a link to one, without a byte in it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def require_writable(path: Path) -> None:
    """Check that a file can be written, before anything is measured.

    Raises:
        BadInputError: `path` is a folder, a device or a pipe, its folder is missing or not writable, or its name is not
            possible here.
    """
    require_nameable(path)
    folder = _target(path).parent
    if path.is_dir():
        reason = "it is a folder"
    elif path.exists() and not path.is_file():
        reason = "it is not an ordinary file"  # it would be replaced by one: root can do that to /dev/null
    elif not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        reason = f"{folder} is not a writable folder"
    else:
        require_short_name(path)
        return
    raise BadInputError(f"{path} cannot be written: {reason}; name another file")


def require_writable_json(path: Path | None) -> None:
    """Check that the file of an option --json, if it is given, can be written and is not a stored run.

    Raises:
        BadInputError: as for `require_writable`, or the name ends like that of a stored run.
    """
    if path is None:
        return
    if path.suffix == ".jsonl":
        raise BadInputError(f"--json {path} is named like a stored run, which it would replace: use .json")
    require_writable(path)


def require_writable_folder(folder: Path) -> None:
    """Create `folder` and its parents if they are missing, and check that files can be created in it.

    Raises:
        BadInputError: it is not a folder, or cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise BadInputError(f"{folder} is not a writable folder: {reason}; name another one") from error


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


def _target(path: Path) -> Path:
    """Return the file that `path` refers to: writing follows a symbolic link instead of replacing it."""
    return Path(os.path.realpath(path)) if path.is_file() else path


def _temporary(path: Path) -> Path:
    target = _target(path)
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def write_atomically(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Write `content`, or its pieces, to `path` atomically: a reader sees either the old file or the new one.

    Text is encoded in UTF-8.

    Raises:
        StorageError: it cannot be written; an earlier file at `path` is unchanged.
    """
    temporary = _temporary(path)
    try:
        pieces = (content,) if isinstance(content, str | bytes) else content
        with temporary.open("xb") as file:
            file.writelines(piece.encode() if isinstance(piece, str) else piece for piece in pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(_target(path))
    except OSError as error:
        # Windows replaces no file that another program, such as a spreadsheet, has open.
        is_open = sys.platform == "win32" and isinstance(error, PermissionError)
        remedy = "close the program that has it open" if is_open else "make room"
        raise StorageError(
            f"{path} cannot be written: {error.strerror}; an earlier file there is unchanged: {remedy}, or choose "
            "another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_abandoned(path: Path) -> None:
    """Remove temporary files that a killed `write_atomically` to `path` left. Call it only as the only writer."""
    with contextlib.suppress(OSError):
        target = _target(path)
        for each in target.parent.iterdir():
            if each.name.startswith(f".{target.name}.") and each.suffix == ".tmp":
                each.unlink()


def command_text(*words: str) -> str:
    """Return the command of these words as a user can paste it into a shell: a word with blanks is quoted."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


@contextlib.contextmanager
def checked_output(kept: str = "") -> Iterator[None]:
    """Turn a failure to write standard output within this context into an error whose message ends with `kept`.

    Raises:
        StorageError: not everything could be written to standard output.
    """
    try:
        yield
    except OSError as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_code is not click.echo.__code__:  # all output goes through it, click's own too
            raise
        sys.stdout = nowhere()
        remedy = "" if isinstance(error, BrokenPipeError) else "; make room, or redirect it elsewhere"
        raise StorageError(f"the output cannot be written: {error.strerror}{remedy}{kept}") from error


def say(text: str, *, end: str = "\n", stream: TextIO | None = None) -> None:
    """Write a message to `stream`, by default standard error.

    A failure (a log on a full disk, a closed pipe) neither ends the command nor changes its exit code.
    """
    try:
        print(text, file=stream or sys.stderr, end=end, flush=True)
    except OSError:
        if stream is None or stream is sys.stderr:
            sys.stderr = nowhere()


def append_step_summary(markdown: str) -> str | None:
    """Append `markdown` to the CI job's summary, if there is one; return a warning if it cannot be written."""
    name = os.environ.get(STEP_SUMMARY)
    if not name:
        return None
    try:
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(f"{markdown}\n\n")
    except OSError as error:
        return f"{STEP_SUMMARY} names a file that cannot be written ({error.strerror}): the summary is left out"
    return None
