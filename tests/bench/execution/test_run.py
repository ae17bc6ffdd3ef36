"""Carrying out plans with a scripted worker: what is stored, what is refused, what is resumed."""

import contextlib
import dataclasses
import itertools
import shlex
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pytest
from fake_worker import CPU, FakeLauncher, Request, fail_trial

from bench.errors import BadInputError, ExitCode, IncomparableError, InterruptedRunError, WorkerError
from bench.execution import run
from bench.execution.executor import ExecutionOptions, LocalExecutor
from bench.planning.plan import Request as RunRequest
from bench.records import DeviceStatus, EpochRecord, Failure, FailureKind, Trial, TrialRecord
from bench.storage.store import read_run
from bench.system.interrupts import Interrupts
from bench.system.locks import HeldError, device_locks
from bench.tables.show import render_run

REQUEST = RunRequest(models=("784-128-10",), batch_sizes=(64, 128), repeats=3, devices=("cpu",), epochs=2)


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no other run on this machine hold the device."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def options(tmp_path: Path, **changes: Any) -> run.Options:  # noqa: ANN401 - any option
    defaults = run.Options(
        name="test",
        results=tmp_path / "results",
        output=None,
        budget_seconds=None,
        command=("run",),
    )
    return dataclasses.replace(defaults, **changes)


class Quiet:
    """A display that shows nothing but can act between trials."""

    def __init__(self) -> None:
        self.done: list[TrialRecord] = []
        self.after: dict[int, Exception] = {}

    def __call__(self, _trials: tuple[Trial, ...], _concurrency: int) -> contextlib.AbstractContextManager["Quiet"]:
        return contextlib.nullcontext(self)

    def trial_started(self, number: int, trial: Trial) -> None:
        pass

    def epoch_done(self, epoch: EpochRecord) -> None:
        pass

    def trial_done(self, record: TrialRecord) -> None:
        self.done.append(record)
        if len(self.done) in self.after:
            raise self.after[len(self.done)]

    def note(self, text: str) -> None:
        pass


def executor(launcher: FakeLauncher) -> LocalExecutor:
    return LocalExecutor(launcher, ExecutionOptions(data_root=None, timeout_seconds=60))


def runner(launcher: FakeLauncher, opts: run.Options, display: Quiet | None = None) -> run.Runner:
    return run.Runner(
        options=opts, executor=executor(launcher), interrupts=Interrupts(), make_progress=display or Quiet()
    )


def start(launcher: FakeLauncher, opts: run.Options, display: Quiet | None = None) -> run.Finished:
    return runner(launcher, opts, display).start(REQUEST)


def resume(launcher: FakeLauncher, path: Path, opts: run.Options) -> run.Finished:
    return runner(launcher, opts).resume(path)


@pytest.fixture
def interrupted(fake_launcher: FakeLauncher, tmp_path: Path) -> Path:
    """A stored run of which two of six trials are finished."""
    display = Quiet()
    display.after = {2: InterruptedRunError("interrupted by SIGINT")}
    with pytest.raises(InterruptedRunError, match=r"2 of 6 trials are stored in .*; continue with: .*--resume"):
        start(fake_launcher, options(tmp_path), display)
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    return path


