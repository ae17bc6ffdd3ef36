"""The difference of two benchmarks' rounds: that of two samples, with what drifts from process to process."""

import math

import pytest

from bench.compare.compare_rounds import difference_of_moments
from bench.stats.drift import DEFAULT_DRIFT_DEVIATION
from bench.stats.inference import Moments, independent_estimate, moments_of

OURS, THEIRS = [0.9, 1.0, 1.2], [1.0, 1.5, 1.1, 1.3, 1.4, 1.05, 2.0]


def of_rounds(seconds: list[float]) -> Moments:
    return moments_of(list(map(math.log, seconds)))


@pytest.mark.parametrize(("baseline", "candidate"), [(OURS, THEIRS), (THEIRS, OURS), (OURS[:1], THEIRS)])
def test_the_estimate_is_that_of_independent_rounds_and_of_drift_on_both_sides(
    baseline: list[float], candidate: list[float]
) -> None:
    found = difference_of_moments(of_rounds(baseline), of_rounds(candidate))
    wanted = independent_estimate(list(map(math.log, baseline)), list(map(math.log, candidate)))
    names = ("value", "variance", "degrees_of_freedom", "scale")
    assert [getattr(found, name) for name in names] == pytest.approx([getattr(wanted, name) for name in names])
    assert found.n == wanted.n
    assert found.extra_variance == pytest.approx(2 * DEFAULT_DRIFT_DEVIATION**2)


def test_a_round_a_side_tells_no_spread() -> None:
    found = difference_of_moments(of_rounds(OURS[:1]), of_rounds(THEIRS[:1]))
    assert (found.degrees_of_freedom, found.variance, found.scale) == (0, 0.0, 2.0)
