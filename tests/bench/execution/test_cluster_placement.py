"""What runs where on a cluster, and beside what: devices, cores, ranks, kinds of machines."""

import dataclasses
import queue
import threading
from pathlib import Path

import pytest
from bench_builders import make_configuration, make_trial
from cluster_runs import REQUEST, TRIALS, check_complete, executor, lose, resume, slow, start
from fake_cluster import FakeNode, describe, gpu
from run_parts import Display

from bench.errors import BadInputError, IncomparableError, NodesLostError
from bench.execution.nodes import Introduction, Member, ask_all
from bench.planning.plan import Request


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


def test_as_many_trials_run_at_a_time_as_all_nodes_have_devices_for(tmp_path: Path) -> None:
    nodes = FakeNode("a", describe(gpu(0), gpu(1))), FakeNode("b", describe(gpu(0))), FakeNode("c")
    for devices, concurrency in ((("cuda",), 3), (("cpu",), 3), (("cpu", "cuda"), 4)):
        display = Display()
        start(executor(*nodes), tmp_path, dataclasses.replace(REQUEST, devices=devices), display)
        assert display.concurrency == concurrency


def test_a_gpu_unlike_the_node_s_first_is_not_taken_for_it(tmp_path: Path) -> None:
    node = FakeNode("a", describe(gpu(0), gpu(1, "Slow GPU")))
    request = dataclasses.replace(REQUEST, devices=("cuda",))
    start(executor(node), tmp_path, request)
    assert {device for _, device in node.runs} == {"cuda:0"}
    with pytest.raises(BadInputError, match="2 ranks need 2 cuda devices, but this machine has 1"):
        executor(node).plan(dataclasses.replace(request, world_sizes=(2,), threads=(1,)))


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
    for nodes in ((small, big), (big, small)):
        executor(*nodes).plan(request)
        with pytest.raises(BadInputError, match="3 ranks need 3 cuda devices, but this machine has 2"):
            executor(*nodes).plan(dataclasses.replace(request, world_sizes=(3,), batch_sizes=(96,)))


def test_ranks_on_the_cpu_run_where_there_are_cores_for_all(tmp_path: Path) -> None:
    small, big = FakeNode("small", describe(cores=2.0)), FakeNode("big", describe(cores=4.0))
    request = dataclasses.replace(REQUEST, world_sizes=(1, 2), threads=(2,))
    check_complete(start(executor(small, big), tmp_path, request).run, 2 * TRIALS)
    assert {trial.configuration.world_size for trial, _ in small.runs} == {1}


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


def test_a_configuration_that_is_complete_needs_no_machine_like_its_own(tmp_path: Path) -> None:
    odd, usual = FakeNode("odd", describe(cpu_model="Odd CPU")), FakeNode("usual")
    odd.on_trial = lose(at=3)
    with pytest.raises(NodesLostError):
        start(executor(odd), tmp_path, dataclasses.replace(REQUEST, repeats=1))
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    check_complete(resume(executor(usual), path, tmp_path).run, 4)
    assert len(usual.runs) == 2


def test_a_run_is_not_resumed_where_its_devices_are_missing(tmp_path: Path) -> None:
    node = FakeNode("a", describe(gpu(0), gpu(1)))
    node.on_trial = lose(at=1)
    with pytest.raises(NodesLostError):
        start(executor(node), tmp_path, dataclasses.replace(REQUEST, devices=("cuda",), world_sizes=(2,), threads=(1,)))
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    with pytest.raises(BadInputError, match="'cuda:0' is not available"):
        resume(executor(FakeNode("b")), path, tmp_path)
    with pytest.raises(BadInputError, match="2 ranks need 2 cuda devices, but this machine has 1"):
        resume(executor(FakeNode("b", describe(gpu(0)))), path, tmp_path)


def test_trials_have_the_threads_that_every_node_can_give_them(tmp_path: Path) -> None:
    nodes = FakeNode("a", describe(cores=8.0, threads=3)), FakeNode("b", describe(cores=4.0))
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


def test_the_rest_of_a_configuration_runs_on_the_kind_of_machine_that_it_was_started_on(tmp_path: Path) -> None:
    odd = FakeNode("odd", describe(cpu_model="Odd CPU"))
    odd.on_trial = lose(at=8)  # in the second of five rounds
    with pytest.raises(NodesLostError):
        start(executor(odd), tmp_path)
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    usual, successor = FakeNode("usual"), FakeNode("successor", describe(cpu_model="Odd CPU"))
    check_complete(resume(executor(usual, successor), path, tmp_path).run)
    assert (len(usual.runs), len(successor.runs)) == (0, TRIALS - 7)


def test_a_node_runs_no_trial_on_a_gpu_with_more_threads_than_cores() -> None:
    def member(cores: float) -> Member:
        return Member(
            node=FakeNode("a"), introduction=Introduction(host="h", description=describe(gpu(0), cores=cores))
        )

    trial = make_trial(make_configuration(device="cuda:0", threads=2))
    assert [member(cores).can_run(trial) for cores in (1.0, 2.0)] == [False, True]


def test_answers_come_in_the_order_of_those_asked_whoever_is_first() -> None:
    quick: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()

    def ask(name: str) -> str:
        if name == "slow":
            quick.get(timeout=60).join(60)
        else:
            quick.put(threading.current_thread())
        return name

    assert ask_all(["slow", "quick"], ask) == ["slow", "quick"]
