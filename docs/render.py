"""Fill the tables of README.md and the docs from stored runs, by the commands that stand beside them.

A block begins with ``<!-- begin: bench show … -->`` and ends with ``<!-- end -->``; what is between them is the
command's output. ``python docs/render.py`` renews all blocks, with ``--check`` it only tells which are out of date.
"""

import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(ROOT))

from click.testing import CliRunner

from bench.cli import cli

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").rglob("README.md")))
BLOCK = re.compile(r"(<!-- begin: bench (?P<command>show [^\n]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(page: str) -> str:
    """Return the text of `page` with each block holding its command's output."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{run(block['command'])}\n\n{block[3]}", page)


def run(command: str) -> str:
    """Return what ``bench`` prints for `command`, whose paths start at the repository's root."""
    arguments = [str(ROOT / word) if word.startswith("results/") else word for word in shlex.split(command)]
    result = CliRunner().invoke(cli, arguments, prog_name="bench")
    if result.exit_code != 0:
        raise SystemExit(f"bench {command}: {result.output}")
    return result.stdout.strip()


def main() -> int:
    """Renew or check every page; return 1 if a checked page is out of date."""
    stale = [page for page in PAGES if render(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'out of date' if '--check' in sys.argv else 'renewed'}")
        if "--check" not in sys.argv:
            page.write_text(render(page.read_text()))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
