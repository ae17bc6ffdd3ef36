"""Real processes: forked by the host, killed, and left behind."""

import contextlib
import dataclasses
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from bench_builders import make_configuration
from checkout import TESTS

from bench.errors import HostError, InterruptedRunError, WorkerError
from bench.execution import forking
from bench.execution.conversation import describe_place, run_trial
from bench.execution.forking import ForkingLauncher
from bench.execution.launcher import Launcher
from bench.protocol.channel import ChannelClosedError
from bench.records import EpochRecord, Failure, FailureKind, Measurement, Trial

TINY = make_configuration(
    model="784-8-10", layers=(784, 8, 10), batch_size=4096, epochs=1, dataset="synthetic", threads=1
)


STAND_IN = "stand_in_worker"


def trial(epochs: int = 1) -> Trial:
    return Trial(configuration=dataclasses.replace(TINY, epochs=epochs), seed=0, repeat=0)


@pytest.fixture
def light_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new hosts have `stand_in_worker` in place of torch and the session: to fork and to end takes neither."""
    monkeypatch.setattr(forking, "ALWAYS_NEEDED", (STAND_IN,))
    monkeypatch.setattr(forking, "_WORKER", STAND_IN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(TESTS), str(TESTS / "faults"))))


def only_child() -> psutil.Process:
    """The one trial that the host in this process's children is running."""
    children = [child for child in psutil.Process().children(recursive=True) if child.status() != "zombie"]
    hosts = [child for child in children if "bench.worker.host" in child.cmdline()]
    (running,) = [child for child in hosts if child.parent() in hosts]
    return running


def test_trial_runs_in_a_forked_process_and_nothing_is_left_of_it(launcher: Launcher) -> None:
    record = run_trial(launcher, trial(epochs=2), root=None, timeout_seconds=60)
    assert isinstance(record.outcome, Measurement), record.outcome
    assert len(record.outcome.epochs) == 2
    assert record.outcome.test_accuracy is None  # noise has none
    assert record.outcome.host_peak is not None
    assert record.outcome.host_peak.bytes > 40_000_000  # the images alone are 47 MB
    assert record.outcome.cold_start_seconds > 0
    with pytest.raises(ValueError, match="unpack"):
        only_child()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_trial_ended_by_a_signal_is_one_failure_and_the_next_trial_runs(
    launcher: Launcher, number: signal.Signals
) -> None:
    def kill(_epoch: EpochRecord) -> None:
        only_child().send_signal(number)

    record = run_trial(launcher, trial(epochs=1000), root=None, timeout_seconds=60, on_epoch=kill)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.kind is FailureKind.CRASH
    assert number.name in record.outcome.message
    assert isinstance(run_trial(launcher, trial(), root=None, timeout_seconds=60).outcome, Measurement)


def test_endless_trial_is_ended_at_its_time_limit(launcher: Launcher) -> None:
    record = run_trial(launcher, trial(epochs=100_000), root=None, timeout_seconds=1.0)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.kind is FailureKind.TIMEOUT
    with pytest.raises(ValueError, match="unpack"):
        only_child()


def test_model_beyond_all_memory_is_out_of_memory(launcher: Launcher) -> None:
    huge = dataclasses.replace(TINY, layers=(784, 8, 1_000_000, 1_000_000, 10))  # 4 TB of weights
    record = run_trial(launcher, Trial(configuration=huge, seed=0, repeat=0), root=None, timeout_seconds=60)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.kind is FailureKind.OUT_OF_MEMORY


@pytest.mark.usefixtures("light_hosts")
def test_host_that_died_is_replaced_and_closing_ends_even_a_running_trial() -> None:
    launcher = ForkingLauncher()
    describe_place(launcher)
    host = psutil.Process(launcher.host_pid)
    host.kill()
    process = launcher.start()
    assert launcher.host_pid != host.pid
    process.channel.send({"do": "dataset", "name": "synthetic", "root": None})
    children = psutil.Process().children(recursive=True)
    mine = [child for child in children if launcher.host_pid in (child.pid, child.ppid())]
    assert len(mine) == 2
    launcher.close()
    _, alive = psutil.wait_procs(mine, timeout=60)
    assert not [child for child in alive if child.status() != "zombie"]


@pytest.mark.usefixtures("light_hosts")
def test_trial_of_a_host_that_died_ends_before_the_next_host_starts_and_is_not_waited_for_there() -> None:
    with contextlib.closing(ForkingLauncher()) as launcher:
        orphan = launcher.start()
        host = psutil.Process(launcher.host_pid)
        host.kill()
        host.wait()
        second = launcher.start()
        with pytest.raises(ChannelClosedError):
            orphan.channel.receive(10.0)
        assert orphan.wait() == "together with its host"
        second.kill()
        assert second.wait().startswith("by signal SIGKILL")  # its host still answers


