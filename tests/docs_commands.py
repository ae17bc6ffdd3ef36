"""The commands and the Python of the documents, as a reader would copy them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from checkout import ROOT

CLUSTERS: Final = (ROOT / "docs" / "clusters.md", ROOT / "docs" / "ranks.md")
"""Pages whose commands take several machines or devices: `tests/test_clusters_docs.py` checks them."""

PAGES: Final = (
    *sorted(ROOT.glob("*.md")),
    *sorted(set((ROOT / "docs").glob("*.md")) - set(CLUSTERS)),
    *sorted((ROOT / "results").glob("*/**/README.md")),
)
OPERATORS: Final = {"&&", "||", ";", "|"}


@dataclass(frozen=True)
class Command:
    """One command of a page. Those within a sentence or a table (`inline`) may have placeholders for arguments."""

    page: str
    words: tuple[str, ...]
    inline: bool = False

    def __str__(self) -> str:
        """Name the command in the list of tests."""
        return f"{self.page}: {shlex.join(self.words)}"

    def after(self, *beginning: str) -> tuple[str, ...] | None:
        """Return the words after `beginning`; None if the command begins otherwise."""
        words = self.words
        return words[len(beginning) :] if words[: len(beginning)] == beginning else None


def blocks(page: Path, language: str) -> list[str]:
    """Return the texts of the page's fenced blocks in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[Command]:
    """Yield every command of the page's shell blocks, then those in its sentences that call this project."""
    name = page.relative_to(ROOT).as_posix()
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            yield from (Command(name, words) for words in simple_commands(line))
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`((?:uv run )?python (?:-m (?:bench|mnist_mlp) |tests/|docs/)[^`]*)`", prose):
        command = " ".join(span.split()).removeprefix("uv run ")
        words = tuple(word.removesuffix("…") for word in shlex.split(command))
        if all(words):  # else it is shortened
            yield Command(name, words, inline=True)


def simple_commands(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command of a line of shell, without `uv run`, which runs the rest as it is."""
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word not in OPERATORS:
            words.append(word)
        elif words:
            words = words[2:] if words[:2] == ["uv", "run"] else words
            yield tuple(
                "python" if word == "../new-torch/bin/python" and not place else word
                for place, word in enumerate(words)
            )
            words = []
