"""Which node runs which trial, and what happens when one is lost.

Three rules keep the times honest:

- A trial on the CPU, or with a DataLoader, has its host for itself. Beside each other run only trials on accelerators
  with resident data, one on each (`Member.free_device`).
- A host is used by one node at a time (`bench.execution.cluster`).
- All repeats of a configuration run on machines of one kind.

A node takes the plan's trials in their order: none overtakes one that this node could run as soon as it is free. All
decisions are made in one thread, from a queue of what has come of the calls to nodes.
"""

import collections
import queue
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from bench.errors import NodesLostError
from bench.execution.crew import Ran
from bench.execution.nodes import Cluster, Member, Node, NodeLostError, call_apart, needs_the_host
from bench.execution.progress import Progress
from bench.records import Configuration, Failure, FailureKind, Trial, TrialRecord

if TYPE_CHECKING:
    from threading import Thread

MAX_RETRIES: Final = 2
"""How often a trial is begun again after its node was lost, before it counts as failed."""

_END_SECONDS: Final = 5.0
"""For a call to come back from a node that was let go of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    """A trial on a member: since when, and on which device."""

    member: Member
    device: str
    trial: Trial
    at: str
    clock: float


class Dispatcher:
    """Carries out trials on `members`; nodes that are lost leave the list, and those that `enlist` admits join it."""

    def __init__(
        self,
        members: list[Member],
        cluster: Cluster,
        enlist: Callable[[Node], Member],
        measured: Mapping[Configuration, str],
    ) -> None:
        """`measured` has the id of the machines that configurations were measured on so far."""
        self._members = members
        self._cluster = cluster
        self._enlist = enlist
        self._homes = dict(measured)
        self._events: queue.SimpleQueue[Callable[[], Iterator[Ran]]] = queue.SimpleQueue()
        self._waiting: list[Trial] = []
        self._losses: collections.Counter[Trial] = collections.Counter()
        self._calls: dict[_Started, Thread] = {}
        self._joining = 0
        self._begun = 0
        self._last_words = ""

    def carry_out(
        self, trials: Sequence[Trial], go_on: Callable[[], bool], progress: Progress
    ) -> Generator[Ran, None, None]:
        """See `Crew.carry_out`.

        Raises:
            NodesLostError: trials are left that no node there is can run.
        """
        self._waiting = list(trials)
        self._progress = progress
        try:
            may_start = self._start_trials(go_on)
            while self._calls or (may_start and self._waiting and self._joining):
                yield from self._events.get()()
                may_start = may_start and self._start_trials(go_on)
        finally:
            self._end_trials()
        if self._waiting and may_start:
            raise NodesLostError(f"{len(self._waiting)} trials are left that no node can run{self._last_words}")

    def _end_trials(self) -> None:
        """End what is still running, and wait for the calls to its nodes: this process may be about to end."""
        for member in self._members:
            if member.running:
                member.node.close()
        for call in self._calls.values():
            call.join(_END_SECONDS)

    def _start_trials(self, go_on: Callable[[], bool]) -> bool:
        """Start whatever can be started; return whether `go_on` allowed it."""
        running = {t.configuration: m.machine_id for m in self._members for t in m.running.values()}
        homes = collections.ChainMap(running, self._homes)
        for member in self._members:
            if any(map(needs_the_host, member.running.values())):
                continue
            while (place := self._first_for(member, homes)) is not None:
                trial = self._waiting[place]
                device = member.free_device(trial)
                if device is None:
                    break
                if not go_on():
                    return False
                del self._waiting[place]
                running[trial.configuration] = member.machine_id
                self._start(member, device, trial)
        return True

    def _first_for(self, member: Member, homes: "collections.ChainMap[Configuration, str]") -> int | None:
        here = member.machine_id
        return next(
            (
                place
                for place, trial in enumerate(self._waiting)
                if member.can_run(trial) and homes.get(trial.configuration, here) == here
            ),
            None,
        )

    def _start(self, member: Member, device: str, trial: Trial) -> None:
        started = _Started(
            member=member,
            device=device,
            trial=trial,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            clock=time.monotonic(),
        )
        member.running[device] = trial
        self._begun += not self._losses[trial]
        self._progress.trial_started(self._begun, trial)
        call = partial(member.node.run, trial, device)
        self._calls[started] = call_apart(call, partial(self._put_ended, started))

    def _put_ended(self, started: _Started, answer: TrialRecord | Exception) -> None:
        self._events.put(partial(self._ended, started, answer))

    def _ended(self, started: _Started, answer: TrialRecord | Exception) -> Iterator[Ran]:
        member, trial = started.member, started.trial
        del member.running[started.device]
        del self._calls[started]
        if isinstance(answer, Exception):
            self._lose(member, answer)
            self._losses[trial] += 1
            if self._losses[trial] <= MAX_RETRIES:
                self._waiting.insert(0, trial)
                return
            record = _failure(started, answer)
        else:
            record = answer
            self._homes[trial.configuration] = member.machine_id
        yield Ran(record=record, fingerprint=member.fingerprint)

    def _lose(self, member: Member, error: Exception) -> None:
        """Strike the member off, once, and look for nodes that can take its place, itself included."""
        if member not in self._members:
            return
        self._members.remove(member)
        member.node.close()
        self._last_words = f": the last loss was of {member.node.name}, {error}"
        self._progress.note(f"{member.node.name} is lost: {error}")
        try:
            nodes = self._cluster.untaken()
        except NodeLostError as absence:
            self._progress.note(str(absence))
            return
        for node in nodes:
            self._joining += 1
            call_apart(partial(self._enlist, node), partial(self._put_joined, node))

    def _put_joined(self, node: Node, answer: Member | Exception) -> None:
        self._events.put(partial(self._joined, node, answer))

    def _joined(self, node: Node, answer: Member | Exception) -> Iterator[Ran]:
        self._joining -= 1
        if isinstance(answer, Member) and answer.introduction.host not in self._hosts():
            self._members.append(answer)
            self._progress.note(f"{node.name} takes part")
        else:
            node.close()
            if isinstance(answer, Exception):
                self._progress.note(f"{node.name} does not take part: {answer}")
        yield from ()

    def _hosts(self) -> set[str]:
        return {member.introduction.host for member in self._members}


def _failure(started: _Started, error: Exception) -> TrialRecord:
    """Return the record of a trial whose nodes were lost, again and again; why, without what may name hosts."""
    what = f"the node was lost that ran it, {MAX_RETRIES + 1} times in a row ({type(error).__name__})"
    return TrialRecord(
        trial=started.trial,
        outcome=Failure(kind=FailureKind.CRASH, message=what),
        warnings=(),
        started_at=started.at,
        wall_seconds=time.monotonic() - started.clock,
    )
