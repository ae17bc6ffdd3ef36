import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.errors import BadInputError
from bench.stats.inference import Estimate, Family, independent_estimate, interval
from bench.stats.judgement import (
    Judgement,
    Verdict,
    compare_accuracies,
    compare_times,
    gate_accuracies,
    gate_times,
)
from bench.stats.moderation import moderate
from bench.stats.pair_gate import gate_pairs

FEWER = settings(max_examples=50)
LIMIT = math.log(1.05)
QUIET = [-0.03, -0.02, -0.01, 0.0, 0.0, 0.01, 0.02, 0.03]
"""Pairs without a difference, with the spread of a quiet machine: they pass at the screen."""

SIDE = st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=6)
FAMILY = st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=4)


def make_estimate(
    value: float, *, error: float = 0.01, freedom: float = 10, n: int = 6, extra: float = 0.0
) -> Estimate:
    return Estimate(
        value=value,
        variance=error**2 * n / 2,
        degrees_of_freedom=freedom,
        scale=2 / n,
        extra_variance=extra,
        n=(n, n),
    )


def required_n(estimate: Estimate, distance: float, level: float, power: float = 0.8) -> int | None:
    return Family(estimates=[estimate]).required_n([distance], level, power)[0]


UNKNOWN = independent_estimate([0.1], [0.2])


def gate_time(estimate: Estimate, family: int = 1, floor: float = 0.0) -> Judgement:
    others = [make_estimate(0.0)] * (family - 1)
    return gate_times([estimate, *others], max_slowdown=0.05, floor=floor)[0]


def gate_accuracy(baseline: Sequence[float], candidate: Sequence[float]) -> Judgement:
    return gate_accuracies([independent_estimate(baseline, candidate)], max_drop=0.005)[0]


# --- gate of times


def test_a_time_passes_when_its_upper_bound_is_below_the_allowance() -> None:
    t = stats.t.isf(0.05, 10)
    inside, outside = LIMIT - 0.01 * t * 1.001, LIMIT - 0.01 * t * 0.999
    assert gate_time(make_estimate(inside)).verdict is Verdict.PASS
    assert gate_time(make_estimate(outside)).verdict is Verdict.INCONCLUSIVE
    assert gate_time(make_estimate(inside)).bound == pytest.approx(inside + 0.01 * t)


def test_the_bound_of_a_pass_holds_for_the_whole_family() -> None:
    t = stats.t.isf(0.05 / 20, 10)
    inside, outside = LIMIT - 0.01 * t * 1.001, LIMIT - 0.01 * t * 0.999
    assert gate_time(make_estimate(inside), family=20).verdict is Verdict.PASS
    assert gate_time(make_estimate(outside), family=20).verdict is Verdict.INCONCLUSIVE


def test_a_slowdown_is_a_regression_when_holm_s_p_value_is_below_the_level() -> None:
    error = LIMIT * 1.1 / stats.t.isf(0.01 / 5, 10)
    found = gate_time(make_estimate(LIMIT * 1.1, error=error * 0.999), family=5)
    missed = gate_time(make_estimate(LIMIT * 1.1, error=error * 1.001), family=5)
    assert (found.verdict, missed.verdict) == (Verdict.REGRESSION, Verdict.INCONCLUSIVE)
    assert found.adjusted_p is not None
    assert found.adjusted_p < 0.01


def test_the_second_smallest_p_value_is_multiplied_by_one_less() -> None:
    error = 0.06 / stats.t.isf(0.01 / 2, 10)
    slower, slow = make_estimate(0.2), make_estimate(0.06, error=error * 0.99)
    assert gate_times([slower, slow, make_estimate(0.0)], max_slowdown=0.05)[1].verdict is Verdict.REGRESSION
    assert gate_times([slow, make_estimate(0.0), make_estimate(0.0)], max_slowdown=0.05)[0].verdict is (
        Verdict.INCONCLUSIVE
    )


