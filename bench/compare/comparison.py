"""The comparison of two stored runs: how much slower or faster, how much more or less accurate, and how surely.

Two tables of one machine were measured at different times, and a machine drifts between them. That error is common to
all trials of a table, no repeat shows it, and it is added to every interval of time here. For a change of code
`bench ab` measures both sides alternately and is far sharper.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.compare.flagged import WithoutFlagged, judge_without_flagged
from bench.compare.matching import (
    Between,
    Matching,
    Subject,
    Table,
    Trials,
    match,
    nearest_difference,
    only,
    software_differences,
    told_apart,
)
from bench.compare.rounds import RoundsFile
from bench.errors import IncomparableError
from bench.planning.shards import completion, is_merged
from bench.records import Configuration
from bench.stats.drift import Drift, NoDrift, NoiseProfile
from bench.stats.inference import Estimate, Interval, independent_estimate, interval, moderate
from bench.stats.judgement import Judgement, Verdict, compare_accuracies, compare_times, undecided
from bench.units import format_count

UNCHANGED: Final = frozenset({Verdict.SAME, Verdict.INCONCLUSIVE})
"""Verdicts of what nobody has shown to differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One side: its label for people, what was measured, and the profile of its machine, None without one."""

    label: str
    table: Table
    profile: NoiseProfile | None = None

    @property
    def machine_ids(self) -> frozenset[str]:
        """The machines it was measured on."""
        return frozenset(self.table.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsSource:
    """One side that pytest-benchmark measured: its label for people, and its file."""

    label: str
    file: RoundsFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One subject on both sides. `time` judges ln(candidate / baseline) of the trials' epoch times.

    `relative_log_ratio` is the same of epoch time over yardstick, None where a trial has no yardstick. `accuracy`
    judges the difference of test accuracies as a fraction, None where there is none to judge. `without_flagged` is what
    `time` would be without flagged trials, None where no row has one.
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
    """Two tables compared. `differences` tells, in words, what of the software differs; `notes`, what to know."""

    baseline: Source | RoundsSource
    candidate: Source | RoundsSource
    is_hardware: bool
    differences: tuple[str, ...]
    rows: tuple[Row, ...]
    baseline_only: tuple[Subject, ...]
    candidate_only: tuple[Subject, ...]
    mean: Mean | None
    notes: tuple[str, ...]


def compare_runs(baseline: Source, candidate: Source, between: Between | None = None) -> Comparison:
    """Compare two stored runs, configuration by configuration; the order of their records does not matter.

    With `between`, only what has its first value on the one side and its second on the other, pairing what is otherwise
    alike: so two devices are compared, or two engines, and both sides may be one run.

    Raises:
        IncomparableError: they have no configuration in common.
        BadInputError: a side has nothing with its value of `between`.
    """
    by_machine = between is not None and between.dimension == "machine_id"
    is_one_run = _is_one_run(baseline, candidate) and not by_machine
    baseline, candidate = place_both(baseline, candidate, always=by_machine)
    if between is not None:
        baseline = _restricted(baseline, between.dimension, between.baseline)
        candidate = _restricted(candidate, between.dimension, between.candidate)
    ignoring = ignored_by_machines(baseline, candidate) if between is None else between.ignored
    matching = match(baseline.table.trials, candidate.table.trials, ignoring=ignoring)
    require_overlap(matching, baseline.label, candidate.label)
    in_turn = is_one_run and between is not None and not is_merged(baseline.table.header)
    drift = Drift(NoDrift(), NoDrift()) if in_turn else Drift(baseline.profile, candidate.profile)
    rows = compare_pairs(matching.pairs, drift, is_one_run=is_one_run)
    if between is not None:  # the yardstick ran with the same threads on the same device: it differs as they do
        rows = tuple(replace(row, relative_log_ratio=None) for row in rows)
    ours, theirs = baseline.table.header.software, candidate.table.header.software
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        is_hardware=(between is not None and between.dimension == "device") or any(map(is_across, matching.pairs)),
        differences=software_differences(ours, theirs),
        rows=rows,
        baseline_only=tuple(trials.subject for trials in matching.baseline_only),
        candidate_only=tuple(trials.subject for trials in matching.candidate_only),
        mean=geometric_mean(rows),
        notes=(*_run_notes(baseline, candidate, rows, is_one_run=is_one_run, between=between), *drift.notes()),
    )


def place_both(baseline: Source, candidate: Source, *, always: bool = False) -> tuple[Source, Source]:
    """Return both sides with machines told apart where a side has several, or `always`."""
    ours, theirs = told_apart(baseline.table, candidate.table, always=always)
    return replace(baseline, table=ours), replace(candidate, table=theirs)


def ignored_by_machines(baseline: Source, candidate: Source) -> tuple[str, ...]:
    """Return the members in which a pair may differ because machines do.

    Another machine has other cores to use. Of several machines, what one measured is first held against what the same
    one did, and then against another's.
    """
    if len(baseline.machine_ids | candidate.machine_ids) == 1:
        return ()
    return ("threads",) if len(baseline.machine_ids) == len(candidate.machine_ids) == 1 else ("machine_id",)


def is_across(pair: tuple[Trials, Trials]) -> bool:
    """Return whether the two sides of `pair` ran on different machines; what never ran was on none."""
    return pair[0].machine_id != pair[1].machine_id and all(each.n or each.failures for each in pair)


def _is_one_run(baseline: Source, candidate: Source) -> bool:
    return (
        baseline.table.header.run_id == candidate.table.header.run_id and baseline.machine_ids == candidate.machine_ids
    )


def _restricted(source: Source, name: str, value: str) -> Source:
    trials = only(source.table.trials, name, value, source.label)
    machines = {each.machine_id for each in trials}
    headers = {machine_id: header for machine_id, header in source.table.headers.items() if machine_id in machines}
    label = f"{source.label}, {name.replace('_', ' ')} {value}"
    return replace(source, label=label, table=replace(source.table, trials=trials, headers=headers))


def require_overlap(matching: Matching, baseline_label: str, candidate_label: str) -> None:
    """Refuse two tables that share nothing, and say how near they are.

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
        + (f"the nearest two differ in {nearest}; " if nearest else "")
        + "measure both with the same options"
    )


