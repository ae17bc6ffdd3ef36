import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from stats_builders import make_estimate

from bench.errors import BadInputError
from bench.planning.plan import MAX_REPEATS
from bench.stats.inference import (
    MAX_N,
    Estimate,
    Family,
    holm,
    independent_estimate,
    interval,
    mean,
    paired_estimate,
    pool_variance,
    robust_paired_estimate,
    trimmed_mean,
)

FEWER = settings(max_examples=50)
VALUES = st.lists(st.floats(-1, 1), min_size=2, max_size=12)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def p_above(estimate: Estimate, bound: float = 0.0) -> float:
    return float(Family(estimates=[estimate]).p_above(bound)[0])


def p_below(estimate: Estimate, bound: float = 0.0) -> float:
    return float(Family(estimates=[estimate]).p_below(bound)[0])


def minimum_detectable_effect(estimate: Estimate, level: float) -> float:
    return float(Family(estimates=[estimate]).minimum_detectable_effects(level)[0])


def required_n(estimate: Estimate, distance: float, level: float) -> int | None:
    return Family(estimates=[estimate]).required_n([distance], level)[0]


def is_spread(values: Sequence[float]) -> bool:
    return max(values) - min(values) > 1e-3


# --- estimates


@FEWER
@given(VALUES)
def test_paired_t_agrees_with_scipy(values: list[float]) -> None:
    assume(is_spread(values))
    ours, theirs = paired_estimate(values), stats.ttest_1samp(values, 0, alternative="greater")
    assert p_above(ours) == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-300)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (interval(ours, 0.9).low, interval(ours, 0.9).high) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-12)


@FEWER
@given(VALUES, VALUES)
def test_independent_t_agrees_with_scipy(baseline: list[float], candidate: list[float]) -> None:
    assume(is_spread(baseline) and is_spread(candidate))
    ours, theirs = independent_estimate(baseline, candidate), t_test_of_scipy(baseline, candidate)
    assert 2 * min(p_above(ours), p_below(ours)) == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-300)
    expected = theirs.confidence_interval(0.95)
    assert (interval(ours).low, interval(ours).high) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-12)


def t_test_of_scipy(baseline: list[float], candidate: list[float]) -> Any:  # noqa: ANN401 - scipy ships no types
    """Student's test with equal n; with unequal n that of Student and Welch with the larger standard error."""
    student, welch = (stats.ttest_ind(candidate, baseline, equal_var=equal) for equal in (True, False))
    if len(baseline) == len(candidate):
        return student
    assume(welch.statistic != pytest.approx(student.statistic, rel=1e-9))  # otherwise rounding decides
    return min(student, welch, key=lambda test: abs(test.statistic))


def test_noise_on_the_side_with_fewer_trials_counts() -> None:
    quiet, wild = [0.00, 0.01, -0.01] * 5, [0.1, -0.1, 0.0]
    estimate, theirs = independent_estimate(quiet, wild), stats.ttest_ind(wild, quiet, equal_var=False)
    assert estimate.degrees_of_freedom == pytest.approx(theirs.df)
    assert estimate.standard_error == pytest.approx(math.sqrt(0.01 / 3), rel=0.01)


def test_no_more_trials_are_advised_than_a_run_can_have() -> None:
    assert MAX_N <= MAX_REPEATS


def test_several_trials_do_not_tell_how_much_a_single_one_strays() -> None:
    for sides in (([1.0], [1.0, 1.01, 0.99]), ([1.0, 1.01, 0.99], [1.0])):
        estimate = independent_estimate(*sides)
        assert (estimate.variance, estimate.degrees_of_freedom, estimate.standard_error) == (0.0, 0, math.inf)


@pytest.mark.parametrize(("n", "spread"), [((15, 3), (0.01, 0.10)), ((5, 4), (0.01, 0.10)), ((3, 15), (0.05, 0.05))])
def test_intervals_cover_with_unequal_numbers_of_trials(n: tuple[int, int], spread: tuple[float, float]) -> None:
    # With the pooled error alone the first covers 52 % and the second 88 %.
    random = np.random.default_rng(1)
    drawn = ([random.normal(0, of, k).tolist() for k, of in zip(n, spread, strict=True)] for _ in range(2000))
    covered = [bounds.low <= 0 <= bounds.high for bounds in (interval(independent_estimate(*each)) for each in drawn)]
    assert np.mean(covered) > 0.935