def test_a_certain_slowdown_within_the_allowance_is_no_regression() -> None:
    assert gate_time(make_estimate(LIMIT - 0.001, error=0.0001)).verdict is Verdict.PASS
    assert gate_time(make_estimate(LIMIT - 1e-6, error=0.0001)).verdict is Verdict.INCONCLUSIVE
    assert gate_time(make_estimate(LIMIT, error=0.0001)).verdict is Verdict.REGRESSION


def test_a_slowdown_that_equal_code_shows_too_is_no_regression() -> None:
    judgement = gate_time(make_estimate(0.06, error=0.001), floor=0.06)
    assert (judgement.verdict, judgement.needed_n) == (Verdict.INCONCLUSIVE, None)
    assert "A/A floor" in judgement.reason
    assert gate_time(make_estimate(0.06, error=0.001), floor=0.0599).verdict is Verdict.REGRESSION


@pytest.mark.parametrize("family", [1, 30])
def test_one_trial_a_side_is_inconclusive_and_says_why(family: int) -> None:
    judgement = gate_time(UNKNOWN, family=family)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "at least 3 trials a side are needed" in judgement.reason
    assert (judgement.interval, judgement.bound, judgement.needed_n) == (None, None, None)
    assert (judgement.adjusted_p, judgement.minimum_detectable_effect) == (None, None)


def test_one_degree_of_freedom_is_enough_to_be_judged() -> None:
    judgement = gate_time(make_estimate(0.0, error=1e-4, freedom=1))
    assert judgement.verdict is Verdict.PASS
    assert judgement.minimum_detectable_effect is not None
    assert judgement.minimum_detectable_effect < LIMIT + 0.001


def test_the_number_of_trials_that_would_decide_a_pass_is_given() -> None:
    judgement = gate_time(make_estimate(0.01, error=0.03))
    assert judgement.needed_n is not None
    assert judgement.needed_n > 6
    assert (
        f"slower is possible; 5 % is allowed; about {judgement.needed_n} trials a side would decide" in judgement.reason
    )
    more = judgement.needed_n
    grown = make_estimate(0.01, error=0.03 * math.sqrt(6 / more), freedom=10 + more - 6, n=more)
    assert gate_time(grown).verdict is Verdict.PASS


def test_the_number_of_trials_that_would_decide_a_regression_is_given() -> None:
    judgement = gate_time(make_estimate(0.08, error=0.04))
    assert judgement.adjusted_p is not None
    assert f"it may be noise (adjusted p = {judgement.adjusted_p:.2g})" in judgement.reason
    assert judgement.needed_n is not None
    more = judgement.needed_n
    grown = make_estimate(0.08, error=0.04 * math.sqrt(6 / more), freedom=10 + more - 6, n=more)
    assert gate_time(grown).verdict is Verdict.REGRESSION


@pytest.mark.parametrize(("floor", "least"), [(0.0, LIMIT), (0.055, 0.055)])
def test_the_number_that_would_decide_a_regression_makes_the_estimate_reach_the_limit(
    floor: float, least: float
) -> None:
    judgement = gate_time(make_estimate(0.06, error=0.03), floor=floor)
    assert judgement.needed_n is not None
    error = 0.03 * math.sqrt(6 / judgement.needed_n)
    assert stats.norm.sf((least - 0.06) / error) == pytest.approx(0.8, abs=0.005)
    assert gate_time(make_estimate(LIMIT, error=0.03)).needed_n is None


def test_drift_that_trials_cannot_reduce_leaves_nothing_to_do() -> None:
    judgement = gate_time(make_estimate(0.01, extra=0.05))
    assert (judgement.verdict, judgement.needed_n) == (Verdict.INCONCLUSIVE, None)
    assert "no number of trials would decide" in judgement.reason


def test_the_interval_is_of_the_configuration_alone() -> None:
    estimate = make_estimate(0.01)
    judgement = gate_time(estimate, family=20)
    assert judgement.interval == interval(estimate)
    assert judgement.estimate is estimate


