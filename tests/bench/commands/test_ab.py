"""The command `ab` with scripted workers: what it prints, writes and ends with."""

import contextlib
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_worker import FakeLauncher, Request, fail_trial
from stored_runs import Quiet

from bench.cli import cli
from bench.errors import InterruptedRunError, StorageError
from bench.execution.launcher import Launcher
from bench.records import FailureKind
from bench.system.locks import device_locks

SMALL = ("--models", "784-128-10", "--batch-sizes", "64,256")


class Arms:
    """Two scripted launchers, baseline first, and what they were asked to be."""

    def __init__(self) -> None:
        self.baseline, self.candidate = FakeLauncher(), FakeLauncher()
        self.made: list[dict[str, Any]] = []
        self.renewed = 0

    def make(
        self, arms: Sequence[tuple[str, Path | None]], preload: tuple[str, ...] = ()
    ) -> tuple[tuple[Launcher, ...], Callable[[], None]]:
        self.made = [{"preload": preload, "python": python, "workload": workload} for python, workload in arms]
        return (self.baseline, self.candidate), self.renew

    def renew(self) -> None:
        self.renewed += 1


@pytest.fixture
def arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arms]:
    scripted = Arms()
    monkeypatch.setattr("bench.execution.launcher.make_arm_launchers", scripted.make)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    with contextlib.chdir(tmp_path):
        yield scripted


def ab(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["ab", *arguments], prog_name="bench")


def slow(factor: float) -> Iterator[float]:
    return itertools.cycle([0.001 * factor * (1 + wobble) for wobble in (0.01, -0.004, 0.003, -0.009, 0.002)])


