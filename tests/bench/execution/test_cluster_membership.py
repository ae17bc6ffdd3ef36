"""Which nodes of a cluster take part in a run, which stand by, and what is refused."""

import dataclasses
from pathlib import Path

import pytest
from cluster_runs import REQUEST, TRIALS, check_complete, executor, lose, resume, runner, slow, start
from fake_cluster import FakeCluster, FakeNode, describe, gpu
from fake_worker import FakeLauncher
from run_parts import Display, options

from bench.errors import BadInputError, IncomparableError, NodesLostError
from bench.execution.cluster import SUCCESSION_SECONDS, ClusterExecutor
from bench.execution.executor import ExecutionOptions, LocalExecutor
from bench.execution.nodes import NodeLostError
from bench.storage.store import read_run
from bench.system.locks import HeldError, Patience


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


def test_what_a_node_remarks_is_told_with_its_name(tmp_path: Path) -> None:
    nodes, told = (FakeNode("a"), FakeNode("b")), list[str]()
    nodes[1].remarks = "one core is offline", "its clock is slow"
    start(executor(*nodes, tell=told.append), tmp_path)
    assert told == ["b: one core is offline", "b: its clock is slow"]


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


def test_a_kind_of_device_that_no_node_has_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        BadInputError, match=r"'cuda' .*no node of the cluster has one \(no driver\)\. Available here: cpu"
    ):
        start(executor(FakeNode("a"), FakeNode("b")), tmp_path, dataclasses.replace(REQUEST, devices=("cuda",)))


def test_a_kind_of_device_that_is_broken_on_every_node_is_refused_with_the_reason(tmp_path: Path) -> None:
    broken = dataclasses.replace(gpu(0), available=False, reason="ECC error")
    with pytest.raises(BadInputError, match=r"'cuda' .*no node of the cluster has one \(ECC error\)"):
        start(executor(FakeNode("a", describe(broken))), tmp_path, dataclasses.replace(REQUEST, devices=("cuda",)))


def test_a_certain_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"--devices cuda:1: on a cluster, .* write cuda"):
        start(executor(FakeNode("a", describe(gpu(0)))), tmp_path, dataclasses.replace(REQUEST, devices=("cuda:1",)))


def test_a_cluster_without_nodes_for_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot run trials: it has no node with CPUs"):
        start(executor(), tmp_path)


def test_a_node_that_does_not_introduce_itself_is_left_out_and_reported(tmp_path: Path) -> None:
    silent, good = FakeNode("silent"), FakeNode("good")
    silent.introduce_error = NodeLostError("it did not answer within 120 s")
    told: list[str] = []
    check_complete(start(executor(silent, good, tell=told.append), tmp_path).run)
    assert told == ["silent is left out: it did not answer within 120 s"]
    assert silent.is_closed


def test_a_cluster_of_nodes_that_do_not_introduce_themselves_is_refused_with_every_reason(tmp_path: Path) -> None:
    nodes = FakeNode("a"), FakeNode("b")
    nodes[0].introduce_error, nodes[1].introduce_error = (
        NodeLostError("it burnt down"),
        BadInputError("it has no torch"),
    )
    with pytest.raises(BadInputError, match=r"trials: a is left out: it burnt down; b is left out: it has no torch$"):
        start(executor(*nodes), tmp_path)


def test_a_node_that_cannot_take_part_is_left_out_and_reported(tmp_path: Path) -> None:
    held, good = FakeNode("held"), FakeNode("good")
    held.hold_error = HeldError("device cpu is in use by process 7")
    told: list[str] = []
    check_complete(start(executor(held, good, tell=told.append), tmp_path).run)
    assert told == ["held is left out: device cpu is in use by process 7"]
    assert held.is_closed
    assert not held.runs


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (HeldError("device cpu is in use by process 7"), HeldError, "^device cpu is in use by process 7$"),
        (NodeLostError("it burnt down"), BadInputError, "^no node is left: it burnt down$"),
        (ZeroDivisionError("a defect"), ZeroDivisionError, "^a defect$"),
    ],
)
def test_where_no_node_can_take_part_the_first_one_s_reason_is_the_error(
    tmp_path: Path, error: Exception, kind: type[Exception], message: str
) -> None:
    nodes = FakeNode("a"), FakeNode("b")
    nodes[0].hold_error, nodes[1].hold_error = error, HeldError("another")
    with pytest.raises(kind, match=message):
        start(executor(*nodes), tmp_path)


@pytest.mark.parametrize("seconds", [0.0, 2 * SUCCESSION_SECONDS])
def test_a_node_waits_for_its_devices_as_long_as_told_and_a_successor_a_while_longer(
    tmp_path: Path, seconds: float
) -> None:
    first, second = FakeNode("first", host="h"), FakeNode("second", host="h")
    first.on_trial = lose(at=6)
    check_complete(start(ClusterExecutor(FakeCluster(first, second), Patience(seconds=seconds)), tmp_path).run)
    assert (first.waits, second.waits) == ([seconds], [max(seconds, SUCCESSION_SECONDS)])


def test_a_run_that_lacks_its_footer_alone_needs_no_node(tmp_path: Path) -> None:
    path = start(executor(FakeNode("a")), tmp_path).path
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert read_run(path).footer is None
    display = Display()
    check_complete(runner(executor(), options(tmp_path), display).resume(path).run)
    assert display.concurrency == 1


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
