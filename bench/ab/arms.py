"""The arms of a live comparison: this tree, a git revision of its workload, or another interpreter with its torch.

The harness that measures is always this one. What differs is its subject: the `mnist_mlp` that the worker imports, or
the interpreter that it runs in. Each arm is copied into a folder of its own first: an edit or a checkout meanwhile must
not change what is measured.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.errors import BadInputError
from bench.system.folders import PACKAGE, ROOT
from bench.system.locks import FileLock
from bench.system.revision import git_state, run_git

WORKLOAD: Final = "mnist_mlp"
"""The package that a revision is asked for."""

_FOLDER: Final = "mnist-mlp-bench-rev-"
_LOCK: Final = ".lock"
_PLAIN_FILES: Final = (b"100644", b"100755")
"""Modes in a git tree: links and submodules have others."""

_GIT_SECONDS: Final = 60.0
_FORMS: Final = "an arm is . (this tree), rev:<git revision> or python:<interpreter>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one side of the comparison trains. `label` is for people and for stored files: it names no folder.

    `workload` is a folder that holds the arm's `mnist_mlp`, and for ``python:`` this `bench`; None for what lies beside
    the harness. `commit` is what it is from and `dirty` whether it may differ from that; None where it is unknown.
    """

    label: str
    python: str
    workload: Path | None
    commit: str | None
    dirty: bool | None = None


@contextlib.contextmanager
def open_arm(text: str) -> Iterator[Arm]:
    """Make ready the arm that `text` names; whatever was unpacked for it is gone after the context.

    Raises:
        BadInputError: `text` is no arm, or there is no such revision or interpreter.
    """
    kind, _, rest = text.partition(":")
    if text != "." and (kind not in {"rev", "python"} or not rest):
        raise BadInputError(f"{text!r} names no arm: {_FORMS}")
    python = _find_interpreter(rest) if kind == "python" else sys.executable
    with _temporary_folder() as folder:
        if kind == "rev":
            commit = _unpack_revision(rest, folder)
            label = f"rev:{rest} ({commit[:10]})" if rest != commit[: len(rest)] else f"rev:{commit[:10]}"
            yield Arm(label=label, python=python, workload=folder, commit=commit, dirty=False)
            return
        tree = _this_tree()
        now, dirty = git_state(tree / WORKLOAD)
        _copy(tree / WORKLOAD, folder)
        if kind == "python":  # beside an installed `bench` lies its own torch, which must not come before the arm's
            _copy(PACKAGE, folder)
        label = text if text == "." else f"python:{Path(rest).name}"
        yield Arm(label=label, python=python, workload=folder, commit=now, dirty=dirty)


def tell_apart(baseline: Arm, candidate: Arm) -> tuple[Arm, Arm]:
    """Return both arms, with labels that differ where two interpreters have one name."""
    if baseline.label != candidate.label or baseline.python == candidate.python:
        return baseline, candidate
    return (
        replace(baseline, label=f"{baseline.label} (baseline)"),
        replace(candidate, label=f"{candidate.label} (candidate)"),
    )


def _this_tree() -> Path:
    """Return the folder whose workload ``.`` means: the harness's own, or the present one if that is an installation.

    `_repository` decides alike: what is edited in a clone is what is compared with its revisions.
    """
    present = Path.cwd()
    with contextlib.suppress(BadInputError):  # without git there is no clone
        if _git(ROOT, "ls-files", "--", WORKLOAD):
            return ROOT
    return present if (present / WORKLOAD / "__init__.py").is_file() else ROOT


def _copy(package: Path, folder: Path) -> None:
    try:
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:  # of several files: shutil.Error
        raise BadInputError(
            f"this tree's {package.name} cannot be copied to measure it: {error}; make room, or set TMPDIR to a folder "
            "that has some"
        ) from error


