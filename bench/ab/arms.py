"""The arms of a live comparison: this tree, a git revision of its workload, or another interpreter with its torch.

The harness that measures is always this one. What differs is its subject: the `mnist_mlp` that the worker imports, or
the interpreter that it runs in. Each arm is first copied into a folder of its own, so that an edit or a checkout during
the comparison does not change what is measured.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.errors import BadInputError
from bench.system.folders import PACKAGE, ROOT
from bench.system.locks import FileLock
from bench.system.revision import git_state, run_git

WORKLOAD: Final = "mnist_mlp"
"""The package that is unpacked from a revision."""

_FOLDER: Final = "mnist-mlp-bench-rev-"
_LOCK: Final = ".lock"
_PLAIN_FILES: Final = (b"100644", b"100755")
"""Their modes in a git tree; links and submodules have others."""

_GIT_SECONDS: Final = 60.0
_FORMS: Final = "an arm is . (this tree), rev:<git revision> or python:<interpreter>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one side of the comparison trains. `label` is for people and for stored files and names no folder.

    `workload` is a folder with the arm's `mnist_mlp`, and for ``python:`` also this `bench`; None means the `mnist_mlp`
    beside the harness. `commit` is the commit it comes from and `dirty` whether it may differ from it; None if unknown.
    """

    label: str
    python: str
    workload: Path | None
    commit: str | None
    dirty: bool | None = None


@contextlib.contextmanager
def open_arm(text: str) -> Iterator[Arm]:
    """Prepare the arm that `text` names; whatever was unpacked for it is removed at the end of the context.

    Raises:
        BadInputError: `text` names no arm, or there is no such revision or interpreter.
    """
    kind, _, rest = text.partition(":")
    if text != "." and (kind not in {"rev", "python"} or not rest):
        raise BadInputError(f"{text!r} names no arm{_suggestion(text)}: {_FORMS}")
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
        if kind == "python":  # an installed `bench` has its own torch beside it, which must not be found first
            _copy(PACKAGE, folder)
        label = text if text == "." else f"python:{Path(rest).name}"
        yield Arm(label=label, python=python, workload=folder, commit=now, dirty=dirty)


def _suggestion(text: str) -> str:
    """Return a hint for a git revision that was named without ``rev:``; empty if `text` is none."""
    with contextlib.suppress(BadInputError):  # without git, or outside a clone, there are no revisions
        if _find_commit(text, _repository(text)) is not None:
            return f" (did you mean 'rev:{text}'?)"
    return ""


def _this_tree() -> Path:
    """Return the folder whose workload ``.`` means: the harness's own, or the current one if the harness is installed.

    The workload edited in a clone is compared with revisions of that clone.
    """
    with contextlib.suppress(BadInputError):  # without git, or outside a clone
        return _repository(".")
    current = Path.cwd()
    return current if (current / WORKLOAD / "__init__.py").is_file() else ROOT


def _copy(package: Path, folder: Path) -> None:
    try:
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:  # of several files: shutil.Error
        raise BadInputError(
            f"this tree's {package.name} cannot be copied to measure it: {error}; free some space, or set TMPDIR to a "
            "folder with enough of it"
        ) from error


def _find_interpreter(name: str) -> str:
    found = shutil.which(os.path.expanduser(name))  # noqa: PTH111 - Path would make ./python a command on the PATH
    if found is None:
        raise BadInputError(f"python:{name}: there is no such program, or it cannot be run{_inside(name)}; {_FORMS}")
    # Not resolved: in a virtual environment the interpreter is a link, by which it finds the environment.
    return os.path.abspath(found)  # noqa: PTH100 - pathlib would resolve links


