"""What a node's own process does with devices, priority and visible GPUs; its trials are scripted."""

import dataclasses
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from bench_builders import make_configuration, make_trial
from fake_worker import FakeLauncher

from bench.execution.agent import Agent
from bench.records import DeviceStatus, Measurement
from bench.system import hosts
from bench.system.hosts import host_identity
from bench.system.locks import HeldError, device_locks

pytestmark = pytest.mark.usefixtures("own_locks")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[FakeLauncher, dict[str, str]]]:
    """The launchers that the agent starts, with the environment variables that it gives them."""
    found: list[tuple[FakeLauncher, dict[str, str]]] = []

    def make(preload: Sequence[str], *, variables: Mapping[str, str] | None) -> FakeLauncher:
        assert preload == ("sklearn.datasets",)
        found.append((FakeLauncher(), dict(variables or {})))
        return found[-1][0]

    monkeypatch.setattr("bench.execution.agent.make_launcher", make)
    return found


def agent() -> Agent:
    return Agent(("sklearn.datasets",), None, 60.0)


def test_a_host_without_an_identifier_of_its_boot_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "Path", lambda _path: Path("/proc/nowhere"))
    identity = host_identity()
    assert identity == host_identity()
    assert platform.node() in identity


def test_it_introduces_itself_with_the_host_and_what_there_is(
    started: list[tuple[FakeLauncher, dict[str, str]]],
) -> None:
    introduction = agent().introduce()
    assert introduction.host == host_identity()
    assert introduction.description == started[0][0].place


def test_trials_and_data_are_those_of_the_nodes_own_data_root(
    started: list[tuple[FakeLauncher, dict[str, str]]], tmp_path: Path
) -> None:
    node = Agent(("sklearn.datasets",), str(tmp_path), 60.0)
    node.prepare("mnist")
    assert isinstance(node.run(make_trial(), "cpu").outcome, Measurement)
    requests = started[0][0].requests
    assert [request["root"] for request in requests if "root" in request] == [str(tmp_path)] * 2


def test_its_processes_end_with_it(
    started: list[tuple[FakeLauncher, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, closed = agent(), []
    node.introduce()
    monkeypatch.setattr(started[0][0], "close", lambda: closed.append("the launcher"))
    node.close()
    assert closed == ["the launcher"]


def test_devices_are_held_until_it_is_closed(started: list[tuple[FakeLauncher, dict[str, str]]]) -> None:
    one, other = agent(), agent()
    one.hold(("cpu",), 0.0)
    with pytest.raises(HeldError):
        other.hold(("cpu",), 0.0)
    with pytest.raises(HeldError), device_locks(["cpu"]):
        pass
    one.close()
    other.hold(("cpu",), 0.0)
    other.close()
    assert not started


def test_a_gpu_is_held_by_its_uuid_too(started: list[tuple[FakeLauncher, dict[str, str]]]) -> None:
    mine = agent()
    mine.introduce()
    started[0][0].place = dataclasses.replace(
        started[0][0].place,
        devices=(DeviceStatus(device="cuda:0", available=True, description="GPU A", reason="", uuid="5a1b-77"),),
    )
    mine.introduce()
    mine.hold(("cuda:0",), 0.0)
    with pytest.raises(HeldError, match="device cuda:3 is in use"):
        device_locks(["cuda:3"], uuids={"cuda:3": "5a1b-77"}).__enter__()
    mine.close()


def test_trials_on_the_cpu_and_the_first_gpu_see_the_node_as_it_is(
    started: list[tuple[FakeLauncher, dict[str, str]]],
) -> None:
    mine = agent()
    for device in ("cpu", "cuda:0"):
        record = mine.run(make_trial(make_configuration(device=device)), device)
        assert isinstance(record.outcome, Measurement)
    ((launcher, variables),) = started
    assert variables == {}
    assert launcher.started == 2


@pytest.mark.parametrize(("visible", "mask"), [(None, "2"), ("4,5,6", "6")])
def test_trials_on_another_gpu_see_that_one_alone(
    started: list[tuple[FakeLauncher, dict[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    mask: str,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    mine = agent()
    trial = make_trial(make_configuration(device="cuda:0"))
    mine.run(trial, "cuda:2")
    mine.run(trial, "cuda:2")
    ((launcher, variables),) = started
    assert variables == {"CUDA_VISIBLE_DEVICES": mask}
    assert launcher.started == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no niceness there")
@pytest.mark.parametrize("allowed", [True, False])
def test_a_low_priority_is_undone_or_reported(
    started: list[tuple[FakeLauncher, dict[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
    allowed: bool,  # noqa: FBT001 - a case
) -> None:
    raised: list[int] = []

    def set_priority(_which: int, _who: int, priority: int) -> None:
        if not allowed:
            raise PermissionError
        raised.append(priority)

    monkeypatch.setattr("os.getpriority", lambda _which, _who: 15)
    monkeypatch.setattr("os.setpriority", set_priority)
    remarks = agent().introduce().remarks
    assert started
    assert set(raised) == ({0} if allowed else set())
    assert [("niceness 15" in remark, "RAY_worker_niceness=0" in remark) for remark in remarks] == (
        [] if allowed else [(True, True)]
    )
