"""The nodes of a Ray cluster. The only module that imports Ray, which is an optional extra.

Each node is used exclusively: one actor there (`bench.execution.agent`) requests all CPUs and GPUs of the node from
Ray, so that no other work of the cluster disturbs a measurement, and runs the trials. `bench` and `mnist_mlp` are sent
to the nodes, so that all of them measure with the code of this checkout; Ray and torch must be installed there.
"""

import contextlib
import logging
import os
import queue
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import bench
import mnist_mlp
from bench.errors import BadInputError, BenchError
from bench.execution.agent import Agent
from bench.execution.conversation import preparation_seconds, root_text
from bench.execution.executor import ExecutionOptions
from bench.execution.nodes import Introduction, NodeLostError, ask_all, call_in_thread
from bench.execution.processes import HOST_START_SECONDS
from bench.protocol.messages import DatasetReady
from bench.records import Trial, TrialRecord
from bench.system.revision import git_state

try:
    import ray
    import ray.exceptions
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise BadInputError(
        f"--on ray needs Ray ({error}): in a clone, `pip install '.[ray]'`, or use `uv run --extra ray`"
    ) from error

T = TypeVar("T")

AUTO: Final = "auto"
"""Ray's name for the cluster that this machine belongs to, or that RAY_ADDRESS names."""

_REACH_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 60.0
_CALL_SECONDS: Final = 30.0
"""How long the cluster's head may take to answer."""
_START_SECONDS: Final = 120.0
"""How long Ray may take to start a process on a node and to send the code there."""


@contextlib.contextmanager
def connected(address: str, preload: tuple[str, ...], options: ExecutionOptions) -> Iterator["RayCluster"]:
    """Connect to the cluster at `address` while the context is open; afterwards nothing of this run is left there.

    Worker processes on the nodes import the `preload` modules. The data root in `options` is a path on the nodes; None
    means each node's default.

    Raises:
        BadInputError: there is no cluster, it does not answer, or it runs other versions of Ray or Python.
    """
    place = os.environ.get("RAY_ADDRESS", AUTO) if address == AUTO else address
    if place != AUTO:
        _require_reachable(place)
    try:
        _in_time(lambda: _connect(place), _CONNECT_SECONDS)
    except TimeoutError:
        raise BadInputError(
            f"{place} did not answer as a Ray cluster within {_CONNECT_SECONDS:g} s: check that it is one, and that "
            "this machine is a node of it (`ray start --address ADDRESS`)"
        ) from None
    except BenchError:  # an interruption
        raise
    except Exception as error:
        where = "" if place == AUTO else f" at {place}"
        remedy = "start one here with `ray start --head`, or name one with --on ray:HOST:PORT"
        raise BadInputError(
            f"cannot connect to a Ray cluster{where}: {_one_line(error).rstrip('.')}; {remedy}"
        ) from error
    # Ray has installed a handler in front of ours that prints a stack trace as if this were a crash.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    cluster = RayCluster(preload, options)
    try:
        yield cluster
    finally:
        cluster.close()
        with contextlib.suppress(TimeoutError):
            _in_time(ray.shutdown, _CALL_SECONDS)