@pytest.mark.usefixtures("light_hosts")
def test_kernel_short_of_memory_kills_the_trial_rather_than_its_host_or_the_command() -> None:
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    with contextlib.closing(ForkingLauncher()) as launcher:
        process = launcher.start()
        process.channel.send({"do": "dataset", "name": "synthetic", "root": None})
        process.channel.receive(60.0)
        assert score(process.pid) == 1000
        assert score(launcher.host_pid) == score(os.getpid()) < 1000


@pytest.mark.usefixtures("light_hosts")
def test_answer_that_a_host_gives_too_late_is_not_taken_for_that_to_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launcher = ForkingLauncher()
    try:
        process = launcher.start()
        late = launcher.host_pid
        with monkeypatch.context() as patch:
            patch.setattr(forking, "_REAP_SECONDS", 0.1)
            os.kill(late, signal.SIGSTOP)
            process.kill()
            assert process.wait() == "together with its host"
        os.kill(late, signal.SIGCONT)
        launcher.start()
        assert launcher.host_pid != late
    finally:
        launcher.close()


@pytest.mark.usefixtures("light_hosts")
def test_host_that_is_too_slow_is_told_from_one_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "HOST_START_SECONDS", 0.001)
    with (
        contextlib.closing(ForkingLauncher()) as slow,
        pytest.raises(WorkerError, match=r"^the worker host did not answer within 0\.001 s, having printed nothing$"),
    ):
        slow.start()


