"""A cluster as an executor: which of its nodes take part in a run, their hardware, and what must be equal on all."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from bench.errors import BadInputError, BenchError, IncomparableError
from bench.execution.dispatch import Dispatcher
from bench.execution.executor import ExecutedTrial
from bench.execution.nodes import Cluster, Member, Node, NodeLostError, ask_all
from bench.execution.progress import Progress
from bench.planning.plan import Request, check_rank_devices, choose_devices, make_plan
from bench.protocol.messages import DatasetReady
from bench.records import Configuration, DeviceStatus, Fingerprint, Plan, Run, Trial, kind_of
from bench.system.locks import Patience

R = TypeVar("R")

SUCCESSION_SECONDS: Final = 60.0
"""The least time for which a node that replaces a lost one waits for devices: the old processes may still be ending."""


class ClusterExecutor:
    """Executes trials on a cluster's nodes. Of several nodes on one host, one takes part and the others stand by."""

    def __init__(self, cluster: Cluster, patience: Patience) -> None:
        """Ask nothing of the nodes yet. `patience` is how long each node waits for its devices."""
        self._cluster = cluster
        self._patience = patience
        self._members: list[Member] = []
        self._measured: dict[Configuration, str] = {}
        self._devices: frozenset[str] = frozenset()
        self._ready: DatasetReady | None = None
        self._dataset = ""

    @property
    def concurrency(self) -> int:
        """See `Executor.concurrency`."""
        kinds = {kind_of(device) for device in self._devices}
        return max(1, sum(max((len(m.devices(kind)) for kind in kinds), default=0) for m in self._members))

    def fingerprint(self) -> Fingerprint:
        """See `Executor.fingerprint`."""
        return self._members[0].fingerprint

    def plan(self, request: Request) -> Plan:
        """See `Executor.plan`. Without ``--threads`` a trial uses the default of the node with the lowest."""
        self._assemble()
        cores = [member.fingerprint.machine.whole_cores for member in self._members]
        devices = choose_devices(_kinds(request.devices), self._statuses())
        plan = make_plan(
            request,
            devices=devices,
            cores=max(cores) if request.threads else min(cores),
            default_threads=min(member.introduction.description.default_threads for member in self._members),
        )
        return check_rank_devices(plan, self._most_devices(), skip=request.skip_unsupported)

    def resume(self, run: Run) -> None:
        """See `Executor.resume`. A configuration's remaining repeats run on machines like that of its first."""
        self._assemble(run)
        choose_devices([configuration.device for configuration in run.header.plan.configurations], self._statuses())
        check_rank_devices(run.header.plan, self._most_devices())
        machine_ids = [fingerprint.machine.id for fingerprint in run.fingerprints]
        self._measured = {record.trial.configuration: machine_ids[record.fingerprint] for record in run.records}
        here = {member.machine_id for member in self._members}
        stored = Counter(record.trial.configuration for record in run.records)
        for configuration in (each for each, count in stored.items() if count < run.header.plan.repeats):
            started_on = self._measured[configuration]
            if started_on not in here:
                raise IncomparableError(
                    f"configuration {configuration.id} was started on {started_on}, and no node of the cluster is "
                    "such a machine: its repeats must not mix machines. Add such a node, or start a new run"
                )

    def prepare(self, dataset: str) -> DatasetReady:
        """See `Executor.prepare`."""
        self._dataset = dataset
        answers = self._ask_members(lambda member: member.node.prepare(dataset))
        if len({ready.sha256 for ready in answers}) > 1:
            found = ", ".join(
                f"{member.node.name} {ready.sha256}" for member, ready in zip(self._members, answers, strict=True)
            )
            raise IncomparableError(
                f"the nodes have different data for {dataset!r} (SHA-256: {found}): replace the data on the nodes that "
                "differ"
            )
        self._ready = answers[0]
        return self._ready

    @contextlib.contextmanager
    def hold(self, devices: Collection[str]) -> Iterator[None]:
        """See `Executor.hold`. Nodes keep their devices until they are closed."""
        self._devices = frozenset(devices)
        if devices:
            self._ask_members(lambda member: self._hold(member, self._patience.seconds))
        yield

    def execute(
        self, trials: Sequence[Trial], may_start: Callable[[], bool], progress: Progress
    ) -> Generator[ExecutedTrial, None, None]:
        """See `Executor.execute`."""
        dispatcher = Dispatcher(self._members, self._cluster, self._enlist, self._measured)
        yield from dispatcher.execute(trials, may_start, progress)

    def _assemble(self, resumed: Run | None = None) -> None:
        """Connect the available nodes; require the same software on all: that of a `resumed` run, or the first's."""
        try:
            nodes = self._cluster.untaken()
        except NodeLostError as error:
            raise BadInputError(str(error)) from error
        reasons = ["it has no node with CPUs"]
        for node, answer in zip(nodes, ask_all(nodes, lambda node: node.introduce()), strict=True):
            if isinstance(answer, Exception):
                reasons.append(self._leave_out(node, answer))
                continue
            same_host = [member for member in self._members if member.introduction.host == answer.host]
            if same_host:
                node.close()
                self._patience.notify(f"{node.name} is on the same host as {same_host[0].node.name}: on standby")
                continue
            for remark in answer.remarks:
                self._patience.notify(f"{node.name}: {remark}")
            self._members.append(Member(node=node, introduction=answer))
        if not self._members:
            raise BadInputError(f"the cluster cannot run trials: {'; '.join(reasons[1:] or reasons)}")
        first = self._members[0]
        self._software = first.fingerprint.software if resumed is None else resumed.header.software
        for member in self._members:
            self._require_software(member, first.node.name if resumed is None else f"run {resumed.header.run_id}")

    def _require_software(self, member: Member, what: str) -> None:
        different = self._software.differences(member.fingerprint.software)
        if different:
            raise IncomparableError(
                f"{member.node.name} has different software from {what}: {'; '.join(different)}. One table must not "
                "mix software: give all nodes the same environment"
            )

    def _leave_out(self, node: Node, error: Exception) -> str:
        if not isinstance(error, NodeLostError | BenchError):
            raise error
        node.close()
        reason = f"{node.name} is left out: {error}"
        self._patience.notify(reason)
        return reason

    def _ask_members(self, ask: Callable[[Member], R]) -> list[R]:
        """Return every member's answer; drop the members that fail.

        Raises:
            BenchError: all failed; this is the first one's error.
        """
        members = list(self._members)
        answers: list[R] = []
        errors: list[Exception] = []
        for member, answer in zip(members, ask_all(members, ask), strict=True):
            if isinstance(answer, Exception):
                errors.append(answer)
                self._leave_out(member.node, answer)
                self._members.remove(member)
            else:
                answers.append(answer)
        if not self._members:
            raise errors[0] if isinstance(errors[0], BenchError) else BadInputError(f"no node is left: {errors[0]}")
        return answers

    def _hold(self, member: Member, patience_seconds: float) -> None:
        kinds = sorted({kind_of(device) for device in self._devices})
        member.node.hold([device for kind in kinds for device in member.devices(kind)], patience_seconds)

    def _enlist(self, node: Node) -> Member:
        """Get a node ready to replace a lost one, possibly on the same host. Not called in the main thread."""
        member = Member(node=node, introduction=node.introduce())
        self._require_software(member, "the other nodes")
        self._hold(member, max(self._patience.seconds, SUCCESSION_SECONDS))
        if self._ready is None or node.prepare(self._dataset).sha256 != self._ready.sha256:
            raise IncomparableError(f"its data for {self._dataset!r} differs from the other nodes'")
        return member

    def _most_devices(self) -> list[DeviceStatus]:
        """Return, for each kind of device, the devices of the node that has the most of that kind."""
        by_kind: dict[str, list[DeviceStatus]] = {}
        for member in self._members:
            for kind in {kind_of(status.device) for status in member.introduction.description.devices}:
                devices = member.devices(kind)
                found = [s for s in member.introduction.description.devices if s.device in devices]
                by_kind[kind] = max(by_kind.get(kind, []), found, key=len)
        return [status for statuses in by_kind.values() for status in statuses]

    def _statuses(self) -> list[DeviceStatus]:
        """Return one status per kind of device: available if any node has one, otherwise with the reason."""
        by_kind: dict[str, list[DeviceStatus]] = {}
        for member in self._members:
            for status in member.introduction.description.devices:
                by_kind.setdefault(kind_of(status.device), []).append(status)
        return [_first_of_kind(statuses) for statuses in by_kind.values()]


def _first_of_kind(statuses: Sequence[DeviceStatus]) -> DeviceStatus:
    """Return the status of a kind of device under the name of its first, which stands for any of them in a trial."""
    status = next((status for status in statuses if status.available), statuses[0])
    kind, colon, _ = status.device.partition(":")
    reason = "" if status.available else f"no node of the cluster has one ({status.reason})"
    return replace(status, device=f"{kind}:0" if colon else kind, reason=reason)


def _kinds(requested: Sequence[str]) -> tuple[str, ...]:
    for device in requested:
        if ":" in device:
            raise BadInputError(
                f"--devices {device}: on a cluster, a trial runs on whichever device of a kind is free: write "
                f"{kind_of(device)}"
            )
    return tuple(requested)