def _require_reachable(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise BadInputError(
            f"{address!r} is not the address of a Ray cluster: write the HOST:PORT of its head (the port is usually "
            "6379), and run this command on a node of the cluster"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS):
            pass
    except (OSError, OverflowError) as error:
        raise BadInputError(
            f"no Ray cluster was reached at {address} within {_REACH_SECONDS:g} s: {error}; `ray start --head` prints "
            "the address on its first machine"
        ) from error


def _connect(address: str) -> None:
    packages = [str(Path(package.__file__ or "").parent) for package in (bench, mnist_mlp)]
    ray.init(
        address=address,
        runtime_env={"py_modules": packages, "excludes": ["**/__pycache__"]},
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _in_time(call: Callable[[], T], seconds: float) -> T:
    """Return what `call` returns.

    It runs in a thread of its own, because an exception raised by a signal handler would be lost in Ray's functions.

    Raises:
        TimeoutError: it took longer than `seconds`.
    """
    answers: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()
    call_in_thread(call, answers.put)
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _one_line(error: BaseException) -> str:
    """Return the first and last line of a message: Ray puts tracebacks between them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " … ".join(dict.fromkeys((lines[0][:200], lines[-1][:200])))


class RayCluster:
    """See `bench.execution.nodes.Cluster`."""

    def __init__(self, preload: tuple[str, ...], options: ExecutionOptions) -> None:
        """Take no node yet."""
        self._preload = preload
        self._options = options
        self._revision = git_state(Path(mnist_mlp.__file__ or "").parent)
        self._taken: dict[str, RayNode] = {}

    def untaken(self) -> "list[RayNode]":
        """See `bench.execution.nodes.Cluster.untaken`. A node that was started without CPUs gets no work.

        Raises:
            NodeLostError: the cluster's head does not answer.
        """
        try:
            return _in_time(self._take, _CALL_SECONDS)
        except (TimeoutError, ray.exceptions.RayError) as error:
            raise NodeLostError(f"the cluster's head does not answer: {_one_line(error)}") from error

    def _take(self) -> "list[RayNode]":
        self._taken = {key: node for key, node in self._taken.items() if not node.is_closed}
        new = {
            node["NodeID"]: RayNode(node, self._preload, self._options, self._revision)
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) > 0 and node["NodeID"] not in self._taken
        }
        self._taken |= new
        return list(new.values())

    def close(self) -> None:
        """Release every node."""
        ask_all(list(self._taken.values()), RayNode.close)


class RayNode:
    """A node, used exclusively by an actor of this run. See `bench.execution.nodes.Node`."""

    def __init__(
        self,
        node: dict[str, Any],
        preload: tuple[str, ...],
        options: ExecutionOptions,
        revision: tuple[str | None, bool | None],
    ) -> None:
        """Ask Ray for an actor on `node`, an entry of `ray.nodes`. It will run the code of `revision`."""
        self.name = f"node {node['NodeManagerHostname']} {node['NodeID'][:6]}"
        self.is_closed = False
        self._options = options
        self._revision = revision
        self._is_ready = False
        self._running: set[object] = set()
        cpus, gpus = node["Resources"]["CPU"], node["Resources"].get("GPU", 0)
        self._agent = (
            ray.remote(Agent)
            .options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_concurrency=2 + int(gpus),
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(preload, root_text(options.data_root), options.timeout_seconds)
        )

    def introduce(self) -> Introduction:
        """See `Node.introduce`. The code sent there is in no git checkout, so its commit is taken from this one."""
        start_seconds = _START_SECONDS + self._options.patience.seconds
        try:
            ray.get(self._agent.__ray_ready__.remote(), timeout=start_seconds)
        except ray.exceptions.GetTimeoutError:
            raise NodeLostError(
                f"Ray started no process there within {start_seconds:g} s: other work may be using its CPUs or GPUs, "
                "and this run needs all of them (--wait 1h waits for them)"
            ) from None
        except ray.exceptions.RayError as error:
            raise NodeLostError(_one_line(error)) from error
        introduction: Introduction = self._ask(self._agent.introduce.remote(), 2 * HOST_START_SECONDS)
        self._is_ready = True
        description = introduction.description
        commit, dirty = self._revision
        software = replace(description.software, git_commit=commit, git_dirty=dirty)
        return replace(introduction, description=replace(description, software=software))

    def hold(self, devices: Collection[str], patience_seconds: float) -> None:
        """See `Node.hold`."""
        self._ask(self._agent.hold.remote(tuple(devices), patience_seconds), patience_seconds + _CALL_SECONDS)

    def prepare(self, dataset: str) -> DatasetReady:
        """See `Node.prepare`."""
        limit = HOST_START_SECONDS + preparation_seconds(self._options.timeout_seconds)
        ready: DatasetReady = self._ask(self._agent.prepare.remote(dataset), limit)
        return ready

    def run(self, trial: Trial, device: str) -> TrialRecord:
        """See `Node.run`. The agent enforces the trial's time limit, and Ray notices when the node is gone."""
        token = object()
        self._running.add(token)
        record: TrialRecord = self._ask(self._agent.run.remote(trial, device), None)
        self._running.remove(token)
        return record

    def _ask(self, answer: Any, timeout_seconds: float | None) -> Any:  # noqa: ANN401 - Ray's references have no type
        try:
            return ray.get(answer, timeout=timeout_seconds)
        except ray.exceptions.GetTimeoutError:
            raise NodeLostError(f"it did not answer within {timeout_seconds:g} s") from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, BenchError):
                raise error.cause from None
            raise NodeLostError(_one_line(error.cause)) from error
        except ray.exceptions.RayError as error:
            raise NodeLostError(_one_line(error)) from error

    def close(self) -> None:
        """See `Node.close`. An idle agent releases its devices itself; a busy one is killed."""
        if self.is_closed:
            return
        self.is_closed = True
        with contextlib.suppress(TimeoutError, ray.exceptions.RayError):
            _in_time(self._end, _CALL_SECONDS)

    def _end(self) -> None:
        if self._is_ready and not self._running:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self._agent.close.remote(), timeout=_CALL_SECONDS / 2)
        ray.kill(self._agent, no_restart=True)