def _find_interpreter(name: str) -> str:
    found = shutil.which(os.path.expanduser(name))  # noqa: PTH111 - Path would make ./python a command on the PATH
    if found is None:
        raise BadInputError(f"python:{name}: there is no such program, or it cannot be run; {_FORMS}")
    # Not resolved: in a virtual environment the interpreter is a link, and the link is what tells it where it is.
    return os.path.abspath(found)  # noqa: PTH100 - pathlib has nothing that leaves links alone


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a new folder that is locked while it is in use; remove what commands that were killed left of theirs."""
    for abandoned in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*/{_LOCK}"):
        with contextlib.suppress(BadInputError):  # it is in use, or somebody else's
            _lock(abandoned).release()
            shutil.rmtree(abandoned.parent, ignore_errors=True)
    try:
        folder = tempfile.TemporaryDirectory(prefix=_FOLDER, ignore_cleanup_errors=True)
    except OSError as error:
        raise BadInputError(
            f"a temporary folder for an arm cannot be made: {error.strerror}; make room, or set TMPDIR "
            "to a folder that you may write to"
        ) from error
    with folder as name:
        lock = _lock(Path(name) / _LOCK)
        try:
            yield Path(name)
        finally:
            lock.release()


def _lock(path: Path) -> FileLock:
    return FileLock.acquire(path, f"the arm in {path.parent}", "wait until that one ends")


def _unpack_revision(revision: str, folder: Path) -> str:
    """Unpack the revision's workload into `folder`; return its commit.

    Its files are read out of git's object store as they are: nothing is checked out or archived, so no hook or filter
    of the repository runs, and no worktree is left behind.
    """
    repository = _repository(revision)
    commit = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise BadInputError(
            f"rev:{revision}: there is no such commit in the repository of this tree: name a branch, tag or commit; in "
            "a shallow clone (as CI makes them) fetch it first"
        )
    name = commit.decode().strip()
    subject = f"rev:{revision}: commit {name[:10]}"
    listing = _git(repository, "ls-tree", "-r", "-z", name, "--", WORKLOAD)
    if not listing:
        raise BadInputError(f"{subject} has no {WORKLOAD} to train")
    blobs = dict(_plain_file(line, subject) for line in listing.split(b"\0")[:-1])
    try:
        for path, content in zip(blobs, _contents(repository, list(blobs.values()), subject), strict=True):
            _write_within(folder, path, content)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{subject} cannot be unpacked: {error}") from error
    return name


def _plain_file(line: bytes, subject: str) -> tuple[str, bytes]:
    """Return path and blob that a line of `git ls-tree` tells: mode, type, object, a tab, path."""
    entry, _, path = line.partition(b"\t")
    mode, _, blob = entry.split(b" ")
    name = os.fsdecode(path)
    if mode not in _PLAIN_FILES:
        raise BadInputError(f"{subject} cannot be unpacked: {name} is a link or a submodule, where files are expected")
    return name, blob


def _contents(repository: Path, blobs: list[bytes], subject: str) -> Iterator[bytes]:
    """Yield what is in each of `blobs`; git precedes it by a line of object, type and size, and ends it by one byte."""
    answer = _git(repository, "cat-file", "--batch", given=b"".join(blob + b"\n" for blob in blobs)) or b""
    for _ in blobs:
        head, _, answer = answer.partition(b"\n")
        if not head or head.endswith(b" missing"):
            raise BadInputError(f"{subject} is not all here, as in a partial clone: fetch all of it first")
        size = int(head.split(b" ")[-1])
        yield answer[:size]
        answer = answer[size + 1 :]


def _write_within(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} leads out of its folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _repository(revision: str) -> Path:
    """Return the folder whose repository is meant: this tree's, or the present one where this is an installation."""
    said: dict[str, None] = {}
    for folder in (ROOT, Path.cwd()):
        done = _run_git(folder, "ls-files", "--", WORKLOAD)
        if done.returncode == 0 and done.stdout:
            return folder
        said[" ".join(os.fsdecode(done.stderr).split())[:300]] = None
    reasons = "".join(f"; git says: {each}" for each in said if each)
    raise BadInputError(
        f"rev:{revision}: neither this tree nor the present folder is a clone with {WORKLOAD} in it{reasons}"
    )


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes | None:
    """Return what git prints, having read `given`; None where it fails."""
    done = _run_git(folder, *arguments, given=given)
    return done.stdout if done.returncode == 0 else None


def _run_git(folder: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git and wait for its end. Without git itself the message says so."""
    try:
        return run_git(folder, *arguments, given=given, timeout_seconds=_GIT_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise BadInputError(f"git cannot be run here ({error}): rev: needs it; {_FORMS}") from error
