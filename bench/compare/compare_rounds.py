"""The comparison of two pytest-benchmark files: benchmarks matched by name, parameters included."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from bench.compare.comparison import Comparison, RoundsSource, Row, geometric_mean, require_overlap
from bench.compare.estimates import Prepared, identical, judge_family
from bench.compare.matching import match
from bench.compare.rounds import RoundsBenchmark, RoundsFile
from bench.compare.trials import Trials
from bench.stats.drift import DEFAULT_DRIFT_DEVIATION
from bench.stats.inference import Estimate, Moments, difference_of_means
from bench.stats.judgement import compare_times
from bench.tables.ordering import natural_key

ROUNDS_NOTE: Final = (
    "the rounds of a benchmark ran in one process and are not independent trials: they do not show how much processes "
    f"and hours differ, so every interval includes {DEFAULT_DRIFT_DEVIATION * 100:g} % (standard deviation) per side "
    "for that"
)


def compare_rounds(baseline: RoundsSource, candidate: RoundsSource) -> Comparison:
    """Compare two files benchmark by benchmark, by the rounds' times.

    Raises:
        IncomparableError: they have no benchmark in common.
    """
    matching = match(_trials(baseline.file), _trials(candidate.file))
    require_overlap(matching, baseline.label, candidate.label)
    is_one_file = baseline.file == candidate.file
    ours, theirs = _moments(baseline.file), _moments(candidate.file)

    def prepare(trials: Trials) -> Prepared:
        name = str(trials.subject)
        return identical(trials) if is_one_file else difference_of_moments(ours[name], theirs[name])

    times = judge_family([prepare(trials) for trials, _ in matching.pairs], compare_times)
    rows = tuple(
        Row(baseline=first, candidate=second, time=time, relative_log_ratio=None, accuracy=None)
        for (first, second), time in zip(matching.pairs, times, strict=True)
    )
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        is_hardware=len({baseline.file.cpu, candidate.file.cpu} - {None}) > 1,
        differences=tuple(_differences(baseline.file, candidate.file)),
        rows=rows,
        baseline_only=tuple(trials.subject for trials in matching.baseline_only),
        candidate_only=tuple(trials.subject for trials in matching.candidate_only),
        mean=geometric_mean(rows),
        notes=(
            ("both sides are the same file: this says nothing about any change",) if is_one_file else (ROUNDS_NOTE,)
        ),
    )


def difference_of_moments(baseline: Moments, candidate: Moments) -> Estimate:
    """Return the estimate of ln(candidate / baseline), with the drift that rounds of one process do not show."""
    return replace(difference_of_means(baseline, candidate), extra_variance=2 * DEFAULT_DRIFT_DEVIATION**2)


def _moments(file: RoundsFile) -> dict[str, Moments]:
    return {benchmark.name: benchmark.moments for benchmark in file.benchmarks}


def _trials(file: RoundsFile) -> tuple[Trials, ...]:
    return tuple(map(_one, sorted(file.benchmarks, key=lambda benchmark: natural_key(benchmark.name))))


def _one(benchmark: RoundsBenchmark) -> Trials:
    logs = tuple(sorted(map(math.log, benchmark.seconds)))
    moments = benchmark.moments
    return Trials(subject=benchmark.name, n=moments.n, mean_log_seconds=moments.mean, log_seconds=logs)


def _differences(baseline: RoundsFile, candidate: RoundsFile) -> Iterator[str]:
    for name in ("cpu", "python", "commit", "dirty"):
        ours, theirs = getattr(baseline, name), getattr(candidate, name)
        if ours != theirs:
            yield f"{name}: {'unknown' if ours is None else ours} / {'unknown' if theirs is None else theirs}"
