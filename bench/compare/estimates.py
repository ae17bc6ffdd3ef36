"""What a pair of configurations is judged by: an estimate of the difference, or why there is none.

`bench compare` and `bench check` share this; they differ in how they judge the estimates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from bench.compare.trials import Trials
from bench.stats.drift import Drift
from bench.stats.inference import Estimate, Interval, independent_estimate
from bench.stats.judgement import INTERVAL_LEVEL, Judgement, Verdict, undecided
from bench.stats.moderation import moderate

Pair: TypeAlias = tuple[Trials, Trials]
"""Baseline and candidate of one row."""

Prepared: TypeAlias = Estimate | Judgement
"""An estimate that is still to be judged, or the judgement of a pair that allows no estimate."""


def time_estimate(baseline: Trials, candidate: Trials, drift: Drift | None) -> Estimate:
    """Return the estimate of ln(candidate / baseline) of epoch times, with the drift in its extra variance.

    Without `drift` both sides were measured in turn.
    """
    estimate = independent_estimate(baseline.log_seconds, candidate.log_seconds)
    if drift is None:
        return estimate
    return replace(
        estimate,
        extra_variance=drift.variance(baseline.device, candidate.device),
        extra_degrees_of_freedom=drift.degrees_of_freedom(baseline.device, candidate.device),
    )


def accuracy_estimate(baseline: Trials, candidate: Trials) -> Prepared:
    """Return the estimate of candidate - baseline of final test accuracies, or why there is none."""
    if not baseline.accuracies or not candidate.accuracies:
        side = " of the candidate" if baseline.accuracies else " of the baseline" if candidate.accuracies else ""
        return undecided(Verdict.INCOMPARABLE, f"the labels{side} are noise, so there is no accuracy to judge")
    return different_data(baseline, candidate) or independent_estimate(baseline.accuracies, candidate.accuracies)


def unmeasured(baseline: Trials, candidate: Trials) -> Judgement | None:
    """Return the judgement of a pair of which a side has no measured trial; None if both have one."""
    missing = [(side, trials) for side, trials in (("baseline", baseline), ("candidate", candidate)) if not trials.n]
    failed = [(side, trials.failures[0].kind) for side, trials in missing if trials.failures]
    if failed:
        kinds = " and ".join(dict.fromkeys(str(kind) for _, kind in failed))
        return undecided(
            Verdict.FAILED, f"every trial of the {' and of the '.join(side for side, _ in failed)} failed: {kinds}"
        )
    for side, _ in missing:
        return undecided(Verdict.INCOMPARABLE, f"no trial of the {side} has been measured yet: resume its run")
    return None


def different_data(baseline: Trials, candidate: Trials) -> Judgement | None:
    """Return the judgement of a pair whose datasets or test splits differ; None if they are the same."""
    found = baseline.datasets | candidate.datasets
    if len(found) > 1:
        hashes = ", ".join(sorted(each[:8] for each in found))
        return undecided(Verdict.INCOMPARABLE, f"the datasets differ (SHA-256 {hashes})")
    sizes = baseline.test_samples | candidate.test_samples
    if len(sizes) > 1:
        counts = ", ".join(map(str, sorted(sizes)))
        return undecided(
            Verdict.INCOMPARABLE, f"they were tested on different numbers of images ({counts}): a wrong split?"
        )
    return None


def different_epochs(baseline: Trials, candidate: Trials) -> Judgement | None:
    """Return the judgement of a pair whose epochs have different numbers of samples; None if they have the same."""
    if len(baseline.train_samples | candidate.train_samples) > 1:
        return undecided(Verdict.INCOMPARABLE, "their epochs have different numbers of training samples")
    return None


def identical(trials: Trials) -> Judgement:
    """Return the judgement of trials compared with themselves: the same, whatever the drift."""
    n = trials.n
    nothing = Estimate(value=0.0, variance=0.0, degrees_of_freedom=math.inf, scale=2 / n, n=(n, n))
    return replace(
        undecided(Verdict.SAME, "the same measurements on both sides"),
        estimate=nothing,
        interval=Interval(low=0.0, high=0.0, level=INTERVAL_LEVEL),
    )


def judge_family(
    prepared: Sequence[Prepared], judge: Callable[[Sequence[Estimate]], Sequence[Judgement]]
) -> tuple[Judgement, ...]:
    """Return a judgement of each of `prepared`: estimates by `judge`, as one family; the rest stay as they are."""
    judged = iter(judge([each for each in prepared if isinstance(each, Estimate)]))
    return tuple(next(judged) if isinstance(each, Estimate) else each for each in prepared)


def moderate_by_device(prepared: Sequence[Prepared], devices: Sequence[str]) -> list[Prepared]:
    """Return `prepared` with the variances of each device's estimates moderated; `devices` names the device of each."""
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
