"""A release says one version, and what a user is asked for exists."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from checkout import ROOT
from click.testing import CliRunner

import bench
import mnist_mlp
from bench.cli import cli as bench_cli
from mnist_mlp.cli import cli as workload_cli

CITATION = (ROOT / "CITATION.cff").read_text()
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))


def test_packages_commands_and_citation_say_one_version() -> None:
    assert bench.__version__ == mnist_mlp.__version__
    assert re.search(r"^version: (.*)$", CITATION, flags=re.MULTILINE)[1] == mnist_mlp.__version__  # type: ignore[index]  # no match fails the test too
    for name, command in (("bench", bench_cli), ("mnist-mlp", workload_cli)):
        printed = CliRunner().invoke(command, ["--version"]).stdout
        assert printed == f"{name}, version {mnist_mlp.__version__}\n"


def test_installed_distribution_has_the_version_too() -> None:
    try:
        installed = importlib.metadata.version("mnist-mlp-bench")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the packages run from the checkout, not installed")
    assert installed == mnist_mlp.__version__


def test_changelog_has_a_place_for_what_comes_next_and_no_version_beyond_this_one() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert all(heading.startswith(f"{mnist_mlp.__version__} ") for heading in headings[1:2])


def test_citation_and_licence_name_the_same_authors() -> None:
    names = re.findall(r"^  - name: \"(.*)\"$", CITATION, flags=re.MULTILINE)
    assert names == ["The mnist-mlp-bench authors"]
    assert f"Copyright (c) 2026 {names[0]}\n" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_issue_template_has_a_name_and_a_reason_to_choose_it(template: Path) -> None:
    front, _, body = template.read_text().removeprefix("---\n").partition("\n---\n")
    assert [line.partition(": ")[0] for line in front.splitlines()] == ["name", "about", "labels"]
    assert body.strip()
