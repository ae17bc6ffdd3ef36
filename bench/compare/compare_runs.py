"""The comparison of two stored runs, or of two values of one dimension: configurations matched by all their members."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench.compare.comparison import (
    Comparison,
    Row,
    Source,
    drift_between,
    geometric_mean,
    ignored_between_machines,
    is_across_machines,
    require_overlap,
    with_machines,
)
from bench.compare.estimates import (
    Pair,
    Prepared,
    accuracy_estimate,
    different_epochs,
    identical,
    judge_family,
    moderate_by_device,
    time_estimate,
    unmeasured,
)
from bench.compare.flagged import judge_without_flagged
from bench.compare.matching import MAX_NAME_CHARACTERS, dimension, match, software_differences, whole_dimension
from bench.compare.trials import Trials
from bench.errors import BadInputError
from bench.planning.dimensions import DIMENSIONS
from bench.planning.shards import completion, is_merged, measured_by
from bench.records import Configuration
from bench.stats.drift import Drift
from bench.stats.inference import mean
from bench.stats.judgement import Judgement, compare_accuracies, compare_times
from bench.tables.columns import harmless
from bench.tables.ordering import natural_key
from mnist_mlp.spelling import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Two values of one dimension to compare with each other, such as ``device``: ``cpu`` and ``cuda:0``."""

    dimension: str
    baseline: str
    candidate: str

    @property
    def ignored(self) -> tuple[str, ...]:
        """The members in which a pair may differ.

        Each device has its own threads, each pipeline its own workers, and a model has a name and hyperparameters.
        """
        of_models = ("model", *(key for key, others in DIMENSIONS.items() if "model" in others))
        if self.dimension in of_models:
            return tuple(key for key in of_models if key in Configuration.__slots__)
        return (self.dimension, *{"device": ("threads",), "pipeline": ("workers",)}.get(self.dimension, ()))


def compare_runs(baseline: Source, candidate: Source, between: Between | None = None) -> Comparison:
    """Compare two stored runs, configuration by configuration; the order of their records does not matter.

    With `between`, compare only the baseline's configurations with its first value and the candidate's with its second,
    and pair those that are otherwise alike: two devices, or two engines. Both sides may then be the same run.

    Raises:
        IncomparableError: they have no configuration in common.
        BadInputError: a side has no configuration with its value of `between`.
    """
    by_machine = between is not None and between.dimension == "machine_id"
    headers = baseline.table.header, candidate.table.header
    is_one_run = not by_machine and not measured_by(headers[0]).isdisjoint(measured_by(headers[1]))
    in_turn = is_one_run and between is not None and not any(map(is_merged, headers))
    drift = None if in_turn else drift_between(baseline, candidate)
    baseline, candidate = with_machines(baseline, candidate, always=by_machine)
    if between is not None:
        baseline = _only(baseline, between.dimension, between.baseline)
        candidate = _only(candidate, between.dimension, between.candidate)
    ignoring = ignored_between_machines(baseline, candidate) if between is None else between.ignored
    matching = match(baseline.table.trials, candidate.table.trials, ignoring=ignoring)
    require_overlap(matching, baseline.label, candidate.label)
    rows = _compare_pairs(matching.pairs, drift, is_one_run=is_one_run)
    if between is not None:  # the yardstick ran on the same device with the same threads, so it differs as they do
        rows = tuple(replace(row, relative_log_ratio=None) for row in rows)
    ours, theirs = baseline.table.header.software, candidate.table.header.software
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        is_hardware=(between is not None and between.dimension == "device")
        or any(map(is_across_machines, matching.pairs)),
        differences=software_differences(ours, theirs),
        rows=rows,
        baseline_only=tuple(trials.subject for trials in matching.baseline_only),
        candidate_only=tuple(trials.subject for trials in matching.candidate_only),
        mean=geometric_mean(rows),
        notes=(
            *_notes(baseline, candidate, rows, is_one_run=is_one_run, between=between),
            *(() if drift is None else drift.notes()),
        ),
    )