def test_complete_run_is_stored_with_its_plan_footer_and_csv(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    finished = start(fake_launcher, options(tmp_path))
    assert finished.exit_code is ExitCode.PASS
    stored = read_run(finished.path)
    assert stored == finished.run
    assert len(stored.records) == 6
    assert {(r.trial.configuration.batch_size, r.trial.repeat, r.trial.seed) for r in stored.records} == {
        (size, repeat, repeat) for size, repeat in itertools.product((64, 128), range(3))
    }
    assert stored.footer is not None
    assert (stored.footer.complete, stored.footer.measured, stored.footer.failed) == (True, 6, 0)
    assert len(pd.read_csv(finished.path.with_suffix(".csv"))) == 6
    assert finished.path.parent == tmp_path / "results" / fake_launcher.place.machine.id


def test_output_can_be_a_file_or_a_folder(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    assert start(fake_launcher, options(tmp_path, output=tmp_path / "a" / "x.jsonl")).path == tmp_path / "a" / "x.jsonl"
    assert start(fake_launcher, options(tmp_path, output=tmp_path / "b")).path.is_relative_to(tmp_path / "b")


def test_failed_trial_is_stored_and_the_run_continues_and_ends_with_4(
    fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    count = itertools.count()

    def fail_second(request: Request) -> dict[str, Any] | None:
        if request["do"] == "prepare" and next(count) == 1:
            return fail_trial(FailureKind.CRASH, "gone")
        return None

    fake_launcher.on = fail_second
    finished = start(fake_launcher, options(tmp_path))
    assert finished.exit_code is ExitCode.FAILED_TRIAL
    outcomes = [record.outcome for record in finished.run.records]
    assert len(outcomes) == 6
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [False, True, False, False, False, False]


def test_interrupted_run_keeps_what_is_finished_and_says_how_to_go_on(interrupted: Path) -> None:
    stored = read_run(interrupted)
    assert len(stored.records) == 2
    assert stored.footer is not None
    assert (stored.footer.complete, stored.footer.reason, stored.footer.missing) == (False, "interrupted", 4)
    assert not interrupted.with_suffix(".csv").exists()


def test_resuming_measures_exactly_what_is_missing(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    before = read_run(interrupted).records
    fake_launcher.requests.clear()
    finished = resume(fake_launcher, interrupted, options(tmp_path))
    asked = [request["trial"] for request in fake_launcher.requests if request["do"] == "prepare"]
    assert len(asked) == 4
    assert finished.run.records[:2] == before
    assert len({record.trial for record in finished.run.records}) == 6
    assert finished.exit_code is ExitCode.PASS
    assert finished.path.with_suffix(".csv").exists()


def test_resuming_a_complete_run_measures_nothing(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    path = start(fake_launcher, options(tmp_path)).path
    fake_launcher.requests.clear()
    assert len(resume(fake_launcher, path, options(tmp_path)).run.records) == 6
    assert not [request for request in fake_launcher.requests if request["do"] == "prepare"]


def test_resuming_a_complete_run_writes_nothing_but_a_table_that_is_missing(
    fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    path = start(fake_launcher, options(tmp_path)).path
    table = path.with_suffix(".csv")
    written, stored = table.read_bytes(), path.read_bytes()
    table.write_text("mine\n")
    first = resume(fake_launcher, path, options(tmp_path))
    assert (first.run, first.exit_code) == (read_run(path), ExitCode.PASS)
    assert (path.read_bytes(), table.read_text()) == (stored, "mine\n")
    table.unlink()
    resume(fake_launcher, path, options(tmp_path))
    assert (path.read_bytes(), table.read_bytes()) == (stored, written)


def test_resuming_with_a_budget_that_starting_spends_still_comes_to_an_end(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    for count in (3, 4, 5, 6):
        assert len(resume(fake_launcher, interrupted, options(tmp_path, budget_seconds=0.0)).run.records) == count


def test_worker_that_can_no_longer_be_started_ends_the_run_in_good_order(
    fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    count = itertools.count()

    def break_second(request: Request) -> None:
        if request["do"] == "finish" and next(count) == 1:
            fake_launcher.broken = True

    fake_launcher.on = break_second
    with pytest.raises(
        WorkerError, match=r"no process could be started: 2 of 6 trials are stored in .*; continue with: .*--resume"
    ) as caught:
        start(fake_launcher, options(tmp_path))
    assert caught.value.exit_code is ExitCode.FAILED_TRIAL
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    footer = read_run(path).footer
    assert footer is not None
    assert (footer.complete, footer.reason, footer.measured, footer.missing) == (False, "interrupted", 2, 4)


def test_resuming_with_other_software_is_incomparable_and_names_it(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    software = dataclasses.replace(fake_launcher.place.software, torch="9.9.9")
    fake_launcher.place = dataclasses.replace(fake_launcher.place, software=software)
    with pytest.raises(IncomparableError, match=r"torch is '9\.9\.9', was"):
        resume(fake_launcher, interrupted, options(tmp_path))
    assert len(read_run(interrupted).records) == 2


def test_resuming_a_complete_run_requires_no_particular_machine(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    path = start(fake_launcher, options(tmp_path)).path
    software = dataclasses.replace(fake_launcher.place.software, torch="9.9.9", git_commit="f" * 40)
    fake_launcher.place = dataclasses.replace(fake_launcher.place, software=software)
    finished = resume(fake_launcher, path, options(tmp_path))
    assert finished.exit_code is ExitCode.PASS
    assert finished.run.footer is not None
    assert finished.run.footer.complete


def test_resuming_after_a_commit_says_that_it_is_the_tree_that_differs(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    software = dataclasses.replace(fake_launcher.place.software, git_commit="f" * 40)
    fake_launcher.place = dataclasses.replace(fake_launcher.place, software=software)
    with pytest.raises(IncomparableError, match="started with another state of this source tree: git_commit is"):
        resume(fake_launcher, interrupted, options(tmp_path))


@pytest.mark.parametrize("change", [{"cpu_model": "Another"}, {"memory_bytes": 2**40}])
def test_resuming_on_another_machine_is_incomparable(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path, change: dict[str, Any]
) -> None:
    machine = dataclasses.replace(fake_launcher.place.machine, **change)
    fake_launcher.place = dataclasses.replace(fake_launcher.place, machine=machine)
    with pytest.raises(IncomparableError, match="started on another machine or with other software"):
        resume(fake_launcher, interrupted, options(tmp_path))


def test_resuming_after_a_boot_that_found_a_little_less_memory_is_fine(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    machine = fake_launcher.place.machine
    machine = dataclasses.replace(machine, memory_bytes=machine.memory_bytes - 4096)
    fake_launcher.place = dataclasses.replace(fake_launcher.place, machine=machine)
    assert len(resume(fake_launcher, interrupted, options(tmp_path)).run.records) == 6


def test_resuming_with_another_dataset_of_that_name_is_incomparable(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    fake_launcher.dataset = dataclasses.replace(fake_launcher.dataset, sha256="f" * 64)
    with pytest.raises(IncomparableError, match="SHA-256"):
        resume(fake_launcher, interrupted, options(tmp_path))


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


def test_batch_larger_than_the_dataset_is_refused_before_anything_is_stored(
    fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    fake_launcher.dataset = dataclasses.replace(fake_launcher.dataset, train_samples=100)
    with pytest.raises(BadInputError, match=r"128.*100 training samples"):
        start(fake_launcher, options(tmp_path))
    assert not (tmp_path / "results").exists()
    plan = executor(fake_launcher).plan(REQUEST)
    with pytest.raises(BadInputError, match=r"128.*100 training samples"):
        run.estimate_run(plan, executor(fake_launcher))
    assert not [request for request in fake_launcher.requests if request["do"] == "prepare"]


def test_missing_device_is_refused_with_the_reason(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    request = dataclasses.replace(REQUEST, devices=("cpu", "cuda"))
    with pytest.raises(BadInputError, match=r"'cuda' is not available: no driver\. Available here: cpu"):
        runner(fake_launcher, options(tmp_path)).start(request)


def test_second_run_on_a_device_is_told_who_holds_it(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    with device_locks(["cpu"]), pytest.raises(BadInputError, match="device cpu is in use by process"):
        start(fake_launcher, options(tmp_path))
    assert not (tmp_path / "results").exists()  # where it would be the latest run, and empty


def test_a_run_holds_its_devices_by_uuid_too(fake_launcher: FakeLauncher) -> None:
    cuda = DeviceStatus(device="cuda:0", available=True, description="GPU A", reason="", uuid="5a1b-77")
    fake_launcher.place = dataclasses.replace(fake_launcher.place, devices=(cuda,))
    here = executor(fake_launcher)
    here.plan(dataclasses.replace(REQUEST, devices=("cuda",)))
    with here.hold({"cuda:0"}), pytest.raises(HeldError, match="device cuda:3 is in use"):
        device_locks(["cuda:3"], uuids={"cuda:3": "5a1b-77"}).__enter__()


def test_resuming_on_a_held_device_changes_nothing_of_what_is_stored(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    before = interrupted.read_bytes()
    with device_locks(["cpu"]), pytest.raises(HeldError):
        resume(fake_launcher, interrupted, options(tmp_path))
    assert interrupted.read_bytes() == before


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


@pytest.mark.usefixtures("interrupted")
def test_resuming_does_not_replace_a_table_of_something_else(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    before, table = path.read_bytes(), path.with_suffix(".csv")
    table.write_text("my own notes")
    with pytest.raises(BadInputError, match="exists already and is not this run's"):
        resume(fake_launcher, path, options(tmp_path))
    assert (path.read_bytes(), table.read_text()) == (before, "my own notes")


def test_a_run_holds_the_devices_of_all_its_ranks(
    fake_launcher: FakeLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [DeviceStatus(device=f"cuda:{index}", available=True, description="", reason="") for index in range(2)]
    fake_launcher.place = dataclasses.replace(fake_launcher.place, devices=tuple(found))
    held: list[set[str]] = []

    def hold(_executor: LocalExecutor, devices: set[str]) -> contextlib.AbstractContextManager[None]:
        held.append(devices)
        return contextlib.nullcontext()

    monkeypatch.setattr(LocalExecutor, "hold", hold)
    request = dataclasses.replace(REQUEST, devices=("cuda",), world_sizes=(2,), repeats=1)
    runner(fake_launcher, options(tmp_path)).start(request)
    assert held == [{"cuda:0", "cuda:1"}]


def test_one_gpu_beside_a_cpu_is_measured_with_as_many_ranks_as_it_has(fake_launcher: FakeLauncher) -> None:
    gpu = DeviceStatus(device="cuda:0", available=True, description="", reason="")
    fake_launcher.place = dataclasses.replace(fake_launcher.place, devices=(CPU, gpu))
    request = dataclasses.replace(REQUEST, devices=("auto",), world_sizes=(1, 2), threads=(1,), skip_unsupported=True)
    plan = executor(fake_launcher).plan(request)
    found = {(c.device, c.world_size) for c in plan.configurations}
    assert found == {("cpu", 1), ("cpu", 2), ("cuda:0", 1)}


@pytest.mark.parametrize("make", ["file", "parent_is_file", "exists", "table_exists", "table_is_folder"])
def test_output_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path, make: str) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("")
    existing = tmp_path / "x.jsonl"
    existing.write_text("")
    (tmp_path / "table.csv").write_text("mine\n")
    (tmp_path / "folder.csv").mkdir()
    output = {
        "file": blocker,
        "parent_is_file": blocker / "deep" / "run.jsonl",
        "exists": existing,
        "table_exists": tmp_path / "table.jsonl",
        "table_is_folder": tmp_path / "folder.jsonl",
    }[make]
    with pytest.raises(BadInputError, match=r"choose another --output|--resume"):
        run.check_output(options(tmp_path, output=output))


def test_a_name_too_long_for_the_tables_temporary_file_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    run.check_output(options(tmp_path, output=tmp_path / "new" / f"{'n' * 237}.jsonl"))
    with pytest.raises(BadInputError, match="File name too long; choose a shorter name"):
        run.check_output(options(tmp_path, output=tmp_path / "new" / f"{'n' * 238}.jsonl"))


def test_output_in_folders_yet_to_be_made_is_fine(tmp_path: Path) -> None:
    run.check_output(options(tmp_path, output=tmp_path / "a" / "b" / "run.jsonl"))
    run.check_output(options(tmp_path))


def test_output_in_the_current_folder_is_fine(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        run.check_output(options(tmp_path, output=Path()))


def test_share_of_measuring_counts_warm_up_training_and_evaluation(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    finished = start(fake_launcher, options(tmp_path))
    assert finished.run.footer is not None
    seconds = 0.0
    for record in finished.run.records:
        assert not isinstance(record.outcome, Failure)
        seconds += record.outcome.warm_up_seconds
        seconds += sum(epoch.train_seconds + epoch.evaluation_seconds for epoch in record.outcome.epochs)
    footer = dataclasses.replace(finished.run.footer, wall_seconds=2 * seconds)
    halved = dataclasses.replace(finished, run=dataclasses.replace(finished.run, footer=footer))
    assert run.measuring_share(halved) == pytest.approx(0.5)
    assert run.measuring_share(dataclasses.replace(halved, executed=3)) == pytest.approx(0.25)
    unfinished = dataclasses.replace(finished, run=dataclasses.replace(finished.run, footer=None))
    assert run.measuring_share(unfinished) is None


def test_share_of_measuring_counts_only_the_trials_of_this_command(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    resumed = resume(fake_launcher, interrupted, options(tmp_path))
    assert resumed.executed == 4
    again = resume(fake_launcher, interrupted, options(tmp_path))
    assert again.executed == 0
    assert run.measuring_share(again) is None


def test_the_command_that_resumes_a_run_can_be_pasted_into_a_shell(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    path = tmp_path / "my runs" / "x y.jsonl"
    display = Quiet()
    display.after = {1: InterruptedRunError("interrupted by SIGINT")}
    with pytest.raises(InterruptedRunError) as caught:
        start(fake_launcher, options(tmp_path, output=path), display)
    command = str(caught.value).partition("continue with: ")[2]
    assert shlex.split(command) == ["python", "-m", "bench", "run", "--resume", str(path)]


def test_estimate_probes_trials_and_stores_nothing(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    plan = executor(fake_launcher).plan(REQUEST)
    assert run.estimate_run(plan, executor(fake_launcher)).of(plan) > 0
    assert not (tmp_path / "results").exists()


def test_estimate_holds_the_devices_while_it_probes(fake_launcher: FakeLauncher) -> None:
    plan = executor(fake_launcher).plan(REQUEST)
    refused = []

    def try_to_take(request: Request) -> None:
        if request["do"] == "prepare":
            with pytest.raises(HeldError) as error, device_locks(["cpu"]):
                pass
            refused.append(error)

    fake_launcher.on = try_to_take
    run.estimate_run(plan, executor(fake_launcher))
    assert refused
    with device_locks(["cpu"]):
        pass


def test_estimate_on_a_held_device_starts_no_trial(fake_launcher: FakeLauncher) -> None:
    plan = executor(fake_launcher).plan(REQUEST)
    with device_locks(["cpu"]), pytest.raises(HeldError):
        run.estimate_run(plan, executor(fake_launcher))
    assert {request["do"] for request in fake_launcher.requests} == {"describe"}


def test_estimate_of_an_impossible_plan_says_why(fake_launcher: FakeLauncher) -> None:
    plan = executor(fake_launcher).plan(REQUEST)
    fake_launcher.on = lambda request: (
        fail_trial(FailureKind.OUT_OF_MEMORY, "no room") if request["do"] == "prepare" else None
    )
    with pytest.raises(BadInputError, match="no room"):
        run.estimate_run(plan, executor(fake_launcher))


class BackwardClock(datetime):
    """A clock that is set back by a day each time somebody looks at it."""

    looks = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        cls.looks += 1
        return cls(2026, 11, 21, tzinfo=tz) - timedelta(days=cls.looks)


def test_a_clock_that_is_set_back_during_a_run_changes_stamps_and_nothing_else(
    fake_launcher: FakeLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("run", "conversation"):
        monkeypatch.setattr(f"bench.execution.{module}.datetime", BackwardClock)
    display = Quiet()
    display.after = {2: InterruptedRunError("interrupted by SIGINT")}
    with pytest.raises(InterruptedRunError):
        start(fake_launcher, options(tmp_path), display)
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    finished = resume(fake_launcher, path, options(tmp_path, budget_seconds=3600))
    assert finished.exit_code is ExitCode.PASS
    stored = read_run(finished.path)
    stamps = [stored.header.created_at, *(record.started_at for record in stored.records)]
    assert stamps == sorted(set(stamps), reverse=True)
    assert [record.wall_seconds >= 0 for record in stored.records] == [True] * 6
    assert stored.footer is not None
    assert 0 <= stored.footer.wall_seconds < 3600
    assert stored.footer.complete
    assert "784" in render_run(stored, format="table")