def test_robust_estimate_agrees_with_yuens_test_of_scipy() -> None:
    # scipy has Yuen's test for two samples only: against equal values the other side adds nothing to the error.
    values = [0.02, -0.01, 0.05, 3.1, 0.01, 0.0, -0.02, 0.03, 0.04, -2.0]
    ours = robust_paired_estimate(values)
    theirs = stats.ttest_ind(values, [0.0] * 10, equal_var=False, trim=0.2)
    assert ours.value == pytest.approx(stats.trim_mean(values, 0.2))
    assert ours.degrees_of_freedom == theirs.df == 5
    yuens_error = math.sqrt(ours.variance / 6)
    assert ours.value / yuens_error == pytest.approx(theirs.statistic)
    assert ours.standard_error == pytest.approx(yuens_error * (1 + 0.6 * 2**0.75 / 5**1.5))


@pytest.mark.parametrize("n", [5, 7, 8, 10, 16])
def test_a_test_of_trimmed_means_errs_no_more_often_than_its_level(n: int) -> None:
    # With Yuen's standard error, not widened, these rates are 1.4, 1.3, 1.2, 1.4 and 1.3 times the level.
    samples, level, cut = 100_000, 0.005, n // 5
    values = np.sort(np.random.default_rng(1).standard_normal((samples, n)), axis=1)
    winsorised = np.clip(values, values[:, [cut]], values[:, [n - cut - 1]])
    estimates = robust_paired_estimate(range(n))
    variance = winsorised.var(axis=1, ddof=1) * (n - 1) / estimates.degrees_of_freedom
    t = values[:, cut : n - cut].mean(axis=1) / np.sqrt(variance * estimates.scale)
    errors = np.mean(np.abs(t) > stats.t.isf(level, estimates.degrees_of_freedom)) / 2
    assert 0.8 * level < errors < 1.12 * level


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_robust_estimate_of_few_pairs_is_the_plain_one(n: int) -> None:
    values = [0.1, 0.5, -0.2, 0.3][:n]
    assert robust_paired_estimate(values) == paired_estimate(values)


def test_a_single_pair_left_by_the_trimming_has_no_spread() -> None:
    estimate = robust_paired_estimate([-3.0, 0.02, 5.0], share=0.4)
    assert (estimate.value, estimate.degrees_of_freedom, estimate.standard_error) == (0.02, 0, math.inf)


def test_one_wild_pair_hardly_moves_the_robust_estimate() -> None:
    quiet = [-0.03, -0.02, -0.01, 0.0, 0.0, 0.01, 0.02, 0.03]
    wild = [*quiet[:-1], math.log(30)]
    assert robust_paired_estimate(wild) == robust_paired_estimate(quiet)
    assert paired_estimate(wild).value > 0.4


@FEWER
@given(VALUES, VALUES)
def test_order_of_trials_never_matters(baseline: list[float], candidate: list[float]) -> None:
    turned, mixed = baseline[::-1], sorted(candidate)
    assert independent_estimate(turned, mixed) == independent_estimate(baseline, candidate)
    assert paired_estimate(turned) == paired_estimate(baseline)
    assert robust_paired_estimate(turned) == robust_paired_estimate(baseline)


@FEWER
@given(VALUES, VALUES)
def test_swapped_sides_mirror_exactly(baseline: list[float], candidate: list[float]) -> None:
    there, back = independent_estimate(baseline, candidate), independent_estimate(candidate, baseline)
    assert (back.value, back.variance, back.n[::-1]) == (-there.value, there.variance, there.n)
    assert (p_above(back), p_below(back)) == (p_below(there), p_above(there))
    assert paired_estimate([-value for value in candidate]).value == -paired_estimate(candidate).value
    assert robust_paired_estimate([-value for value in candidate]).value == -robust_paired_estimate(candidate).value


@FEWER
@given(VALUES)
def test_the_same_measurements_never_differ(values: list[float]) -> None:
    estimate = independent_estimate(values, list(values))
    assert (estimate.value, p_above(estimate), p_below(estimate)) == (0.0, 0.5, 0.5)


