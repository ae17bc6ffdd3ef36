"""Carrying out plans with a scripted worker: what is stored, what is refused, how long it would take."""

import contextlib
import dataclasses
import itertools
import os
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pytest
from fake_worker import CPU, FakeLauncher, Request, fail_trial
from local_runs import REQUEST, executor, resume, runner, start
from run_parts import Display, interrupt, options

from bench.errors import BadInputError, ExitCode, InterruptedRunError, WorkerError
from bench.execution import run
from bench.execution.executor import ExecutionOptions, LocalExecutor
from bench.planning.plan import missing_trials
from bench.records import DeviceStatus, EpochRecord, Failure, FailureKind, Measurement, Trial
from bench.storage.store import read_run
from bench.system.locks import HeldError, Patience, device_locks
from bench.tables.show import render_run

pytestmark = pytest.mark.usefixtures("own_locks")


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


def test_batch_as_large_as_the_dataset_is_fine(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    fake_launcher.dataset = dataclasses.replace(fake_launcher.dataset, train_samples=128)
    assert start(fake_launcher, options(tmp_path)).exit_code is ExitCode.PASS


def test_missing_device_is_refused_with_the_reason(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    request = dataclasses.replace(REQUEST, devices=("cpu", "cuda"))
    with pytest.raises(BadInputError, match=r"'cuda' is not available: no driver\. Available here: cpu"):
        runner(fake_launcher, options(tmp_path)).start(request)


def test_second_run_on_a_device_is_told_who_holds_it(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    with device_locks(["cpu"]), pytest.raises(BadInputError, match="device cpu is in use by process"):
        start(fake_launcher, options(tmp_path))
    assert not (tmp_path / "results").exists()  # where it would be the latest run, and empty


def test_a_run_waits_for_its_devices_as_long_as_told(fake_launcher: FakeLauncher) -> None:
    other = contextlib.ExitStack()
    other.enter_context(device_locks(["cpu"]))
    patience = Patience(seconds=60, sleep=lambda _seconds: other.close())
    here = LocalExecutor(fake_launcher, ExecutionOptions(data_root=None, timeout_seconds=60, patience=patience))
    with here.hold({"cpu"}), pytest.raises(HeldError), device_locks(["cpu"]):
        pass


def test_a_run_holds_its_devices_by_uuid_too(fake_launcher: FakeLauncher) -> None:
    cuda = DeviceStatus(device="cuda:0", available=True, description="GPU A", reason="", uuid="5a1b-77")
    fake_launcher.place = dataclasses.replace(fake_launcher.place, devices=(cuda,))
    here = executor(fake_launcher)
    here.plan(dataclasses.replace(REQUEST, devices=("cuda",)))
    with here.hold({"cuda:0"}), pytest.raises(HeldError, match="device cuda:3 is in use"):
        device_locks(["cuda:3"], uuids={"cuda:3": "5a1b-77"}).__enter__()


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
    here = executor(fake_launcher)
    run.estimate_run(here.plan(request), here)
    assert held == [{"cuda:0", "cuda:1"}] * 2


def test_one_gpu_beside_a_cpu_is_measured_with_as_many_ranks_as_it_has(fake_launcher: FakeLauncher) -> None:
    gpu = DeviceStatus(device="cuda:0", available=True, description="", reason="")
    fake_launcher.place = dataclasses.replace(fake_launcher.place, devices=(CPU, gpu))
    request = dataclasses.replace(REQUEST, devices=("auto",), world_sizes=(1, 2), threads=(1,), skip_unsupported=True)
    plan = executor(fake_launcher).plan(request)
    found = {(c.device, c.world_size) for c in plan.configurations}
    assert found == {("cpu", 1), ("cpu", 2), ("cuda:0", 1)}


def test_without_threads_a_trial_has_those_that_torch_takes_by_itself(fake_launcher: FakeLauncher) -> None:
    assert {each.threads for each in executor(fake_launcher).plan(REQUEST).configurations} == {2}  # of four cores


def test_the_ranks_on_this_machine_alone_share_its_cores(fake_launcher: FakeLauncher) -> None:
    here = LocalExecutor(fake_launcher, ExecutionOptions(data_root=None, timeout_seconds=60), ranks_here=2)
    fake_launcher.place = dataclasses.replace(fake_launcher.place, default_threads=4)
    plan = here.plan(dataclasses.replace(REQUEST, world_sizes=(1, 4)))
    assert {configuration.threads for configuration in plan.configurations} == {2}


@pytest.mark.parametrize("make", ["file", "parent_is_file", "exists", "table_exists", "table_is_folder"])
def test_output_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path, make: str) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("")
    existing = tmp_path / "x.jsonl"
    existing.write_text("\n")
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


def test_output_in_a_read_only_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BadInputError, match="is not a writable folder; choose another --output"):
        run.check_output(options(tmp_path, output=tmp_path / "run.jsonl"))


def test_a_name_too_long_for_the_tables_temporary_file_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    run.check_output(options(tmp_path, output=tmp_path / "new" / f"{'n' * 237}.jsonl"))
    with pytest.raises(BadInputError, match="File name too long; choose a shorter name"):
        run.check_output(options(tmp_path, output=tmp_path / "new" / f"{'n' * 238}.jsonl"))


def test_output_in_folders_yet_to_be_made_is_fine(tmp_path: Path) -> None:
    run.check_output(options(tmp_path, output=tmp_path / "a" / "b" / "run.jsonl"))
    run.check_output(options(tmp_path))


def test_output_whose_name_has_another_suffix_is_a_folder_that_exists_or_a_mistyped_file(tmp_path: Path) -> None:
    folder = tmp_path / "runs.old"
    with pytest.raises(BadInputError, match=r"neither a \.jsonl file nor an existing folder: write .*runs\.jsonl, or"):
        run.check_output(options(tmp_path, output=folder))
    run.check_output(options(tmp_path, results=folder))
    folder.mkdir()
    run.check_output(options(tmp_path, output=folder))


def test_what_a_killed_writer_of_the_table_left_is_removed(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    left = tmp_path / ".run.csv.0a1b2c3d.tmp"
    left.touch()
    start(fake_launcher, options(tmp_path, output=tmp_path / "run.jsonl"))
    assert not left.exists()


def test_output_to_an_empty_file_is_fine(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").touch()
    run.check_output(options(tmp_path, output=tmp_path / "run.jsonl"))


def test_output_without_a_name_as_of_an_unset_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"has no name before \.jsonl"):
        run.check_output(options(tmp_path, output=tmp_path / ".jsonl"))


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
    for unfinished in (None, dataclasses.replace(footer, complete=False)):
        stored = dataclasses.replace(finished.run, footer=unfinished)
        assert run.measuring_share(dataclasses.replace(finished, run=stored)) is None


def test_estimate_probes_trials_and_stores_nothing(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    plan = executor(fake_launcher).plan(REQUEST)
    assert run.estimate_run(plan, executor(fake_launcher)).of(plan) > 0
    assert not (tmp_path / "results").exists()


def test_epochs_are_reported_as_they_end(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    class Epochs(Display):
        def epoch_done(self, epoch: EpochRecord) -> None:
            self.notes.append(f"{epoch.train_seconds:g}")

    display = Epochs()
    finished = start(fake_launcher, options(tmp_path), display)
    outcomes = [record.outcome for record in finished.run.records]
    measured = [outcome.epochs for outcome in outcomes if isinstance(outcome, Measurement)]
    assert display.notes == [f"{epoch.train_seconds:g}" for epochs in measured for epoch in epochs]
    assert len(display.notes) == 12
    assert display.numbers == [1, 2, 3, 4, 5, 6]


def test_trials_probes_and_data_have_the_time_limit_and_the_data_root_however_it_is_written(
    fake_launcher: FakeLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = LocalExecutor(fake_launcher, ExecutionOptions(data_root=Path("data"), timeout_seconds=9000))
    plan = local.plan(REQUEST)
    fake_launcher.timeouts.clear()
    local.prepare("mnist")
    local.probe(Trial(configuration=plan.configurations[0], seed=0, repeat=0))
    next(local.execute(missing_trials(plan, ()), lambda: True, Display()))
    roots = [request["root"] for request in fake_launcher.requests if "root" in request]
    assert roots == [str(tmp_path / "data")] * 3
    assert fake_launcher.timeouts == pytest.approx([9000] * len(fake_launcher.timeouts), abs=60)


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
    with pytest.raises(InterruptedRunError):
        start(fake_launcher, options(tmp_path), Display({2: interrupt}))
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
