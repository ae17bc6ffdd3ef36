"""Which node runs which trial, and what happens when one is lost.

Three rules keep the times honest:

- A trial on the CPU, or with a DataLoader, has its host to itself. Only trials on accelerators with resident data run
  side by side, one per accelerator (`Member.free_device`).
- Only one node per host is used at a time (`bench.execution.cluster`).
- All repeats of a configuration run on the same kind of machine.

A node takes the plan's trials in order: no trial overtakes one that this node could run as soon as it is free. Calls to
nodes run in threads of their own and put their results in a queue; one thread reads it and makes all decisions.
"""

import collections
import queue
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from bench.errors import NodesLostError
from bench.execution.executor import ExecutedTrial
from bench.execution.nodes import Cluster, Member, Node, NodeLostError, call_in_thread, needs_the_host
from bench.execution.progress import Progress
from bench.records import Configuration, Failure, FailureKind, Trial, TrialRecord

if TYPE_CHECKING:
    from threading import Thread

MAX_RETRIES: Final = 2
"""How often a trial is restarted after its node was lost, before it counts as failed."""

_END_SECONDS: Final = 5.0
"""How long a call to a node that was closed may take to return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    """A trial that runs on a device of a member since a certain time."""

    member: Member
    device: str
    trial: Trial
    at: str
    clock: float


class Dispatcher:
    """Runs trials on `members`. Lost nodes leave that list; those that `enlist` accepts join it."""

    def __init__(
        self,
        members: list[Member],
        cluster: Cluster,
        enlist: Callable[[Node], Member],
        measured: Mapping[Configuration, str],
    ) -> None:
        """`measured` is the machine id that each configuration has been measured on so far."""
        self._members = members
        self._cluster = cluster
        self._enlist = enlist
        self._homes = dict(measured)
        self._events: queue.SimpleQueue[Callable[[], ExecutedTrial | None]] = queue.SimpleQueue()
        self._waiting: list[Trial] = []
        self._losses: collections.Counter[Trial] = collections.Counter()
        self._calls: dict[_Started, Thread] = {}
        self._joining = 0
        self._begun = 0
        self._last_loss = ""

    def execute(
        self, trials: Sequence[Trial], may_start: Callable[[], bool], progress: Progress
    ) -> Generator[ExecutedTrial, None, None]:
        """See `Executor.execute`.

        Raises:
            NodesLostError: trials are left that no remaining node can run.
        """
        self._waiting = list(trials)
        self._progress = progress
        try:
            is_open = self._start_trials(may_start)
            while self._calls or (is_open and self._waiting and self._joining):
                executed = self._events.get()()
                if executed is not None:
                    yield executed
                is_open = is_open and self._start_trials(may_start)
        finally:
            self._end_trials()
        if self._waiting and is_open:
            raise NodesLostError(f"no node is left to run the remaining {len(self._waiting)} trials{self._last_loss}")

    def _end_trials(self) -> None:
        """End the trials that are still running, and wait for their calls: this process may be about to end."""
        for member in self._members:
            if member.running:
                member.node.close()
        for call in self._calls.values():
            call.join(_END_SECONDS)

    def _start_trials(self, may_start: Callable[[], bool]) -> bool:
        """Start every trial that can start now; return False once `may_start` does."""
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
                if not may_start():
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
        self._calls[started] = call_in_thread(call, partial(self._put_ended, started))

    def _put_ended(self, started: _Started, answer: TrialRecord | Exception) -> None:
        self._events.put(partial(self._ended, started, answer))

    def _ended(self, started: _Started, answer: TrialRecord | Exception) -> ExecutedTrial | None:
        member, trial = started.member, started.trial
        del member.running[started.device]
        del self._calls[started]
        if isinstance(answer, Exception):
            self._lose(member, answer)
            self._losses[trial] += 1
            if self._losses[trial] <= MAX_RETRIES:
                self._waiting.insert(0, trial)
                return None
            record = _failure(started, answer)
        else:
            record = answer
            self._homes[trial.configuration] = member.machine_id
        return ExecutedTrial(record=record, fingerprint=member.fingerprint)

    def _lose(self, member: Member, error: Exception) -> None:
        """Remove the member, once, and look for nodes that can replace it, which may be the same one again."""
        if member not in self._members:
            return
        self._members.remove(member)
        member.node.close()
        self._last_loss = f" ({member.node.name} was lost last: {error})"
        self._progress.note(f"{member.node.name} is lost: {error}")
        try:
            nodes = self._cluster.untaken()
        except NodeLostError as absence:
            self._progress.note(str(absence))
            return
        for node in nodes:
            self._joining += 1
            call_in_thread(partial(self._enlist, node), partial(self._put_joined, node))

    def _put_joined(self, node: Node, answer: Member | Exception) -> None:
        self._events.put(partial(self._joined, node, answer))

    def _joined(self, node: Node, answer: Member | Exception) -> None:
        self._joining -= 1
        hosts = {member.introduction.host for member in self._members}
        if isinstance(answer, Member) and answer.introduction.host not in hosts:
            self._members.append(answer)
            self._progress.note(f"{node.name} joins the run")
        else:
            node.close()
            if isinstance(answer, Exception):
                self._progress.note(f"{node.name} does not join the run: {answer}")


def _failure(started: _Started, error: Exception) -> TrialRecord:
    """Return the record of a trial that was given up; its message leaves out the error's text, which may name hosts."""
    what = f"the node that ran it was lost {MAX_RETRIES + 1} times in a row ({type(error).__name__})"
    return TrialRecord(
        trial=started.trial,
        outcome=Failure(kind=FailureKind.CRASH, message=what),
        warnings=(),
        started_at=started.at,
        wall_seconds=time.monotonic() - started.clock,
    )