def test_the_detectable_effect_is_of_the_family_s_first_step() -> None:
    estimate = make_estimate(0.0, error=0.02)
    alone, together = gate_time(estimate), gate_time(estimate, family=20)
    assert alone.minimum_detectable_effect is not None
    assert together.minimum_detectable_effect is not None
    noncentrality = together.minimum_detectable_effect / 0.02
    assert stats.nct.sf(stats.t.isf(0.01 / 20, 10), 10, noncentrality) == pytest.approx(0.8, abs=0.01)
    assert together.minimum_detectable_effect > alone.minimum_detectable_effect


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_a_detectable_slowdown_is_called_a_regression_four_times_in_five(floor: float) -> None:
    drawn = np.random.default_rng(1).normal(scale=0.01, size=1000)
    effect = gate_time(make_estimate(0.0, freedom=1000), floor=floor).minimum_detectable_effect
    assert effect is not None
    verdicts = [gate_time(make_estimate(effect + each, freedom=1000), floor=floor).verdict for each in drawn.tolist()]
    assert verdicts.count(Verdict.REGRESSION) / len(verdicts) == pytest.approx(0.8, abs=0.04)


def test_a_detectable_drop_is_called_a_regression_four_times_in_five() -> None:
    def judge(value: float) -> Judgement:
        return gate_accuracies([make_estimate(value, error=0.001, freedom=1000)], max_drop=0.005)[0]

    effect = judge(0.0).minimum_detectable_effect
    assert effect is not None
    drawn = np.random.default_rng(1).normal(scale=0.001, size=1000)
    verdicts = [judge(each - effect).verdict for each in drawn.tolist()]
    assert verdicts.count(Verdict.REGRESSION) / len(verdicts) == pytest.approx(0.8, abs=0.04)


def test_without_spread_the_margin_is_the_detectable_effect() -> None:
    exact = make_estimate(0.0, error=0.0)
    assert gate_time(exact).minimum_detectable_effect == math.log1p(0.05)
    assert gate_time(exact, floor=0.1).minimum_detectable_effect == 0.1
    assert gate_accuracies([exact], max_drop=0.005)[0].minimum_detectable_effect == 0.005
    (compared,) = compare_times([exact])
    assert compared.minimum_detectable_effect == math.log1p(0.05)


@pytest.mark.parametrize("value", [0.0, 0.2])
def test_nothing_is_detectable_by_two_trials_that_agree(value: float) -> None:
    few = make_estimate(value, error=0.0, n=2)
    assert gate_accuracies([few], max_drop=0.005)[0].minimum_detectable_effect is None
    for (judgement,) in (compare_times([few]), compare_accuracies([few])):
        assert judgement.minimum_detectable_effect is None


def test_an_empty_family_has_no_verdicts() -> None:
    assert gate_times([], max_slowdown=0.05) == ()
    assert gate_accuracies([], max_drop=0.005) == ()
    assert compare_times([]) == ()
    assert gate_pairs([], [], max_slowdown=0.05, floor=0.0, looks=1) == ()


