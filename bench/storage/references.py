"""How stored runs are named and found: by path, by the beginning of the run id, or as ``latest`` or ``latest~1``."""

import datetime as dt
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.errors import BadInputError
from bench.records import Header
from bench.storage import runfile
from bench.system.outputs import say
from mnist_mlp.spelling import did_you_mean

SUFFIX: Final = ".jsonl"

LATEST: Final = "latest"
"""The reference to the run that was created last."""

_BEFORE_LATEST: Final = re.compile(rf"{LATEST}(?:~([1-9]\d{{0,8}}))?", flags=re.ASCII)
"""That run, or the one so many runs before it."""

_PUBLISHED: Final = frozenset({"reference", "baselines"})
"""Folders under ``results`` with the runs that are part of the repository."""

_NAME: Final = re.compile(r"\w[\w.+-]{0,47}")
_LISTED: Final = 10


def run_path(directory: Path, header: Header) -> Path:
    """Return the run's path under `directory`: ``<machine>/<UTC time>-<name>-<run id>.jsonl``.

    Raises:
        BadInputError: the run's name or creation time cannot be part of a file name.
    """
    check_name(header.name)
    created = parse_instant(header.created_at)
    if created is None:
        raise BadInputError(f"created_at is {header.created_at!r}, but it must be an ISO 8601 time")
    return directory / header.machine.id / f"{created:%Y%m%dT%H%M%SZ}-{header.name}-{header.run_id}{SUFFIX}"


def check_name(name: str) -> None:
    """Check a run's name.

    Raises:
        BadInputError: it cannot be part of a file name.
    """
    if _NAME.fullmatch(name) is None:
        raise BadInputError(
            f"the name {name!r} cannot be part of a file name: use up to 48 letters, digits and . _ + -, "
            "starting with a letter or digit"
        )


def new_run_id() -> str:
    """Return 8 random hexadecimal digits that no spreadsheet takes for a number."""
    while True:
        run_id = secrets.token_hex(4)
        if not set(run_id) <= set("0123456789e"):  # 12345678 and 1234e567 would come back from a CSV as numbers
            return run_id


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A file that starts with the header of a stored run."""

    created_at: dt.datetime
    run_id: str
    path: Path


def resolve(reference: str, directory: Path) -> Path:
    """Return the file of the run that `reference` names.

    That is a path, the beginning of a run id, ``latest``, or ``latest~N``, the Nth run before it. All but paths are
    looked up in all stored runs under `directory`, at any depth. ``latest`` and the runs before it are of the
    repository's published runs only if there are no others; a message then says so.

    Raises:
        BadInputError: no run matches, or more than one; the message lists candidates.
    """
    if os.path.isfile(reference):  # noqa: PTH113 - Path.is_file raises on names too long for the file system
        return Path(reference)
    if reference.endswith(SUFFIX) or any(separator in reference for separator in "/\\"):
        raise BadInputError(
            f"{reference!r} is not a file: name a stored run ({SUFFIX}), the beginning of its id, or {LATEST}"
        )
    stored = sorted(find_runs(directory), key=lambda run: (run.created_at, run.path))
    if not stored:
        raise BadInputError(
            f"there are no stored runs under {directory}: make one with `python -m bench run`, or name a file"
        )
    latest = _BEFORE_LATEST.fullmatch(reference)
    if latest is not None:
        return _before_latest(reference, int(latest[1] or 0), stored, directory).path
    found = [run for run in stored if reference and run.run_id.startswith(reference)]
    if len(found) == 1:
        return found[0].path
    problem = (
        f"{len(found)} run ids start with {reference!r}: give more digits, or a path"
        if found
        else f"{reference!r} is neither a file, the beginning of a run id, {LATEST}, nor {LATEST}~1 (the run before it)"
        f"{did_you_mean(reference, (LATEST,))}"
    )
    raise BadInputError(f"{problem}. {_newest(found or stored)}")


def _before_latest(reference: str, number: int, stored: Sequence[FoundRun], directory: Path) -> FoundRun:
    """Return the run that was created `number` runs before the last of `stored`, which are sorted by creation."""
    own = [run for run in stored if not _PUBLISHED & set(run.path.relative_to(directory).parts[:1])]
    runs = own or stored
    if number >= len(runs):
        raise BadInputError(
            f"{reference} is before the first of the {len(runs)} runs {'of your own ' * bool(own)}under {directory}: "
            f"give a smaller number. {_newest(runs)}"
        )
    found = runs[-1 - number]
    if not own:
        say(f"bench: {reference} is {found.path}, a published run: there are none of your own under {directory}")
    return found


def _newest(runs: Sequence[FoundRun]) -> str:
    """Return a list of the last of `runs`, which are sorted by creation, the newest first."""
    return "The newest candidates:" + "".join(f"\n  {run.run_id}  {run.path}" for run in runs[: -_LISTED - 1 : -1])


def find_files(directory: Path) -> Iterator[Path]:
    """Yield the files (and folders) under `directory`, at any depth, whose names end as those of stored runs do.

    Links to folders are followed, each folder once.
    """
    seen = set[str]()
    for folder, folders, names in os.walk(directory, onerror=_unless_closed, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(folder, name) for name in (*folders, *names) if name.endswith(SUFFIX))


def _unless_closed(error: OSError) -> None:
    """Raise `error` unless it is of a folder that is missing or cannot be entered, in which nothing is found."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
        raise error


def find_runs(directory: Path) -> Iterator[FoundRun]:
    """Yield the files under `directory` that start with the header of a stored run; only the header is read."""
    for path in find_files(directory):
        try:
            header = runfile.peek(path)
        except BadInputError:
            continue
        created, run_id = parse_instant(header.get("created_at")), header.get("run_id")
        if created is not None and isinstance(run_id, str):
            yield FoundRun(created, run_id, path)


def parse_instant(text: object) -> dt.datetime | None:
    """Return the ISO 8601 time `text` in UTC; None if it is something else."""
    if not isinstance(text, str):
        return None
    try:
        instant = dt.datetime.fromisoformat(text)
        return instant.replace(tzinfo=dt.UTC) if instant.tzinfo is None else instant.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