def test_equal_arms_pass_with_exit_code_0(arms: Arms) -> None:
    result = ab(".", ".", *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("  pass  ") == 2
    assert result.stdout.strip().splitlines()[-1].startswith("pass: 2 pass (allowed slowdown 5 %")
    assert "screen: pair 16 of 16" in result.stderr
    assert arms.baseline.started == arms.candidate.started == 1 + 1 + 16  # place, dataset, pairs


@pytest.mark.usefixtures("arms")
def test_quiet_leaves_the_verdict_and_no_progress() -> None:
    result = ab(".", ".", "-q")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "pass" in result.stdout


def test_a_slower_candidate_ends_with_exit_code_1_and_says_by_how_much(arms: Arms) -> None:
    arms.candidate.batch_seconds = slow(1.2)
    result = ab(".", ".", *SMALL)
    assert result.exit_code == 1, result.output
    assert "regression: cpu 784-128-10 batch 64: 20" in result.stdout
    assert "8+8" in result.stdout
    assert "judged by those alone" in result.stdout


def test_the_allowance_is_the_users(arms: Arms) -> None:
    arms.candidate.batch_seconds = slow(1.2)
    assert ab(".", ".", *SMALL, "--max-slowdown", "25%").exit_code == 0


def test_undecided_rows_end_with_exit_code_3_and_advice(arms: Arms) -> None:
    arms.candidate.batch_seconds = itertools.cycle([0.0008, 0.0013, 0.0009, 0.0012, 0.0011, 0.0007, 0.001])
    result = ab(".", ".", *SMALL, "--screen-pairs", "3", "--confirm-pairs", "3")
    assert result.exit_code == 3, result.output
    assert "--until-decided" in result.stdout
    assert "would decide" in result.stdout


def test_a_failed_trial_ends_with_exit_code_4_and_names_the_arm(arms: Arms) -> None:
    arms.candidate.on = lambda request: fail_trial(FailureKind.CRASH, "gone") if request["do"] == "stretch" else None
    result = ab(".", ".", *SMALL)
    assert result.exit_code == 4
    assert "the candidate's trial failed: crash: gone" in " ".join(result.stdout.split())


def test_an_arm_that_cannot_start_ends_with_exit_code_5(arms: Arms) -> None:
    arms.candidate.broken = True
    result = ab(".", ".", *SMALL)
    assert result.exit_code == 5
    assert "does not work with this harness" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nonsense", "."), "'nonsense' names no arm"),
        ((".", ".", "--max-slowdown", "0%"), "out of range"),
        ((".", ".", "--max-slowdown", "fast"), "write it like 5%"),
        ((".", ".", "--screen-pairs", "2"), "3<=x"),
        ((".", ".", "--json", "missing/ab.json"), "not a writable folder"),
        ((".", ".", "--models", "mlp_129"), "did you mean"),
        ((".", ".", "--devices", "cuda"), "no driver"),
        ((".", ".", "--preset", "fast"), "fast"),
        ((".",), "Missing argument"),
    ],
)
def test_bad_input_ends_with_exit_code_2_before_any_pair(arms: Arms, arguments: tuple[str, ...], words: str) -> None:
    result = ab(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert not arms.baseline.stretches


def test_a_device_that_a_run_holds_starts_no_arm(arms: Arms) -> None:
    with device_locks(["cpu"]):
        result = ab(".", ".", *SMALL, "--wait", "0.1s")
    assert result.exit_code == 2
    assert "device cpu is in use by process" in " ".join(result.stderr.split())
    assert not arms.made


@pytest.mark.usefixtures("arms")
def test_the_machines_own_floor_is_taken_from_its_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unknown = "the A/A floor of cpu on this machine is unknown"
    assert unknown in " ".join(ab(".", ".", *SMALL).stdout.split())
    monkeypatch.setattr("bench.calibration.profiles.load_profile", lambda _machine, _results: Quiet(floor=0.02))
    assert unknown not in " ".join(ab(".", ".", *SMALL, "--json", str(tmp_path / "ab.json")).stdout.split())
    document = json.loads((tmp_path / "ab.json").read_text())
    assert document["floors"] == [{"device": "cpu", "log_ratio": 0.02}]


def test_arms_are_started_with_their_own_interpreter(arms: Arms, tmp_path: Path) -> None:
    program = tmp_path / "python-new"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    result = ab(".", f"python:{program}", *SMALL)
    assert arms.made[1]["python"] == str(program)
    assert str(tmp_path) not in result.stdout
    assert arms.renewed == 7  # between the rounds of the screen's 8 pairs


def test_json_holds_every_pair_with_its_blocks_and_no_folder(arms: Arms, tmp_path: Path) -> None:
    del arms
    result = ab(".", ".", *SMALL, "--json", str(tmp_path / "ab.json"))
    text = (tmp_path / "ab.json").read_text()
    document = json.loads(text)
    assert result.exit_code == 0
    assert [len(row["screen"]) for row in document["rows"]] == [8, 8]
    assert len(document["rows"][0]["screen"][0]["blocks"]) == 6
    assert document["ended"] == "complete"
    assert document["rows"][0]["judgement"]["verdict"] == "pass"
    assert (document["verdict"], document["exit_code"]) == ("pass", 0)
    assert document["reason"].startswith("pass: 2 pass (")
    assert document["rows"][0]["trains_alike"] is True
    assert document["rows"][0]["screen"][0]["log_ratio"] == pytest.approx(0)
    assert str(tmp_path) not in text


def test_an_interruption_prints_and_writes_what_was_measured(arms: Arms, tmp_path: Path) -> None:
    turns = itertools.count()

    def interrupt(request: Request) -> None:
        if request["do"] == "stretch" and next(turns) == 100:
            raise InterruptedRunError("interrupted by SIGINT")

    arms.candidate.on = interrupt
    result = ab(".", ".", *SMALL, "--json", str(tmp_path / "ab.json"))
    assert result.exit_code == 130
    assert "interrupted" in result.stdout
    document = json.loads((tmp_path / "ab.json").read_text())
    assert (document["ended"], document["exit_code"]) == ("interrupted", 130)
    assert sum(len(row["screen"]) for row in document["rows"]) == 8  # 12 turns a pair


def test_a_worker_that_can_no_longer_be_started_leaves_what_was_measured(arms: Arms, tmp_path: Path) -> None:
    turns = itertools.count()

    def break_down(request: Request) -> None:
        arms.candidate.broken = request["do"] == "stretch" and next(turns) >= 100

    arms.candidate.on = break_down
    result = ab(".", ".", *SMALL, "--json", str(tmp_path / "ab.json"))
    assert result.exit_code == 4
    assert "an error ended it" in " ".join(result.stdout.split())
    assert "no process could be started" in result.stderr
    document = json.loads((tmp_path / "ab.json").read_text())
    assert (document["ended"], document["exit_code"]) == ("failed", 4)
    assert sum(len(row["screen"]) for row in document["rows"]) >= 8


def test_a_full_disk_does_not_end_the_comparison_and_is_reported_at_the_end(
    arms: Arms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms.candidate.batch_seconds = slow(1.2)

    def no_room(path: Path, _content: str) -> None:
        raise StorageError(f"{path.name} cannot be written: No space left on device")

    monkeypatch.setattr("bench.commands.ab.write_atomically", no_room)
    result = ab(".", ".", *SMALL, "--json", str(tmp_path / "ab.json"))
    assert result.exit_code == 4
    assert "regression: 2 regression" in result.stdout
    assert result.stderr.count("No space left on device; the comparison goes on") == 2
    assert result.stderr.endswith("ab.json cannot be written: No space left on device\n")


def test_a_reader_that_has_gone_does_not_affect_the_files(
    arms: Arms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del arms

    kept = []  # click's runner reads what was written to its own stream

    def gone(_text: str) -> None:
        kept.append(sys.stdout)
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("click.echo", gone)
    monkeypatch.setattr("bench.system.outputs.nowhere", io.StringIO)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert ab(".", ".", *SMALL, "--json", str(tmp_path / "ab.json")).exit_code == 4
    assert json.loads((tmp_path / "ab.json").read_text())["ended"] == "complete"
    assert "bench ab: pass" in (tmp_path / "summary.md").read_text()


def test_a_ci_jobs_summary_gets_the_table_in_markdown(
    arms: Arms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del arms
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    result = ab(".", ".", *SMALL)
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("before\n### bench ab: pass\n")
    assert text.count("| pass ") == 2
    assert "| detectable |" in " ".join(text.split())
    assert "warning" not in result.stderr


def test_a_summary_that_cannot_be_written_is_a_warning_and_the_verdict_stands(
    arms: Arms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del arms
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    result = ab(".", ".", *SMALL)
    assert result.exit_code == 0
    assert "GITHUB_STEP_SUMMARY names a file that cannot be written" in result.stderr


def test_the_table_fits_80_columns_and_shows_dimensions_that_differ(arms: Arms) -> None:
    arms.candidate.batch_seconds = slow(1.2)
    result = ab(".", ".", *SMALL, "--pipelines", "resident,dataloader")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "dataloader" in result.stdout


def test_different_losses_are_reported(arms: Arms) -> None:
    arms.candidate.first_loss = 3.0
    assert "do not train alike (2 of 2 rows" in " ".join(ab(".", ".", *SMALL).stdout.split())


def test_wildly_different_times_are_shown_and_not_a_traceback(arms: Arms) -> None:
    arms.candidate.batch_seconds = itertools.cycle([1e-300] * 12 + [1e300] * 12)
    result = ab(
        ".", ".", "--models", "784-128-10", "--batch-sizes", "64", "--screen-pairs", "3", "--confirm-pairs", "3"
    )
    assert result.exit_code == 3, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_shows_the_arms_and_the_exit_codes() -> None:
    result = CliRunner().invoke(cli, ["ab", "--help"])
    assert result.exit_code == 0
    for words in ("rev:main .", "--until-decided", "Exit codes"):
        assert words in result.stdout