@pytest.mark.parametrize("candidate", [0.94, 0.99])
def test_two_trials_that_agree_are_not_called_different(candidate: float) -> None:
    for n, gate, compared in (
        (2, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
        (3, *((Verdict.REGRESSION, Verdict.LOWER) if candidate < 0.97 else (Verdict.INCOMPARABLE, Verdict.HIGHER))),
    ):
        gated = gate_accuracy([0.97] * n, [candidate] * n)
        (judgement,) = compare_accuracies([independent_estimate([0.97] * n, [candidate] * n)])
        assert (gated.verdict, judgement.verdict) == (gate, compared)
        if n == 2:
            assert "use at least 3 trials a side" in gated.reason
            assert "use at least 3 trials a side" in judgement.reason
            assert (gated.needed_n, judgement.needed_n) == (None, None)
    assert gate_accuracy([0.97] * 2, [0.97] * 2).verdict is Verdict.PASS
    assert compare_accuracies([independent_estimate([0.97] * 2, [0.97] * 2)])[0].verdict is Verdict.SAME


@pytest.mark.parametrize("n", [(1, 2), (2, 1), (1, 3), (15, 1)])
def test_one_accuracy_against_several_equal_ones_decides_nothing(n: tuple[int, int]) -> None:
    for change in (0.0, -0.1):
        baseline, candidate = [0.97] * n[0], [0.97 + change] * n[1]
        assert gate_accuracy(baseline, candidate).verdict is Verdict.INCONCLUSIVE
        (judgement,) = compare_accuracies([independent_estimate(baseline, candidate)])
        assert judgement.verdict is Verdict.INCONCLUSIVE
        assert judgement.interval is None


@pytest.mark.parametrize("n", [(2, 5), (5, 2)])
def test_trials_that_agree_are_as_few_as_those_of_the_side_with_fewer(n: tuple[int, int]) -> None:
    baseline, candidate = [0.97] * n[0], [0.94] * n[1]
    assert gate_accuracy(baseline, candidate).verdict is Verdict.INCONCLUSIVE
    assert compare_accuracies([independent_estimate(baseline, candidate)])[0].verdict is Verdict.INCONCLUSIVE


def test_small_test_sets_keep_the_error_rate_of_tables_with_two_seeds() -> None:
    random, tables = np.random.default_rng(1), 300
    false = 0
    for sides in np.round((0.97 + 0.006 * random.standard_normal((tables, 2, 10, 2))) * 360) / 360:
        estimates = [independent_estimate(*each) for each in zip(*sides.tolist(), strict=True)]
        judged = [*compare_accuracies(estimates), *gate_accuracies(estimates, max_drop=0.005)]
        wrong = {Verdict.HIGHER, Verdict.LOWER, Verdict.REGRESSION, Verdict.INCOMPARABLE}
        false += any(each.verdict in wrong for each in judged)
    assert false <= 8  # 1 % promised; one table in twelve if two equal seeds could be called different


def test_an_extra_variance_needs_a_degree_of_freedom() -> None:
    with pytest.raises(BadInputError, match="degree of freedom"):
        compare_times([dataclasses.replace(make_estimate(0.0), extra_degrees_of_freedom=0)])


@pytest.mark.parametrize("name", ["value", "variance", "scale", "extra_variance", "degrees_of_freedom"])
def test_an_estimate_that_is_not_a_number_is_refused(name: str) -> None:
    fields = dataclasses.asdict(make_estimate(0.0)) | {name: math.nan}
    wrong = Estimate(**fields)
    gates: list[Callable[[], object]] = [
        lambda: gate_times([wrong], max_slowdown=0.05),
        lambda: gate_accuracies([wrong], max_drop=0.005),
        lambda: compare_times([wrong]),
        lambda: compare_accuracies([wrong]),
    ]
    for gate in gates:
        with pytest.raises(BadInputError, match="not finite"):
            gate()


def test_a_negative_variance_is_refused() -> None:
    with pytest.raises(BadInputError, match="negative"):
        compare_times([dataclasses.replace(make_estimate(0.0), variance=-1.0)])


@pytest.mark.parametrize("wrong", [0.0, -0.1, math.inf, math.nan])
def test_a_margin_without_sense_is_refused(wrong: float) -> None:
    gates: list[Callable[[], object]] = [
        lambda: gate_times([make_estimate(0.0)], max_slowdown=wrong),
        lambda: gate_accuracies([make_estimate(0.0)], max_drop=wrong),
    ]
    for gate in gates:
        with pytest.raises(BadInputError, match="margin"):
            gate()


@pytest.mark.parametrize("wrong", [0.0, -0.1, 0.5, math.nan])
def test_a_level_without_sense_is_refused(wrong: float) -> None:
    judges: list[Callable[[], object]] = [
        lambda: gate_times([make_estimate(0.0)], max_slowdown=0.05, error_level=wrong),
        lambda: gate_times([make_estimate(0.0)], max_slowdown=0.05, pass_level=wrong),
    ]
    for judge in judges:
        with pytest.raises(BadInputError, match="level"):
            judge()


@pytest.mark.parametrize("wrong", [-0.01, math.inf, math.nan])
def test_a_floor_without_sense_is_refused(wrong: float) -> None:
    with pytest.raises(BadInputError, match="floor"):
        gate_times([make_estimate(0.0)], max_slowdown=0.05, floor=wrong)


# --- gate of accuracies

SEEDS = [0.9801, 0.9788, 0.9812, 0.9795, 0.9804]


def test_equal_accuracies_pass() -> None:
    judgement = gate_accuracy(SEEDS, SEEDS)
    assert judgement.verdict is Verdict.PASS
    assert judgement.estimate is not None
    assert judgement.estimate.value == 0.0
    assert judgement.reason.startswith("accuracy unchanged, at worst ")


def test_a_difference_too_small_for_its_text_is_not_said_to_be_none() -> None:
    reasons = [gate_accuracy(SEEDS, [seed + change for seed in SEEDS]).reason for change in (4e-5, -4e-5)]
    assert [reason.partition(",")[0] for reason in reasons] == [
        "accuracy less than 0.01 pp higher",
        "accuracy less than 0.01 pp lower",
    ]


def test_a_clear_drop_is_a_regression() -> None:
    judgement = gate_accuracy(SEEDS, [seed - 0.006 for seed in SEEDS])
    assert judgement.verdict is Verdict.REGRESSION
    assert "0.60 pp lower" in judgement.reason


def test_a_certain_drop_of_less_than_a_tenth_of_a_point_is_none() -> None:
    tiny = make_estimate(-0.00099, error=1e-5)
    assert gate_accuracies([tiny], max_drop=0.005)[0].verdict is Verdict.PASS
    enough = make_estimate(-0.00105, error=1e-5)
    assert gate_accuracies([enough], max_drop=0.005)[0].verdict is Verdict.REGRESSION


def test_the_tolerated_drop_grows_with_the_allowed_one() -> None:
    drop = make_estimate(-0.003, error=1e-5)
    assert gate_accuracies([drop], max_drop=0.005)[0].verdict is Verdict.REGRESSION
    assert gate_accuracies([drop], max_drop=0.02)[0].verdict is Verdict.PASS


def test_a_drop_that_may_be_chance_is_inconclusive_and_says_what_would_decide() -> None:
    judgement = gate_accuracies([make_estimate(-0.002, error=0.003)], max_drop=0.005)[0]
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.needed_n is not None
    assert f"about {judgement.needed_n} trials a side" in judgement.reason


def test_a_drop_that_no_number_of_seeds_would_decide_is_inconclusive() -> None:
    judgement = gate_accuracies([make_estimate(-0.002, error=9.0)], max_drop=0.005)[0]
    assert (judgement.verdict, judgement.needed_n) == (Verdict.INCONCLUSIVE, None)
    assert "no number of trials would decide" in judgement.reason


def test_accuracies_pass_by_the_family_s_lower_bound() -> None:
    error = 0.005 / stats.t.isf(0.05 / 10, 10)
    others = [make_estimate(0.0, error=1e-5)] * 9
    inside = gate_accuracies([make_estimate(0.0, error=error * 0.999), *others], max_drop=0.005)[0]
    outside = gate_accuracies([make_estimate(0.0, error=error * 1.001), *others], max_drop=0.005)[0]
    assert (inside.verdict, outside.verdict) == (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert inside.bound == pytest.approx(-0.005, rel=0.01)


def test_a_rise_that_only_another_evaluation_explains_is_incomparable() -> None:
    judgement = gate_accuracy(SEEDS, [seed + 0.015 for seed in SEEDS])
    assert judgement.verdict is Verdict.INCOMPARABLE
    assert "wrong split?" in judgement.reason
    assert "refresh the baseline" in judgement.reason


def test_a_small_or_uncertain_rise_passes() -> None:
    assert gate_accuracies([make_estimate(0.0049, error=1e-4)], max_drop=0.005)[0].verdict is Verdict.PASS
    assert gate_accuracies([make_estimate(0.0060, error=3e-3)], max_drop=0.005)[0].verdict is Verdict.PASS


def test_a_rise_is_judged_for_the_family() -> None:
    error = 0.006 / stats.t.isf(0.01 / 2 / 20, 10)
    others = [make_estimate(0.0, error=1e-5)] * 19
    found = gate_accuracies([make_estimate(0.006, error=error * 0.999), *others], max_drop=0.005)[0]
    missed = gate_accuracies([make_estimate(0.006, error=error * 1.001), *others], max_drop=0.005)[0]
    assert (found.verdict, missed.verdict) == (Verdict.INCOMPARABLE, Verdict.PASS)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (0.0, Verdict.PASS),
        (-0.0009, Verdict.PASS),
        (-0.001, Verdict.PASS),  # by a hair more in binary fractions
        (-0.0011, Verdict.INCONCLUSIVE),
        (-0.005, Verdict.INCONCLUSIVE),
        (-0.0051, Verdict.REGRESSION),
        (0.0049, Verdict.PASS),
        (0.005, Verdict.INCOMPARABLE),
    ],
)
def test_without_any_spread_the_difference_itself_is_judged(change: float, verdict: Verdict) -> None:
    assert gate_accuracy([0.98] * 3, [0.98 + change] * 3).verdict is verdict


