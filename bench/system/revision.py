"""Asks git which commit a folder is at."""

import os
import subprocess
from pathlib import Path


def run_git(
    folder: Path, *arguments: str, given: bytes = b"", timeout_seconds: float = 10.0
) -> subprocess.CompletedProcess[bytes]:
    """Run git in `folder` with `given` as its input, and wait until it ends. No hook of the repository runs.

    Raises:
        OSError: there is no git.
        subprocess.TimeoutExpired: it does not end in time.
    """
    # Within a git hook, git's variables would redirect every command to the hook's repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # A partial clone would fetch what it lacks, with whatever command its configuration names.
    environment["GIT_NO_LAZY_FETCH"] = "1"
    command = ["git", "-C", str(folder), "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    return subprocess.run(  # noqa: S603 - fixed words, and a revision that cannot pass for an option
        command, input=given, capture_output=True, check=False, timeout=timeout_seconds, env=environment
    )


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return the commit of the checkout around `folder`, and whether tracked files differ; None if there is none.

    A checkout counts only if it tracks `folder`; that of a project whose tree merely contains site-packages does not.
    """

    def git(*arguments: str) -> bytes:
        done = run_git(folder, *arguments)
        done.check_returncode()
        return done.stdout.strip()

    try:
        if not git("ls-files", "."):
            return None, None
        return git("rev-parse", "HEAD").decode(), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
