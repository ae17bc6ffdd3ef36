"""Merges shards into one run, or explains why they do not belong together.

The result depends only on what the shards contain: not on their order, on how often one is given, or on whether they
are merged all at once or one after the other.
"""

import bisect
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.coding import dumps
from bench.errors import BadInputError, IncomparableError
from bench.planning.shards import plan_id, without_option
from bench.records import (
    SCHEMA_VERSION,
    Configuration,
    Division,
    Fingerprint,
    Header,
    Measurement,
    Plan,
    Run,
    Shard,
    TrialRecord,
)
from bench.storage.ledger import footer_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A run to be merged, and its label for messages."""

    label: str
    run: Run

    @property
    def division(self) -> Division:
        """The division of the plan that the run is a part of."""
        division = self.run.header.division
        if division is None:
            raise BadInputError(
                f"{self.label} is not a shard but a complete plan: only runs made with `python -m bench run --shard "
                "I/N` can be merged; use `python -m bench compare` to compare two runs"
            )
        return division


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A shard as one source contains it; its `records` are keyed by index of the configuration and repeat."""

    source: Source
    shard: Shard
    configurations: tuple[Configuration, ...]
    records: Mapping[tuple[int, int], tuple[TrialRecord, Fingerprint]]


def merge_runs(sources: Sequence[Source]) -> Run:
    """Return the run that `sources`, shards or earlier merges, make together.

    Raises:
        IncomparableError: they have different plans, software or datasets.
        BadInputError: one is not a shard, or two contain different versions of the same shard or trial.
    """
    _require_one_plan(sources)
    _require_one_software(sources)
    _require_one_dataset(sources)
    parts = _joined_parts(sources)
    header = _header(sources, parts)
    places = {Fingerprint(machine=header.machine, software=header.software): 0}
    records = []
    for part in parts:
        for record, fingerprint in _in_order(part):
            number = places.setdefault(fingerprint, len(places))
            records.append(record if record.fingerprint == number else replace(record, fingerprint=number))
    return Run(
        header=header,
        records=tuple(records),
        footer=footer_of(
            records,
            planned=sources[0].division.configurations * header.plan.repeats,  # of the complete plan
            reason="merged",
            wall_seconds=math.fsum(record.wall_seconds for record in records),
        ),
        other_fingerprints=tuple(places)[1:],
    )


def _require_one_plan(sources: Sequence[Source]) -> None:
    first = sources[0]
    for other in sources:
        ours, theirs = first.division, other.division
        if ours.plan_id != theirs.plan_id:
            differences = "".join(
                f"; {each}" for each in _plan_differences(first.run.header.plan, other.run.header.plan)
            )
            raise IncomparableError(
                f"{other.label} is of plan {theirs.plan_id}, {first.label} of plan {ours.plan_id}{differences}: run "
                "all shards with the same options, including --devices and --threads"
            )
        if ours.shards != theirs.shards:
            raise IncomparableError(
                f"{other.label} is one of {theirs.shards} shards of the plan, {first.label} one of {ours.shards}: run "
                "all shards with the same number of shards"
            )


def _plan_differences(ours: Plan, theirs: Plan) -> Iterator[str]:
    """Yield each option for which two plans have no value in common, often a default that depends on the machine."""
    for name in ("repeats", "seed", "device", "threads", "dataset", "epochs"):
        mine, yours = (_values(plan, name) for plan in (ours, theirs))
        if mine.isdisjoint(yours):
            yield f"{name}: {', '.join(sorted(yours))} against {', '.join(sorted(mine))}"


def _values(plan: Plan, name: str) -> set[str]:
    holders = (plan,) if name in {"repeats", "seed"} else plan.configurations
    return {str(getattr(holder, name)) for holder in holders}


def _require_one_software(sources: Sequence[Source]) -> None:
    first = sources[0]
    for other in sources:
        for fingerprint in other.run.fingerprints:
            different = first.run.header.software.differences(fingerprint.software)
            if different:
                raise IncomparableError(
                    f"{other.label} was measured with different software from {first.label}: {'; '.join(different)}: "
                    "run all shards from one commit in equal environments, or compare them"
                )