def test_one_accuracy_a_side_is_inconclusive() -> None:
    judgement = gate_accuracy([0.98], [0.98])
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "at least 3 trials a side are needed" in judgement.reason


# --- comparisons


def compare_time(estimate: Estimate, family: int = 1) -> Judgement:
    return compare_times([estimate] + [make_estimate(0.0, error=1e-4)] * (family - 1))[0]


def test_a_difference_is_judged_at_the_level_of_the_family() -> None:
    t = stats.t.isf(0.01 / 2 / 10, 10)
    assert compare_time(make_estimate(0.01 * t * 1.01), family=10).verdict is Verdict.SLOWER
    assert compare_time(make_estimate(-0.01 * t * 1.01), family=10).verdict is Verdict.FASTER
    assert compare_time(make_estimate(0.01 * t * 0.99), family=10).verdict is Verdict.INCONCLUSIVE


def test_times_are_the_same_when_the_interval_lies_within_the_margin() -> None:
    half = 0.01 * stats.t.isf(0.025, 10)
    assert compare_time(make_estimate(LIMIT - half - 1e-9)).verdict is Verdict.SAME
    assert compare_time(make_estimate(LIMIT - half + 1e-9)).verdict is Verdict.INCONCLUSIVE
    assert compare_time(make_estimate(half + 1e-9 - LIMIT)).verdict is Verdict.SAME