@FEWER
@given(st.floats(-1, 1), st.integers(1, 20))
def test_equal_values_have_no_spread_at_all(value: float, n: int) -> None:
    assert mean([value] * n) == value
    assert paired_estimate([value] * n).variance == 0.0
    assert robust_paired_estimate([value] * n).variance == 0.0
    assert independent_estimate([value] * n, [value] * n).variance == 0.0


@FEWER
@given(VALUES, st.sampled_from([0.25, 4.0]))
def test_p_values_do_not_depend_on_the_unit(values: list[float], factor: float) -> None:
    assume(is_spread(values))
    scaled = paired_estimate([value * factor for value in values])
    assert p_above(scaled) == pytest.approx(p_above(paired_estimate(values)), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(wrong: float) -> None:
    for refused in (
        lambda: paired_estimate([0.1, wrong]),
        lambda: robust_paired_estimate([0.1, wrong]),
        lambda: independent_estimate([0.1], [wrong]),
        lambda: independent_estimate([wrong], [0.1]),
        lambda: trimmed_mean([wrong]),
    ):
        with pytest.raises(BadInputError, match="cannot be averaged"):
            refused()


def test_no_value_at_all_is_refused() -> None:
    with pytest.raises(BadInputError, match="at least one trial"):
        paired_estimate([])
    with pytest.raises(BadInputError, match="at least one trial"):
        independent_estimate([0.1], [])


@FEWER
@given(VALUES, st.sampled_from([0.0, 0.1, 0.2, 0.4]))
def test_trimmed_mean_agrees_with_scipy(values: list[float], share: float) -> None:
    assert trimmed_mean(values, share) == pytest.approx(stats.trim_mean(values, share), abs=1e-12)


@pytest.mark.parametrize("share", [-0.1, 0.5, math.nan])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(BadInputError, match="share"):
        trimmed_mean([1.0, 2.0], share)


# --- intervals and p-values


def test_one_trial_a_side_has_an_infinite_interval_and_no_evidence() -> None:
    estimate = independent_estimate([1.0], [2.0])
    assert (estimate.variance, estimate.degrees_of_freedom, estimate.standard_error) == (0.0, 0, math.inf)
    assert (interval(estimate).low, interval(estimate).high) == (-math.inf, math.inf)
    assert interval(estimate, level=0.0).high == math.inf
    assert (p_above(estimate), p_below(estimate)) == (1.0, 1.0)
    assert minimum_detectable_effect(estimate, 0.01) == math.inf
    assert required_n(estimate, 1.0, 0.01) is None


def test_extra_variance_does_not_stand_in_for_a_spread_that_is_unknown() -> None:
    estimate = dataclasses.replace(independent_estimate([1.0], [2.0]), extra_variance=0.01)
    assert estimate.standard_error == math.inf
    assert p_above(estimate) == 1.0


def test_standard_error_adds_what_more_trials_do_not_reduce() -> None:
    assert make_estimate(variance=0.08, n=8, extra=0.03).standard_error == pytest.approx(0.2)


@pytest.mark.parametrize(("value", "above", "below"), [(0.1, 0.0, 1.0), (0.0, 0.5, 0.5), (-0.1, 1.0, 0.0)])
def test_without_spread_the_side_of_the_value_decides(value: float, above: float, below: float) -> None:
    estimate = make_estimate(value=value, variance=0.0)
    assert (p_above(estimate), p_below(estimate)) == (above, below)
    assert (interval(estimate).low, interval(estimate).high) == (value, value)


def test_p_values_are_taken_against_the_bound() -> None:
    assert p_above(make_estimate(value=0.07), 0.05) == pytest.approx(p_above(make_estimate(value=0.02)))
    assert p_below(make_estimate(value=0.03), 0.05) == pytest.approx(p_below(make_estimate(value=-0.02)))


def test_infinite_degrees_of_freedom_are_the_normal_distribution() -> None:
    known = make_estimate(value=0.1, variance=0.01, freedom=math.inf, n=1)
    assert p_above(known) == pytest.approx(stats.norm.sf(1.0))
    assert interval(known).high == pytest.approx(0.1 + 0.1 * stats.norm.ppf(0.975))


@pytest.mark.parametrize("freedom", [0.2, 0.5, 1.0, 3.7])
def test_an_interval_and_its_p_value_agree_below_one_degree_of_freedom_too(freedom: float) -> None:
    estimate = make_estimate(value=0.1, freedom=freedom)
    assert p_above(estimate, interval(estimate).low) == pytest.approx(0.025)
    assert minimum_detectable_effect(estimate, 0.01) > estimate.standard_error * stats.t.isf(0.01, freedom) / 2


@pytest.mark.parametrize("level", [0.025, 1e-5])
def test_a_drift_from_few_sessions_has_a_quantile_of_its_own(level: float) -> None:
    estimate = dataclasses.replace(make_estimate(value=0.1, extra=0.002), extra_degrees_of_freedom=2)
    own, shared = stats.t.isf(level, 7), stats.t.isf(level, 2)
    reach = math.sqrt(own**2 * 0.0009 / 8 + shared**2 * 0.002)
    assert float(Family(estimates=[estimate]).half_widths(1 - level)[0]) == pytest.approx(reach)
    assert p_above(estimate, 0.1 - reach) == pytest.approx(level)
    assert p_below(estimate, 0.1 + reach) == pytest.approx(level)
    assert p_above(estimate, 0.1 + reach) == pytest.approx(1 - level)
    assert p_above(estimate, 0.1) == pytest.approx(0.5)
    of_drift_alone = dataclasses.replace(estimate, variance=0.0)
    assert p_above(of_drift_alone) == pytest.approx(stats.t.sf(0.1 / math.sqrt(0.002), 2))
    assert minimum_detectable_effect(estimate, 0.01) > minimum_detectable_effect(make_estimate(extra=0.002), 0.01)
    assert required_n(make_estimate(extra=0.002), 0.2, 0.01) is not None
    assert required_n(estimate, 0.2, 0.01) is None


@pytest.mark.parametrize("freedom", [7.0, 8.0, math.inf])
def test_a_drift_that_is_known_no_worse_than_the_spread_shares_its_quantile(freedom: float) -> None:
    estimate = dataclasses.replace(make_estimate(extra=0.002), extra_degrees_of_freedom=freedom)
    half = stats.t.isf(0.025, 7) * math.sqrt(0.0009 / 8 + 0.002)
    assert float(Family(estimates=[estimate]).half_widths(0.975)[0]) == pytest.approx(half)
    assert p_above(estimate, estimate.value - half) == pytest.approx(0.025)


@pytest.mark.parametrize("sessions", [3, 5])
def test_few_sessions_of_calibration_do_not_make_verdicts_err_more_often(sessions: int) -> None:
    random, count = np.random.default_rng(1), 20_000
    drift = random.chisquare(sessions - 1, count) / (sessions - 1)
    trials = random.chisquare(28, count) / 28 * 0.01
    values = random.standard_normal(count) * math.sqrt(1 + 0.01)
    family = Family(
        estimates=[
            Estimate(
                value=value,
                variance=variance,
                degrees_of_freedom=28,
                scale=1.0,
                extra_variance=extra,
                extra_degrees_of_freedom=sessions - 1,
                n=(15, 15),
            )
            for value, variance, extra in zip(values.tolist(), trials.tolist(), drift.tolist(), strict=True)
        ]
    )
    covered = np.mean(np.abs(values) <= family.half_widths(0.975))
    assert 0.945 < covered < 0.96  # as if the drift were known: 0.83 and 0.89
    assert np.mean(2 * np.minimum(family.p_above(), family.p_below()) < 0.01) < 0.0125  # and 0.10 and 0.05


def test_a_family_answers_as_its_members_alone_do() -> None:
    members = [make_estimate(value=i / 100, freedom=i, variance=i / 1e4) for i in range(4)]
    family = Family(estimates=members)
    assert family.p_above(0.01).tolist() == [p_above(each, 0.01) for each in members]
    assert family.minimum_detectable_effects(0.01).tolist() == [minimum_detectable_effect(e, 0.01) for e in members]
    assert family.required_n([0.01] * 4, 0.01) == tuple(required_n(each, 0.01, 0.01) for each in members)


# --- Holm


@FEWER
@given(P_VALUES)
def test_holm_rejects_as_its_definition_does(p_values: list[float]) -> None:
    level = 0.05
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] * (len(p_values) - rank) >= level:
            break
        rejected.add(place)
    assert {place for place, adjusted in enumerate(holm(p_values)) if adjusted < level} == rejected