def compare_pairs(pairs: Sequence[tuple[Trials, Trials]], drift: Drift, *, is_one_run: bool = False) -> tuple[Row, ...]:
    """Judge every pair. With `is_one_run`, a configuration with the very same values is the same, drift or not."""
    raw = [_time_or_reason(*pair, drift, is_one_run=is_one_run) for pair in pairs]
    devices = [f"{ours.machine_id} {device_of(ours)}" for ours, _ in pairs]  # a device is one of one machine

    def judge(prepared: Sequence[Estimate | Judgement]) -> tuple[Judgement, ...]:
        return judge_prepared(moderated(prepared, devices), compare_times)

    times = judge(raw)
    calm = judge_without_flagged(pairs, raw, lambda ours, theirs: time_estimate(ours, theirs, drift), judge)
    accuracies = judge_prepared(
        [_accuracy_or_reason(*pair, is_one_run=is_one_run) for pair in pairs], compare_accuracies
    )
    return tuple(
        Row(
            baseline=ours,
            candidate=theirs,
            time=time,
            relative_log_ratio=_relative(ours, theirs),
            accuracy=accuracy if _has_accuracy(ours, theirs) else None,
            without_flagged=without,
        )
        for (ours, theirs), time, accuracy, without in zip(pairs, times, accuracies, calm, strict=True)
    )


def judge_prepared(
    prepared: Sequence[Estimate | Judgement], judge: Callable[[Sequence[Estimate]], Sequence[Judgement]]
) -> tuple[Judgement, ...]:
    """Return a judgement for each of `prepared`: those that are one already, and what `judge` makes of the estimates.

    The estimates are judged as one family.
    """
    judged = iter(judge([each for each in prepared if isinstance(each, Estimate)]))
    return tuple(next(judged) if isinstance(each, Estimate) else each for each in prepared)


def moderated(prepared: Sequence[Estimate | Judgement], devices: Sequence[str]) -> list[Estimate | Judgement]:
    """Return `prepared` with the variances of each device's estimates moderated; `devices` names that of each."""
    result = list(prepared)
    places: dict[str, list[int]] = {}
    for place, (each, device) in enumerate(zip(prepared, devices, strict=True)):
        if isinstance(each, Estimate):
            places.setdefault(device, []).append(place)
    for of_device in places.values():
        estimates = [each for each in (prepared[place] for place in of_device) if isinstance(each, Estimate)]
        for place, estimate in zip(of_device, moderate(estimates), strict=True):
            result[place] = estimate
    return result


def device_of(trials: Trials) -> str:
    """Return the device that `trials` ran on; empty for a benchmark, which does not say."""
    return trials.subject.device if isinstance(trials.subject, Configuration) else ""


def time_estimate(baseline: Trials, candidate: Trials, drift: Drift) -> Estimate:
    """Return the estimate of ln(candidate / baseline) of epoch times, with the drift in its extra variance."""
    estimate = independent_estimate(baseline.log_seconds, candidate.log_seconds)
    return replace(estimate, extra_variance=drift.variance(device_of(baseline), device_of(candidate)))


def missing_reason(baseline: Trials, candidate: Trials) -> Judgement | None:
    """Return the judgement of a pair that a side has no measured trial of; None where both have one."""
    missing = [(side, trials) for side, trials in (("baseline", baseline), ("candidate", candidate)) if not trials.n]
    for side, trials in missing:
        if trials.failures:
            return undecided(Verdict.FAILED, f"every trial of the {side} failed: {trials.failures[0].kind}")
    for side, _ in missing:
        return undecided(Verdict.INCOMPARABLE, f"no trial of the {side} is measured yet: resume its run")
    return None


