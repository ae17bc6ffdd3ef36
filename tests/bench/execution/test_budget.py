"""A run's budget of time: what spends it, and how a run ends that has spent it."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_worker import FakeLauncher, fail_trial
from local_runs import resume, start
from run_parts import options

from bench.errors import ExitCode
from bench.execution.executor import LocalExecutor
from bench.records import FailureKind

pytestmark = pytest.mark.usefixtures("own_locks")


def test_resuming_with_a_budget_that_starting_spends_still_comes_to_an_end(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    for count in (3, 4, 5, 6):
        assert len(resume(fake_launcher, interrupted, options(tmp_path, budget_seconds=0.0)).run.records) == count


def test_budget_stops_after_the_trial_that_spends_it(
    fake_launcher: FakeLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(step=10)
    monkeypatch.setattr("bench.execution.run.time.monotonic", lambda: float(next(now)))
    finished = start(fake_launcher, options(tmp_path, budget_seconds=35.0))
    assert 2 <= len(finished.run.records) < 6
    assert finished.run.footer is not None
    assert finished.run.footer.reason == "budget"
    assert finished.exit_code is ExitCode.PASS  # every configuration has been measured
    assert not finished.path.with_suffix(".csv").exists()


def test_budget_too_small_for_every_configuration_is_inconclusive(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    finished = start(fake_launcher, options(tmp_path, budget_seconds=0.0))
    assert len(finished.run.records) == 1  # never nothing
    assert finished.exit_code is ExitCode.INCONCLUSIVE


def test_budget_that_ends_a_run_with_a_failed_trial_does_not_hide_it(
    fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    fake_launcher.on = lambda request: fail_trial(FailureKind.CRASH, "gone") if request["do"] == "prepare" else None
    finished = start(fake_launcher, options(tmp_path, budget_seconds=0.0))
    assert finished.run.footer is not None
    assert (finished.run.footer.complete, finished.run.footer.failed) == (False, 1)
    assert finished.exit_code is ExitCode.FAILED_TRIAL


@pytest.fixture
def hour_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass only while a run waits for its devices: an hour."""
    waited = 0.0

    @contextlib.contextmanager
    def wait(_executor: LocalExecutor, _devices: object) -> Iterator[None]:
        nonlocal waited
        waited += 3600
        yield

    monkeypatch.setattr(LocalExecutor, "hold", wait)
    monkeypatch.setattr("bench.execution.run.time.monotonic", lambda: waited)


@pytest.mark.usefixtures("hour_waited")
def test_waiting_for_a_device_spends_nothing_of_the_budget(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    finished = start(fake_launcher, options(tmp_path, budget_seconds=60.0))
    assert len(finished.run.records) == 6
    assert finished.run.footer is not None
    assert finished.run.footer.wall_seconds == 0


@pytest.mark.usefixtures("interrupted", "hour_waited")
def test_waiting_to_resume_spends_nothing_of_the_budget(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    finished = resume(fake_launcher, path, options(tmp_path, budget_seconds=60.0))
    assert len(finished.run.records) == 6
    assert finished.run.footer is not None
    assert finished.run.footer.wall_seconds == 0
