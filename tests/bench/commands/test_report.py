"""The command `report`: what it writes, and what it refuses."""

from pathlib import Path

import pytest
from checkout import REFERENCE, ROOT
from click.testing import CliRunner, Result
from report_pages import varied
from stored_runs import store

from bench.cli import cli


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["report", *arguments], prog_name="bench")


def test_command_writes_the_page_and_says_how_large_it_is(elsewhere: Path) -> None:
    store(varied(), elsewhere / "a.jsonl")
    result = bench("laptop=a.jsonl", "--output", "page.html")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("page.html: 1 run, ")
    assert "<h1>Benchmark report: laptop</h1>" in (elsewhere / "page.html").read_text()


def test_command_refuses_an_output_that_cannot_be_written_before_it_reads(elsewhere: Path) -> None:
    result = bench("missing.jsonl", "--output", "no/such/page.html")
    assert result.exit_code == 2
    assert "no/such/page.html cannot be written" in result.stderr
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["page.pdf", "page.csv", "page"])
def test_command_refuses_a_name_that_is_not_that_of_a_page_before_it_reads(elsewhere: Path, name: str) -> None:
    result = bench("missing.jsonl", "--output", name)
    assert result.exit_code == 2
    assert f"--output {name} is not a .html or .htm file" in result.stderr
    assert "write page.html" in result.stderr
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["page.htm", "PAGE.HTML"])
def test_command_writes_a_page_with_either_suffix_in_any_case(elsewhere: Path, name: str) -> None:
    store(varied(), elsewhere / "a.jsonl")
    assert bench("a.jsonl", "--output", name).exit_code == 0
    assert (elsewhere / name).is_file()


def test_command_never_replaces_a_run_by_its_report(elsewhere: Path) -> None:
    path = store(varied(), elsewhere / "a.jsonl")
    (elsewhere / "a.csv").write_text("its trials")
    before = path.read_bytes()
    for kept in ("a.jsonl", "a.csv"):
        output = f"{kept}.html"
        (elsewhere / output).hardlink_to(elsewhere / kept)
        result = bench("a.jsonl", "--output", output)
        assert result.exit_code == 2
        assert "name another file" in result.stderr
    assert (path.read_bytes(), (elsewhere / "a.csv").read_text()) == (before, "its trials")


def test_command_needs_a_run_and_names_what_it_cannot_find(elsewhere: Path) -> None:
    assert bench().exit_code == 2
    result = bench("missing.jsonl")
    assert result.exit_code == 2
    assert "missing.jsonl" in result.stderr
    assert not (elsewhere / "report.html").exists()


def test_command_reports_warnings_about_a_file(elsewhere: Path) -> None:
    path = store(varied(), elsewhere / "a.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    result = bench("a.jsonl")
    assert result.exit_code == 0, result.output
    assert "was cut off" in result.stderr
    assert "was cut off" in (elsewhere / "report.html").read_text()


@pytest.mark.usefixtures("elsewhere")
def test_command_finds_the_machines_profile_under_the_results() -> None:
    for results, is_known in ((ROOT / "results", True), (Path("results"), False)):
        result = bench(str(REFERENCE / "speedrun.jsonl"), "--results", str(results))
        assert result.exit_code == 0, result.output
        assert ("of measured peak" in Path("report.html").read_text(encoding="utf-8")) is is_known
        assert f"1 run, {Path('report.html').stat().st_size / 1024:.0f} KiB" in result.stdout
