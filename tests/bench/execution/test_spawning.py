"""Real spawned processes."""

import contextlib
import sys
from pathlib import Path

import pytest
from bench_builders import make_configuration, make_trial

from bench.errors import WorkerError
from bench.execution.conversation import run_trial
from bench.execution.launcher import Launcher
from bench.execution.spawning import SpawningLauncher
from bench.records import Failure, FailureKind, Measurement

TRIAL = make_trial(
    make_configuration(
        model="784-8-10", layers=(784, 8, 10), batch_size=4096, epochs=1, dataset="synthetic", threads=1
    ),
)


@pytest.mark.slow
def test_spawned_trial_measures_the_same_training_as_a_forked_one(launcher: Launcher) -> None:
    spawning = SpawningLauncher()
    with contextlib.closing(spawning):
        spawned = run_trial(spawning, TRIAL, root=None, timeout_seconds=120)
    forked = run_trial(launcher, TRIAL, root=None, timeout_seconds=60)
    assert isinstance(spawned.outcome, Measurement), spawned.outcome
    assert isinstance(forked.outcome, Measurement)
    assert spawned.outcome.epochs[0].train_loss == forked.outcome.epochs[0].train_loss
    assert spawned.outcome.host_peak is not None
    assert forked.outcome.host_peak is not None
    difference = spawned.outcome.host_peak.bytes - forked.outcome.host_peak.bytes
    assert difference < 40_000_000, "imports that training needs are counted as its memory"


def test_spawning_with_no_interpreter_is_a_worker_error(tmp_path: Path) -> None:
    with contextlib.closing(SpawningLauncher(python=str(tmp_path / "python"))) as launcher, pytest.raises(WorkerError):
        launcher.start()


@pytest.fixture
def leaving(tmp_path: Path) -> str:
    """What passes for an interpreter, but leaves something behind that holds its standard streams, and dies."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec 3<&0\nsleep 600 <&3 &\nexit 3\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_spawned_trial_that_dies_is_a_crash_at_once_whatever_it_left_behind(leaving: str) -> None:
    with contextlib.closing(SpawningLauncher(python=leaving)) as launcher:
        record = run_trial(launcher, TRIAL, root=None, timeout_seconds=60)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.kind is FailureKind.CRASH
    assert "exit status 3" in record.outcome.message


@pytest.mark.skipif(sys.platform == "win32", reason="a program of the shell")
def test_a_spawned_trial_of_several_ranks_is_told_their_number_and_explained_by_its_own_output(tmp_path: Path) -> None:
    program, said = tmp_path / "python", tmp_path / "said"
    program.write_text(f'#!/bin/sh\ntest -e "{said}" || echo "$SEEN" "$@" | tee "{said}" >&2\nexit 3\n')
    program.chmod(0o755)
    seen = {"SEEN": "a variable"}
    of_four = make_trial(make_configuration(world_size=4))
    with contextlib.closing(SpawningLauncher(python=str(program), preload=("json",), variables=seen)) as launcher:
        first, second = (run_trial(launcher, of_four, root=None, timeout_seconds=60).outcome for _ in range(2))
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert first.message.endswith(
        "exit status 3; its last output: "
        "a variable -m bench.worker.ranks 4 json torch._dynamo bench.worker.devices bench.worker.meters"
    )
    assert second.message.endswith("exit status 3")


@pytest.mark.skipif(sys.platform == "win32", reason="a program of the shell")
def test_closing_ends_a_spawned_trial_that_is_still_running(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    launcher = SpawningLauncher(python=str(program))
    process = launcher.start()
    launcher.close()
    assert "SIGKILL" in process.wait()
