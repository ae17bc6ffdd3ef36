"""The way through the commands: a plan is shown, its shards are run and merged; nothing here starts a real worker."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_worker import FakeLauncher, fail_trial

from bench.cli import cli
from bench.planning.plan import order_trials
from bench.records import FailureKind
from bench.storage.store import read_run
from bench.system.locks import device_locks

pytestmark = pytest.mark.usefixtures("elsewhere")


GRID = ("--models", "784-128-10", "--batch-sizes", "64,128,256,512,1024", "--repeats", "2", "--devices", "cpu")


@pytest.fixture
def worker(fake_launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch) -> FakeLauncher:
    """The scripted worker in place of the real one."""
    monkeypatch.setattr("bench.execution.launcher.make_launcher", lambda _preload=(): fake_launcher)
    return fake_launcher


@pytest.fixture
def shards(worker: FakeLauncher) -> list[str]:
    """The files of three shards that were run."""
    del worker
    for number in (1, 2, 3):
        assert bench("run", *GRID, "--shard", f"{number}/3", "--output", f"s{number}.jsonl").exit_code == 0
    return ["s1.jsonl", "s2.jsonl", "s3.jsonl"]


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="bench")


def refused(result: Result, exit_code: int, *words: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr


@pytest.mark.usefixtures("worker")
def test_plan_shows_each_shards_trials_and_time_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    result = bench("plan", *GRID, "--shards", "2", "--format", "json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["configurations"], told["trials"], told["repeats"], told["seed"]) == (5, 10, 2, 0)
    assert [shard["shard"] for shard in told["shards"]] == ["1/2", "2/2"]
    assert sum(shard["trials"] for shard in told["shards"]) == 10
    total = sum(shard["estimated_seconds"] for shard in told["shards"])
    assert total >= told["estimated_seconds"] > 0  # every shard starts anew
    monkeypatch.setattr(os, "getloadavg", lambda: (1e3, 0.0, 0.0), raising=False)
    table = bench("plan", *GRID, "--shards", "2")
    assert "Other programs are busy here (load average 1000.0, " in table.stdout.splitlines()[-1]
    assert "5 configurations x 2 repeats = 10 trials" in table.stdout
    assert told["plan_id"] in table.stdout
    assert not Path("results").exists()


def test_without_an_estimate_no_trial_is_started(worker: FakeLauncher) -> None:
    result = bench("plan", *GRID, "--shards", "2", "--no-estimate", "--format", "json")
    assert [shard["estimated_seconds"] for shard in json.loads(result.stdout)["shards"]] == [None, None]
    table = bench("plan", *GRID, "--shards", "2", "--no-estimate").stdout
    assert [line.split() for line in table.splitlines()[2:4]] == [["1/2", "2", "4"], ["2/2", "3", "6"]]
    assert "10 trials" in table
    assert "estimated" not in table.lower()
    assert {request["do"] for request in worker.requests} == {"describe"}


@pytest.mark.parametrize("option", [("--wait", "0"), ("--timeout", "1h"), ("--data-root", ".")])
def test_without_an_estimate_what_only_estimating_takes_is_refused(
    worker: FakeLauncher, option: tuple[str, str]
) -> None:
    refused(
        bench("plan", *GRID, "--no-estimate", *option), 2, f"{option[0]} is for estimates, but --no-estimate makes none"
    )
    assert not worker.requests


@pytest.mark.parametrize("command", [("plan",), ("run", "--dry-run")])
def test_an_estimate_on_a_device_that_a_run_holds_starts_nothing(
    worker: FakeLauncher, command: tuple[str, ...]
) -> None:
    with device_locks(["cpu"]):
        refused(bench(*command, *GRID, "--wait", "0.1s"), 2, "device cpu is in use by process", "waited")
        assert not worker.requests
        assert bench("plan", *GRID, "--no-estimate").exit_code == 0
    assert bench(*command, *GRID).exit_code == 0


def test_a_shards_header_names_the_plan_that_was_shown(worker: FakeLauncher, shards: list[str]) -> None:
    del worker
    told = json.loads(bench("plan", *GRID, "--shards", "3", "--format", "json").stdout)
    for number, path in enumerate(shards, start=1):
        run = read_run(Path(path))
        assert run.header.division is not None
        assert run.header.division.plan_id == told["plan_id"]
        assert [shard.number for shard in run.header.division.held] == [number]
        assert len(run.records) == told["shards"][number - 1]["trials"]
        assert run.footer is not None
        assert run.footer.complete
        assert [record.trial for record in run.records] == list(order_trials(run.header.plan))


@pytest.mark.usefixtures("worker")
def test_dry_run_of_a_shard_shows_its_part() -> None:
    parts = [bench("run", *GRID, "--shard", f"{number}/2", "--dry-run").stdout for number in (1, 2)]
    counts = [int(part.partition(" repeats = ")[2].partition(" trials")[0]) for part in parts]
    assert sum(counts) == 10
    first, second = (part.partition("\n\n")[0].splitlines()[2:] for part in parts)
    assert len({*first, *second}) == 5


def test_merged_shards_are_the_plans_trials_and_merging_again_changes_nothing(shards: list[str]) -> None:
    result = bench("merge", *shards, "--output", "run.jsonl")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "shard 1, 2, 3 of 3, 10 of 10 trials, 0 of them failed, from 1 machine" in result.stdout
    before, file = Path("run.jsonl").read_bytes(), Path("run.jsonl").stat().st_ino
    assert bench("run", *GRID, "--output", "whole.jsonl").exit_code == 0
    ours, theirs = ({record.trial for record in read_run(Path(path)).records} for path in ("run.jsonl", "whole.jsonl"))
    assert ours == theirs
    for again in (shards[::-1], shards[:1], ["run.jsonl"], ["run.jsonl", "s2.jsonl", "s2.jsonl"]):
        assert bench("merge", *again, "--output", "run.jsonl").exit_code == 0
        assert (Path("run.jsonl").read_bytes(), Path("run.jsonl").stat().st_ino) == (before, file)
    shown = bench("show", "run.jsonl")
    assert shown.exit_code == 0
    assert "incomplete" not in shown.stdout
    assert "shard" not in shown.stdout


def test_what_a_damaged_file_lost_is_said_of_a_shard_and_of_the_output(shards: list[str]) -> None:
    assert bench("merge", shards[0], "--output", "run.jsonl").exit_code == 3
    for name in ("run.jsonl", shards[1]):
        Path(name).write_bytes(Path(name).read_bytes()[:-20])
    said = bench("merge", shards[1], "--output", "run.jsonl").stderr
    assert [line.partition(": line")[0] for line in said.splitlines()] == ["bench: s2.jsonl", "bench: run.jsonl"]


def test_an_incomplete_merge_ends_with_3_says_what_is_missing_and_is_completed_later(
    worker: FakeLauncher, shards: list[str]
) -> None:
    part = bench("run", *GRID, "--shard", "2/3", "--budget", "0.000001", "--output", "part.jsonl")
    assert part.exit_code == 3
    result = bench("merge", "part.jsonl", "s3.jsonl", "--output", "run.jsonl")
    assert result.exit_code == 3
    assert "are missing: add shard 1 of 3 with python -m bench merge" in result.stdout
    shown = bench("show", "run.jsonl").stdout.replace("\n  ", " ")
    assert "shard 2, 3 of 3: 2 of 10 trials are in other shards; add shard 1 of 3" in shown
    assert "resume the shards that it was merged from, and merge again" in shown
    assert bench("merge", "s1.jsonl", "--output", "run.jsonl").exit_code == 3
    refused(bench("run", "--resume", "run.jsonl"), 2, "was merged from several", "resume the shards")
    worker.requests.clear()
    assert bench("run", "--resume", "part.jsonl").exit_code == 0
    assert len([request for request in worker.requests if request["do"] == "prepare"]) == 3
    assert bench("merge", "part.jsonl", "--output", "run.jsonl").exit_code == 0
    assert bench("check", "run.jsonl", "s1.jsonl").exit_code != 0  # a shard is never whole
    del shards


def test_a_failed_trial_makes_merging_end_with_4(worker: FakeLauncher) -> None:
    worker.on = lambda request: fail_trial(FailureKind.CRASH, "gone") if request["do"] == "prepare" else None
    assert bench("run", *GRID, "--shard", "1/1", "--output", "s1.jsonl").exit_code == 4
    assert bench("merge", "s1.jsonl", "--output", "run.jsonl").exit_code == 4


@pytest.mark.usefixtures("worker")
def test_what_does_not_belong_together_is_refused_and_the_output_stays(shards: list[str]) -> None:
    assert bench("merge", *shards, "--output", "run.jsonl").exit_code == 0
    before = Path("run.jsonl").read_bytes()
    bench("run", *GRID, "--shard", "2/3", "--output", "again.jsonl")
    bench("run", *GRID, "--seed", "7", "--shard", "2/3", "--output", "foreign.jsonl")
    bench("run", *GRID, "--output", "whole.jsonl")
    refused(bench("merge", "again.jsonl", "--output", "run.jsonl"), 2, "overlap: both contain shard 2")
    refused(bench("merge", "foreign.jsonl", "--output", "run.jsonl"), 5, "of plan", "seed: 0 against 7")
    refused(bench("merge", "whole.jsonl", "--output", "run.jsonl"), 2, "is not a shard")
    assert Path("run.jsonl").read_bytes() == before
    Path("notes.jsonl").write_text("mine")
    refused(bench("merge", *shards, "--output", "notes.jsonl"), 2, "is not a stored run")
    refused(bench("merge", *shards, "--output", "missing/run.jsonl"), 2, "missing is not a writable folder")
    assert Path("notes.jsonl").read_text() == "mine"


def test_merging_replaces_no_shard_which_could_not_be_resumed_then(worker: FakeLauncher) -> None:
    del worker
    for number in (1, 2):
        budget = ("--budget", "0.000001") if number == 1 else ()
        bench("run", *GRID, "--shard", f"{number}/2", "--output", f"s{number}.jsonl", *budget)
    before = Path("s1.jsonl").read_bytes()
    for given in (["s1.jsonl"], ["s2.jsonl"], ["s1.jsonl", "s2.jsonl"]):
        refused(bench("merge", *given, "--output", "s1.jsonl"), 2, "--output s1.jsonl is a shard")
        assert Path("s1.jsonl").read_bytes() == before
    assert bench("run", "--resume", "s1.jsonl").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--shard", "0/3"), "numbered from 1 to 3"),
        (("run", "--shard", "4/3"), "numbered from 1 to 3"),
        (("run", "--shard", "a/b"), "write it like 2/3"),
        (("plan", "--shards", "0"), "use 1 to"),
        (("run", "--shard", "1/3", "--resume", "x"), "--shard cannot be given with --resume"),
        (("merge", "--output", "x.jsonl"), "SHARD"),
        (("merge", "nothing.jsonl", "--output", "x.jsonl"), "is not a file"),
        (("merge", "nothing.jsonl", "--output", "x.csv"), "name a .jsonl file"),
    ],
)
def test_bad_input_is_refused_before_a_worker_starts(
    arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.execution.launcher.ForkingLauncher", pytest.fail)
    refused(bench(*arguments), 2, words)
    assert not Path("results").exists()


@pytest.mark.usefixtures("worker")
def test_more_shards_than_configurations_are_refused_before_anything_is_measured() -> None:
    refused(bench("run", *GRID, "--shard", "6/6"), 2, "6 shards are more than the 5 configurations")
    refused(bench("plan", *GRID, "--shards", "6"), 2, "6 shards are more than the 5 configurations")


def test_a_complete_merge_is_also_written_as_csv(shards: list[str]) -> None:
    assert bench("merge", *shards[:2], "--output", "run.jsonl").exit_code == 3
    assert not Path("run.csv").exists()
    assert bench("merge", shards[2], "--output", "run.jsonl").exit_code == 0
    assert len(Path("run.csv").read_text().splitlines()) == 11
    Path("other.csv").write_text("mine\n")
    refused(bench("merge", *shards, "--output", "other.jsonl"), 2, "other.csv", "is not this run's")
    assert (Path("other.csv").read_text(), Path("other.jsonl").exists()) == ("mine\n", False)