def _only(source: Source, name: str, value: str) -> Source:
    """Return `source` with only the configurations whose dimension `name` has `value`; ``cuda`` means ``cuda:0`` too.

    Raises:
        BadInputError: there are none; the message lists the values that there are.
    """
    values = {
        each.subject: dimension(each.subject, name)
        for each in source.table.trials
        if isinstance(each.subject, Configuration)
    }
    wanted = {value, f"{value}:0"} if name == "device" else {value}
    trials = tuple(
        each
        for each in source.table.trials
        if isinstance(each.subject, Configuration)
        and not wanted.isdisjoint((values[each.subject], whole_dimension(each.subject, name)))
    )
    if not trials:
        known = sorted(set(values.values()), key=natural_key)
        raise BadInputError(
            f"--between {name}: {source.label} has no configuration with {name} {harmless(value, MAX_NAME_CHARACTERS)}"
            f"{did_you_mean(value, known)}; it has {', '.join(known)}"
        )
    machines = {each.machine_id for each in trials}
    headers = {machine_id: header for machine_id, header in source.table.headers.items() if machine_id in machines}
    label = f"{source.label}, {name.replace('_', ' ')} {value}"
    return replace(source, label=label, table=replace(source.table, trials=trials, headers=headers))


def _compare_pairs(pairs: Sequence[Pair], drift: Drift | None, *, is_one_run: bool) -> tuple[Row, ...]:
    """Judge every pair. With `is_one_run`, a configuration with identical values is the same, drift or not."""
    raw = [_prepare_time(*pair, drift, is_one_run=is_one_run) for pair in pairs]
    devices = [f"{ours.machine_id} {ours.device}" for ours, _ in pairs]  # each machine has its own

    def judge(prepared: Sequence[Prepared]) -> tuple[Judgement, ...]:
        return judge_family(moderate_by_device(prepared, devices), compare_times)

    times = judge(raw)
    unflagged = judge_without_flagged(pairs, raw, drift, judge)
    accuracies = judge_family([_prepare_accuracy(*pair, is_one_run=is_one_run) for pair in pairs], compare_accuracies)
    return tuple(
        Row(
            baseline=ours,
            candidate=theirs,
            time=time,
            relative_log_ratio=_relative_log_ratio(ours, theirs),
            # On both sides labels may be noise: then there is no accuracy, and nothing is wrong.
            accuracy=accuracy if ours.accuracies or theirs.accuracies else None,
            without_flagged=without,
        )
        for (ours, theirs), time, accuracy, without in zip(pairs, times, accuracies, unflagged, strict=True)
    )


def _prepare_time(baseline: Trials, candidate: Trials, drift: Drift | None, *, is_one_run: bool) -> Prepared:
    refused = unmeasured(baseline, candidate) or different_epochs(baseline, candidate)
    if refused is not None:
        return refused
    if is_one_run and baseline.subject == candidate.subject and baseline.log_seconds == candidate.log_seconds:
        return identical(baseline)
    return time_estimate(baseline, candidate, drift)


def _prepare_accuracy(baseline: Trials, candidate: Trials, *, is_one_run: bool) -> Prepared:
    refused = unmeasured(baseline, candidate)
    if refused is not None:
        return refused
    if is_one_run and baseline.subject == candidate.subject and baseline.accuracies == candidate.accuracies:
        return identical(baseline)
    return accuracy_estimate(baseline, candidate)


def _relative_log_ratio(baseline: Trials, candidate: Trials) -> float | None:
    if not baseline.log_relative or not candidate.log_relative:
        return None
    return mean(candidate.log_relative) - mean(baseline.log_relative)


def _notes(
    baseline: Source, candidate: Source, rows: Sequence[Row], *, is_one_run: bool, between: Between | None
) -> Iterator[str]:
    ours, theirs = baseline.table.header, candidate.table.header
    if is_one_run and between is None and ours.run_id == theirs.run_id:
        yield "both sides are the same run: this says nothing about any change"
    elif is_one_run and between is None:
        shared = min(measured_by(ours) & measured_by(theirs))
        yield f"both sides hold run {shared}: the rows that it measured say nothing about any change"
    elif is_one_run and (is_merged(ours) or is_merged(theirs)):
        yield (
            "both sides are the same run, merged from shards that were measured separately: machine drift between them "
            "is included"
        )
    elif is_one_run:
        yield "both sides are the same run, whose trials were measured in turn: no machine drift lies between them"
    for side, source in (("baseline", baseline), ("candidate", candidate)):
        if not source.table.is_complete:
            yield f"the {side} is incomplete: {completion(source.table.header)}, unless it is still running"
    if between is not None:
        return
    ignored = ignored_between_machines(baseline, candidate)
    across = sum(is_across_machines((row.baseline, row.candidate)) for row in rows)
    if ignored == ("machine_id",) and across:
        yield f"{across} of {len(rows)} rows compare two different machines: they say nothing about a change of code"
    if ignored == ("threads",) and any(row.baseline.subject != row.candidate.subject for row in rows):
        yield "configurations that differ only in threads are paired, because the machines differ"
