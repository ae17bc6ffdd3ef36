"""What the nodes of a cluster are to the harness, whatever connects them (`bench.execution.ray_cluster`)."""

import contextlib
import functools
import queue
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from bench.protocol.messages import DatasetReady
from bench.records import Description, DeviceStatus, Fingerprint, Trial, TrialRecord
from bench.system.interrupts import SIGNALS

A = TypeVar("A")
R = TypeVar("R")

CPU: Final = "cpu"


class NodeLostError(Exception):
    """The node is gone, or runs no trials any more; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What a node says of itself. `host` is equal for all nodes of one host; `remarks` are for the user's eyes."""

    host: str
    description: Description
    remarks: tuple[str, ...] = ()


class Node(Protocol):
    """A node, taken whole by this run. Calls block; any can raise `NodeLostError`, or a `BenchError` of the node's."""

    @property
    def name(self) -> str:
        """Return what the user knows it by; never stored."""

    def introduce(self) -> Introduction:
        """Say what and where it is."""

    def hold(self, devices: Collection[str], patience_seconds: float) -> None:
        """Have these of its devices for this run alone, until `close`.

        Raises:
            HeldError: another run holds one and does not let go in time.
        """

    def prepare(self, dataset: str) -> DatasetReady:
        """Bring the dataset into the node's data root."""

    def run(self, trial: Trial, device: str) -> TrialRecord:
        """Run `trial` in a fresh process, on this device of the kind it asks for."""

    def close(self) -> None:
        """Let go of it, with whatever still runs there."""


class Cluster(Protocol):
    """The nodes there are."""

    def untaken(self) -> Sequence[Node]:
        """Return every live node that was not returned before, or has been closed since."""


@dataclass(kw_only=True, eq=False)
class Member:
    """A node that runs trials: what it is, and which trials it is running, by their device."""

    node: Node
    introduction: Introduction
    running: dict[str, Trial] = field(default_factory=dict)

    @functools.cached_property
    def fingerprint(self) -> Fingerprint:
        """Machine and software, as records name them."""
        description = self.introduction.description
        return Fingerprint(machine=description.machine, software=description.software)

    @functools.cached_property
    def machine_id(self) -> str:
        """What machines of one kind have in common, as in every table."""
        return self.fingerprint.machine.id

    @functools.cached_property
    def cores(self) -> int:
        """How many threads a trial may have here."""
        return max(1, int(self.fingerprint.machine.cores_usable))

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
        """Return the node's devices of this kind that are like the first of them: one is taken for another."""
        return self._devices.get(kind, ())

    def can_run(self, trial: Trial) -> bool:
        """Return whether it has what `trial` needs, for all of its ranks."""
        configuration, kind = trial.configuration, kind_of(trial.configuration.device)
        if kind == CPU:
            return configuration.threads * configuration.world_size <= self.cores
        return configuration.threads <= self.cores and configuration.world_size <= len(self.devices(kind))

    def free_device(self, trial: Trial) -> str | None:
        """Return the device that can run `trial` now; None where the trial would disturb, or be disturbed."""
        if self.running and any(map(needs_the_host, (trial, *self.running.values()))):
            return None
        devices = self.devices(kind_of(trial.configuration.device))
        return next((device for device in devices if device not in self.running), None)


def kind_of(device: str) -> str:
    """Return the kind of a device: ``cuda`` of ``cuda:1``."""
    return device.partition(":")[0]


def needs_the_host(trial: Trial) -> bool:
    """Return whether it needs its host alone: it computes, or loads data, on the cores there, or has several ranks."""
    configuration = trial.configuration
    is_on_cores = kind_of(configuration.device) == CPU or configuration.pipeline != "resident"
    return is_on_cores or configuration.world_size > 1


def ask_all(items: Sequence[A], ask: Callable[[A], R]) -> list[R | Exception]:
    """Call `ask` for every item at the same time; return the answers, or the errors, in the items' order.

    The calls are in threads of their own: this one can be interrupted.
    """
    answers: queue.SimpleQueue[tuple[int, R | Exception]] = queue.SimpleQueue()

    def keep(place: int, answer: R | Exception) -> None:
        answers.put((place, answer))

    for place, item in enumerate(items):
        call_apart(functools.partial(ask, item), functools.partial(keep, place))
    received = dict(answers.get() for _ in items)
    return [received[place] for place in range(len(items))]


def call_apart(call: Callable[[], R], tell: Callable[[R | Exception], None]) -> threading.Thread:
    """Call `call` in a thread of its own, which then calls `tell` with the answer or the error; return the thread."""

    def work() -> None:
        answer: R | Exception
        try:
            answer = call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread that waits for it decides
            answer = error
        tell(answer)

    thread = threading.Thread(target=work, name="node-call", daemon=True)
    with _signals_held_back():
        thread.start()
    return thread


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let the signals that end a command come after this: a handler that raises would leave a thread half started."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