def _inside(name: str) -> str:
    """Return a hint for an environment that was named instead of its interpreter; empty if `name` is none."""
    for interpreter in (Path(name, "bin", "python"), Path(name, "Scripts", "python.exe")):
        if interpreter.expanduser().is_file():
            return f" (did you mean 'python:{interpreter}'?)"
    return ""


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a new folder that is locked while in use; remove such folders that killed commands left behind."""
    for abandoned in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*/{_LOCK}"):
        with contextlib.suppress(BadInputError):  # in use, or another user's
            _lock(abandoned).release()
            shutil.rmtree(abandoned.parent, ignore_errors=True)
    try:
        folder = tempfile.TemporaryDirectory(prefix=_FOLDER, ignore_cleanup_errors=True)
    except OSError as error:
        raise BadInputError(
            f"a temporary folder for an arm cannot be made: {error.strerror}; free some space, or set TMPDIR "
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

    Its files are read directly from git's object store: nothing is checked out or archived, so no hook or filter of the
    repository runs, and no worktree is left behind.
    """
    repository = _repository(revision)
    commit = _find_commit(revision, repository)
    if commit is None:
        raise BadInputError(
            f"rev:{revision}: there is no such commit in the repository of this tree: name a branch, tag or commit; in "
            "a shallow clone (as CI makes them) fetch it first"
        )
    subject = f"rev:{revision}: commit {commit[:10]}"
    listing = _git(repository, "ls-tree", "-r", "-z", commit, "--", WORKLOAD)
    if not listing:
        raise BadInputError(f"{subject} has no {WORKLOAD} to train")
    blobs = dict(_plain_file(line, subject) for line in listing.split(b"\0")[:-1])
    try:
        for path, content in zip(blobs, _contents(repository, list(blobs.values()), subject), strict=True):
            _write_within(folder, path, content)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{subject} cannot be unpacked: {error}") from error
    return commit


def _plain_file(line: bytes, subject: str) -> tuple[str, bytes]:
    """Return path and blob of a line of `git ls-tree`, which holds mode, type, object, a tab, path."""
    entry, _, path = line.partition(b"\t")
    mode, _, blob = entry.split(b" ")
    name = os.fsdecode(path)
    if mode not in _PLAIN_FILES:
        raise BadInputError(
            f"{subject} cannot be unpacked: {name} is a link or a submodule; only plain files are supported"
        )
    return name, blob


def _contents(repository: Path, blobs: list[bytes], subject: str) -> Iterator[bytes]:
    """Yield the content of each of `blobs`, which git puts between a line of object, type and size and a newline."""
    answer = _git(repository, "cat-file", "--batch", given=b"".join(blob + b"\n" for blob in blobs)) or b""
    for _ in blobs:
        head, _, answer = answer.partition(b"\n")
        if not head or head.endswith(b" missing"):
            raise BadInputError(f"{subject} is incomplete here, as in a partial clone: fetch all of it first")
        size = int(head.split(b" ")[-1])
        yield answer[:size]
        answer = answer[size + 1 :]


def _write_within(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} is outside the folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _find_commit(revision: str, repository: Path) -> str | None:
    found = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return None if found is None else found.decode().strip()


def _repository(revision: str) -> Path:
    """Return the folder whose repository is meant: this tree, or the current folder if the harness is installed."""
    messages: dict[str, None] = {}
    for folder in (ROOT, Path.cwd()):
        done = _run_git(folder, "ls-files", "--", WORKLOAD)
        if done.returncode == 0 and done.stdout:
            return folder
        messages[" ".join(os.fsdecode(done.stderr).split())[:300]] = None
    reasons = "".join(f"; git says: {each}" for each in messages if each)
    raise BadInputError(
        f"rev:{revision}: neither this tree nor the current folder is a clone that contains {WORKLOAD}{reasons}"
    )


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes | None:
    """Return what git prints, with `given` as its standard input; None if it fails."""
    done = _run_git(folder, *arguments, given=given)
    return done.stdout if done.returncode == 0 else None


def _run_git(folder: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git and wait for it to end."""
    try:
        return run_git(folder, *arguments, given=given, timeout_seconds=_GIT_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise BadInputError(f"git cannot be run here ({error}), which rev: needs; {_FORMS}") from error
