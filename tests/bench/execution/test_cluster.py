"""Runs on a cluster of scripted nodes: what is stored of them, and what happens to the trials of a lost node."""

import dataclasses
import itertools
import queue
import signal
import sys
import threading
from pathlib import Path

import pytest
from cluster_runs import REQUEST, TRIALS, check_complete, executor, lose, resume, slow, start
from fake_cluster import FakeCluster, FakeNode, describe, gpu
from heeded_signals import heeded
from run_parts import Display, interrupt

from bench.errors import BadInputError, ExitCode, InterruptedRunError, NodesLostError, WorkerError
from bench.execution.dispatch import MAX_RETRIES
from bench.execution.nodes import Introduction, NodeLostError, call_in_thread
from bench.planning.plan import order_trials
from bench.records import Failure, FailureKind, Trial
from bench.storage.store import read_run
from bench.system.interrupts import Interrupts


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


class HeadlessCluster(FakeCluster):
    """Its head does not answer any more once one of its nodes is lost."""

    def untaken(self) -> list[FakeNode]:
        if any(node.is_lost for node in self._nodes):
            raise NodeLostError("the cluster's head does not answer")
        return super().untaken()


def test_a_run_goes_on_with_the_nodes_it_has_where_no_head_answers_which_others_there_are(tmp_path: Path) -> None:
    lost, other = FakeNode("lost"), FakeNode("other")
    lost.on_trial = lose(at=3)
    display = Display()
    check_complete(start(executor(cluster=HeadlessCluster(lost, other)), tmp_path, display=display).run)
    assert display.notes == ["lost is lost: it burnt down", "the cluster's head does not answer"]


def test_a_cluster_whose_head_does_not_answer_is_refused(tmp_path: Path) -> None:
    node = FakeNode("a")
    node.is_lost = True
    with pytest.raises(BadInputError, match=r"^the cluster's head does not answer$"):
        start(executor(cluster=HeadlessCluster(node)), tmp_path)


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
    assert node.runs[1] == node.runs[2]
    assert display.numbers == [1, 2, *range(2, TRIALS + 1)]


def come_back_late(node: FakeNode) -> threading.Event:
    """Let this node, once lost, introduce itself again when the event is set, or much later."""
    is_over = threading.Event()
    introduce = node.introduce

    def introduce_late() -> Introduction:
        if node.is_lost:
            is_over.wait(30)
        return introduce()

    node.introduce = introduce_late  # type: ignore[method-assign]  # the fault is planted so
    return is_over


def test_a_run_does_not_wait_for_a_node_once_its_trials_are_done(tmp_path: Path) -> None:
    lost, other = FakeNode("lost"), FakeNode("other")
    lost.on_trial, is_over, display = lose(at=3), come_back_late(lost), Display()
    cluster = FakeCluster(lost, other, come_back=True)
    check_complete(start(executor(cluster=cluster), tmp_path, display=display).run)
    is_over.set()
    assert display.notes == ["lost is lost: it burnt down"]


def test_a_run_does_not_wait_for_a_node_once_no_trial_may_start() -> None:
    lost, other = FakeNode("lost"), FakeNode("other")
    lost.on_trial, is_over, display = lose(at=1), come_back_late(lost), Display()
    who = executor(cluster=FakeCluster(lost, other, come_back=True))
    plan = who.plan(REQUEST)
    who.prepare("mnist")
    starts = iter([True, True])
    with who.hold({"cpu"}):
        ran = list(who.execute(order_trials(plan), lambda: next(starts, False), display))
    is_over.set()
    assert len(ran) == 1
    assert display.notes == ["lost is lost: it burnt down"]


def test_a_trial_that_loses_every_node_fails_and_the_run_continues(tmp_path: Path) -> None:
    node = FakeNode("a")

    def burn(trial: Trial) -> None:
        if trial.configuration.batch_size == 64 and trial.repeat == 1:
            slow(trial)
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
    assert failed.wall_seconds > 0
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


def test_an_interruption_ends_running_trials_and_keeps_finished_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, closed = (FakeNode("a"), FakeNode("b")), threading.Event()

    def run_until_closed(_trial: Trial) -> None:
        closed.wait(60)

    nodes[1].on_trial = run_until_closed
    monkeypatch.setattr(nodes[1], "close", closed.set)
    with pytest.raises(InterruptedRunError, match=r"4 of 20 trials are stored"):
        start(executor(*nodes), tmp_path, display=Display({4: interrupt}))
    assert closed.is_set()
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


def test_every_trial_of_a_lost_node_with_several_gpus_runs_elsewhere(tmp_path: Path) -> None:
    lost, other = (FakeNode(name, describe(gpu(0), gpu(1), gpu(2))) for name in ("lost", "other"))
    lost.on_trial = lose(at=1)
    display = Display()
    check_complete(start(executor(lost, other), tmp_path, dataclasses.replace(REQUEST, devices=("cuda",)), display).run)
    assert len(lost.runs) == 3
    assert display.notes == ["lost is lost: it burnt down"]


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
