"""Runs on a Ray cluster of two nodes on this machine: nodes that are killed, interruptions, one host for both.

Needs Ray (`nox -s ray`); where it is missing, the tests are skipped, unless BENCH_RAY says that they must not be.
Trials are those of the fault tests' stand-in, but for one test that trains.
"""

import contextlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest
from checkout import TESTS
from sandbox import GONE_SECONDS, MARK, Sandbox, stored_trials, told, until_told

import mnist_mlp
from bench.planning.plan import order_trials
from bench.records import Measurement, Run
from bench.storage.store import read_run
from bench.system.revision import git_state

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

GRID = ("--models", "784-16-10", "--batch-sizes", "512,1024,2048,4096", "--threads", "1", "--dataset", "synthetic")
FORTY = (*GRID, "--epochs", "1", "--repeats", "10")

# Any: Ray is not there where types are checked.
Cluster = Any


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@contextlib.contextmanager
def cluster_of(sandbox: Sandbox, *hosts: str | None, stand_in: bool = True) -> Iterator[tuple[Cluster, list[Any]]]:
    """Start a cluster with a node for each of `hosts`, None being this machine as it is; its head runs no trials."""
    # The names of Ray's sockets must be short.
    temporary = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
    with temporary as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        try:
            from ray.cluster_utils import Cluster as RayCluster  # noqa: PLC0415 - only the session `ray` has it
        except ImportError:
            if os.environ.get("BENCH_RAY"):
                pytest.fail("Ray is not installed")
            pytest.skip("Ray is not installed")
        small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        started = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        try:
            nodes = [
                started.add_node(num_cpus=1, env_vars=variables(sandbox, host, stand_in=stand_in), **small)
                for host in hosts
            ]
            yield started, nodes
        finally:
            started.shutdown()


def variables(sandbox: Sandbox, host: str | None, *, stand_in: bool) -> dict[str, str]:
    """The environment of a node's processes; one that is another machine has a place of its own for locks."""
    temporary = sandbox.temporary if host is None else sandbox.folder / host
    temporary.mkdir(exist_ok=True)
    folders = (TESTS / "cluster" / "node_site", TESTS, TESTS / "faults")
    own = {
        MARK: sandbox.mark,
        "TMPDIR": str(temporary),
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "MNIST_MLP_DATA": str(sandbox.folder / "data"),
    }
    return (
        own | ({} if host is None else {"BENCH_TEST_HOST": host}) | ({"BENCH_TEST_STAND_IN": "1"} if stand_in else {})
    )


def words_of(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):  # it has ended meanwhile
        return process.cmdline()
    return []


def left_behind(sandbox: Sandbox) -> list[list[str]]:
    """Return the processes of ours that are still on the nodes, once they have had time to end."""
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        words = [words_of(process) for process in sandbox.family()]
        ours = [line for line in words if any("bench.worker.host" in word or "ray::Agent" in word for word in line)]
        if not ours or time.monotonic() > deadline:
            return ours
        time.sleep(0.1)


def finish(process: Popen[str], lines: list[str]) -> str:
    """Wait for the command's end and return all of its standard error."""
    _, rest = process.communicate(timeout=120)
    return "".join(lines) + rest


def stored(sandbox: Sandbox) -> Run:
    (path,) = sandbox.stored()
    return read_run(path)


def check_whole(run: Run) -> None:
    trials = [record.trial for record in run.records]
    assert sorted(map(repr, trials)) == sorted(map(repr, order_trials(run.header.plan)))
    assert all(isinstance(record.outcome, Measurement) for record in run.records)
    assert run.footer is not None
    assert run.footer.complete