def test_accuracies_are_higher_lower_or_the_same() -> None:
    def compare(value: float, error: float) -> Verdict:
        return compare_accuracies([make_estimate(value, error=error)])[0].verdict

    assert compare(0.004, 0.0005) is Verdict.HIGHER
    assert compare(-0.004, 0.0005) is Verdict.LOWER
    assert compare(0.001, 0.0005) is Verdict.SAME
    assert compare(0.001, 0.005) is Verdict.INCONCLUSIVE


def test_without_any_spread_a_difference_within_the_margin_is_none() -> None:
    def compare(change: float) -> Verdict:
        return compare_accuracies([independent_estimate([0.98] * 3, [0.98 + change] * 3)])[0].verdict

    verdicts = [compare(change) for change in (-0.01, -0.001, 0.0, 0.001, 0.01)]
    assert verdicts == [Verdict.LOWER, Verdict.SAME, Verdict.SAME, Verdict.SAME, Verdict.HIGHER]
    assert 0.98 - 0.975 > 0.005  # in binary fractions; it is within the margin all the same
    assert compare(0.975 - 0.98) is Verdict.SAME


def test_an_undecided_comparison_says_how_many_trials_would_decide() -> None:
    estimate = make_estimate(0.01, error=0.04)
    judgement = compare_time(estimate)
    assert judgement.needed_n == required_n(estimate, LIMIT - 0.01, 0.05 / 2, power=0.9)
    assert judgement.needed_n is not None
    more = judgement.needed_n
    grown = make_estimate(0.01, error=0.04 * math.sqrt(6 / more), freedom=10 + more - 6, n=more)
    assert compare_time(grown).verdict is Verdict.SAME