@FEWER
@given(P_VALUES)
def test_holm_lies_between_the_p_values_and_bonferroni(p_values: list[float]) -> None:
    for adjusted, p in zip(holm(p_values), p_values, strict=True):
        assert p <= adjusted <= min(1.0, len(p_values) * p) or adjusted == max(holm(p_values))
    assert [holm(p_values)[i] for i in np.argsort(p_values, kind="stable")] == sorted(holm(p_values))


def test_holm_of_a_published_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_pooled_variance_weighs_by_degrees_of_freedom() -> None:
    pooled = pool_variance(make_estimate(variance=1.0, freedom=3), make_estimate(value=9.0, variance=5.0, freedom=1))
    assert (pooled.value, pooled.variance, pooled.degrees_of_freedom) == (0.02, 2.0, 4)
    unknown = make_estimate(variance=0.0, freedom=0)
    assert pool_variance(unknown, unknown) == unknown


# --- power


@pytest.mark.parametrize(("freedom", "level"), list(itertools.product([4, 7, 30], [0.01, 0.001])))
def test_the_minimum_detectable_effect_is_found_with_its_power(freedom: int, level: float) -> None:
    n = freedom + 1
    estimate = make_estimate(freedom=freedom, n=n)
    effect = minimum_detectable_effect(estimate, level)
    noncentrality = effect / estimate.standard_error
    found = stats.nct.sf(stats.t.isf(level, freedom), freedom, noncentrality)
    assert found == pytest.approx(0.8, abs=0.01)


