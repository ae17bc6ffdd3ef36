"""What README and docs show is what their commands print, and what they link to is there."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from docs_commands import PAGES

LINK = re.compile(r"\]\((?!https://)([^)#]*)(?:#([^)]*))?\)")


def anchors(page: Path) -> set[str]:
    """Return the names that a forge gives to the headings of `page`: lower case, no punctuation, blanks as hyphens."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for place, anchor in LINK.findall(" ".join(page.read_text().split("\n"))):
        target = (page.parent / place.strip()) if place else page
        assert target.exists(), place
        assert not anchor or anchor in anchors(target), f"{place}#{anchor}"


def test_the_index_of_the_docs_links_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / place).resolve() for place, _ in LINK.findall(index.read_text())}
    pages = {*index.parent.glob("*.md"), *index.parent.glob("*.ipynb"), *index.parent.glob("*.json")} - {index}
    assert pages <= linked


def test_tables_in_the_docs_are_what_their_commands_print_from_the_stored_runs() -> None:
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, str(ROOT / "docs" / "render.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run python docs/render.py"


def test_ci_and_readme_run_the_same_test_command() -> None:
    assert "uv tool run nox\n" in (ROOT / ".ci" / "run").read_text()
    assert "uv tool run nox " in (ROOT / "README.md").read_text()


def test_the_architecture_names_every_module_of_the_harness_beside_its_package() -> None:
    rows = dict(
        re.findall(r"^\| (`[^|]+) \|[^|]*\| ([^\n]*)\|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    )
    for package in {path.parent.name for path in (ROOT / "bench").glob("*/*.py")} - {"commands"}:
        modules = {path.stem for path in (ROOT / "bench" / package).glob("*.py")} - {"__init__"}
        assert sorted(modules - set(re.findall(r"`(\w+)`", rows[f"`{package}`"]))) == [], package


def test_the_tables_of_simulated_verdicts_have_the_words_that_the_study_prints() -> None:
    few = ("--families", "10", "--repeats", "2", "--configurations", "5")
    study = ROOT / "tests" / "studies" / "simulate_verdicts.py"
    done = subprocess.run([sys.executable, study, *few], capture_output=True, text=True, check=True)  # noqa: S603 - our own words
    rows = done.stdout.splitlines()
    words = [row for row, following in itertools.pairwise(rows) if row.endswith(":") or following.startswith("|---")]
    text = re.sub(r"\d+", "#", (ROOT / "docs" / "statistics.md").read_text())
    assert len(words) == 23
    assert [row for row in words if re.sub(r"\d+", "#", row) not in text.splitlines()] == []
