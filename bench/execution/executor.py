"""Where trials are executed: on this machine, or on the nodes of a cluster (`bench.execution.cluster`).

`bench.execution.run` decides which trials to run and stores each one as it finishes; an executor knows the hardware and
runs them on it.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench.errors import IncomparableError
from bench.execution.conversation import describe_place, prepare_dataset, probe_trial, run_trial
from bench.execution.launcher import Launcher
from bench.execution.progress import Progress
from bench.planning.plan import MAX_WORLD_SIZE, Request, check_rank_devices, choose_devices, make_plan
from bench.protocol.messages import DatasetReady, Prepared
from bench.records import Description, Fingerprint, Header, Plan, Run, Trial, TrialRecord
from bench.system.locks import IMPATIENT, Patience, device_locks


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionOptions:
    """What holds for every trial of a command.

    `data_root` is the folder with the datasets, None for the default one; `timeout_seconds` limits each trial;
    `patience` is how long to wait for devices that another run is using.
    """

    data_root: Path | None
    timeout_seconds: float
    patience: Patience = IMPATIENT


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedTrial:
    """A finished trial and the machine and software it ran on."""

    record: TrialRecord
    fingerprint: Fingerprint


class Executor(Protocol):
    """Executes trials."""

    @property
    def concurrency(self) -> int:
        """How many trials can run at the same time."""

    def fingerprint(self) -> Fingerprint:
        """Return the machine and software that trials run on; on a cluster, those of one node."""

    def plan(self, request: Request) -> Plan:
        """Return the request's plan for the available hardware.

        Raises:
            BadInputError: the request asks for a device or for more threads than there are.
        """

    def resume(self, run: Run) -> None:
        """Get ready to execute the trials that a stored run lacks.

        Raises:
            BadInputError: a device of its plan is missing.
            IncomparableError: the run was started on another machine or with other software.
        """

    def prepare(self, dataset: str) -> DatasetReady:
        """Make the dataset available where trials run, once, before the first trial needs it."""

    def hold(self, devices: Collection[str]) -> AbstractContextManager[None]:
        """Reserve these devices for this run while the context is open.

        Raises:
            HeldError: another run is using one of them.
        """

    def execute(
        self, trials: Sequence[Trial], may_start: Callable[[], bool], progress: Progress
    ) -> Generator[ExecutedTrial, None, None]:
        """Run the trials and yield each one as it finishes. Once `may_start` returns False, no further trial starts.

        Closing the generator ends the trials that are still running.
        """


class LocalExecutor:
    """Executes trials on this machine: one after the other, each in a fresh process."""

    concurrency = 1

    def __init__(self, launcher: Launcher, options: ExecutionOptions, *, ranks_here: int = MAX_WORLD_SIZE) -> None:
        """Start trials with `launcher`.

        `ranks_here` limits how many ranks of a training run on this machine, for a torchrun over several machines.
        """
        self._launcher = launcher
        self._options = options
        self._ranks_here = ranks_here
        self._description: Description | None = None
        self._resumed: Fingerprint | None = None
        self.start_seconds = 0.0
        """What starting the launcher's host took, known once it has described the machine."""

    def _here(self) -> Description:
        if self._description is None:
            asked = time.perf_counter()
            self._description = describe_place(self._launcher)
            self.start_seconds = time.perf_counter() - asked
        return self._description

    def fingerprint(self) -> Fingerprint:
        """See `Executor.fingerprint`. A resumed run keeps its own: usable memory varies a little from boot to boot."""
        return self._resumed or Fingerprint(machine=self._here().machine, software=self._here().software)

    def plan(self, request: Request) -> Plan:
        """See `Executor.plan`."""
        here, ranks_here = self._here(), self._ranks_here
        devices = choose_devices(request.devices, here.devices)
        plan = make_plan(
            request,
            devices=devices,
            cores=here.machine.whole_cores,
            default_threads=here.default_threads,
            ranks_here=ranks_here,
        )
        return check_rank_devices(plan, here.devices, ranks_here, skip=request.skip_unsupported)

    def resume(self, run: Run) -> None:
        """See `Executor.resume`."""
        if run.other_fingerprints:
            raise IncomparableError(
                f"run {run.header.run_id} was measured on several machines: resume it on their cluster, with --on ray"
            )
        _require_same_place(run.header, self.fingerprint())
        plan = run.header.plan
        choose_devices([configuration.device for configuration in plan.configurations], self._here().devices)
        check_rank_devices(plan, self._here().devices, self._ranks_here)
        self._resumed = run.fingerprints[0]

    def prepare(self, dataset: str) -> DatasetReady:
        """See `Executor.prepare`."""
        return prepare_dataset(
            self._launcher, dataset, self._options.data_root, timeout_seconds=self._options.timeout_seconds
        )

    def hold(self, devices: Collection[str]) -> AbstractContextManager[None]:
        """See `Executor.hold`."""
        uuids = {} if self._description is None else self._description.uuids
        return device_locks(devices, uuids=uuids, patience=self._options.patience)

    def probe(self, trial: Trial) -> Prepared:
        """Prepare `trial`, which trains a few warm-up steps, and go no further.

        Raises:
            TrialFailedError: it could not be prepared.
        """
        return probe_trial(
            self._launcher, trial, root=self._options.data_root, timeout_seconds=self._options.timeout_seconds
        )

    def execute(
        self, trials: Sequence[Trial], may_start: Callable[[], bool], progress: Progress
    ) -> Generator[ExecutedTrial, None, None]:
        """See `Executor.execute`."""
        for number, trial in enumerate(trials, start=1):
            if not may_start():
                return
            progress.trial_started(number, trial)
            record = run_trial(
                self._launcher,
                trial,
                root=self._options.data_root,
                timeout_seconds=self._options.timeout_seconds,
                on_epoch=progress.epoch_done,
            )
            yield ExecutedTrial(record=record, fingerprint=self.fingerprint())


_GIT_FIELDS: Final = frozenset({"git_commit", "git_dirty"})


def _require_same_place(header: Header, here: Fingerprint) -> None:
    """Refuse to resume a run on a machine or with software other than its header's.

    `memory_bytes` alone may vary a little, as long as the machine's id stays the same.
    """
    differences = {
        field.name: f"{field.name} is {getattr(now, field.name)!r}, was {getattr(then, field.name)!r}"
        for then, now in ((header.machine, here.machine), (header.software, here.software))
        for field in dataclasses.fields(then)
        if getattr(then, field.name) != getattr(now, field.name) and field.name != "memory_bytes"
    }
    if differences or header.machine.id != here.machine.id:
        only_git = differences and differences.keys() <= _GIT_FIELDS  # an edit or a commit since then
        where = "with another state of this source tree" if only_git else "on another machine or with other software"
        raise IncomparableError(
            f"run {header.run_id} was started {where}: "
            f"{'; '.join(differences.values()) or 'the amount of memory differs'}. "
            "One table must not mix machines or software: start a new run and compare the two"
        )
