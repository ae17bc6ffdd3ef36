"""Runs whose trials were measured on several machines: which machines those are, and one run for each."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from bench.records import Configuration, Failure, Footer, Header, Run, TrialRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Placed(Configuration):
    """A configuration on one machine, so that the results of two machines never share a cell of a table."""

    machine_id: str

    @property
    def id(self) -> str:
        """The id of the configuration itself, the same on every machine."""
        members = {member.name: getattr(self, member.name) for member in dataclasses.fields(Configuration)}
        return Configuration(**members).id


def on_machine(configuration: Configuration, machine_id: str) -> Placed:
    """Return `configuration` on one machine."""
    members = {member.name: getattr(configuration, member.name) for member in dataclasses.fields(Configuration)}
    return Placed(**members, machine_id=machine_id)


def machine_headers(run: Run) -> Mapping[str, Header]:
    """Return the run's header as of each machine that its trials ran on, by machine id; without trials, its own header.

    Machines with the same id are alike in everything that `Machine.id` covers: the first fingerprint stands for all.
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
    """Return the part of `run` that each machine measured, as a run of its own, by machine id."""
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
    """Return the footer with the counts of `records`, a part of the `stored` ones; as it is if some are lost."""
    if stored < footer.measured + footer.failed:
        return footer
    failed = sum(isinstance(record.outcome, Failure) for record in records)
    return dataclasses.replace(footer, measured=len(records) - failed, failed=failed)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one machine measured of a run. `whole` is that run if other machines measured parts of it, else None."""

    label: str | None
    run: Run
    whole: Run | None


def parts_by_machine(labels: Iterable[str | None], runs: Iterable[Run]) -> list[Part]:
    """Return the parts of `runs`: one per run, or one per machine with the machine in its label."""
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
