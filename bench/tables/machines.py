"""Runs whose trials were measured on several machines: which machines, and one run for each."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from bench.records import Configuration, Failure, Footer, Header, Run, TrialRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Placed(Configuration):
    """A configuration on one machine, where several are told apart: no two machines share a cell of a table."""

    machine_id: str

    @property
    def id(self) -> str:
        """The configuration's own, which is that of every machine."""
        members = {member.name: getattr(self, member.name) for member in dataclasses.fields(Configuration)}
        return Configuration(**members).id


def on_machine(configuration: Configuration, machine_id: str) -> Placed:
    """Return `configuration` as that of one machine."""
    members = {member.name: getattr(configuration, member.name) for member in dataclasses.fields(Configuration)}
    return Placed(**members, machine_id=machine_id)


def machine_headers(run: Run) -> Mapping[str, Header]:
    """Return the run's header as of each machine that its trials ran on, by the machine's id; without trials its own.

    Machines of one id are alike in all that `Machine.id` tells: of their fingerprints the first one stands for all.
    """
    used = {record.fingerprint for record in run.records} or {0}
    headers: dict[str, Header] = {}
    for number in sorted(used):
        fingerprint = run.fingerprints[number]
        headers.setdefault(
            fingerprint.machine.id,
            dataclasses.replace(run.header, machine=fingerprint.machine, software=fingerprint.software),
        )
    return headers


def by_machine(run: Run) -> Mapping[str, Run]:
    """Return what `run` holds of each machine as a run of its own, by the machine's id."""
    headers = machine_headers(run)
    if len(headers) == 1:
        return {machine_id: dataclasses.replace(run, header=header) for machine_id, header in headers.items()}
    ids = [fingerprint.machine.id for fingerprint in run.fingerprints]
    runs = {}
    for machine_id, header in headers.items():
        records = tuple(record for record in run.records if ids[record.fingerprint] == machine_id)
        measured = {id(record.trial.configuration) for record in records}
        chosen = tuple(each for each in run.header.plan.configurations if id(each) in measured)
        plan = dataclasses.replace(header.plan, configurations=chosen)
        runs[machine_id] = dataclasses.replace(
            run,
            header=dataclasses.replace(header, plan=plan),
            records=records,
            footer=None if run.footer is None else _part_of(run.footer, len(run.records), records),
        )
    return runs


def _part_of(footer: Footer, stored: int, records: Sequence[TrialRecord]) -> Footer:
    """Return the footer as of some `records` of a file with so many `stored`; as it is where some of them are gone."""
    if stored < footer.measured + footer.failed:
        return footer
    failed = sum(isinstance(record.outcome, Failure) for record in records)
    return dataclasses.replace(footer, measured=len(records) - failed, failed=failed)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a stored run holds of one machine. `whole` is that run where other machines have a part in it, else None."""

    label: str | None
    run: Run
    whole: Run | None


def parts_by_machine(labels: Iterable[str | None], runs: Iterable[Run]) -> list[Part]:
    """Return `runs` with their labels, one of several machines as one run for each, with the machine in its label."""
    found: list[Part] = []
    for label, run in zip(labels, runs, strict=True):
        parts = by_machine(run)
        if len(parts) == 1:
            found += (Part(label=label, run=part, whole=None) for part in parts.values())
        else:
            found += (
                Part(label=f"{label} {machine_id}" if label else machine_id, run=part, whole=run)
                for machine_id, part in parts.items()
            )
    return found