def test_host_that_was_killed_while_it_imported_is_said_to_have_been(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "greedy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(forking, "ALWAYS_NEEDED", ("greedy",))
    message = "the worker host ended by signal SIGKILL (often because the system ran out of memory), having printed"
    with (
        contextlib.closing(ForkingLauncher(is_shared=True)) as launcher,
        pytest.raises(WorkerError, match=f"^{re.escape(message)} nothing$"),
    ):
        launcher.start()


@pytest.mark.usefixtures("light_hosts")
def test_an_interruption_of_a_fork_leaves_no_answer_to_be_taken_for_that_to_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(_timeout_seconds: float) -> None:
        raise InterruptedRunError("interrupted by SIGINT")

    with contextlib.closing(ForkingLauncher()) as launcher:
        first = launcher.start()
        with monkeypatch.context() as patch:
            patch.setattr(launcher, "_receive", interrupt)
            with pytest.raises(InterruptedRunError):
                launcher.start()
        first.kill()
        assert first.wait() == "together with its host"
        assert isinstance(run_trial(launcher, trial(), root=None, timeout_seconds=60).outcome, Measurement)


def test_a_terminal_s_ctrl_c_does_not_reach_the_host_which_ends_when_it_is_closed() -> None:
    with contextlib.closing(ForkingLauncher()) as launcher:
        assert os.getsid(launcher.host_pid) == launcher.host_pid
    assert not psutil.pid_exists(launcher.host_pid)


def test_host_that_cannot_import_is_explained_by_its_last_output() -> None:
    launcher = ForkingLauncher(preload=("no_such_module_here",))
    with (
        contextlib.closing(launcher),
        pytest.raises(HostError, match=r"no_such_module_here'; this Python must .* `uv sync`$"),
    ):
        launcher.start()


def test_host_of_a_program_that_is_no_python_says_what_to_name_instead() -> None:
    program = shutil.which("true")
    assert program is not None
    launcher = ForkingLauncher(python=program)
    with (
        contextlib.closing(launcher),
        pytest.raises(HostError, match=r"printed nothing; name a Python, 3\.11 or"),
    ):
        launcher.start()


def test_host_that_cannot_import_its_arm_s_workload_names_that_too(tmp_path: Path) -> None:
    (tmp_path / "mnist_mlp").mkdir()
    (tmp_path / "mnist_mlp" / "__init__.py").write_text("raise ImportError('no Training in here')")
    launcher = ForkingLauncher(workload=tmp_path)
    with (
        contextlib.closing(launcher),
        pytest.raises(HostError, match=r"no Training in here; .*, and the arm's mnist_mlp$"),
    ):
        launcher.start()


@pytest.mark.mnist
def test_killed_trial_takes_its_dataloader_workers_with_it(launcher: Launcher) -> None:
    loading = dataclasses.replace(TINY, dataset="mnist", pipeline="dataloader", workers=1)
    family: list[psutil.Process] = []

    def kill_when_loading() -> None:
        while not family:
            with contextlib.suppress(ValueError, psutil.NoSuchProcess):
                family.extend(only_child().children())
        family[0].parent().kill()  # type: ignore[union-attr]  # it has one until then

    killer = threading.Thread(target=kill_when_loading)
    killer.start()
    record = run_trial(launcher, Trial(configuration=loading, seed=0, repeat=0), root=None, timeout_seconds=120)
    killer.join()
    assert isinstance(record.outcome, Failure)
    assert "SIGKILL" in record.outcome.message
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


def test_host_with_no_interpreter_is_a_worker_error(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"the worker host could not be started: .*No such file"):
        ForkingLauncher(python=str(tmp_path / "python"))


@pytest.mark.usefixtures("light_hosts")
def test_socket_that_the_system_refuses_is_a_worker_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(24, "Too many open files")

    with contextlib.closing(ForkingLauncher()) as launcher:
        launcher.start()
        monkeypatch.setattr("socket.socketpair", refuse)
        with pytest.raises(WorkerError, match="Too many open files"):  # of the trial, then of another host for it
            launcher.start()
    with pytest.raises(WorkerError, match="Too many open files"):
        ForkingLauncher()


LEAVING = """
import subprocess, sys

def serve(channel):
    channel.receive()
    left = subprocess.Popen(["sleep", "600"], start_new_session=True)
    channel.send({"pid": left.pid})
    channel.receive()

sys.modules["bench.worker.session"] = sys.modules[__name__]
"""


@pytest.fixture
def leaving_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new hosts have trials that leave a process in a session of its own when asked something, and say which."""
    (tmp_path / "leaving.py").write_text(LEAVING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(forking, "ALWAYS_NEEDED", ())
    monkeypatch.setattr(forking, "_WORKER", "leaving")


@pytest.mark.usefixtures("leaving_trials")
def test_what_trials_leave_in_sessions_of_their_own_ends_with_the_last_trial() -> None:
    with contextlib.closing(ForkingLauncher()) as launcher:
        trials, left = [launcher.start() for _ in range(2)], []
        for each in trials:
            each.channel.send({"do": "leave"})
            left.append(each.channel.receive(60)["pid"])
        for each, are_left in zip(trials, (True, False), strict=True):
            each.kill()
            each.wait()
            assert [psutil.pid_exists(pid) for pid in left] == [are_left] * 2


OWNER = """
import sys
from bench.execution import forking
forking.ALWAYS_NEEDED, forking._WORKER = (), "leaving"
launcher = forking.ForkingLauncher()
process = launcher.start()
process.channel.send({"do": "leave"})
print(launcher.host_pid, process.pid, process.channel.receive()["pid"], flush=True)
sys.stdin.read()
"""


@pytest.mark.usefixtures("leaving_trials")
@pytest.mark.parametrize("is_killed", [True, False])
def test_owner_that_is_killed_or_closes_nothing_takes_everything_with_it(*, is_killed: bool) -> None:
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:  # noqa: S603 - our own words
        assert owner.stdin is not None
        assert owner.stdout is not None
        orphans = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        orphans[1].suspend()  # the trial, so that it cannot end by itself
        if is_killed:
            owner.kill()
        owner.stdin.close()
        try:
            assert (owner.wait(60) == 0) == (not is_killed)
        finally:
            owner.kill()
    _, alive = psutil.wait_procs(orphans, timeout=60)
    assert not [one for one in alive if one.status() != "zombie"]


OWNER_OF_AN_IMPORTING_HOST = """
import sys, time
from bench.execution.forking import ForkingLauncher
launcher = ForkingLauncher(preload=("takes_for_ever",))
print(launcher.host_pid, flush=True)
time.sleep(600)
"""


def test_killed_owner_takes_a_host_with_it_that_is_still_importing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    begun.touch()
    module = f"import pathlib, time; pathlib.Path({str(begun)!r}).unlink(); time.sleep(600)"
    (tmp_path / "takes_for_ever.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    command = [sys.executable, "-c", OWNER_OF_AN_IMPORTING_HOST]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:  # noqa: S603 - our own words
        assert owner.stdout is not None
        host = psutil.Process(int(owner.stdout.readline()))
        while begun.exists():
            assert host.status() != "zombie"
        owner.kill()
    _, alive = psutil.wait_procs([host], timeout=60)
    assert not [one for one in alive if one.status() != "zombie"]


def test_an_end_is_noticed_where_python_lacks_the_call_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with subprocess.Popen(["sleep", "600"]) as process:  # noqa: S607 - whichever there is
        descriptor = forking._open_process(process.pid)  # noqa: SLF001 - what watches a trial
        assert select.select([descriptor], [], [], 0)[0] == []
        process.kill()
        assert select.select([descriptor], [], [], 60)[0] == [descriptor]
        os.close(descriptor)
    with pytest.raises(ProcessLookupError):
        forking._open_process(process.pid)  # noqa: SLF001 - likewise


def test_a_trial_that_has_ended_leaves_no_descriptor_open(launcher: Launcher) -> None:
    opened = []
    for _ in range(2):
        process = launcher.start()
        process.kill()
        process.wait()
        for thread in threading.enumerate():
            if thread.name == "trial-watch":
                thread.join(60)
        opened.append(psutil.Process().num_fds())
    assert opened[1] <= opened[0]  # it may be fewer: what other tests left open is closed at any time


def test_trials_are_waited_for_without_spinning(launcher: Launcher) -> None:
    process = launcher.start()
    try:
        process.channel.send({"do": "describe"})
        process.channel.receive(60)
        (waiting,) = [only_child()]
        before = sum(waiting.cpu_times()[:2])
        time.sleep(0.5)
        assert sum(waiting.cpu_times()[:2]) - before < 0.25
    finally:
        process.kill()
        process.wait()
