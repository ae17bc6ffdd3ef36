"""`bench list`: every stored run with its progress, and unreadable files with the reason."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench_builders import make_configuration, make_division, make_failure, make_footer, make_record, make_run
from click.testing import CliRunner, Result
from stored_runs import store, with_records

from bench.cli import cli
from bench.execution.processes import worker_environment
from bench.records import Run
from bench.storage.references import resolve

pytestmark = pytest.mark.usefixtures("elsewhere")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="bench")


def listed(*arguments: str) -> list[dict[str, object]]:
    result = bench("list", "--format", "json", *arguments)
    assert result.exit_code == 0, result.output
    found: list[dict[str, object]] = json.loads(result.stdout)
    return found


def put(run: Run, name: str) -> Path:
    path = Path("results") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return store(run, path)


def test_runs_are_listed_newest_first_by_their_own_time() -> None:
    put(make_run(run_id="aaaa0001", created_at="2026-11-21T03:00:00Z"), "z/old.jsonl")
    put(make_run(run_id="aaaa0002", created_at="2026-11-21T05:00:00+04:00"), "a/older.jsonl")
    put(make_run(run_id="aaaa0003", created_at="2026-11-22T00:00:00Z"), "new.jsonl")
    assert [run["run_id"] for run in listed()] == ["aaaa0003", "aaaa0001", "aaaa0002"]
    assert resolve("latest", Path("results")) == Path("results/new.jsonl")
    assert "2026-11-21 01:00" in bench("list").stdout


def test_row_tells_machine_devices_trials_and_failures() -> None:
    both = [make_configuration(device=device) for device in ("cpu", "cuda:0")]
    failed = make_record(both[1], outcome=make_failure())
    run = with_records(make_run(both, 1), [make_record(both[0]), failed])
    put(replace(run, footer=make_footer(measured=1, failed=1)), "run.jsonl")
    (row,) = listed()
    assert row["machine"] == run.header.machine.id
    assert row["devices"] == ["cpu", "cuda:0"]
    assert (row["planned"], row["measured"], row["failed"], row["state"]) == (2, 1, 1, "complete")
    assert "2 of 2, 1 failed" in bench("list").stdout


def test_a_folder_that_is_none_is_refused() -> None:
    Path("file").write_text("no folder")
    for name in ("nowhere", "file"):
        result = bench("list", "--results", name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"--results {name} is not a folder" in result.stderr


@pytest.mark.parametrize("reason", ["interrupted", "budget"])
def test_run_that_stopped_early_says_why(reason: str) -> None:
    run = make_run(repeats=3, records=[make_record()])
    put(replace(run, footer=make_footer(complete=False, reason=reason, measured=1, missing=2)), "run.jsonl")
    assert listed()[0]["state"] == reason
    assert "1 of 3" in bench("list").stdout


def test_run_that_was_cut_off_anywhere_is_unfinished_with_the_trials_it_holds() -> None:
    path = put(make_run(repeats=3), "run.jsonl")
    whole = path.read_bytes()
    for end in (len(whole) - 30, whole.rindex(b'{"footer"'), whole.rindex(b'{"trial"') + 40):
        path.write_bytes(whole[:end])
        (row,) = listed()
        assert (row["state"], row["measured"]) == ("unfinished", whole[:end].count(b'"wall_seconds":9.5}}\n'))
    assert "--resume" in bench("list").stdout


def test_an_unfinished_run_counts_its_failed_trials() -> None:
    run = make_run(repeats=3, records=[make_record(), make_record(repeat=1, outcome=make_failure())])
    put(replace(run, footer=None), "run.jsonl")
    (row,) = listed()
    assert (row["measured"], row["failed"], row["planned"]) == (1, 1, 3)


def test_a_footer_that_another_program_wrote_counts_as_well() -> None:
    path = put(make_run(repeats=3), "run.jsonl")
    path.write_bytes(path.read_bytes().replace(b'{"footer":', b'{ "footer": '))
    (row,) = listed()
    assert (row["state"], row["measured"]) == ("complete", 3)


def test_resumed_run_counts_as_its_last_footer_says() -> None:
    run = make_run(repeats=2)
    early = replace(run, records=run.records[:1], footer=make_footer(complete=False, reason="budget", measured=1))
    path = put(early, "run.jsonl")
    whole = put(run, "whole.jsonl").read_bytes()
    path.write_bytes(path.read_bytes() + b"".join(whole.splitlines(keepends=True)[2:]))
    Path("results/whole.jsonl").unlink()
    assert (listed()[0]["measured"], listed()[0]["state"]) == (2, "complete")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b'{"header":{"schema_version":99}}\n', "upgrade bench"),
        (b'{"header":{"schema_version":3}}\n', "line 1"),
        (b"a,b\n1,2\n", "first line is not valid JSON"),
        (b"\x00\xff" * 100, "is not a stored run"),
    ],
)
def test_unreadable_file_is_listed_with_the_reason(content: bytes, words: str) -> None:
    put(make_run(), "good.jsonl")
    Path("results/odd.jsonl").write_bytes(content)
    good, odd = listed()
    assert good["state"] == "complete"
    assert (odd["path"], odd["state"], odd["run_id"]) == ("results/odd.jsonl", "unreadable", None)
    assert words in str(odd["problem"])
    table = " ".join(bench("list").stdout.split())
    assert "0a1b2c3d" in table
    assert words in table
    assert words in bench("list", "--format", "markdown").stdout.replace("\\", "")


def test_damaged_middle_or_end_of_a_run_does_not_keep_the_others_from_being_listed() -> None:
    path = put(make_run(), "odd.jsonl")
    whole = path.read_bytes()
    put(make_run(run_id="aaaa0001"), "good.jsonl")
    path.write_bytes(whole[: whole.rindex(b'{"footer"')] + b'{"footer":{"complete":1}}\n')
    assert [run["state"] for run in listed()] == ["complete", "unreadable"]
    Path("results/folder.jsonl").mkdir()
    assert [run["state"] for run in listed()] == ["complete", "unreadable", "unreadable"]


def test_csv_and_json_hold_the_same(tmp_path: Path) -> None:
    put(make_run(), "run.jsonl")
    (tmp_path / "results/odd.jsonl").write_text("odd")
    rows = list(csv.DictReader(io.StringIO(bench("list", "--format", "csv").stdout)))
    for row, run in zip(rows, listed(), strict=True):
        for key, value in run.items():
            expected = " ".join(value) if isinstance(value, list) else "" if value is None else str(value)
            assert row[key] == expected


def test_part_of_a_divided_plan_says_which() -> None:
    put(make_run(division=make_division((1,), of=3)), "run.jsonl")
    put(make_run(run_id="aaaa0001"), "whole.jsonl")
    assert sorted(str(run["shards"]) for run in listed()) == ["1 of 3", "None"]
    assert "1 of 3" in bench("list").stdout


def test_names_cannot_command_the_terminal() -> None:
    put(make_run(name="\x1b[31mred"), "run.jsonl")
    for layout in ("table", "markdown", "csv", "json"):
        assert "\x1b" not in bench("list", "--format", layout).stdout


@pytest.mark.parametrize("width", [60, 80, 100])
def test_table_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.commands.list.terminal_width", lambda: width)
    both = [make_configuration(device=device) for device in ("cpu", "cuda:0", "cuda:1")]
    put(make_run(both, name="a-name-of-a-run-that-says-a-lot"), "run.jsonl")
    lines = bench("list").stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert "0a1b2c3d" in lines[2]
    assert "9 of 9" in lines[2]


def test_the_name_is_the_last_column_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    put(make_run(name="a-name-of-a-run"), "run.jsonl")
    for width, dropped in ((200, ""), (80, "machine"), (65, "machine, devices"), (50, "name, machine, devices")):
        monkeypatch.setattr("bench.commands.list.terminal_width", lambda width=width: width)
        assert ("left out for lack of space: " + dropped + ";" in bench("list").stdout.replace("\n ", "")) == bool(
            dropped
        )


def test_without_any_run_it_says_how_to_make_one() -> None:
    result = bench("list")
    assert result.exit_code == 0
    assert "python -m bench run" in result.stdout
    assert listed() == []
    assert bench("list", "--format", "csv").stdout.startswith("path,state,problem,run_id")


def test_only_header_and_footer_are_read_of_a_run_that_stopped_in_good_order() -> None:
    path = put(make_run(), "run.jsonl")
    header, *trials, footer = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + b"what is not read cannot be found wrong\n" * len(trials) + footer)
    assert listed()[0]["state"] == "complete"


def test_nothing_heavy_is_imported() -> None:
    put(make_run(), "run.jsonl")
    program = """
import sys
from bench.cli import cli
try:
    cli(["list"], prog_name="bench")
finally:
    print(sorted({"torch", "pandas", "scipy", "numpy", "rich"} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=worker_environment()
    )
    assert done.stderr == "[]\n"
    assert "0a1b2c3d" in done.stdout
