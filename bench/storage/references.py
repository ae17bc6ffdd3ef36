"""How stored runs are named and found: by path, by the beginning of the run id, or as ``latest``."""

import datetime as dt
import os
import re
import secrets
from collections.abc import Iterator
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


def resolve(reference: str, directory: Path) -> Path:
    """Return the file of the run that `reference` names: a path, the beginning of a run id, or ``latest``.

    Ids and ``latest`` are looked up in all stored runs under `directory`, at any depth. ``latest`` is one of the
    repository's published runs only if there is no other; a message then says so.

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
    if reference == LATEST:
        own = [run for run in stored if not _PUBLISHED & set(run.path.relative_to(directory).parts[:1])]
        if not own:
            say(f"bench: latest is {stored[-1].path}, a published run: there are none of your own under {directory}")
        return (own or stored)[-1].path
    found = [run for run in stored if reference and run.run_id.startswith(reference)]
    if len(found) == 1:
        return found[0].path
    problem = (
        f"{len(found)} run ids start with {reference!r}: give more digits, or a path"
        if found
        else f"{reference!r} is neither a file, the beginning of a run id, nor {LATEST}"
        f"{did_you_mean(reference, (LATEST,))}"
    )
    candidates = "".join(f"\n  {run.run_id}  {run.path}" for run in (found or stored)[: -_LISTED - 1 : -1])
    raise BadInputError(f"{problem}. The newest candidates:{candidates}")


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A file that starts with the header of a stored run."""

    created_at: dt.datetime
    run_id: str
    path: Path


def find_files(directory: Path) -> Iterator[Path]:
    """Yield the files under `directory`, at any depth, whose names end as those of stored runs do."""
    return directory.rglob(f"*{SUFFIX}")


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
