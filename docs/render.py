"""Fill the tables of README.md and the docs from stored runs, by the commands that stand beside them.

A block begins with ``<!-- begin: bench show … -->`` (or predict, compare or check), or with a program of the tests or
docs, or with ``cat`` for a stored output of a live command, and ends with ``<!-- end -->``; what is between them is the
command's output. Below ``<!-- picture: bench export … -->`` stands the picture of that name that the command draws.
``python docs/render.py`` renews all blocks and pictures; ``--check`` only tells which are out of date.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(ROOT))

import matplotlib as mpl
from click.testing import CliRunner

from bench.cli import cli
from bench.report.contents import Stored, make_report
from bench.report.export import find_pictures
from bench.report.pictures import draw_picture
from bench.storage.store import read_run

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").rglob("README.md")))
BLOCK = re.compile(
    r"(<!-- begin: (?P<command>(?:bench (?:show|predict|compare|check)|cat results/|python (?:tests|docs)/)[^\n]*?)"
    r" -->\n)"
    r".*?(<!-- end -->)",
    re.DOTALL,
)
PICTURE = re.compile(
    r"<!-- picture: bench export (?P<label>\w+)=(?P<run>\S+) -->\n!\[[^\]]*\]\((?P<file>\S+)\.svg\)",
)


def render(page: str) -> str:
    """Return the text of `page` with each block holding its command's output."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{run(block['command'])}\n\n{block[3]}", page)


def run(command: str) -> str:
    """Return what `command` prints, run in the present folder; between fences unless it is Markdown."""
    program, *arguments = shlex.split(command)
    if program == "cat":
        return fenced(Path(arguments[0]).read_text())
    if program == "python":
        done = subprocess.run(  # noqa: S603 - the docs' own words
            [sys.executable, *arguments], capture_output=True, text=True, check=False
        )
        code, output, errors = done.returncode, done.stdout, done.stderr
    else:
        result = CliRunner().invoke(cli, arguments, prog_name="bench")
        code, output, errors = result.exit_code, result.stdout, result.output
    if code != 0:
        raise SystemExit(f"{command}: {errors}")
    return fenced(output) if arguments[0] == "check" else output.strip()


def fenced(output: str) -> str:
    """Return text for a terminal as a block of code."""
    return f"```\n{output.strip()}\n```"


def stale_pictures(page: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield each picture of `page` that is not what its command draws, and what it should hold.

    Another version of matplotlib draws other bytes: a picture is judged by the version that drew it alone.
    """
    for found in PICTURE.finditer(page.read_text()):
        path = page.parent / f"{found['file']}.svg"
        report = make_report([Stored(label=found["label"], run=read_run(ROOT / found["run"]), profile=None)])
        (picture,) = (each for each in find_pictures(report) if each.name == path.stem)
        drawn = draw_picture(picture.chart, source=picture.source)["svg"]
        before = path.read_bytes() if path.exists() else None
        if before is None or (before != drawn and f"Matplotlib v{mpl.__version__}".encode() in before):
            yield path, drawn


def main() -> int:
    """Renew or check every page; return 1 if a checked page is out of date."""
    os.chdir(ROOT)  # where the commands' paths start
    pictures = [picture for page in PAGES for picture in stale_pictures(page)]
    stale = [page for page in PAGES if render(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'out of date' if '--check' in sys.argv else 'renewed'}")
        if "--check" not in sys.argv:
            page.write_text(render(page.read_text()))
    for path, drawn in pictures:
        print(f"{path.relative_to(ROOT)}: {'out of date' if '--check' in sys.argv else 'renewed'}")
        if "--check" not in sys.argv:
            path.write_bytes(drawn)
    return 1 if (stale or pictures) and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
