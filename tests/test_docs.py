"""What README and docs show is what their commands print."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_tables_in_the_docs_are_what_their_commands_print_from_the_stored_runs() -> None:
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, str(ROOT / "docs" / "render.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run python docs/render.py"


def test_ci_and_readme_run_the_same_test_command() -> None:
    assert "uv tool run nox\n" in (ROOT / ".ci" / "run").read_text()
    assert "uv tool run nox " in (ROOT / "README.md").read_text()
