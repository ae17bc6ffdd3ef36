"""Which commit a folder is of."""

import os
import subprocess
from pathlib import Path


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return the commit of the checkout around `folder` and whether tracked files differ; None where there is none.

    A checkout counts only if it tracks `folder`: an environment's site-packages inside some project's tree does not.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
        # Within a hook, git's own variables would point everywhere at the repository of the hook.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(  # noqa: S603 - fixed words
            command, capture_output=True, text=True, check=True, timeout=10, env=environment
        )
        return done.stdout.strip()

    try:
        if not git("ls-files", "."):
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
