"""Resuming a run with a scripted worker: what is measured, what stays as it is, what is refused."""

import dataclasses
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_builders import make_division, make_header
from fake_worker import CPU, NO_CUDA, FakeLauncher
from heeded_signals import heeded
from local_runs import REQUEST, executor, resume, runner, start
from run_parts import Display, interrupt, options

from bench.errors import BadInputError, ExitCode, IncomparableError, InterruptedRunError
from bench.execution import run
from bench.execution.executor import ExecutionOptions, LocalExecutor
from bench.records import DeviceStatus, Run, TrialRecord
from bench.storage.store import RunWriter, read_run
from bench.system.interrupts import Interrupts
from bench.system.locks import HeldError, device_locks

pytestmark = pytest.mark.usefixtures("own_locks")


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
    software = dataclasses.replace(software, torch="9.9.9")
    fake_launcher.place = dataclasses.replace(fake_launcher.place, software=software)
    with pytest.raises(IncomparableError, match="started on another machine or with other software: torch is"):
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
    finished = resume(fake_launcher, interrupted, options(tmp_path))
    assert len(finished.run.records) == 6
    assert not finished.run.other_fingerprints


def test_resuming_with_another_dataset_of_that_name_is_incomparable(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    fake_launcher.dataset = dataclasses.replace(fake_launcher.dataset, sha256="f" * 64)
    with pytest.raises(IncomparableError, match="SHA-256"):
        resume(fake_launcher, interrupted, options(tmp_path))


def test_a_run_with_more_ranks_than_devices_is_resumed_only_if_the_other_ranks_are_elsewhere(
    fake_launcher: FakeLauncher,
) -> None:
    gpu = DeviceStatus(device="cuda:0", available=True, description="", reason="")
    fake_launcher.place = dataclasses.replace(fake_launcher.place, devices=(CPU, gpu))

    def with_one_rank_here() -> LocalExecutor:
        return LocalExecutor(fake_launcher, ExecutionOptions(data_root=None, timeout_seconds=60), ranks_here=1)

    request = dataclasses.replace(REQUEST, devices=("cuda",), world_sizes=(2,), threads=(1,))
    header = make_header(plan=with_one_rank_here().plan(request))
    stored = Run(header=header, records=(), footer=None)
    with_one_rank_here().resume(stored)
    with pytest.raises(BadInputError, match="2 ranks need 2 cuda devices, but this machine has 1"):
        executor(fake_launcher).resume(stored)
    fake_launcher.place = dataclasses.replace(fake_launcher.place, devices=(CPU, NO_CUDA))
    with pytest.raises(BadInputError, match="'cuda:0' is not available"):
        with_one_rank_here().resume(stored)


def test_a_merged_run_is_not_resumed(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    path = tmp_path / "merged.jsonl"
    RunWriter.create(path, make_header(division=make_division((1,)))).close()
    with pytest.raises(BadInputError, match="was merged from several runs: resume the shards that it was merged from"):
        resume(fake_launcher, path, options(tmp_path))
    assert fake_launcher.started == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be held back there")
@pytest.mark.parametrize("opening", ["create", "resume"])
def test_a_signal_while_a_file_is_opened_leaves_it_to_be_resumed(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opening: str
) -> None:
    open_it = getattr(RunWriter, opening)

    def open_with_a_signal(*arguments: object) -> object:
        opened = open_it(*arguments)
        signal.raise_signal(signal.SIGINT)
        return opened

    with monkeypatch.context() as patch, heeded(), Interrupts() as interrupts:
        patch.setattr(RunWriter, opening, open_with_a_signal)
        who = dataclasses.replace(runner(fake_launcher, options(tmp_path)), interrupts=interrupts)
        with pytest.raises(InterruptedRunError):
            who.start(REQUEST) if opening == "create" else who.resume(interrupted)
    paths = list((tmp_path / "results").rglob("*.jsonl"))
    assert len(paths) == (2 if opening == "create" else 1)
    for path in paths:
        assert len(resume(fake_launcher, path, options(tmp_path)).run.records) == 6


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be held back there")
def test_a_signal_while_a_trial_is_stored_does_not_lose_it(
    fake_launcher: FakeLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = RunWriter.append

    def append_with_a_signal(writer: RunWriter, record: TrialRecord) -> None:
        signal.raise_signal(signal.SIGINT)
        append(writer, record)

    monkeypatch.setattr(RunWriter, "append", append_with_a_signal)
    with heeded(), Interrupts() as interrupts:
        who = dataclasses.replace(runner(fake_launcher, options(tmp_path)), interrupts=interrupts)
        with pytest.raises(InterruptedRunError, match="interrupted by SIGINT: 1 of 6 trials are stored"):
            who.start(REQUEST)
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    stored = read_run(path)
    assert len(stored.records) == 1
    assert stored.footer is not None
    assert (stored.footer.measured, stored.footer.reason) == (1, "interrupted")


def test_resuming_on_a_held_device_changes_nothing_of_what_is_stored(
    interrupted: Path, fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    before = interrupted.read_bytes()
    with device_locks(["cpu"]), pytest.raises(HeldError):
        resume(fake_launcher, interrupted, options(tmp_path))
    assert interrupted.read_bytes() == before


@pytest.mark.usefixtures("interrupted")
def test_resuming_does_not_replace_a_table_of_something_else(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    before, table = path.read_bytes(), path.with_suffix(".csv")
    table.write_text("my own notes")
    with pytest.raises(BadInputError, match="exists already and is not this run's"):
        resume(fake_launcher, path, options(tmp_path))
    assert (path.read_bytes(), table.read_text()) == (before, "my own notes")


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
    with pytest.raises(InterruptedRunError) as caught:
        start(fake_launcher, options(tmp_path, output=path), Display({1: interrupt}))
    command = str(caught.value).partition("continue with: ")[2]
    assert shlex.split(command) == ["python", "-m", "bench", "run", "--resume", str(path)]
    with pytest.raises(InterruptedRunError, match=r"--resume .* --data-root 'my data' --timeout 5h"):
        start(
            fake_launcher,
            options(tmp_path, again=("--data-root", "my data", "--timeout", "5h")),
            Display({1: interrupt}),
        )
