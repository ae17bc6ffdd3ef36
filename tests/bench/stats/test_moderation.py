"""Variances raised towards what a family's variances have in common, and the prior that says so."""

import math
import statistics

import numpy as np
import pytest
from scipy import special
from stats_builders import make_estimate

from bench.stats.inference import Estimate, independent_estimate, paired_estimate
from bench.stats.moderation import MIN_CONFIGURATIONS, fit_prior, inverse_trigamma, moderate


@pytest.mark.parametrize("value", [1e-8, 1e-3, 0.3, 1.0, math.pi**2 / 6, 20.0, 1e9])
def test_inverse_trigamma_inverts_trigamma(value: float) -> None:
    assert float(special.polygamma(1, inverse_trigamma(value))) == pytest.approx(value, rel=1e-5)


def draw_family(
    configurations: int, freedom: int, prior_freedom: float, deviation: float = 0.03, seed: int = 1
) -> list[Estimate]:
    """Estimates of 0 whose variances follow Smyth's model; all alike for an infinite `prior_freedom`."""
    random = np.random.default_rng(seed)
    spread = 1.0 if math.isinf(prior_freedom) else prior_freedom / random.chisquare(prior_freedom, configurations)
    true = np.broadcast_to(deviation**2 * np.asarray(spread), configurations)
    n = freedom + 1
    values = random.standard_normal((configurations, n)) * np.sqrt(true)[:, None]
    return [paired_estimate(row) for row in values.tolist()]


@pytest.mark.parametrize("prior_freedom", [4.0, 10.0])
def test_the_prior_that_variances_were_drawn_from_is_found(prior_freedom: float) -> None:
    family = draw_family(20_000, 7, prior_freedom)
    found, variance = fit_prior([e.variance for e in family], [e.degrees_of_freedom for e in family])
    assert found == pytest.approx(prior_freedom, rel=0.1)
    assert variance == pytest.approx(0.0009, rel=0.05)


VARIANCES = [0.25, 0.5, 0.7, 0.9, 1.0, 1.0, 1.0, 1.0, 1.2, 1.5, 2.0, 4.0]
"""Variances whose median stays 1 whatever one more of them is."""


def test_the_prior_explains_what_log_variances_vary_beyond_chance() -> None:
    variances, freedoms = [0.01, *VARIANCES, 30.0], [4.0, 9.0] * 7
    half = np.array(freedoms) / 2
    logs = np.log(variances) - special.psi(half) + np.log(half)
    freedom, variance = fit_prior(variances, freedoms)
    by_chance = float(special.polygamma(1, half).mean())
    assert special.polygamma(1, freedom / 2) + by_chance == pytest.approx(statistics.variance(logs.tolist()))
    assert math.log(variance) == pytest.approx(logs.mean() + special.psi(freedom / 2) - math.log(freedom / 2))


@pytest.mark.parametrize("least", [0.0, 1e-12, 0.99e-5])
def test_a_variance_of_next_to_nothing_does_not_dominate_the_prior(least: float) -> None:
    freedoms = [4.0] * (len(VARIANCES) + 1)
    assert fit_prior([*VARIANCES, least], freedoms) == fit_prior([*VARIANCES, 1e-5], freedoms)
    assert fit_prior([*VARIANCES, 1.01e-5], freedoms) != fit_prior([*VARIANCES, 1e-5], freedoms)


def test_equal_true_variances_are_pooled_with_all_degrees_of_freedom() -> None:
    # Chosen so that the log variances vary no more than chance has it: the prior is infinitely sure.
    family = [make_estimate(variance=v) for v in np.linspace(0.0008, 0.001, 12).tolist()]
    prior_freedom, prior_variance = fit_prior([e.variance for e in family], [7.0] * 12)
    assert math.isinf(prior_freedom)
    for before, after in zip(family, moderate(family), strict=True):
        assert after.degrees_of_freedom == 12 * 7
        assert after.variance == max(before.variance, prior_variance)


def test_moderation_never_lowers_a_variance_and_keeps_the_value() -> None:
    family = draw_family(40, 4, 5.0)
    moderated = moderate(family)
    assert all(after.variance >= before.variance for before, after in zip(family, moderated, strict=True))
    assert any(after.variance > before.variance for before, after in zip(family, moderated, strict=True))
    assert [after.value for after in moderated] == [before.value for before in family]


def test_a_small_variance_becomes_smyths_posterior() -> None:
    family = draw_family(40, 4, 5.0)
    prior_freedom, prior_variance = fit_prior([e.variance for e in family], [4.0] * 40)
    smallest = min(range(40), key=lambda i: family[i].variance)
    expected = (prior_freedom * prior_variance + 4 * family[smallest].variance) / (prior_freedom + 4)
    assert moderate(family)[smallest].variance == pytest.approx(expected)
    assert moderate(family)[smallest].degrees_of_freedom == pytest.approx(prior_freedom + 4)


def test_too_few_configurations_are_left_alone() -> None:
    family = draw_family(MIN_CONFIGURATIONS, 4, 5.0)
    assert moderate(family) != tuple(family)
    assert moderate(family[1:]) == tuple(family[1:])
    pairs_of_two = draw_family(MIN_CONFIGURATIONS, 1, math.inf)
    assert moderate(pairs_of_two) != tuple(pairs_of_two)
    unknown = [independent_estimate([1.0], [1.0])] * 20
    assert moderate([*family[1:], *unknown]) == (*family[1:], *unknown)
    assert moderate([]) == ()


def test_variances_that_are_all_zero_are_left_alone() -> None:
    family = [make_estimate(variance=0.0)] * 20
    assert moderate(family) == tuple(family)


def test_a_zero_variance_among_others_takes_part_of_theirs() -> None:
    moderated = moderate([*draw_family(40, 4, math.inf), make_estimate(variance=0.0, freedom=4, n=5)])
    assert 0 < moderated[-1].variance < math.inf


def test_an_estimate_without_freedom_takes_the_prior() -> None:
    family = draw_family(40, 4, 5.0)
    prior_freedom, prior_variance = fit_prior([e.variance for e in family], [4.0] * 40)
    last = moderate([*family, independent_estimate([1.0], [1.1])])[-1]
    assert (last.variance, last.degrees_of_freedom) == pytest.approx((prior_variance, prior_freedom))


def test_moderation_does_not_depend_on_the_order_of_configurations() -> None:
    family = draw_family(15, 4, 5.0)
    assert moderate(family[::-1]) == moderate(family)[::-1]
