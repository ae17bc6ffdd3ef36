"""The nodes of a cluster as the harness sees them, whatever connects them (see `bench.execution.ray_cluster`)."""

import contextlib
import functools
import queue
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from bench.protocol.messages import DatasetReady
from bench.records import Description, DeviceStatus, Fingerprint, Trial, TrialRecord, kind_of
from bench.system.interrupts import SIGNALS

A = TypeVar("A")
R = TypeVar("R")


class NodeLostError(Exception):
    """The node is gone, or can no longer run trials; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What a node reports about itself. `host` is equal for all nodes on one host; `remarks` are shown to the user."""

    host: str
    description: Description
    remarks: tuple[str, ...] = ()


class Node(Protocol):
    """A node that this run has to itself. Calls block; any of them can raise `NodeLostError` or a `BenchError`."""

    @property
    def name(self) -> str:
        """Return its name for the user; never stored."""

    def introduce(self) -> Introduction:
        """Return its host, hardware and software."""

    def hold(self, devices: Collection[str], patience_seconds: float) -> None:
        """Reserve these of its devices for this run, until `close`.

        Raises:
            HeldError: another run is using one and does not release it in time.
        """

    def prepare(self, dataset: str) -> DatasetReady:
        """Make the dataset available in the node's data root."""

    def run(self, trial: Trial, device: str) -> TrialRecord:
        """Run `trial` in a fresh process, on this device of the kind it asks for."""

    def close(self) -> None:
        """Release the node and end whatever still runs there."""


class Cluster(Protocol):
    """The nodes of a cluster."""

    def untaken(self) -> Sequence[Node]:
        """Return every live node that was not returned before or was closed since."""


@dataclass(kw_only=True, eq=False)
class Member:
    """A node that takes part in a run. `running` has the trials it is running, by device."""

    node: Node
    introduction: Introduction
    running: dict[str, Trial] = field(default_factory=dict)

    @functools.cached_property
    def fingerprint(self) -> Fingerprint:
        """Its machine and software, as stored."""
        description = self.introduction.description
        return Fingerprint(machine=description.machine, software=description.software)

    @functools.cached_property
    def machine_id(self) -> str:
        """The id of its machine, equal for machines of the same kind."""
        return self.fingerprint.machine.id

    @functools.cached_property
    def _devices(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[DeviceStatus]] = {}
        for status in self.introduction.description.devices:
            if status.available:
                found.setdefault(kind_of(status.device), []).append(status)
        return {
            kind: tuple(status.device for status in statuses if status.description == statuses[0].description)
            for kind, statuses in found.items()
        }

    def devices(self, kind: str) -> tuple[str, ...]:
        """Return the node's devices of this kind that are the same model as its first: they are interchangeable."""
        return self._devices.get(kind, ())

    def can_run(self, trial: Trial) -> bool:
        """Return whether it has the cores and devices that `trial` needs, for all of its ranks."""
        configuration, kind = trial.configuration, kind_of(trial.configuration.device)
        cores = self.fingerprint.machine.whole_cores
        if kind == "cpu":
            return configuration.threads * configuration.world_size <= cores
        return configuration.threads <= cores and configuration.world_size <= len(self.devices(kind))

    def free_device(self, trial: Trial) -> str | None:
        """Return a device that can run `trial` now; None if none is free, or it would disturb other trials."""
        if self.running and any(map(needs_the_host, (trial, *self.running.values()))):
            return None
        devices = self.devices(kind_of(trial.configuration.device))
        return next((device for device in devices if device not in self.running), None)


def needs_the_host(trial: Trial) -> bool:
    """Return whether it needs its host to itself: it computes or loads data on the cores, or has several ranks."""
    configuration = trial.configuration
    is_on_cores = kind_of(configuration.device) == "cpu" or configuration.pipeline != "resident"
    return is_on_cores or configuration.world_size > 1


def ask_all(items: Sequence[A], ask: Callable[[A], R]) -> list[R | Exception]:
    """Call `ask` for all items concurrently; return the answers or errors in the items' order.

    The calls run in threads of their own, so that the calling thread can be interrupted.
    """
    answers: queue.SimpleQueue[tuple[int, R | Exception]] = queue.SimpleQueue()

    def keep(place: int, answer: R | Exception) -> None:
        answers.put((place, answer))

    for place, item in enumerate(items):
        call_in_thread(functools.partial(ask, item), functools.partial(keep, place))
    received = dict(answers.get() for _ in items)
    return [received[place] for place in range(len(items))]


def call_in_thread(call: Callable[[], R], on_answer: Callable[[R | Exception], None]) -> threading.Thread:
    """Call `call` in a thread of its own, which passes the answer or the error to `on_answer`; return the thread."""

    def work() -> None:
        answer: R | Exception
        try:
            answer = call()
        except Exception as error:  # noqa: BLE001 - the thread that waits for the answer decides what to do
            answer = error
        on_answer(answer)

    thread = threading.Thread(target=work, name="node-call", daemon=True)
    with _signals_held_back():
        thread.start()
    return thread


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Delay the signals that end a command: a handler that raises would leave a thread half started."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
