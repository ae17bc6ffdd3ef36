"""The arms of a live comparison: this tree, a git revision of its workload, or another interpreter with its torch.

The harness that measures is always this one. What differs is its subject: the `mnist_mlp` that the worker imports, or
the interpreter that it runs in.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.errors import BadInputError

WORKLOAD: Final = "mnist_mlp"
"""The package that a revision is asked for."""

_PACKAGE_ROOT: Final = Path(__file__).resolve().parent.parent
_GIT_SECONDS: Final = 60.0
_FORMS: Final = "an arm is . (this tree), rev:<git revision> or python:<interpreter>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one side of the comparison trains. `label` is for people and for stored files: it names no folder.

    `workload` is a folder that holds the arm's `mnist_mlp`, None for this tree's; `commit` the revision it is from.
    """

    label: str
    python: str
    workload: Path | None
    commit: str | None


@contextlib.contextmanager
def open_arm(text: str) -> Iterator[Arm]:
    """Make ready the arm that `text` names; whatever was unpacked for it is gone after the context.

    Raises:
        BadInputError: `text` is no arm, or there is no such revision or interpreter.
    """
    kind, _, rest = text.partition(":")
    if text == ".":
        yield Arm(label=".", python=sys.executable, workload=None, commit=None)
    elif kind == "rev" and rest:
        with tempfile.TemporaryDirectory(prefix="mnist-mlp-bench-rev-") as folder:
            commit = _unpack_revision(rest, Path(folder))
            label = f"rev:{rest} ({commit[:10]})" if rest != commit[: len(rest)] else f"rev:{commit[:10]}"
            yield Arm(label=label, python=sys.executable, workload=Path(folder), commit=commit)
    elif kind == "python" and rest:
        yield Arm(label=f"python:{Path(rest).name}", python=_find_interpreter(rest), workload=None, commit=None)
    else:
        raise BadInputError(f"{text!r} names no arm: {_FORMS}")


def _find_interpreter(name: str) -> str:
    found = shutil.which(os.path.expanduser(name))  # noqa: PTH111 - Path would make ./python a command on the PATH
    if found is None:
        raise BadInputError(f"python:{name}: there is no such program, or it cannot be run; {_FORMS}")
    # Not resolved: in a virtual environment the interpreter is a link, and the link is what tells it where it is.
    return os.path.abspath(found)  # noqa: PTH100 - pathlib has nothing that leaves links alone


def _unpack_revision(revision: str, folder: Path) -> str:
    """Unpack the revision's workload into `folder`; return its commit.

    It is read out of git's object store: nothing is checked out, so no hook or filter of the repository runs and no
    worktree is left behind.
    """
    repository = _repository(revision)
    commit = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise BadInputError(
            f"rev:{revision}: there is no such commit in the repository of this tree: name a branch, tag or commit; in "
            "a shallow clone (as CI makes them) fetch it first"
        )
    name = commit.decode().strip()
    archive = _git(repository, "archive", "--format=tar", name, "--", WORKLOAD)
    if archive is None:
        raise BadInputError(f"rev:{revision}: commit {name[:10]} has no {WORKLOAD} to train")
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise BadInputError(f"rev:{revision}: commit {name[:10]} cannot be unpacked: {error}") from error
    return name


def _repository(revision: str) -> Path:
    """Return the folder whose repository is meant: this tree's, or the present one where this is an installation."""
    for folder in (_PACKAGE_ROOT, Path.cwd()):
        if _git(folder, "ls-files", "--", WORKLOAD):
            return folder
    raise BadInputError(f"rev:{revision}: neither this tree nor the present folder is a clone with {WORKLOAD} in it")


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Return what git prints, None where it fails; without git itself the message says so."""
    # Within a hook, git's own variables would point at the repository of the hook.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, and a revision that cannot pass for an option
            command, capture_output=True, check=False, timeout=_GIT_SECONDS, env=environment
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BadInputError(f"git cannot be run here ({error}): rev: needs it; {_FORMS}") from error
    return done.stdout if done.returncode == 0 else None