@pytest.mark.parametrize("value", [0.0, 0.01, -0.02])
def test_the_trials_that_would_decide_a_comparison_do_so_four_times_in_five(value: float) -> None:
    more = compare_time(make_estimate(value, error=0.1 * math.sqrt(2 / 6))).needed_n
    assert more is not None
    random = np.random.default_rng(1)
    sides = (random.normal(mean, 0.1, (2000, more)).tolist() for mean in (0.0, value))
    judged = compare_times([independent_estimate(*pair) for pair in zip(*sides, strict=True)])
    decided = sum(judgement.verdict is not Verdict.INCONCLUSIVE for judgement in judged)
    assert decided / len(judged) >= 0.79  # three times in five of equal sides with 0.8 for each of the one-sided tests


MIRROR = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER, Verdict.HIGHER: Verdict.LOWER}
MIRROR[Verdict.LOWER] = Verdict.HIGHER


@FEWER
@given(FAMILY)
def test_swapped_sides_give_mirrored_judgements(family: list[tuple[list[float], list[float]]]) -> None:
    for compare in (compare_times, compare_accuracies):
        there = compare([independent_estimate(baseline, candidate) for baseline, candidate in family])
        back = compare([independent_estimate(candidate, baseline) for baseline, candidate in family])
        for one, other in zip(there, back, strict=True):
            assert other.verdict is MIRROR.get(one.verdict, one.verdict)
            assert (other.adjusted_p, other.needed_n) == (one.adjusted_p, one.needed_n)
            assert other.minimum_detectable_effect == one.minimum_detectable_effect
            if one.interval is not None:
                assert other.interval is not None
                assert (other.interval.low, other.interval.high) == (-one.interval.high, -one.interval.low)


@FEWER
@given(st.lists(SIDE, min_size=1, max_size=5))
def test_equal_measurements_never_differ(sides: list[list[float]]) -> None:
    estimates = [independent_estimate(side, side) for side in sides]
    assert {each.verdict for each in compare_times(estimates)} <= {Verdict.SAME, Verdict.INCONCLUSIVE}
    assert {each.verdict for each in compare_accuracies(estimates)} <= {Verdict.SAME, Verdict.INCONCLUSIVE}
    passed = {Verdict.PASS, Verdict.INCONCLUSIVE}
    assert {each.verdict for each in gate_times(estimates, max_slowdown=0.05)} <= passed
    assert {each.verdict for each in gate_accuracies(estimates, max_drop=0.005)} <= passed


@FEWER
@given(FAMILY, st.integers(0, 3))
def test_the_order_of_configurations_never_matters(family: list[tuple[list[float], list[float]]], turn: int) -> None:
    estimates = [independent_estimate(baseline, candidate) for baseline, candidate in family]
    by = turn % len(estimates)
    turned = [*estimates[by:], *estimates[:by]]
    for judge in (compare_times, compare_accuracies):
        judged = judge(estimates)
        assert judge(turned) == (*judged[by:], *judged[:by])


