"""Runs on a cluster of scripted nodes: what runs where, what happens to the trials of a lost node, what is refused."""

import contextlib
import dataclasses
import itertools
import queue
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_cluster import FakeCluster, FakeNode, describe, gpu
from fake_worker import FakeLauncher
from heeded_signals import heeded

from bench.errors import BadInputError, ExitCode, IncomparableError, InterruptedRunError, NodesLostError, WorkerError
from bench.execution import run
from bench.execution.cluster import ClusterExecutor
from bench.execution.dispatch import MAX_RETRIES
from bench.execution.executor import ExecutionOptions, Executor, LocalExecutor
from bench.execution.nodes import Introduction, NodeLostError, call_in_thread
from bench.planning.plan import Request, order_trials
from bench.records import EpochRecord, Failure, FailureKind, Run, Trial, TrialRecord
from bench.storage.store import read_run
from bench.system.interrupts import Interrupts
from bench.system.locks import HeldError, Patience

REQUEST = Request(models=("784-128-10",), batch_sizes=(32, 64, 128, 256), repeats=5, devices=("cpu",), epochs=1)
TRIALS = 20


class Display:
    """Keeps what is told, and can act when so many trials are done."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.concurrency = 0
        self.done = 0
        self.after: dict[int, Callable[[], None]] = {}

    def __call__(self, _trials: tuple[Trial, ...], concurrency: int) -> contextlib.AbstractContextManager["Display"]:
        self.concurrency = concurrency
        return contextlib.nullcontext(self)

    def trial_started(self, number: int, trial: Trial) -> None:
        pass

    def epoch_done(self, epoch: EpochRecord) -> None:
        pass

    def trial_done(self, record: TrialRecord) -> None:
        del record
        self.done += 1
        self.after.get(self.done, lambda: None)()

    def note(self, text: str) -> None:
        self.notes.append(text)


def executor(
    *nodes: FakeNode, cluster: FakeCluster | None = None, tell: Callable[[str], None] | None = None
) -> ClusterExecutor:
    return ClusterExecutor(cluster or FakeCluster(*nodes), Patience(notify=tell or (lambda _line: None)))


def options(tmp_path: Path, **changes: Any) -> run.Options:  # noqa: ANN401 - any option
    defaults = run.Options(
        name="test", results=tmp_path / "results", output=None, budget_seconds=None, command=("run",)
    )
    return dataclasses.replace(defaults, **changes)


def runner(who: Executor, opts: run.Options, display: Display | None = None) -> run.Runner:
    return run.Runner(options=opts, executor=who, interrupts=Interrupts(), make_progress=display or Display())


def start(
    who: ClusterExecutor,
    tmp_path: Path,
    request: Request = REQUEST,
    display: Display | None = None,
    **changes: Any,  # noqa: ANN401 - any option
) -> run.Finished:
    return runner(who, options(tmp_path, **changes), display).start(request)


def resume(who: ClusterExecutor, path: Path, tmp_path: Path) -> run.Finished:
    return runner(who, options(tmp_path)).resume(path)


def lose(*, at: int) -> Callable[[Trial], None]:
    """Return what makes a node fail at this call, and at all that follow."""
    count = itertools.count(1)

    def act(_trial: Trial) -> None:
        if next(count) >= at:
            raise NodeLostError("it burnt down")

    return act


def slow(_trial: Trial) -> None:
    threading.Event().wait(0.05)


def check_complete(stored: Run, trials: int = TRIALS) -> None:
    assert Counter(record.trial for record in stored.records).most_common(1)[0][1] == 1
    assert len(stored.records) == trials
    assert stored.footer is not None
    assert stored.footer.complete


def test_nodes_share_the_trials_and_each_is_stored_once_with_where_it_ran(tmp_path: Path) -> None:
    big, small = FakeNode("big", describe(cores=8.0)), FakeNode("small")
    finished = start(executor(big, small), tmp_path)
    assert finished.exit_code is ExitCode.PASS
    stored = read_run(finished.path)
    check_complete(stored)
    assert len(big.runs) + len(small.runs) == TRIALS
    where = {trial: node.description.machine for node in (big, small) for trial, _ in node.runs}
    assert set(where.values()) == {big.description.machine, small.description.machine}
    for record in stored.records:
        assert stored.fingerprints[record.fingerprint].machine == where[record.trial]


def test_configurations_are_those_of_a_run_on_one_node(tmp_path: Path) -> None:
    one = start(executor(FakeNode("a")), tmp_path / "one").run
    three = start(executor(FakeNode("a"), FakeNode("b"), FakeNode("c")), tmp_path / "three").run
    assert {record.trial for record in one.records} == {record.trial for record in three.records}


def test_a_trial_of_a_lost_node_runs_on_another(tmp_path: Path) -> None:
    lost, other = FakeNode("lost"), FakeNode("other")
    lost.on_trial = lose(at=3)
    display = Display()
    finished = start(executor(lost, other), tmp_path, display=display)
    check_complete(finished.run)
    assert finished.exit_code is ExitCode.PASS
    assert len(lost.runs) == 3
    assert len(other.runs) == TRIALS - 2
    assert lost.is_closed
    assert "lost is lost: it burnt down" in display.notes


def test_a_node_that_comes_back_continues(tmp_path: Path) -> None:
    node = FakeNode("a")
    losses = iter([False, True] + [False] * TRIALS)

    def stumble(_trial: Trial) -> None:
        if next(losses):
            raise NodeLostError("its process was killed")

    node.on_trial = stumble
    display = Display()
    finished = start(executor(cluster=FakeCluster(node, come_back=True)), tmp_path, display=display)
    check_complete(finished.run)
    assert display.notes == ["a is lost: its process was killed", "a joins the run"]
    assert len(node.held) == 2


def test_a_run_does_not_wait_for_a_node_once_its_trials_are_done(tmp_path: Path) -> None:
    lost, other = FakeNode("lost"), FakeNode("other")
    lost.on_trial = lose(at=3)
    is_over = threading.Event()
    introduce = lost.introduce

    def introduce_late() -> Introduction:
        if lost.is_lost:
            is_over.wait()
        return introduce()

    lost.introduce = introduce_late  # type: ignore[method-assign]  # the fault is planted so
    check_complete(start(executor(cluster=FakeCluster(lost, other, come_back=True)), tmp_path).run)
    is_over.set()


def test_a_trial_that_loses_every_node_fails_and_the_run_continues(tmp_path: Path) -> None:
    node = FakeNode("a")

    def burn(trial: Trial) -> None:
        if trial.configuration.batch_size == 64 and trial.repeat == 1:
            raise NodeLostError("it burnt down")

    node.on_trial = burn
    finished = start(executor(cluster=FakeCluster(node, come_back=True)), tmp_path)
    check_complete(finished.run)
    assert finished.exit_code is ExitCode.FAILED_TRIAL
    (failed,) = (record for record in finished.run.records if isinstance(record.outcome, Failure))
    assert isinstance(failed.outcome, Failure)
    assert failed.outcome.kind is FailureKind.CRASH
    assert "the node that ran it was lost 3 times in a row" in failed.outcome.message
    assert (failed.trial.configuration.batch_size, failed.trial.repeat) == (64, 1)
    assert len(node.runs) == TRIALS + MAX_RETRIES


def test_a_node_whose_worker_host_cannot_start_counts_as_lost(tmp_path: Path) -> None:
    broken, other = FakeNode("broken"), FakeNode("other")

    def refuse(_trial: Trial) -> None:
        broken.is_lost = True
        raise WorkerError("the worker host ended")

    broken.on_trial = refuse
    display = Display()
    check_complete(start(executor(broken, other), tmp_path, display=display).run)
    assert "broken is lost: the worker host ended" in display.notes


def test_when_every_node_is_lost_what_is_finished_is_stored_and_can_be_resumed(tmp_path: Path) -> None:
    node = FakeNode("a")
    node.on_trial = lose(at=8)
    with pytest.raises(
        NodesLostError, match=r"remaining 13 trials \(a was lost last: it burnt down\): 7 of 20 .*--resume"
    ) as caught:
        start(executor(node), tmp_path)
    assert caught.value.exit_code is ExitCode.FAILED_TRIAL
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    stored = read_run(path)
    assert stored.footer is not None
    assert (stored.footer.reason, stored.footer.missing) == ("interrupted", 13)
    successor = FakeNode("b")
    check_complete(resume(executor(successor), path, tmp_path).run)
    assert len(successor.runs) == 13


def test_an_interruption_ends_running_trials_and_keeps_finished_ones(tmp_path: Path) -> None:
    nodes = FakeNode("a"), FakeNode("b")
    nodes[1].on_trial = slow
    display = Display()

    def interrupt() -> None:
        raise InterruptedRunError("interrupted by SIGINT")

    display.after = {4: interrupt}
    with pytest.raises(InterruptedRunError, match=r"4 of 20 trials are stored"):
        start(executor(*nodes), tmp_path, display=display)
    assert nodes[1].is_closed
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    assert len(read_run(path).records) == 4
    check_complete(resume(executor(FakeNode("a")), path, tmp_path).run)


def test_once_the_budget_is_spent_no_trial_is_started_and_running_ones_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(step=10)
    monkeypatch.setattr("bench.execution.run.time.monotonic", lambda: float(next(now)))
    nodes = FakeNode("a"), FakeNode("b")
    finished = start(executor(*nodes), tmp_path, budget_seconds=35.0)
    assert finished.run.footer is not None
    assert finished.run.footer.reason == "budget"
    assert len(finished.run.records) == len(nodes[0].runs) + len(nodes[1].runs) < TRIALS


def test_one_trial_at_a_time_runs_on_a_node_s_cpu(tmp_path: Path) -> None:
    nodes = FakeNode("a"), FakeNode("b")
    start(executor(*nodes), tmp_path)
    assert {devices for node in nodes for devices in node.beside} == {frozenset({"cpu"})}


def test_each_gpu_of_a_node_runs_a_trial_of_its_own(tmp_path: Path) -> None:
    node = FakeNode("a", describe(gpu(0), gpu(1), gpu(2)))
    node.on_trial = slow
    display = Display()
    finished = start(executor(node), tmp_path, dataclasses.replace(REQUEST, devices=("cuda",)), display)
    check_complete(finished.run)
    assert display.concurrency == 3
    assert max(map(len, node.beside)) == 3
    assert {device for _, device in node.runs} == {"cuda:0", "cuda:1", "cuda:2"}
    assert {record.trial.configuration.device for record in finished.run.records} == {"cuda:0"}
    assert node.held == [("cuda:0", "cuda:1", "cuda:2")]


def test_a_gpu_unlike_the_node_s_first_is_not_taken_for_it(tmp_path: Path) -> None:
    node = FakeNode("a", describe(gpu(0), gpu(1, "Slow GPU")))
    start(executor(node), tmp_path, dataclasses.replace(REQUEST, devices=("cuda",)))
    assert {device for _, device in node.runs} == {"cuda:0"}


@pytest.mark.parametrize(
    "request_of",
    [
        dataclasses.replace(REQUEST, devices=("cpu", "cuda")),
        dataclasses.replace(REQUEST, devices=("cuda",), pipelines=("dataloader", "resident")),
    ],
    ids=["cpu", "dataloader"],
)
def test_nothing_runs_beside_a_trial_that_needs_the_host_s_cores(tmp_path: Path, request_of: Request) -> None:
    node = FakeNode("a", describe(gpu(0), gpu(1)))
    finished = start(executor(node), tmp_path, request_of)
    check_complete(finished.run, 2 * TRIALS)
    for (trial, _), devices in zip(node.runs, node.beside, strict=True):
        if trial.configuration.device == "cpu" or trial.configuration.pipeline == "dataloader":
            assert len(devices) == 1
        else:
            assert "cpu" not in devices


def test_several_ranks_run_where_there_are_devices_for_them_and_alone(tmp_path: Path) -> None:
    small, big = FakeNode("small", describe(gpu(0))), FakeNode("big", describe(gpu(0), gpu(1)))
    request = dataclasses.replace(REQUEST, devices=("cuda",), world_sizes=(1, 2), threads=(1,))
    check_complete(start(executor(small, big), tmp_path, request).run, 2 * TRIALS)
    assert {trial.configuration.world_size for trial, _ in small.runs} == {1}
    for (trial, _), devices in zip(big.runs, big.beside, strict=True):
        assert trial.configuration.world_size == 1 or len(devices) == 1
    with pytest.raises(BadInputError, match="3 ranks need 3 cuda devices"):
        start(executor(small, big), tmp_path, dataclasses.replace(request, world_sizes=(3,), batch_sizes=(96,)))


def test_ranks_on_the_cpu_run_where_there_are_cores_for_all(tmp_path: Path) -> None:
    small, big = FakeNode("small", describe(cores=2.0)), FakeNode("big", describe(cores=4.0))
    request = dataclasses.replace(REQUEST, world_sizes=(1, 2), threads=(2,))
    check_complete(start(executor(small, big), tmp_path, request).run, 2 * TRIALS)
    assert {trial.configuration.world_size for trial, _ in small.runs} == {1}


def test_the_second_node_of_a_host_stands_by_until_the_first_is_lost(tmp_path: Path) -> None:
    first, second = FakeNode("first", host="h"), FakeNode("second", host="h")
    first.on_trial = lose(at=6)
    told: list[str] = []
    display = Display()
    finished = start(executor(first, second, tell=told.append), tmp_path, display=display)
    check_complete(finished.run)
    assert told == ["second is on the same host as first: on standby"]
    assert display.notes == ["first is lost: it burnt down", "second joins the run"]
    assert len(second.runs) == TRIALS - 5


def test_of_those_that_stand_by_on_a_host_one_at_a_time_takes_part(tmp_path: Path) -> None:
    first, *others = (FakeNode(name, host="h") for name in ("first", "second", "third"))
    first.on_trial = lose(at=2)
    for node in others:
        node.on_trial = slow
    check_complete(start(executor(first, *others), tmp_path).run)
    assert sorted(len(node.runs) for node in others) == [0, TRIALS - 1]
    assert [node.is_closed for node in others if not node.runs] == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be held back there")
def test_a_signal_while_a_call_is_being_started_is_delayed(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = threading.Thread.start
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()

    def begin_with_a_signal(thread: threading.Thread) -> None:
        signal.raise_signal(signal.SIGINT)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", begin_with_a_signal)
    with heeded(), Interrupts(), pytest.raises(InterruptedRunError):
        call_in_thread(lambda: 7, answers.put)
    assert answers.get(timeout=60) == 7


def test_once_no_trial_may_start_none_starts(tmp_path: Path) -> None:
    nodes = FakeNode("a"), FakeNode("b")
    for node in nodes:
        node.on_trial = slow
    who = executor(*nodes)
    plan = who.plan(REQUEST)
    who.prepare("mnist")
    answers = iter([True, True, False, True, True])
    with who.hold({"cpu"}):
        ran = list(who.execute(order_trials(plan), lambda: next(answers), Display()))
    assert len(ran) == len(nodes[0].runs) + len(nodes[1].runs) == 2
    assert not list(tmp_path.iterdir())


def test_all_repeats_of_a_configuration_run_on_machines_of_one_kind(tmp_path: Path) -> None:
    nodes = [FakeNode("a"), FakeNode("b", describe(cpu_model="Odd CPU")), FakeNode("c")]
    check_complete(start(executor(*nodes), tmp_path).run)
    of_odd_one = {trial.configuration for trial, _ in nodes[1].runs}
    of_others = {trial.configuration for node in (nodes[0], nodes[2]) for trial, _ in node.runs}
    assert of_odd_one
    assert not of_odd_one & of_others


def test_a_configuration_is_started_on_one_kind_of_machine_only(tmp_path: Path) -> None:
    nodes = FakeNode("usual"), FakeNode("odd", describe(cpu_model="Odd CPU"))
    for node in nodes:
        node.on_trial = slow
    start(executor(*nodes), tmp_path, dataclasses.replace(REQUEST, batch_sizes=(64,)))
    assert [bool(node.runs) for node in nodes] == [True, False]


def test_every_trial_of_a_lost_node_with_several_gpus_runs_elsewhere(tmp_path: Path) -> None:
    lost, other = (FakeNode(name, describe(gpu(0), gpu(1), gpu(2))) for name in ("lost", "other"))
    lost.on_trial = lose(at=1)
    display = Display()
    check_complete(start(executor(lost, other), tmp_path, dataclasses.replace(REQUEST, devices=("cuda",)), display).run)
    assert len(lost.runs) == 3
    assert display.notes == ["lost is lost: it burnt down"]


def test_a_configuration_started_on_another_kind_of_machine_waits_for_one(tmp_path: Path) -> None:
    odd, usual = FakeNode("odd", describe(cpu_model="Odd CPU")), FakeNode("usual")
    odd.on_trial = lose(at=2)
    with pytest.raises(NodesLostError, match="no node is left to run the remaining 4 trials"):
        start(executor(odd, usual), tmp_path)
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    with pytest.raises(IncomparableError, match=r"was started on .*, and no node of the cluster is such a machine"):
        resume(executor(FakeNode("usual")), path, tmp_path)
    successor = FakeNode("successor", describe(cpu_model="Odd CPU"))
    check_complete(resume(executor(successor, FakeNode("usual")), path, tmp_path).run)
    assert len(successor.runs) == 4


def test_nodes_with_other_software_are_refused_with_what_differs(tmp_path: Path) -> None:
    with pytest.raises(
        IncomparableError, match=r"b has different software from a: torch is '9\.9\.9', not '2\.15\.0'\."
    ):
        start(executor(FakeNode("a"), FakeNode("b", describe(torch="9.9.9"))), tmp_path)


def test_a_run_is_not_resumed_on_a_cluster_with_other_software(tmp_path: Path) -> None:
    node = FakeNode("a")
    node.on_trial = lose(at=8)
    with pytest.raises(NodesLostError):
        start(executor(node), tmp_path)
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    with pytest.raises(IncomparableError, match=r"b has different software from run [0-9a-f]{8}: torch is"):
        resume(executor(FakeNode("b", describe(torch="9.9.9"))), path, tmp_path)


def test_a_newcomer_with_other_software_does_not_take_part(tmp_path: Path) -> None:
    first, second = FakeNode("first", host="h"), FakeNode("second", describe(torch="9.9.9"), host="h")
    first.on_trial = lose(at=6)
    display = Display()
    with pytest.raises(NodesLostError, match="5 of 20"):
        start(executor(first, second), tmp_path, display=display)
    assert any("second does not join the run: second has different software" in note for note in display.notes)


def test_a_run_of_several_machines_is_not_resumed_on_one(tmp_path: Path, fake_launcher: FakeLauncher) -> None:
    nodes = FakeNode("a"), FakeNode("b", describe(cpu_model="Odd CPU"))
    nodes[1].on_trial = lose(at=2)
    with pytest.raises(NodesLostError):
        start(executor(*nodes), tmp_path)
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    fake_launcher.place = nodes[0].description
    here = LocalExecutor(fake_launcher, ExecutionOptions(data_root=None, timeout_seconds=60))
    with pytest.raises(IncomparableError, match=r"measured on several machines: .* --on ray"):
        runner(here, options(tmp_path)).resume(path)


def test_all_trials_of_the_only_node_run_when_it_comes_back_with_its_gpus(tmp_path: Path) -> None:
    node = FakeNode("a", describe(gpu(0), gpu(1), gpu(2)))
    together = threading.Barrier(3)
    calls = itertools.count()

    def burn_down(_trial: Trial) -> None:
        if next(calls) < 3:
            together.wait(10)
            raise NodeLostError("it burnt down")

    node.on_trial = burn_down
    cluster = FakeCluster(node, come_back=True)
    check_complete(start(executor(cluster=cluster), tmp_path, dataclasses.replace(REQUEST, devices=("cuda",))).run)
    assert len(node.runs) == TRIALS + 3


def test_trials_have_the_threads_that_every_node_can_give_them(tmp_path: Path) -> None:
    nodes = FakeNode("a", describe(cores=8.0)), FakeNode("b", describe(cores=3.5))
    finished = start(executor(*nodes), tmp_path)
    assert {record.trial.configuration.threads for record in finished.run.records} == {3}


def test_trials_with_more_threads_run_where_there_are_as_many_cores(tmp_path: Path) -> None:
    big, small = FakeNode("big", describe(cores=8.0)), FakeNode("small", describe(cores=3.5))
    start(executor(big, small), tmp_path, dataclasses.replace(REQUEST, threads=(2, 8)))
    assert {trial.configuration.threads for trial, _ in big.runs} >= {8}
    assert {trial.configuration.threads for trial, _ in small.runs} == {2}
    with pytest.raises(BadInputError, match="--threads 9 is more than the 8 cores"):
        start(executor(FakeNode("big", describe(cores=8.0))), tmp_path, dataclasses.replace(REQUEST, threads=(9,)))


def test_auto_is_every_kind_of_device_that_some_node_has(tmp_path: Path) -> None:
    nodes = FakeNode("a"), FakeNode("b", describe(gpu(1), gpu(2)))
    finished = start(executor(*nodes), tmp_path, dataclasses.replace(REQUEST, devices=("auto",)))
    check_complete(finished.run, 2 * TRIALS)
    assert {record.trial.configuration.device for record in finished.run.records} == {"cpu", "cuda:0"}


def test_a_kind_of_device_that_no_node_has_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        BadInputError, match=r"'cuda' .*no node of the cluster has one \(no driver\)\. Available here: cpu"
    ):
        start(executor(FakeNode("a"), FakeNode("b")), tmp_path, dataclasses.replace(REQUEST, devices=("cuda",)))


def test_a_certain_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"--devices cuda:1: on a cluster, .* write cuda"):
        start(executor(FakeNode("a", describe(gpu(0)))), tmp_path, dataclasses.replace(REQUEST, devices=("cuda:1",)))


def test_a_cluster_without_nodes_for_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot run trials: it has no node with CPUs"):
        start(executor(), tmp_path)


def test_a_node_that_cannot_take_part_is_left_out_and_reported(tmp_path: Path) -> None:
    held, good = FakeNode("held"), FakeNode("good")
    held.hold_error = HeldError("device cpu is in use by process 7")
    told: list[str] = []
    check_complete(start(executor(held, good, tell=told.append), tmp_path).run)
    assert told == ["held is left out: device cpu is in use by process 7"]
    assert held.is_closed
    assert not held.runs


def test_where_no_node_can_take_part_the_first_one_s_reason_is_the_error(tmp_path: Path) -> None:
    node = FakeNode("a")
    node.hold_error = HeldError("device cpu is in use by process 7")
    with pytest.raises(HeldError, match="in use by process 7"):
        start(executor(node), tmp_path)


def test_nodes_with_different_data_are_refused(tmp_path: Path) -> None:
    nodes = FakeNode("a"), FakeNode("b")
    nodes[1].sha256 = "f" * 64
    with pytest.raises(IncomparableError, match="different data for 'mnist'"):
        start(executor(*nodes), tmp_path)


def test_a_newcomer_with_other_data_does_not_take_part(tmp_path: Path) -> None:
    first, second = FakeNode("first", host="h"), FakeNode("second", host="h")
    first.on_trial, second.sha256 = lose(at=6), "f" * 64
    display = Display()
    with pytest.raises(NodesLostError, match="5 of 20"):
        start(executor(first, second), tmp_path, display=display)
    assert any("second does not join the run: its data" in note for note in display.notes)
