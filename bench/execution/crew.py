"""Who carries out a run's trials: this machine here, or the nodes of a cluster (`bench.execution.cluster`).

`bench.execution.run` decides which trials are to be run, and stores each as it ends; a crew knows what there
is, and runs them.
"""

import dataclasses
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench.errors import IncomparableError
from bench.execution.launcher import describe_place, prepare_dataset, run_trial
from bench.execution.processes import Launcher
from bench.execution.progress import Progress
from bench.planning.plan import Request, check_rank_devices, choose_devices, make_plan
from bench.protocol.messages import DatasetReady
from bench.records import Description, Fingerprint, Header, Plan, Run, Trial, TrialRecord
from bench.system.locks import IMPATIENT, Patience, device_locks


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A trial that has ended, and where it ran."""

    record: TrialRecord
    fingerprint: Fingerprint


class Crew(Protocol):
    """Carries out trials."""

    @property
    def at_once(self) -> int:
        """How many trials can go on at the same time."""

    def fingerprint(self) -> Fingerprint:
        """Return the machine and software that trials run on; of several, one."""

    def plan(self, request: Request) -> Plan:
        """Return the request's plan for what there is.

        Raises:
            BadInputError: a device or more threads are asked for than there are.
        """

    def resume(self, run: Run) -> None:
        """Take over a stored run, to carry out what it lacks.

        Raises:
            BadInputError: a device of its plan is missing.
            IncomparableError: it was begun on another machine or software than there is.
        """

    def prepare(self, dataset: str) -> DatasetReady:
        """Bring the dataset to where trials run, once, before any trial needs it."""

    def hold(self, devices: Collection[str]) -> AbstractContextManager[None]:
        """Have these devices for this run alone while the context lasts.

        Raises:
            HeldError: another run holds one.
        """

    def carry_out(
        self, trials: Sequence[Trial], go_on: Callable[[], bool], progress: Progress
    ) -> Generator[Ran, None, None]:
        """Run the trials, and yield each as it ends. Before each start `go_on` is asked: once it denies, none starts.

        Closing the iterator ends the trials that are still running.
        """


class LocalCrew:
    """This machine: one trial after the other, each in a fresh process."""

    at_once = 1

    def __init__(
        self,
        launcher: Launcher,
        *,
        root: Path | None,
        timeout_seconds: float,
        patience: Patience = IMPATIENT,
        ranks_here: int | None = None,
    ) -> None:
        """Start trials by `launcher`; `root` is where datasets are kept.

        `ranks_here` is the most ranks of a training that run on this machine, where torchrun spreads them over several;
        None: all.
        """
        self._ranks_here = ranks_here
        self._launcher = launcher
        self._root = root
        self._timeout_seconds = timeout_seconds
        self._patience = patience
        self._place: Description | None = None
        self._begun_as: Fingerprint | None = None

    def _here(self) -> Description:
        if self._place is None:
            self._place = describe_place(self._launcher)
        return self._place

    def fingerprint(self) -> Fingerprint:
        """See `Crew.fingerprint`. A resumed run has its own: a machine's memory differs a little from boot to boot."""
        return self._begun_as or Fingerprint(machine=self._here().machine, software=self._here().software)

    def plan(self, request: Request) -> Plan:
        """See `Crew.plan`."""
        here, ranks_here = self._here(), self._ranks_here
        devices = choose_devices(request.devices, here.devices)
        plan = make_plan(request, devices=devices, cores_usable=here.machine.cores_usable, ranks_here=ranks_here)
        return check_rank_devices(plan, here.devices, ranks_here, skip=request.skip_unsupported)

    def resume(self, run: Run) -> None:
        """See `Crew.resume`."""
        if run.other_fingerprints:
            raise IncomparableError(
                f"run {run.header.run_id} was measured on several machines: go on with it on their cluster, by --on ray"
            )
        _refuse_mixing(run.header, self.fingerprint())
        plan = run.header.plan
        choose_devices([configuration.device for configuration in plan.configurations], self._here().devices)
        check_rank_devices(plan, self._here().devices, self._ranks_here)
        self._begun_as = run.fingerprints[0]

    def prepare(self, dataset: str) -> DatasetReady:
        """See `Crew.prepare`."""
        return prepare_dataset(self._launcher, dataset, self._root, timeout_seconds=self._timeout_seconds)

    def hold(self, devices: Collection[str]) -> AbstractContextManager[None]:
        """See `Crew.hold`."""
        return device_locks(devices, patience=self._patience)

    def carry_out(
        self, trials: Sequence[Trial], go_on: Callable[[], bool], progress: Progress
    ) -> Generator[Ran, None, None]:
        """See `Crew.carry_out`."""
        for number, trial in enumerate(trials, start=1):
            if not go_on():
                return
            progress.trial_started(number, trial)
            record = run_trial(
                self._launcher,
                trial,
                root=self._root,
                timeout_seconds=self._timeout_seconds,
                on_epoch=progress.epoch_done,
            )
            yield Ran(record=record, fingerprint=self.fingerprint())


_TREE: Final = frozenset({"git_commit", "git_dirty"})


def _refuse_mixing(header: Header, here: Fingerprint) -> None:
    differences = {
        field.name: f"{field.name} is {getattr(now, field.name)!r}, was {getattr(then, field.name)!r}"
        for then, now in ((header.machine, here.machine), (header.software, here.software))
        for field in dataclasses.fields(then)
        if getattr(then, field.name) != getattr(now, field.name) and field.name != "memory_bytes"
    }
    if differences or header.machine.id != here.machine.id:
        # Both are what an edit or a commit since then changes.
        where = "with another state of this tree" if differences.keys() <= _TREE and differences else "elsewhere"
        raise IncomparableError(
            f"run {header.run_id} was begun {where}: "
            f"{'; '.join(differences.values()) or 'another amount of memory'}. "
            "A table must not mix machines or software: start a new run and compare the two"
        )