@FEWER
@given(FAMILY)
def test_no_gate_both_passes_and_fails_or_shows_nan(
    family: list[tuple[list[float], list[float]]],
) -> None:
    estimates = [independent_estimate(baseline, candidate) for baseline, candidate in family]
    for each in (
        *gate_times(estimates, max_slowdown=0.05),
        *gate_accuracies(estimates, max_drop=0.005),
        *compare_times(estimates),
    ):
        numbers = [each.bound, each.adjusted_p, each.minimum_detectable_effect]
        assert all(number is None or math.isfinite(number) for number in numbers)
        assert not any(word in each.reason for word in ("nan", "inf ", "None"))
        if each.verdict is Verdict.PASS:
            assert each.bound is not None


def test_a_ratio_too_large_for_a_float_is_still_judged() -> None:
    assert gate_time(make_estimate(800.0)).verdict is Verdict.REGRESSION
    assert compare_time(make_estimate(800.0)).verdict is Verdict.SLOWER


def test_a_stalled_trial_makes_no_configuration_a_regression() -> None:
    # One trial of one configuration takes 30 times as long; all others are quiet, and the family knows their spread.
    random = np.random.default_rng(1)
    quiet = [independent_estimate(*random.normal(0, 0.15, (2, 5)).tolist()) for _ in range(49)]
    baseline, candidate = random.normal(0, 0.15, (2, 5)).tolist()
    stalled = independent_estimate(baseline, [*candidate[:-1], math.log(30)])
    judged = gate_times(moderate([*quiet, stalled]), max_slowdown=0.05)
    assert Verdict.REGRESSION not in {each.verdict for each in judged}


# --- what a family of ten could find

Judge = Callable[[Sequence[Estimate]], Sequence[Judgement]]
JUDGES: dict[str, Judge] = {
    "gate of times": lambda family: gate_times(family, max_slowdown=0.05),
    "gate of accuracies": lambda family: gate_accuracies(family, max_drop=0.005),
    "times": compare_times,
    "accuracies": compare_accuracies,
}


def judge_first_of_ten(judge: str, estimate: Estimate) -> Judgement:
    return JUDGES[judge]([estimate] + [make_estimate(0.0, error=1e-5)] * 9)[0]


@pytest.mark.parametrize(
    ("judge", "value", "error", "distance", "level"),
    [
        ("gate of times", 0.01, 0.03, LIMIT - 0.01, 0.05),
        ("gate of times", 0.08, 0.04, 0.08, 0.01),
        ("gate of accuracies", -0.0005, 0.004, 0.0045, 0.05),
        ("gate of accuracies", -0.002, 0.004, 0.005 - 0.002, 0.05),  # a pass would take fewer than a regression
        ("gate of accuracies", -0.004, 0.004, 0.004 - 0.001, 0.01),  # and the other way round
        ("gate of accuracies", -0.006, 0.004, 0.006 - 0.001, 0.01),
        ("times", 0.08, 0.04, 0.08, 0.01 / 2),
        ("accuracies", -0.008, 0.004, 0.008, 0.01 / 2),
    ],
)
def test_the_trials_that_would_decide_are_those_of_a_family(
    judge: str, value: float, error: float, distance: float, level: float
) -> None:
    estimate = make_estimate(value, error=error)
    judgement = judge_first_of_ten(judge, estimate)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.needed_n == required_n(estimate, distance, level / 10)


@pytest.mark.parametrize(
    ("judge", "error", "tolerated", "level"),
    [
        ("gate of times", 0.04, 0.0, 0.01),
        ("gate of accuracies", 0.004, 0.001, 0.01),
        ("times", 0.04, 0.0, 0.01 / 2),
        ("accuracies", 0.004, 0.0, 0.01 / 2),
    ],
)
def test_the_detectable_effect_is_that_of_a_family(judge: str, error: float, tolerated: float, level: float) -> None:
    estimate = make_estimate(0.0, error=error)
    for size, judgement in ((1, JUDGES[judge]([estimate])[0]), (10, judge_first_of_ten(judge, estimate))):
        effect = judgement.minimum_detectable_effect
        assert effect is not None
        found = stats.nct.sf(stats.t.isf(level / size, 10), 10, (effect - tolerated) / error)
        assert found == pytest.approx(0.8, abs=0.015)
