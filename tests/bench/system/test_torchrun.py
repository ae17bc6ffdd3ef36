"""A run whose ranks `torchrun` started: on one machine, and on two hosts that are network namespaces of this one."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import planted_ranks
import psutil
import pytest
from bench_builders import make_configuration, make_header, make_plan, make_trial
from checkout import ROOT
from click.testing import CliRunner
from fake_worker import FakeLauncher, Request, die, fail_trial
from uncovered import without_coverage

from bench.cli import cli
from bench.coding import to_json
from bench.errors import BadInputError, WorkerError
from bench.execution.executor import ExecutionOptions
from bench.execution.follow import dismiss, follow
from bench.protocol.messages import Awaited, Joined
from bench.records import Failure, FailureKind, Measurement, Run, Trial
from bench.storage.store import RunWriter, read_run
from bench.system.locks import HeldError, Patience, device_locks, require_free
from bench.system.torchrun import Place, check_world_size, place_in_torchrun

# A follower takes its device's lock, which a benchmark beside these tests may hold; torchrun is given TMPDIR.
pytestmark = pytest.mark.usefixtures("own_locks")


VARIABLES = {
    "TORCHELASTIC_RUN_ID": "some",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
}
SECOND_HOST = Place(rank=1, world_size=2, local_rank=0, local_world_size=1, host=1)
RUN = (
    *("run", "--dataset", "digits", "--models", "784-8-10", "--batch-sizes", "64"),
    *("--epochs", "2", "--repeats", "2", "--threads", "1"),
)


def test_the_place_among_ranks_is_read_from_torchruns_variables() -> None:
    assert place_in_torchrun(VARIABLES) == Place(rank=3, world_size=8, local_rank=1, local_world_size=2, host=1)
    assert place_in_torchrun({"RANK": "3", "WORLD_SIZE": "8"}) is None  # of some other launcher


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, "--rdzv-backend c10d"),
        ({"RANK": "first"}, "torchrun's variables cannot be read"),
    ],
)
def test_variables_that_are_of_no_use_are_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        place_in_torchrun(VARIABLES | changes)


def test_a_variable_that_is_missing_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"variables cannot be read \('GROUP_RANK'\): start this with torchrun"):
        place_in_torchrun({name: value for name, value in VARIABLES.items() if name != "GROUP_RANK"})


def test_more_ranks_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="--world-size 4 is more than the 2 ranks that torchrun started"):
        check_world_size(4, SECOND_HOST)
    check_world_size(2, SECOND_HOST)
    check_world_size(4, None)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BadInputError, match="not supported on Windows"):
        check_world_size(2, None)
    check_world_size(1, None)
    check_world_size(2, SECOND_HOST)


def scripted(launcher: FakeLauncher, trials: Sequence[Trial], joined: Sequence[Failure | None]) -> list[str]:
    """Let there be these trials, in which this rank ends so; return what the follower tells."""
    ends = iter(joined)

    def answer(request: Request) -> dict[str, object] | None:
        if request["do"] == "await":
            number = request["number"]
            return {"answer": to_json(Awaited(trial=trials[number] if number < len(trials) else None))}
        if request["do"] == "join":
            return {"answer": to_json(Joined(failure=next(ends)))}
        return None

    launcher.on = answer
    return []


def run_follower(launcher: FakeLauncher, told: list[str], place: Place = SECOND_HOST) -> int:
    return follow(place, launcher, ExecutionOptions(data_root=None, timeout_seconds=60), notify=told.append)


def test_a_follower_joins_each_trial_in_a_fresh_process_until_there_are_no_more(fake_launcher: FakeLauncher) -> None:
    together, alone = (make_trial(make_configuration(world_size=size)) for size in (2, 1))
    told = scripted(fake_launcher, [together, alone, together], [None, None])
    assert run_follower(fake_launcher, told) == 2
    asked = [(request["do"], request.get("number")) for request in fake_launcher.requests]
    join = ("join", None)
    assert asked == [("await", 0), join, ("await", 1), ("await", 2), join, ("await", 3)]
    assert fake_launcher.ranks == [2] * 4
    assert fake_launcher.started == fake_launcher.killed == 4
    assert fake_launcher.timeouts[:2] == [pytest.approx(30 * 24 * 3600), pytest.approx(60, abs=30)]
    assert told == []


def test_a_follower_joins_with_the_data_root_of_its_own_host(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    scripted(fake_launcher, [make_trial(make_configuration(world_size=2))], [None])
    follow(SECOND_HOST, fake_launcher, ExecutionOptions(data_root=tmp_path, timeout_seconds=60), notify=print)
    assert [request["root"] for request in fake_launcher.requests if request["do"] == "join"] == [str(tmp_path)]


@pytest.mark.parametrize(("host", "local_rank", "holds"), [(1, 0, True), (1, 1, False), (0, 0, False), (0, 1, False)])
def test_the_first_rank_of_every_host_but_the_runs_own_holds_the_devices_of_a_trial(
    fake_launcher: FakeLauncher,
    host: int,
    local_rank: int,
    holds: bool,  # noqa: FBT001 - cases
) -> None:
    place = Place(rank=1, world_size=2, local_rank=local_rank, local_world_size=2, host=host)
    scripted(fake_launcher, [make_trial(make_configuration(world_size=2))], [None])
    answer, held = fake_launcher.on, []

    def observe(request: Request) -> dict[str, object] | None:
        if request["do"] == "join":
            try:
                require_free(["cpu"], Patience())
            except HeldError:
                held.append("cpu")
        return answer(request)

    fake_launcher.on = observe
    run_follower(fake_launcher, [], place)
    assert held == (["cpu"] if holds else [])
    require_free(["cpu"], Patience())


def test_a_follower_waits_for_the_device_that_another_run_holds(fake_launcher: FakeLauncher) -> None:
    scripted(fake_launcher, [make_trial(make_configuration(world_size=2))], [None])
    with contextlib.ExitStack() as other:
        other.enter_context(device_locks(["cpu"]))
        patience = Patience(seconds=60, sleep=lambda _seconds: other.close())
        options = ExecutionOptions(data_root=None, timeout_seconds=60, patience=patience)
        assert follow(SECOND_HOST, fake_launcher, options, notify=print) == 1


def test_a_follower_that_fails_in_one_trial_says_so_and_takes_part_in_the_next(fake_launcher: FakeLauncher) -> None:
    trial = make_trial(make_configuration(world_size=2))
    failure = Failure(kind=FailureKind.CRASH, message="the first rank has ended")
    told = scripted(fake_launcher, [trial, trial], [failure, None])
    assert run_follower(fake_launcher, told) == 2
    assert told == ["rank 1: crash: the first rank has ended"]


def test_a_follower_whose_process_dies_in_one_trial_says_so_and_takes_part_in_the_next(
    fake_launcher: FakeLauncher,
) -> None:
    told = scripted(fake_launcher, [make_trial(make_configuration(world_size=2))] * 2, [None])
    answer, deaths = fake_launcher.on, [die()]
    fake_launcher.on = lambda request: deaths.pop() if request["do"] == "join" and deaths else answer(request)
    assert run_follower(fake_launcher, told) == 1
    assert told == ["rank 1: crash: the trial's process ended by signal SIGKILL"]


def test_a_follower_without_a_store_ends_with_an_error(fake_launcher: FakeLauncher) -> None:
    fake_launcher.on = lambda request: fail_trial(FailureKind.CRASH, "no store") if request["do"] == "await" else None
    with pytest.raises(WorkerError, match="rank 1 cannot wait for trials"):
        run_follower(fake_launcher, [])


def test_a_dismissal_that_fails_is_said_and_leaves_the_runs_own_end_to_count(fake_launcher: FakeLauncher) -> None:
    told: list[str] = []
    fake_launcher.on = lambda _request: fail_trial(FailureKind.CRASH, "no store")
    dismiss(fake_launcher, 2, told.append)
    fake_launcher.broken = True
    dismiss(fake_launcher, 2, told.append)
    assert told == [
        f"the other ranks were not told that the run has ended: {reason}"
        for reason in ("no store", "no process could be started")
    ]
    assert fake_launcher.ranks == [2, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="no such request to other kernels")
def test_a_rank_ends_in_order_when_torchrun_is_killed() -> None:
    rank = (
        "import signal\n"
        "from bench.system.torchrun import end_with_torchrun\n"
        "signal.signal(signal.SIGTERM, lambda *_: exit('told'))\n"
        "end_with_torchrun()\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    launcher = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {rank!r}])\n"
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", launcher],
        cwd=ROOT,
        env=without_coverage(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as torchrun:
        assert torchrun.stdout is not None
        assert torchrun.stdout.readline() == "ready\n"
        (process,) = psutil.Process(torchrun.pid).children()
        try:
            torchrun.kill()
            assert torchrun.communicate(timeout=60) == ("", "told\n")
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.parametrize(("is_here", "preload"), [(False, ()), (True, ("sklearn.datasets",))])
def test_a_follower_of_a_resumed_run_does_not_need_its_file(
    fake_launcher: FakeLauncher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_here: bool,  # noqa: FBT001 - cases
    preload: tuple[str, ...],
) -> None:
    trial = make_trial(make_configuration(world_size=2, dataset="digits"))
    if is_here:
        RunWriter.create(tmp_path / "run.jsonl", make_header(plan=make_plan([trial.configuration]))).close()
    preloaded: list[tuple[str, ...]] = []

    def launcher(modules: tuple[str, ...]) -> FakeLauncher:
        preloaded.append(modules)
        return fake_launcher

    for name, value in (VARIABLES | {"RANK": "1", "WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("bench.execution.launcher.make_launcher", launcher)
    scripted(fake_launcher, [trial], [None])
    result = CliRunner().invoke(cli, ["run", "--resume", str(tmp_path / "run.jsonl")])
    assert result.exit_code == 0, result.output
    assert "rank 1 took part in 1 trial;" in result.stderr
    assert preloaded == [preload]


def check_stored(path: Path) -> Run:
    """Check that both world sizes of both repeats are there, and gave the same losses."""
    run = read_run(path)
    assert len(run.records) == 4
    losses: dict[tuple[int, int], list[float]] = {}
    for record in run.records:
        assert isinstance(record.outcome, Measurement), record.outcome
        configuration = record.trial.configuration
        assert len(record.outcome.ranks) == (2 if configuration.world_size == 2 else 0)
        losses[configuration.world_size, record.trial.seed] = [epoch.test_loss for epoch in record.outcome.epochs]
    for seed in (0, 1):
        assert losses[2, seed] == pytest.approx(losses[1, seed], rel=1e-4)
    return run


def torchrun(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-id", "test", *arguments]


@pytest.mark.slow
def test_ranks_that_torchrun_started_on_one_machine_make_one_run(tmp_path: Path) -> None:
    command = torchrun("--nproc-per-node", "2", "--rdzv-endpoint", "127.0.0.1:0", "-m", "bench", *RUN)
    done = subprocess.run(  # noqa: S603 - our own command
        [*command, "--world-size", "1,2", "--output", str(tmp_path / "run.jsonl")],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "rank 1 took part in 2 trials;" in done.stderr
    check_stored(tmp_path / "run.jsonl")


@pytest.mark.slow
def test_ranks_that_torchrun_started_part_without_a_failure_after_an_estimate(tmp_path: Path) -> None:
    command = torchrun("--nproc-per-node", "2", "--rdzv-endpoint", "127.0.0.1:0", "-m", "bench", *RUN, "--dry-run")
    done = subprocess.run(  # noqa: S603 - our own command
        command,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Estimated time" in done.stdout
    assert "rank 1 took part in 1 probe for the estimate" in done.stderr
    assert "rank 1: " not in done.stderr


def trial_of_rank(rank: int, harness: psutil.Process) -> psutil.Process | None:
    """Return the process that is this rank's part of the running trial, below torchrun's process."""
    for process in harness.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            if (
                parent is not None
                and "bench.worker.host" in parent.cmdline()
                and process.environ()["RANK"] == str(rank)
            ):
                return process
    return None


LONG = ("--models", "784-256-10", "--dataset", "synthetic", "--batch-sizes", "256", "--epochs", "4", "--threads", "1")


def started(output: Path) -> "subprocess.Popen[str]":
    """Start a run of two trials with two ranks; return when its first trial has finished the first of its epochs."""
    command = torchrun("--nproc-per-node", "2", "--rdzv-endpoint", "127.0.0.1:0", "-m", "bench", "run", "--verbose")
    running = subprocess.Popen(  # noqa: S603 - our own command
        [*command, *LONG, "--repeats", "2", "--output", str(output)],
        cwd=ROOT,
        env={**without_coverage(os.environ), "TMPDIR": str(output.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    told = []
    for line in running.stderr:
        told.append(line)
        if line.startswith("[1/2]") and "epoch 1," in line:
            return running
    raise AssertionError("".join(told))


@pytest.mark.slow
def test_a_torchrun_that_is_killed_ends_the_run_in_order(tmp_path: Path) -> None:
    output = tmp_path / "run.jsonl"
    with started(output) as running:
        ranks = psutil.Process(running.pid).children()
        running.kill()
        _, errors = running.communicate(timeout=240)
    assert psutil.wait_procs(ranks, timeout=60)[1] == []
    assert "Traceback" not in errors
    assert "the other ranks were not told that the run has ended: " in errors
    assert "no answer" not in errors  # the store that has gone is not waited for
    assert f"bench: interrupted by SIGTERM: 0 of 2 trials are stored in {output}; continue with: " in errors
    footer = read_run(output).footer
    assert footer is not None
    assert footer.reason == "interrupted"


@pytest.mark.slow
def test_a_rank_of_torchrun_that_is_killed_fails_one_trial_and_the_next_runs(tmp_path: Path) -> None:
    output = tmp_path / "run.jsonl"
    with started(output) as running:  # three more epochs are to come
        victim = trial_of_rank(1, psutil.Process(running.pid))
        assert victim is not None
        victim.kill()
        _, errors = running.communicate(timeout=120)
    first, second = read_run(output).records
    assert isinstance(first.outcome, Failure), errors
    assert first.outcome.kind is FailureKind.CRASH
    assert "a rank has ended" in first.outcome.message
    assert isinstance(second.outcome, Measurement), second.outcome
    assert running.returncode != 0  # a trial has failed


@pytest.mark.slow
def test_a_rank_that_waits_for_a_failed_one_ends_and_says_why_that_one_failed(tmp_path: Path) -> None:
    command = torchrun("--nproc-per-node", "2", "--rdzv-endpoint", "127.0.0.1:0")
    output = tmp_path / "run.jsonl"
    seeds = ("--seed", str(planted_ranks.FIRST_EXHAUSTED), "--repeats", "2", "--timeout", "60s")
    assert planted_ranks.WAITING == planted_ranks.FIRST_EXHAUSTED + 1
    done = subprocess.run(  # noqa: S603 - our own command
        [*command, str(ROOT / "tests" / "planted_torchrun.py"), *RUN, *seeds, "--output", str(output)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    outcomes = {record.trial.seed: record.outcome for record in read_run(output).records}
    told = {seed: (outcome.kind, outcome.message) for seed, outcome in outcomes.items() if isinstance(outcome, Failure)}
    assert told == {
        planted_ranks.FIRST_EXHAUSTED: (FailureKind.OUT_OF_MEMORY, "MemoryError: planted"),
        planted_ranks.WAITING: (FailureKind.OUT_OF_MEMORY, "rank 1: MemoryError: planted"),
    }, done.stderr
    assert "rank 1: out_of_memory: rank 0: MemoryError: planted" in done.stderr


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them."""
    names = tuple(f"bench-{os.getpid()}-{number}" for number in (1, 2))

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)  # noqa: S603, S607 - fixed words

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable1", "netns", names[0], "type", "veth", "peer", "name", "cable2", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.99.0.{number}/24", "dev", f"cable{number}")
            ip("-n", name, "link", "set", f"cable{number}", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces cannot be made here")
    try:
        yield names[0], names[1]
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ip") is None or os.geteuid() != 0, reason="takes root and iproute2")
def test_ranks_on_two_hosts_make_one_run(tmp_path: Path) -> None:
    with two_hosts() as names:
        hosts = []
        for number, name in enumerate(names, start=1):
            folder = tmp_path / name
            folder.mkdir()
            command = torchrun(
                *("--nnodes", "2", "--nproc-per-node", "1", "--local-addr", f"10.99.0.{number}"),
                *("--rdzv-endpoint", "10.99.0.1:29511", "--rdzv-conf", f"is_host={int(number == 1)}"),
                *("-m", "bench", *RUN, "--world-size", "1,2", "--output", str(folder / "run.jsonl")),
            )
            # Each host has its own locks, and finds the other by the cable.
            environment = {**os.environ, "TMPDIR": str(folder), "GLOO_SOCKET_IFNAME": f"cable{number}"}
            hosts.append(
                subprocess.Popen(  # noqa: S603 - our own command
                    ["ip", "netns", "exec", name, *command],  # noqa: S607 - wherever it is
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        errors = [host.communicate(timeout=300)[1] for host in hosts]
        assert [host.returncode for host in hosts] == [0, 0], errors
    leader, follower = (tmp_path / name / "run.jsonl" for name in names)
    if not leader.exists():  # torchrun numbers hosts as they come
        leader, follower = follower, leader
    check_stored(leader)
    assert not follower.exists()