def test_the_minimum_detectable_effect_is_found_in_simulation() -> None:
    random = np.random.default_rng(1)
    effect = minimum_detectable_effect(make_estimate(), 0.01)
    values = random.standard_normal((20_000, 8)) * 0.03 + effect
    t = values.mean(axis=1) / values.std(axis=1, ddof=1) * math.sqrt(8)
    assert float(np.mean(t > stats.t.isf(0.01, 7))) == pytest.approx(0.8, abs=0.015)


@FEWER
@given(st.floats(0.005, 0.2), st.sampled_from([1, 2]), st.floats(0, 0.05), st.integers(2, 40))
def test_required_n_is_the_smallest_that_reaches_the_power(
    distance: float, sides: int, deviation: float, n: int
) -> None:
    estimate = dataclasses.replace(make_estimate(variance=deviation**2, freedom=sides * (n - 1), n=n), scale=sides / n)

    def effect_at(tried: int) -> float:
        freedom = max(estimate.degrees_of_freedom + tried - n, 1)
        grown = dataclasses.replace(estimate, scale=sides / tried, degrees_of_freedom=freedom)
        return minimum_detectable_effect(grown, 0.01)

    needed = required_n(estimate, distance, 0.01)
    assert needed is not None
    assert effect_at(needed) <= distance
    assert needed == 2 or effect_at(needed - 1) > distance


def test_required_n_of_uneven_sides_is_that_of_even_ones() -> None:
    uneven = Estimate(value=0.0, variance=0.01, degrees_of_freedom=6, scale=1 / 2 + 1 / 6, n=(2, 6))
    even = dataclasses.replace(uneven, n=(3, 3))
    mirrored = dataclasses.replace(uneven, n=(6, 2))
    needed = required_n(even, 0.05, 0.01)
    assert needed is not None
    assert required_n(uneven, 0.05, 0.01) == required_n(mirrored, 0.05, 0.01) == needed


def test_no_number_of_trials_overcomes_drift_or_a_distance_of_nothing() -> None:
    assert required_n(make_estimate(extra=0.01), 0.05, 0.01) is None
    assert required_n(make_estimate(), 0.0, 0.01) is None
    assert required_n(make_estimate(), -0.1, 0.01) is None
    assert required_n(make_estimate(), 1e-9, 0.01) is None


def test_required_n_is_found_up_to_the_largest() -> None:
    estimate = make_estimate(variance=1.0)
    at_most = dataclasses.replace(estimate, scale=1 / MAX_N, degrees_of_freedom=7 + MAX_N - 8)
    assert required_n(estimate, minimum_detectable_effect(at_most, 0.01) * (1 + 1e-12), 0.01) == MAX_N


def test_standard_deviation_of_pairs_is_the_samples() -> None:
    values = [0.01, 0.05, -0.02]
    assert paired_estimate(values).variance == pytest.approx(statistics.variance(values))
