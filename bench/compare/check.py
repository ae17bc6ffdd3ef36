"""The gate on stored runs: is the candidate still as fast and as accurate as the baseline? It fails closed.

Whatever cannot be compared, was not measured or is not known well enough never passes, and the reason says what to do.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from bench.compare.check_report import Finding, GateReport, Limits
from bench.compare.comparison import (
    Source,
    drift_between,
    ignored_between_machines,
    is_across_machines,
    with_machines,
)
from bench.compare.estimates import (
    Pair,
    Prepared,
    accuracy_estimate,
    different_data,
    different_epochs,
    judge_family,
    moderate_by_device,
    time_estimate,
)
from bench.compare.flagged import judge_without_flagged
from bench.compare.matching import (
    Matching,
    can_be_searched,
    match,
    nearest_difference,
    software_differences,
    varying_dimensions,
)
from bench.compare.trials import Subject, Trials
from bench.errors import BadInputError
from bench.planning.shards import completion, measured_by, without_option
from bench.records import Header
from bench.stats.drift import Drift, NoiseProfile
from bench.stats.inference import Estimate
from bench.stats.judgement import (
    ERROR_LEVEL,
    PASS_LEVEL,
    ROUNDING,
    Judgement,
    Verdict,
    gate_accuracies,
    gate_times,
    undecided,
)
from bench.tables.columns import harmless
from bench.units import format_percent

_MAX_COMMAND_CHARACTERS: Final = 400

_GATE_TIME: Final = "gate time alone with --gate time"


def check_runs(baseline: Source, candidate: Source, limits: Limits) -> GateReport:
    """Judge `candidate` against `baseline`; the order of records does not matter.

    Raises:
        BadInputError: both are, or contain, the same run, which would pass whatever happened to the code.
    """
    common = measured_by(baseline.table.header) & measured_by(candidate.table.header)
    if common:
        raise BadInputError(
            f"baseline and candidate are the same run, {harmless(min(common), 40)}, or contain it: measure the "
            "candidate and name its run"
        )
    baseline, candidate = with_machines(baseline, candidate)
    ignoring = ignored_between_machines(baseline, candidate)
    matching = match(baseline.table.trials, candidate.table.trials, ignoring=ignoring)
    drift = drift_between(baseline, candidate)
    findings = [
        *_incomplete_findings(baseline, candidate),
        *_missing_findings(matching, baseline.table.header, candidate.table.header),
        *_failure_findings(matching, baseline.table.header),
    ]
    # A pair that failed or was never measured has its finding already.
    measured = [pair for pair in matching.pairs if all(each.n for each in pair)]
    if limits.gate != "accuracy":
        findings += _time_findings(measured, limits, drift, baseline, candidate)
    if limits.gate != "time":
        findings += _floor_findings(matching, limits.min_accuracy)
        findings += _accuracy_findings(measured, limits, baseline.table.header)
    differences = software_differences(baseline.table.header.software, candidate.table.header.software)
    return GateReport(
        baseline=baseline,
        candidate=candidate,
        limits=limits,
        findings=tuple(findings),
        dimensions=varying_dimensions(trials.subject for trials in _all(matching)),
        notes=(
            *_machine_notes(baseline, candidate),
            *(f"software differs, baseline / candidate: {each}" for each in differences),
            *drift.notes(),
        ),
    )


def _machine_notes(baseline: Source, candidate: Source) -> Iterator[str]:
    if baseline.machine_ids != candidate.machine_ids:
        names = (", ".join(sorted(source.machine_ids)) for source in (baseline, candidate))
        yield f"machine differs, baseline / candidate: {' / '.join(names)}"


def refresh_command(header: Header) -> str:
    """Return the command that measured a run, safe to copy; without --output, because that file exists."""
    command = without_option(header.command, "--output")
    return f"python -m bench {harmless(shlex.join(command), _MAX_COMMAND_CHARACTERS)}"


def _all(matching: Matching) -> Iterator[Trials]:
    for pair in matching.pairs:
        yield from pair
    yield from matching.baseline_only
    yield from matching.candidate_only


def _incomplete_findings(baseline: Source, candidate: Source) -> Iterator[Finding]:
    for side, source in (("baseline", baseline), ("candidate", candidate)):
        if not source.table.is_complete:
            yield _trials_finding(
                None,
                Verdict.INCONCLUSIVE,
                f"the {side} run is incomplete",
                f"complete it: {harmless(completion(source.table.header), _MAX_COMMAND_CHARACTERS)}",
            )


def _changed_advice(baseline: Header, candidate: Header) -> str | None:
    """Return what to do if both runs were asked for the same and got different configurations; None otherwise."""
    ours, theirs = (_without_place(header.command) for header in (baseline, candidate))
    if ours != theirs:
        return None
    return (
        "the same command measures something else now (a recipe, a preset, the devices or the threads have changed): "
        f"undo the change, or, if it was meant, refresh the baseline: {refresh_command(baseline)}"
    )


def _without_place(command: Sequence[str]) -> tuple[str, ...]:
    """Return `command` without the options that only say where the run is stored."""
    return without_option(without_option(command, "--output"), "--name")


def _missing_findings(matching: Matching, baseline: Header, candidate: Header) -> Iterator[Finding]:
    changed = _changed_advice(baseline, candidate)
    ours = [trials.subject for trials in matching.baseline_only]
    theirs = [trials.subject for trials in matching.candidate_only]
    if ours and theirs and not matching.pairs:
        yield _trials_finding(
            None,
            Verdict.INCOMPARABLE,
            f"no configuration is in both runs{_nearest(ours, theirs)}",
            changed or f"check that the right runs are named; the baseline was made by {refresh_command(baseline)}",
        )
        return
    is_searched = can_be_searched(ours, theirs)
    for subject in ours:
        nearest = _nearest([subject], theirs) if is_searched else ""
        yield _trials_finding(
            subject,
            Verdict.INCOMPARABLE,
            f"missing in the candidate{nearest}",
            changed or f"measure the candidate as the baseline was measured: {refresh_command(baseline)}",
            cause="missing in the candidate",
        )
    for subject in theirs:
        nearest = _nearest(ours, [subject]) if is_searched else ""
        yield _trials_finding(
            subject,
            Verdict.INCOMPARABLE,
            f"missing in the baseline{nearest}",
            changed
            or f"if the right run is named, refresh the baseline, which was made by {refresh_command(baseline)}",
            cause="missing in the baseline",
        )


def _nearest(ours: Sequence[Subject], theirs: Sequence[Subject]) -> str:
    nearest = nearest_difference(ours, theirs)
    return f" (the nearest one differs, baseline / candidate, in {nearest})" if nearest else ""


def _failure_findings(matching: Matching, baseline: Header) -> Iterator[Finding]:
    """Yield what failed or was never measured, on either side, matched or not."""
    sides = (
        (
            "baseline",
            (*(ours for ours, _ in matching.pairs), *matching.baseline_only),
            f"refresh the baseline: {refresh_command(baseline)}",
        ),
        (
            "candidate",
            (*(theirs for _, theirs in matching.pairs), *matching.candidate_only),
            "see what failed: python -m bench show CANDIDATE, its file or run id",
        ),
    )
    for side, family, advice in sides:
        for trials in family:
            if trials.failures:
                failed, first = len(trials.failures), trials.failures[0]
                reason = (
                    f"{failed} of {failed + trials.n} trials of the {side} failed, "
                    f"{first.kind}: {harmless(first.message, 120)}"
                )
                cause = f"trials of the {side} failed, {first.kind}"
                yield _trials_finding(trials.subject, Verdict.FAILED, reason, advice, cause=cause)
            elif not trials.n:
                reason = f"no trial of the {side} has been measured yet"
                yield _trials_finding(trials.subject, Verdict.INCONCLUSIVE, reason)


def _trials_finding(
    subject: Subject | None, verdict: Verdict, reason: str, advice: str = "", *, cause: str = ""
) -> Finding:
    return Finding(subject=subject, quantity="trials", judgement=undecided(verdict, reason), advice=advice, cause=cause)


def _time_findings(
    pairs: Sequence[Pair], limits: Limits, drift: Drift, baseline: Source, candidate: Source
) -> Iterator[Finding]:
    if baseline.machine_ids.isdisjoint(candidate.machine_ids):
        yield _other_machines(None, baseline.machine_ids, candidate.machine_ids, baseline.table.header)
        return
    families: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        ours, theirs = pair
        if is_across_machines(pair):
            yield _other_machines(ours.subject, {ours.machine_id}, {theirs.machine_id}, baseline.table.header)
        else:
            families.setdefault((ours.machine_id, ours.device), []).append(pair)
    for (_, device), family in families.items():
        judge = _time_judge(limits, device, _floor(baseline.profile, device), len(families))
        raw = [different_data(*pair) or different_epochs(*pair) or time_estimate(*pair, drift) for pair in family]
        unflagged = judge_without_flagged(family, raw, drift, judge)
        for (ours, theirs), judgement, without in zip(family, judge(raw), unflagged, strict=True):
            yield Finding(
                subject=ours.subject,
                candidate=theirs.subject,
                quantity="epoch time",
                judgement=judgement,
                advice=_advice(judgement, baseline.table.header, is_time=True),
                without_flagged=without,
            )


def _other_machines(
    subject: Subject | None, ours: AbstractSet[str], theirs: AbstractSet[str], baseline: Header
) -> Finding:
    names = (", ".join(harmless(each, 60) for each in sorted(ids)) for ids in (ours, theirs))
    return Finding(
        subject=subject,
        quantity="epoch time",
        judgement=undecided(Verdict.INCOMPARABLE, f"measured on different machines, {' and '.join(names)}"),
        advice=(
            "gate accuracy alone with --gate accuracy, or refresh the baseline on this machine: "
            f"{refresh_command(baseline)}"
        ),
    )


def _time_judge(
    limits: Limits, device: str, floor: float, families: int
) -> Callable[[Sequence[Prepared]], tuple[Judgement, ...]]:
    """Return what judges the times of `device`. Each device is a family; families share the error levels evenly."""

    def gate(estimates: Sequence[Estimate]) -> tuple[Judgement, ...]:
        return gate_times(
            estimates,
            max_slowdown=limits.max_slowdown,
            floor=floor,
            error_level=ERROR_LEVEL / families,
            pass_level=PASS_LEVEL / families,
        )

    return lambda prepared: judge_family(moderate_by_device(prepared, [device] * len(prepared)), gate)


def _accuracy_findings(pairs: Sequence[Pair], limits: Limits, baseline: Header) -> Iterator[Finding]:
    judgements = judge_family(
        [accuracy_estimate(*pair) for pair in pairs],
        lambda estimates: gate_accuracies(estimates, max_drop=limits.max_accuracy_drop),
    )
    for (ours, theirs), judgement in zip(pairs, judgements, strict=True):
        yield Finding(
            subject=ours.subject,
            candidate=theirs.subject,
            quantity="test accuracy",
            judgement=judgement,
            advice=_advice(judgement, baseline, is_time=False) if ours.accuracies and theirs.accuracies else _GATE_TIME,
        )


def _floor_findings(matching: Matching, min_accuracy: float | None) -> Iterator[Finding]:
    """Yield a regression for every configuration of the candidate with a trial below the floor, matched or not.

    If there is none, yield one pass, so that the reader sees which floor was held.
    """
    if min_accuracy is None:
        return
    family = [*(theirs for _, theirs in matching.pairs), *matching.candidate_only]
    lowest = min((trials.accuracies[0] for trials in family if trials.accuracies), default=None)
    if lowest is not None and lowest >= min_accuracy - ROUNDING:
        reason = f"the lowest of any trial is {format_percent(lowest)}; the minimum is {format_percent(min_accuracy)}"
        yield Finding(subject=None, quantity="test accuracy", judgement=undecided(Verdict.PASS, reason), advice="")
    for trials in family:
        if trials.accuracies and trials.accuracies[0] < min_accuracy - ROUNDING:
            reason = (
                f"a trial ends at {format_percent(trials.accuracies[0])}, below the minimum of "
                f"{format_percent(min_accuracy)}"
            )
            yield Finding(
                subject=trials.subject,
                quantity="test accuracy",
                judgement=undecided(Verdict.REGRESSION, reason),
                advice="",
                cause=f"a trial ends below the minimum of {format_percent(min_accuracy)}",
            )


def _advice(judgement: Judgement, baseline: Header, *, is_time: bool) -> str:
    if judgement.verdict is Verdict.INCOMPARABLE:
        return f"refresh the baseline: {refresh_command(baseline)}"
    if judgement.verdict is not Verdict.INCONCLUSIVE:
        return ""
    repeats = "" if judgement.needed_n is None else f"measure both with --repeats {judgement.needed_n}"
    live = "python -m bench ab, where machine drift cancels" if is_time else ""
    return " or use ".join(each for each in (repeats, live) if each)


def _floor(profile: NoiseProfile | None, device: str) -> float:
    return (None if profile is None else profile.ab_floor(device)) or 0.0