def test_a_node_killed_in_the_middle_loses_and_doubles_no_trial(sandbox: Sandbox) -> None:
    with cluster_of(sandbox, "one", "two") as (cluster, nodes):
        with sandbox.start("run", "--on", f"ray:{cluster.address}", *FORTY) as process:
            lines = until_told(process, 8)
            cluster.remove_node(nodes[0], allow_graceful=False)
            errors = finish(process, lines)
        assert process.returncode == 0, errors
        assert not left_behind(sandbox)
    run = stored(sandbox)
    assert len(run.records) == 40
    check_whole(run)
    assert "is lost" in errors
    assert "on standby" not in errors
    assert sorted(told(errors)) == sorted(stored_trials(run))
    local = Sandbox(sandbox.folder / "local")
    assert local.run("run", *FORTY).returncode == 0
    assert {record.trial for record in stored(local).records} == {record.trial for record in run.records}


def test_two_nodes_on_one_host_never_measure_at_once_and_share_its_lock(sandbox: Sandbox) -> None:
    with cluster_of(sandbox, None, None) as (cluster, nodes):
        with sandbox.start("run", "--on", f"ray:{cluster.address}", *FORTY) as process:
            lines = until_told(process, 4)
            (standing_by,) = [line for line in lines if line.endswith("on standby\n")]
            beside = sandbox.run("run", *GRID)
            assert beside.returncode == 2
            assert "device cpu is in use by process" in beside.stderr
            active = standing_by.split(" as node ")[1].split(":")[0].split()[-1]
            (busy,) = [node for node in nodes if node.node_id.startswith(active)]
            cluster.remove_node(busy, allow_graceful=False)
            errors = finish(process, lines)
        assert process.returncode == 0, errors
    check_whole(stored(sandbox))
    assert "joins the run" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_on_the_nodes_and_the_run_can_be_resumed(
    sandbox: Sandbox, number: signal.Signals
) -> None:
    with cluster_of(sandbox, "one", "two") as (cluster, _):
        on = ("--on", f"ray:{cluster.address}")
        with sandbox.start("run", *on, *FORTY) as process:
            lines = until_told(process, 5)
            process.send_signal(number)
            errors = finish(process, lines)
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert f".jsonl --on ray:{cluster.address}\n" in errors
        assert not left_behind(sandbox)
        before = stored(sandbox)
        assert set(told(errors)) <= set(stored_trials(before))
        resumed = sandbox.run("run", "--resume", "latest", *on)
        assert resumed.returncode == 0, resumed.stderr
        assert not left_behind(sandbox)
    after = stored(sandbox)
    assert after.records[: len(before.records)] == before.records
    check_whole(after)


def test_what_is_trained_on_a_node_is_stored_with_the_node_s_machine_and_this_commit(sandbox: Sandbox) -> None:
    real = Sandbox(sandbox.folder, real=True)
    real.mark = sandbox.mark
    with cluster_of(sandbox, None, stand_in=False) as (cluster, _):
        done = real.run(
            "run", "--on", f"ray:{cluster.address}", *GRID[:2], *GRID[4:], "--epochs", "1", "--repeats", "2"
        )
        assert done.returncode == 0, done.stderr
        dry = real.run("run", "--on", f"ray:{cluster.address}", *GRID, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "4 configurations x" in dry.stdout
        assert "Estimated" not in dry.stdout
        missing = real.run("run", "--on", f"ray:{cluster.address}", *GRID, "--devices", "mps")
        assert missing.returncode == 2
        assert "no node of the cluster has one" in missing.stderr
    run = stored(sandbox)
    check_whole(run)
    commit, dirty = git_state(Path(mnist_mlp.__file__).parent)
    assert (run.header.software.git_commit, run.header.software.git_dirty) == (commit, dirty)
    assert run.other_fingerprints == ()
    local = Sandbox(sandbox.folder / "local", real=True)
    assert local.run("run", *GRID, "--epochs", "1", "--repeats", "1").returncode == 0
    assert stored(local).header.machine == run.header.machine
    assert stored(local).header.software == run.header.software


def test_an_address_where_nothing_answers_is_refused_soon(sandbox: Sandbox) -> None:
    with cluster_of(sandbox):  # so that Ray is known to be there
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        done = sandbox.run("run", "--on", f"ray:127.0.0.1:{port}", *GRID)
    assert done.returncode == 2
    assert "no Ray cluster was reached at 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
