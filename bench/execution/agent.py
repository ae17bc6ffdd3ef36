"""This run's process on a node of a cluster: it measures with the same launcher and locks as a run on that machine."""

import contextlib
import os
import sys
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from bench.execution.conversation import describe_place, prepare_dataset, run_trial
from bench.execution.launcher import Launcher, make_launcher
from bench.execution.nodes import Introduction
from bench.protocol.messages import DatasetReady
from bench.records import Trial, TrialRecord, kind_of
from bench.system.hosts import host_identity
from bench.system.locks import Patience, device_locks

_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


class Agent:
    """Holds a node's devices and runs trials on them, each in a fresh process, one at a time per device."""

    def __init__(self, preload: Sequence[str], root: str | None, timeout_seconds: float) -> None:
        """Start nothing yet. `root` is the data root, a path on this node; None means the node's default."""
        self._remarks = _restore_priority()
        self._preload = tuple(preload)
        self._root = None if root is None else Path(root)
        self._timeout_seconds = timeout_seconds
        self._held = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._uuids: dict[str, str] = {}
        self._launchers: dict[str | None, Launcher] = {}

    def introduce(self) -> Introduction:
        """See `bench.execution.nodes.Node.introduce`."""
        description = describe_place(self._launcher(None))
        self._uuids = description.uuids
        return Introduction(host=host_identity(), description=description, remarks=self._remarks)

    def hold(self, devices: Collection[str], patience_seconds: float) -> None:
        """See `bench.execution.nodes.Node.hold`."""
        self._held.enter_context(device_locks(devices, uuids=self._uuids, patience=Patience(seconds=patience_seconds)))

    def prepare(self, dataset: str) -> DatasetReady:
        """See `bench.execution.nodes.Node.prepare`."""
        return prepare_dataset(self._launcher(None), dataset, self._root, timeout_seconds=self._timeout_seconds)

    def run(self, trial: Trial, device: str) -> TrialRecord:
        """See `bench.execution.nodes.Node.run`."""
        launcher = self._launcher(device if device != trial.configuration.device else None)
        return run_trial(launcher, trial, root=self._root, timeout_seconds=self._timeout_seconds)

    def _launcher(self, device: str | None) -> Launcher:
        """Return a launcher of processes that see only `device`, as the first of its kind; None: all devices."""
        with self._lock:
            if device not in self._launchers:
                variables = None if device is None else _mask(device)
                self._launchers[device] = make_launcher(self._preload, variables=variables)
            return self._launchers[device]

    def close(self) -> None:
        """End everything that still runs, and release the devices."""
        for launcher in self._launchers.values():
            launcher.close()
        self._held.close()


def _mask(device: str) -> dict[str, str]:
    place = int(device.removeprefix(f"{kind_of(device)}:"))
    visible = os.environ.get(_VISIBLE)
    return {_VISIBLE: visible.split(",")[place] if visible else str(place)}


def _restore_priority() -> tuple[str, ...]:
    """Undo the low priority that Ray gives its processes; return a remark if that is not permitted."""
    if sys.platform == "win32":
        return ()
    try:
        threads = [int(entry.name) for entry in Path("/proc/self/task").iterdir()]  # on Linux, a priority is per thread
    except OSError:
        threads = [0]
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        for thread in threads:
            os.setpriority(os.PRIO_PROCESS, thread, 0)
    except PermissionError:
        remedy = "start Ray there with RAY_worker_niceness=0"
        return (f"trials run at niceness {niceness}, so other programs have priority: {remedy}",)
    return ()