def dataset_reason(baseline: Trials, candidate: Trials) -> str | None:
    """Return why accuracies of a pair cannot be compared, None where the data is one and the same."""
    found = baseline.datasets | candidate.datasets
    if len(found) > 1:
        return f"the datasets differ (SHA-256 {', '.join(sorted(each[:8] for each in found))})"
    sizes = baseline.test_samples | candidate.test_samples
    if len(sizes) > 1:
        return f"they were tested on different numbers of images ({', '.join(map(str, sorted(sizes)))}): a wrong split?"
    return None


def epoch_reason(baseline: Trials, candidate: Trials) -> str | None:
    """Return why epoch times of a pair cannot be compared, None where an epoch is as many samples everywhere."""
    if len(baseline.train_samples | candidate.train_samples) > 1:
        return "their epochs have different numbers of training samples"
    return None


def geometric_mean(rows: Iterable[Row]) -> Mean | None:
    """Return the geometric mean of the rows' ratios, for just these subjects; None where no row has one.

    The trials' errors are independent from row to row: their variances add, with degrees of freedom after Satterthwaite
    (1946). Drift moves all rows of a table together: its standard deviations are averaged, not divided by the count.
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
    mean = Estimate(
        value=math.fsum(each.value for each in estimates) / count,
        variance=total,
        degrees_of_freedom=total**2 / uncertainty if uncertainty else math.inf,
        scale=1 / count**2,
        extra_variance=(math.fsum(math.sqrt(each.extra_variance) for each in estimates) / count) ** 2,
        n=(sum(each.n[0] for each in estimates), sum(each.n[1] for each in estimates)),
    )
    return Mean(log_ratio=mean.value, interval=interval(mean), count=count)


def _time_or_reason(baseline: Trials, candidate: Trials, drift: Drift, *, is_one_run: bool) -> Estimate | Judgement:
    missing = missing_reason(baseline, candidate)
    if missing is not None:
        return missing
    reason = epoch_reason(baseline, candidate)
    if reason is not None:
        return undecided(Verdict.INCOMPARABLE, reason)
    if is_one_run and baseline.subject == candidate.subject and baseline.log_seconds == candidate.log_seconds:
        return very_same(baseline)
    return time_estimate(baseline, candidate, drift)


def _accuracy_or_reason(baseline: Trials, candidate: Trials, *, is_one_run: bool) -> Estimate | Judgement:
    missing = missing_reason(baseline, candidate)
    if missing is not None:
        return missing
    reason = dataset_reason(baseline, candidate)
    if reason is not None:
        return undecided(Verdict.INCOMPARABLE, reason)
    if not baseline.accuracies or not candidate.accuracies:
        return undecided(Verdict.INCOMPARABLE, "a side has no accuracy")
    if is_one_run and baseline.subject == candidate.subject and baseline.accuracies == candidate.accuracies:
        return very_same(baseline)
    return independent_estimate(baseline.accuracies, candidate.accuracies)


def _has_accuracy(baseline: Trials, candidate: Trials) -> bool:
    """Return whether a side knows its labels: noise on both sides has no accuracy, and nothing is wrong with that."""
    return bool(baseline.accuracies or candidate.accuracies)


def very_same(trials: Trials) -> Judgement:
    """Return the judgement of a side that is compared with itself: the same, drift or not."""
    n = trials.n
    nothing = Estimate(value=0.0, variance=0.0, degrees_of_freedom=math.inf, scale=2 / n, n=(n, n))
    return replace(
        undecided(Verdict.SAME, "the very same measurements"),
        estimate=nothing,
        interval=Interval(low=0.0, high=0.0, level=0.95),
    )


def _relative(baseline: Trials, candidate: Trials) -> float | None:
    if not baseline.log_relative or not candidate.log_relative:
        return None
    return _mean(candidate.log_relative) - _mean(baseline.log_relative)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _run_notes(
    baseline: Source, candidate: Source, rows: Sequence[Row], *, is_one_run: bool, between: Between | None
) -> Iterator[str]:
    if is_one_run and between is None:
        yield "both sides are one run: this shows nothing about any change"
    elif is_one_run and is_merged(baseline.table.header):
        yield "both sides are one run, but of shards that were measured apart: drift is between them, as between tables"
    elif is_one_run:
        yield "both sides are one run, whose trials were measured in turn: no drift from table to table is between them"
    for side, source in (("baseline", baseline), ("candidate", candidate)):
        if not source.table.is_whole:
            yield (f"the {side} is incomplete: {completion(source.table.header)}, unless it is still running")
    if between is None and ignored_by_machines(baseline, candidate) == ("machine_id",):
        across = sum(is_across((row.baseline, row.candidate)) for row in rows)
        yield f"machines are told apart: {across} of {len(rows)} rows compare two of them, and no code"
    elif between is None and any(row.baseline.subject != row.candidate.subject for row in rows):
        yield "configurations that differ only in threads are paired, as the machines differ"