def _require_one_dataset(sources: Sequence[Source]) -> None:
    found: dict[str, str] = {}
    for source in sources:
        for record in source.run.records:
            if isinstance(record.outcome, Measurement):
                found.setdefault(record.outcome.dataset_sha256, source.label)
    if len(found) > 1:
        listed = ", ".join(f"{sha256[:8]} in {label}" for sha256, label in found.items())
        raise IncomparableError(
            f"the datasets differ (SHA-256 {listed}): point --data-root at the same data everywhere"
        )


def _joined_parts(sources: Sequence[Source]) -> list[_Part]:
    """Return each shard once, by ascending number."""
    joined: dict[int, _Part] = {}
    for source in sources:
        for part in _parts(source):
            number = part.shard.number
            joined[number] = _joined(joined[number], part) if number in joined else part
    return [joined[number] for number in sorted(joined)]


def _parts(source: Source) -> Iterator[_Part]:
    """Yield the shards that `source` contains. A run's records share its plan's configurations, see `runfile.read`."""
    run, held = source.run, source.division.held
    configurations = run.header.plan.configurations
    places = {id(configuration): place for place, configuration in enumerate(configurations)}
    ends = list(itertools.accumulate(shard.configurations for shard in held))
    records: list[dict[tuple[int, int], tuple[TrialRecord, Fingerprint]]] = [{} for _ in held]
    for record in run.records:
        place = places[id(record.trial.configuration)]
        key = (place, record.trial.repeat)
        records[bisect.bisect_right(ends, place)][key] = (record, run.fingerprints[record.fingerprint])
    for shard, end, found in zip(held, ends, records, strict=True):
        begin = end - shard.configurations
        yield _Part(
            source=source,
            shard=shard,
            configurations=configurations[begin:end],
            records={(place - begin, repeat): each for (place, repeat), each in found.items()},
        )


def _joined(ours: _Part, theirs: _Part) -> _Part:
    """Return what two sources together contain of one shard, which may be further along in one than in the other."""
    where = f"{ours.source.label} and {theirs.source.label}"
    if ours.shard != theirs.shard:
        raise BadInputError(
            f"{where} overlap: both contain shard {ours.shard.number}, of runs {ours.shard.run_id} and "
            f"{theirs.shard.run_id}: give only one of them; `python -m bench compare` compares them"
        )
    if ours.configurations != theirs.configurations:
        raise BadInputError(
            f"{where} contain different configurations for shard {ours.shard.number}: one of the files was changed"
        )
    for key in ours.records.keys() & theirs.records.keys():
        (mine, here), (yours, there) = ours.records[key], theirs.records[key]
        if here != there or mine != replace(yours, fingerprint=mine.fingerprint):
            raise BadInputError(
                f"{where} contain different results for configuration {mine.trial.configuration.id}, repeat "
                f"{mine.trial.repeat}, of the same run {ours.shard.run_id}: one of the files was changed"
            )
    return replace(ours, records={**ours.records, **theirs.records})


def _in_order(part: _Part) -> Iterator[tuple[TrialRecord, Fingerprint]]:
    """Yield the records of `part` by starting time, and those that started at the same time in the plan's order."""
    for _, found in sorted(part.records.items(), key=lambda item: (item[1][0].started_at, item[0])):
        yield found


def _header(sources: Sequence[Source], parts: Sequence[_Part]) -> Header:
    """Return the header of the merged run: the first part's, except for what describes all parts together."""
    first = parts[0].source.run.header
    division = replace(parts[0].source.division, held=tuple(part.shard for part in parts))
    plan = replace(first.plan, configurations=tuple(c for part in parts for c in part.configurations))
    if len(set(plan.configurations)) < len(plan.configurations):
        raise BadInputError("two shards contain the same configuration: one of the files was changed")
    if not division.missing and plan_id(plan) != division.plan_id:
        raise BadInputError(
            f"all shards together are plan {plan_id(plan)}, but they claim to be parts of plan {division.plan_id}: one "
            "of the files was changed"
        )
    return replace(
        first,
        schema_version=SCHEMA_VERSION,
        run_id=_run_id(division.held),
        created_at=min(source.run.header.created_at for source in sources),
        command=without_option(first.command, "--shard"),
        plan=plan,
        division=division,
    )


def _run_id(shards: Iterable[Shard]) -> str:
    """Return 8 hexadecimal digits, the first of them a letter, derived from these runs' ids."""
    digest = hashlib.sha256(dumps(tuple(shards)).encode()).hexdigest()
    return f"{'abcd'[int(digest[0], 16) % 4]}{digest[1:8]}"
