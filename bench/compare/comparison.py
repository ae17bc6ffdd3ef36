"""A comparison: its two sides, its rows and its mean. `compare_runs` and `compare_rounds` make one.

Two stored runs of one machine were measured at different times, and a machine drifts between them. All trials of a run
share that error and no repeat shows it, so it is added to every interval of time. For a change of code, `bench ab`
measures both sides alternately and is far sharper.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from bench.compare.estimates import Pair
from bench.compare.flagged import WithoutFlagged
from bench.compare.matching import Matching, nearest_difference
from bench.compare.rounds import RoundsFile
from bench.compare.trials import Subject, Table, Trials
from bench.errors import IncomparableError
from bench.records import Configuration
from bench.stats.drift import Drift, NoiseProfile
from bench.stats.inference import Estimate, Interval, interval, mean
from bench.stats.judgement import Judgement, Verdict
from bench.tables.machines import on_machine
from bench.units import format_count

UNCHANGED: Final = frozenset({Verdict.SAME, Verdict.INCONCLUSIVE})
"""Verdicts of rows that were not shown to differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One side that is a stored run: its label, what was measured, and its machine's profile, None without one."""

    label: str
    table: Table
    profile: NoiseProfile | None = None

    @property
    def machine_ids(self) -> frozenset[str]:
        """The machines that it was measured on."""
        return frozenset(self.table.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsSource:
    """One side that pytest-benchmark measured: its label and its file."""

    label: str
    file: RoundsFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One subject on both sides. `time` judges ln(candidate / baseline) of the trials' epoch times.

    `relative_log_ratio` is the same for epoch time over yardstick, None if a trial has no yardstick. `accuracy` judges
    the difference of test accuracies as a fraction, None if neither side has any. `without_flagged` is what `time`
    would be without flagged trials, None if no row has one.
    """

    baseline: Trials
    candidate: Trials
    time: Judgement
    relative_log_ratio: float | None
    accuracy: Judgement | None
    without_flagged: WithoutFlagged | None = None

    @property
    def is_changed(self) -> bool:
        """Whether time or accuracy is known to differ, or cannot be compared."""
        verdicts = {judgement.verdict for judgement in (self.time, self.accuracy) if judgement is not None}
        return not verdicts <= UNCHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Geometric mean of `count` ratios: its logarithm, and the interval of that."""

    log_ratio: float
    interval: Interval
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two sides compared. `differences` says in words how the software differs; `notes` are for the reader."""

    baseline: Source | RoundsSource
    candidate: Source | RoundsSource
    is_hardware: bool
    differences: tuple[str, ...]
    rows: tuple[Row, ...]
    baseline_only: tuple[Subject, ...]
    candidate_only: tuple[Subject, ...]
    mean: Mean | None
    notes: tuple[str, ...]


def with_machines(baseline: Source, candidate: Source, *, always: bool = False) -> tuple[Source, Source]:
    """Return both sides with the machine as part of every configuration, if a side has several machines or `always`."""
    if not always and max(len(baseline.machine_ids), len(candidate.machine_ids)) == 1:
        return baseline, candidate
    return _with_machine(baseline), _with_machine(candidate)


def drift_between(baseline: Source, candidate: Source) -> Drift:
    """Return the drift from one side to the other, as far as their machines' profiles know it."""
    several = max(len(baseline.machine_ids), len(candidate.machine_ids)) > 1
    return Drift(baseline.profile, candidate.profile, has_several_machines=several)


def _with_machine(source: Source) -> Source:
    trials = (
        replace(each, subject=on_machine(each.subject, each.machine_id))
        if isinstance(each.subject, Configuration)
        else each
        for each in source.table.trials
    )
    return replace(source, table=replace(source.table, trials=tuple(trials)))


def ignored_between_machines(baseline: Source, candidate: Source) -> tuple[str, ...]:
    """Return the members in which a pair may differ because the machines do.

    Two machines have different numbers of cores to use. Where a side has several machines, results of the same machine
    are paired first, and what remains is paired across machines.
    """
    if len(baseline.machine_ids | candidate.machine_ids) == 1:
        return ()
    return ("threads",) if len(baseline.machine_ids) == len(candidate.machine_ids) == 1 else ("machine_id",)


def is_across_machines(pair: Pair) -> bool:
    """Return whether the two sides of `pair` ran on different machines; a side without trials ran on none."""
    return pair[0].machine_id != pair[1].machine_id and all(each.n or each.failures for each in pair)


def require_overlap(matching: Matching, baseline_label: str, candidate_label: str) -> None:
    """Refuse two sides that have nothing in common, and say how close they come.

    Raises:
        IncomparableError: nothing matches.
    """
    if matching.pairs:
        return
    ours = [trials.subject for trials in matching.baseline_only]
    theirs = [trials.subject for trials in matching.candidate_only]
    nearest = nearest_difference(ours, theirs)
    raise IncomparableError(
        f"{baseline_label} has {format_count(len(ours), 'configuration')} and {candidate_label} has "
        f"{format_count(len(theirs), 'configuration')}, none of them in both: "
        + (f"the nearest two differ, baseline / candidate, in {nearest}; " if nearest else "")
        + "measure both with the same options"
    )


def geometric_mean(rows: Iterable[Row]) -> Mean | None:
    """Return the geometric mean of the rows' ratios, for just these subjects; None if no row has one.

    The trials' errors are independent from row to row: their variances add, with degrees of freedom after Satterthwaite
    (1946). Drift moves all rows of a run together: its standard deviations are averaged, not divided by the count, and
    have the degrees of freedom of the row with the fewest.
    """
    estimates = [row.time.estimate for row in rows if row.time.estimate is not None]
    if not estimates:
        return None
    count = len(estimates)
    variances = [each.variance * each.scale for each in estimates]
    total = math.fsum(variances)
    uncertainty = math.fsum(
        variance**2 / each.degrees_of_freedom if each.degrees_of_freedom else math.inf
        for each, variance in zip(estimates, variances, strict=True)
    )
    estimate = Estimate(
        value=mean([each.value for each in estimates]),
        variance=total,
        degrees_of_freedom=total**2 / uncertainty if uncertainty else math.inf,
        scale=1 / count**2,
        extra_variance=(math.fsum(math.sqrt(each.extra_variance) for each in estimates) / count) ** 2,
        extra_degrees_of_freedom=min(each.extra_degrees_of_freedom for each in estimates),
        n=(sum(each.n[0] for each in estimates), sum(each.n[1] for each in estimates)),
    )
    return Mean(log_ratio=estimate.value, interval=interval(estimate), count=count)
