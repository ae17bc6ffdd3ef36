"""A cluster in this process: nodes that answer from a script, so that scheduling is tested without Ray or machines."""

import dataclasses
import threading
from collections.abc import Callable, Collection

from bench_builders import make_header, make_measurement
from fake_worker import CPU, NO_CUDA, TRAIN_SAMPLES

from bench.execution.nodes import Introduction, NodeLostError
from bench.protocol.messages import DatasetReady
from bench.records import Accelerator, Description, DeviceStatus, Trial, TrialRecord

TRIAL_SECONDS = 0.002
"""Long enough for what runs at the same time to be seen to."""


def gpu(index: int, name: str = "Fast GPU") -> DeviceStatus:
    return DeviceStatus(device=f"cuda:{index}", available=True, description=name, reason="")


def describe(
    *gpus: DeviceStatus,
    cores: float = 2.0,
    threads: int | None = None,
    cpu_model: str = "Usual CPU",
    torch: str = "2.15.0",
) -> Description:
    """A machine with these accelerators. It has as many physical cores as `threads` says, otherwise all are."""
    header = make_header()
    accelerators = tuple(Accelerator(device=g.device, name=g.description, memory_bytes=2**36) for g in gpus)
    machine = dataclasses.replace(header.machine, cpu_model=cpu_model, cores_usable=cores, accelerators=accelerators)
    return Description(
        machine=machine,
        software=dataclasses.replace(header.software, torch=torch),
        devices=(CPU, *(gpus or (NO_CUDA,))),
        default_threads=threads or machine.whole_cores,
    )


class FakeNode:
    """Runs trials by doing nothing for a moment; `on_trial` is called first, in the trial's thread, and may raise."""

    def __init__(self, name: str, description: Description | None = None, *, host: str | None = None) -> None:
        self.name = name
        self.host = host or name
        self.description = description or describe()
        self.remarks: tuple[str, ...] = ()
        self.sha256 = make_measurement().dataset_sha256
        self.on_trial: Callable[[Trial], None] = lambda _trial: None
        self.introduce_error: Exception | None = None
        self.hold_error: Exception | None = None
        self.held: list[tuple[str, ...]] = []
        self.waits: list[float] = []
        self.runs: list[tuple[Trial, str]] = []
        self.beside: list[frozenset[str]] = []
        self.is_closed = False
        self.is_lost = False
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def introduce(self) -> Introduction:
        if self.introduce_error is not None:
            raise self.introduce_error
        return Introduction(host=self.host, description=self.description, remarks=self.remarks)

    def hold(self, devices: Collection[str], patience_seconds: float) -> None:
        if self.hold_error is not None:
            raise self.hold_error
        self.held.append(tuple(devices))
        self.waits.append(patience_seconds)

    def prepare(self, dataset: str) -> DatasetReady:  # noqa: ARG002 - it has them all
        return DatasetReady(sha256=self.sha256, train_samples=TRAIN_SAMPLES)

    def run(self, trial: Trial, device: str) -> TrialRecord:
        with self._lock:
            self._busy.add(device)
            self.runs.append((trial, device))
            self.beside.append(frozenset(self._busy))
        try:
            self.on_trial(trial)
            threading.Event().wait(TRIAL_SECONDS)
        except NodeLostError:
            self.is_lost = True
            raise
        finally:
            with self._lock:
                self._busy.discard(device)
        return TrialRecord(
            trial=trial,
            outcome=make_measurement(),
            warnings=(),
            started_at="2026-01-02T03:04:05+00:00",
            wall_seconds=1.0,
        )

    def close(self) -> None:
        self.is_closed = True


class FakeCluster:
    """Has these nodes. Those that were closed can be taken again; those that were lost, too, if they come back."""

    def __init__(self, *nodes: FakeNode, come_back: bool = False) -> None:
        self._nodes = nodes
        self._come_back = come_back
        self._taken: set[str] = set()

    def untaken(self) -> list[FakeNode]:
        self._taken -= {node.name for node in self._nodes if node.is_closed}
        new = [n for n in self._nodes if n.name not in self._taken and (self._come_back or not n.is_lost)]
        for node in new:
            node.is_closed = False
        self._taken |= {node.name for node in new}
        return new
