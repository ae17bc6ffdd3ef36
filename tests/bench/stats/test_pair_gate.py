"""The rule of `ab`: the screen, fresh pairs, and any number of looks at them."""

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.errors import BadInputError
from bench.stats.inference import robust_paired_estimate
from bench.stats.judgement import Judgement, Verdict
from bench.stats.pair_gate import gate_pairs

FEWER = settings(max_examples=50)
LIMIT = math.log(1.05)
QUIET = [-0.03, -0.02, -0.01, 0.0, 0.0, 0.01, 0.02, 0.03]
"""Pairs without a difference, with the spread of a quiet machine: they pass at the screen."""


def shifted(pairs: Sequence[float], by: float) -> list[float]:
    return [pair + by for pair in pairs]


def gate_two(screen: Sequence[float], confirm: Sequence[float], looks: int = 1, *, last_look: bool = True) -> Judgement:
    return gate_pairs([screen], [confirm], max_slowdown=0.05, floor=0.0, looks=looks, last_look=last_look)[0]


def test_pairs_without_a_difference_pass_at_the_screen() -> None:
    judgement = gate_two(QUIET, [], looks=0)
    assert judgement.verdict is Verdict.PASS


def test_the_screen_never_calls_a_regression() -> None:
    judgement = gate_two(shifted(QUIET, 0.5), [], looks=0)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.adjusted_p is None


def test_a_slowdown_is_confirmed_on_fresh_pairs() -> None:
    assert gate_two(shifted(QUIET, 0.095), shifted(QUIET, 0.095)).verdict is Verdict.REGRESSION


def test_fresh_pairs_alone_decide() -> None:
    assert gate_two(shifted(QUIET, 0.5), QUIET).verdict is Verdict.PASS
    judgement = gate_two(shifted(QUIET, 0.5), shifted(QUIET, 0.03))
    assert judgement.estimate is not None
    assert judgement.estimate.value == pytest.approx(0.03)


def test_the_screen_s_pairs_help_to_know_the_spread() -> None:
    judgement = gate_two(shifted(QUIET, 0.06), shifted(QUIET, 0.06))
    assert judgement.estimate is not None
    assert judgement.estimate.degrees_of_freedom == 5 + 5
    assert judgement.estimate.scale == robust_paired_estimate(QUIET).scale


def test_the_spread_is_pooled_over_both_stages() -> None:
    judgement = gate_two(shifted([3 * each for each in QUIET], 0.06), shifted(QUIET, 0.06))
    quiet = robust_paired_estimate(QUIET).variance
    assert judgement.estimate is not None
    assert judgement.estimate.variance == pytest.approx((9 + 1) / 2 * quiet)


@pytest.mark.parametrize("looks", [0, 1])
def test_pairs_that_agree_by_chance_are_believed_as_far_as_those_of_the_others_allow(looks: int) -> None:
    slow = [
        shifted([share * each for each in QUIET], 0.1) for share in (1e-6, *(1 + place / 10 for place in range(11)))
    ]
    fresh = slow if looks else [[] for _ in slow]
    among_others = gate_pairs(slow, fresh, max_slowdown=0.05, floor=0.0, looks=looks)[0].estimate
    alone = gate_two(slow[0], fresh[0], looks).estimate
    assert among_others is not None
    assert alone is not None
    assert among_others.variance > 1e6 * alone.variance
    assert among_others.degrees_of_freedom > alone.degrees_of_freedom


def test_the_screen_s_spread_is_taken_with_the_trimming_of_the_fresh_pairs() -> None:
    screen, fresh = shifted([*QUIET, *QUIET, *QUIET[2:6]], 0.06), shifted(QUIET[1:4], 0.06)
    judgement = gate_two(screen, fresh)
    untrimmed = (19 * statistics.variance(screen) + 2 * statistics.variance(fresh)) / 21
    assert judgement.estimate is not None
    assert judgement.estimate.degrees_of_freedom == 19 + 2
    assert judgement.estimate.variance == pytest.approx(untrimmed)


@pytest.mark.parametrize(("screening", "fresh"), [(5, 8), (8, 9), (5, 16)])
def test_a_wild_screening_pair_stays_cut_off_where_fresh_pairs_are_trimmed(screening: int, fresh: int) -> None:
    pairs = [0.1 + 0.001 * i for i in range(fresh)]
    wild = gate_two([*pairs[: screening - 1], math.log(30)], pairs)
    assert wild.estimate == gate_two(pairs[:screening], pairs).estimate


@pytest.mark.parametrize("n", [1, 4, 5, 8, 9, 49, 71, 142])  # 14 / 71 * 71 is below 14 in binary fractions
def test_as_many_fresh_pairs_as_screening_pairs_are_trimmed_alike(n: int) -> None:
    pairs = [0.5 + 0.001 * i**2 for i in range(n)]
    judgement = gate_two(pairs, pairs)
    alone = robust_paired_estimate(pairs)
    assert judgement.estimate is not None
    assert judgement.estimate.variance == pytest.approx(alone.variance)
    assert judgement.estimate.degrees_of_freedom == 2 * alone.degrees_of_freedom


def test_the_bound_of_few_fresh_pairs_after_a_long_screen_errs_no_more_than_its_level() -> None:
    random = np.random.default_rng(1)
    families, size, slowdown, errors = 1000, 9, 1.0, 0  # too few to be moderated, and a slowdown that no screen passes
    for _ in range(families):
        screen, fresh = (random.normal(slowdown, 0.03, (size, n)).tolist() for n in (20, 3))
        level = 2 * size * 0.025  # so that each bound is one at 2.5 %
        judged = gate_pairs(screen, fresh, max_slowdown=0.05, floor=0.0, looks=1, last_look=True, pass_level=level)
        errors += sum(each.bound is not None and each.bound < slowdown for each in judged)
    # With the screen's variance trimmed and that of the fresh pairs not it was 4.5 %.
    assert errors / (families * size) == pytest.approx(0.025, rel=0.25)


def test_the_screen_spends_half_of_the_level_of_a_pass() -> None:
    judgement = gate_two(QUIET, [], looks=0)
    assert judgement.bound == pytest.approx(stats.t.isf(0.025, 5) * robust_paired_estimate(QUIET).standard_error)


def test_a_configuration_not_confirmed_yet_keeps_its_screening() -> None:
    slow = shifted(QUIET, 0.1)
    screened = gate_pairs([slow, slow], [[], []], looks=0, max_slowdown=0.05, floor=0.0)
    judged = gate_pairs([slow, slow], [slow, []], looks=1, max_slowdown=0.05, floor=0.0)
    assert judged[0].verdict is Verdict.REGRESSION
    assert judged[1] == screened[1]
    assert judged[1].verdict is Verdict.INCONCLUSIVE


def test_the_family_of_the_second_stage_is_all_that_the_screen_did_not_pass() -> None:
    slow = shifted(QUIET, 0.1)

    def judge(others: Sequence[Sequence[float]], confirmed: Sequence[float] = ()) -> Judgement:
        screen, confirm = [slow, *others], [slow, *[confirmed] * len(others)]
        return gate_pairs(screen, confirm, max_slowdown=0.05, floor=0.0, looks=1)[0]

    alone = judge([])
    assert alone.adjusted_p is not None
    assert alone.estimate is not None
    # The others of the family, and those of them that the screen passes.
    for others, confirmed, size in (
        ([slow] * 3, [], 4),
        ([slow] * 3, QUIET, 4),
        ([shifted(QUIET, 0.9)], [], 2),
        ([QUIET], [], 1),
        ([QUIET] * 2 + [slow], [], 2),
    ):
        judged = judge(others, confirmed)
        assert judged.adjusted_p == pytest.approx(size * alone.adjusted_p)
        bound = 0.1 + stats.t.isf(0.05 / 2 / 2 / size, 10) * alone.estimate.standard_error
        assert judged.bound == pytest.approx(bound)


def find_share(looks: int, *, last_look: bool) -> float:
    """The share of the error level that a look spends: the largest level at which it calls no regression, inverted."""
    slow = shifted(QUIET, 0.06)
    (before,) = gate_pairs([slow], [[]], max_slowdown=0.05, floor=0.0, looks=0)
    (at_default,) = gate_pairs(
        [slow], [slow], max_slowdown=0.05, floor=0.0, looks=looks, last_look=last_look, earlier=[before]
    )
    assert at_default.adjusted_p is not None
    low, high = 1e-12, 0.49
    while high / low > 1.0001:
        level = math.sqrt(low * high)
        (judged,) = gate_pairs(
            [slow],
            [slow],
            max_slowdown=0.05,
            floor=0.0,
            looks=looks,
            last_look=last_look,
            earlier=[before],
            error_level=level,
        )
        low, high = (low, level) if judged.verdict is Verdict.REGRESSION else (level, high)
    return at_default.adjusted_p / high


@pytest.mark.parametrize(
    ("looks", "last", "share"),
    [(1, True, 1.0), (1, False, 1 / 2), (2, False, 1 / 6), (2, True, 1 / 2), (3, True, 1 / 3)],
)
def test_each_look_spends_its_share_of_the_level(looks: int, last: bool, share: float) -> None:  # noqa: FBT001 - a table's column
    assert find_share(looks, last_look=last) == pytest.approx(share, rel=0.001)


@pytest.mark.parametrize(("looks", "last", "share"), [(1, True, 1 / 2), (1, False, 1 / 4), (2, True, 1 / 4)])
def test_the_bound_of_each_look_spends_its_share_too(looks: int, last: bool, share: float) -> None:  # noqa: FBT001 - a table's column
    slow = shifted(QUIET, 0.06)
    (before,) = gate_pairs([slow], [[]], max_slowdown=0.05, floor=0.0, looks=0)
    (judged,) = gate_pairs([slow], [slow], max_slowdown=0.05, floor=0.0, looks=looks, last_look=last, earlier=[before])
    assert judged.estimate is not None
    expected = 0.06 + stats.t.isf(0.05 * share, 10) * judged.estimate.standard_error
    assert judged.bound == pytest.approx(expected)


def test_a_look_is_not_the_last_unless_promised() -> None:
    slow = shifted(QUIET, 0.06)
    (silent,) = gate_pairs([slow], [slow], max_slowdown=0.05, floor=0.0, looks=1)
    assert silent == gate_two(slow, slow, last_look=False) != gate_two(slow, slow, last_look=True)


def test_decisions_of_an_earlier_look_are_final() -> None:
    slow, torn = shifted(QUIET, 0.1), shifted([4 * each for each in QUIET], LIMIT)
    screen = [slow, torn, slow]
    first = gate_pairs(screen, [slow, torn, QUIET], looks=1, max_slowdown=0.05, floor=0.0)
    assert [each.verdict for each in first] == [Verdict.REGRESSION, Verdict.INCONCLUSIVE, Verdict.PASS]
    # At the shrunken level of the seventh look the same pairs would not call it.
    fresh = [shifted(QUIET, LIMIT), [*torn, *torn], QUIET]
    later = gate_pairs(screen, fresh, looks=7, earlier=first, max_slowdown=0.05, floor=0.0)
    assert (later[0], later[2]) == (first[0], first[2])
    assert later[1] != first[1]


@pytest.mark.parametrize("by_now", [0.2, -0.2])
def test_one_decided_regression_eases_the_step_down_of_the_others_whatever_its_pairs_look_like_by_now(
    by_now: float,
) -> None:
    slow, slower = shifted(QUIET, 0.06), shifted(QUIET, 0.2)
    first = gate_pairs([slow, slower], [[], slower], looks=1, max_slowdown=0.05, floor=0.0)
    assert first[1].verdict is Verdict.REGRESSION
    fresh = [slow, shifted(QUIET, by_now)]
    eased = gate_pairs([slow, slower], fresh, looks=2, earlier=first, max_slowdown=0.05, floor=0.0)[0]
    alone = gate_two(slow, slow)
    assert eased.adjusted_p == pytest.approx(alone.adjusted_p)


def test_a_configuration_that_passed_at_an_earlier_look_still_counts_in_the_family() -> None:
    slow = shifted(QUIET, 0.06)
    first = gate_pairs([slow, slow], [[], QUIET], max_slowdown=0.05, floor=0.0, looks=1)
    assert first[1].verdict is Verdict.PASS
    later = gate_pairs([slow, slow], [slow, QUIET], max_slowdown=0.05, floor=0.0, looks=2, earlier=first)[0]
    alone = gate_two(slow, slow).adjusted_p
    assert alone is not None
    assert later.adjusted_p == pytest.approx(2 * alone)


def test_a_configuration_measured_again_stays_in_the_second_stage() -> None:
    # It would pass at the screen by now, say because another configuration's failure made the family smaller.
    (before,) = gate_pairs([shifted(QUIET, 0.1)], [[]], max_slowdown=0.05, floor=0.0, looks=0)
    slow = shifted(QUIET, 0.1)
    (judged,) = gate_pairs([QUIET], [slow], max_slowdown=0.05, floor=0.0, looks=1, earlier=[before])
    assert judged.verdict is Verdict.REGRESSION


def test_a_wild_pair_decides_nothing() -> None:
    assert gate_two([*QUIET[:-1], math.log(30)], [], looks=0).verdict is Verdict.PASS
    slow = shifted(QUIET, 0.095)
    assert gate_two(slow, [*slow[:-1], -math.log(30)]).verdict is Verdict.REGRESSION


def test_after_a_single_screening_pair_the_reason_says_that_more_are_needed() -> None:
    assert "at least 3 pairs are needed" in gate_two([0.1], [], looks=0).reason
    assert "at least 3 fresh pairs are needed" in gate_two([0.1], [0.1]).reason


@FEWER
@given(st.permutations(range(8)))
def test_the_order_of_pairs_never_matters(order: list[int]) -> None:
    mixed = [QUIET[i] for i in order]
    assert gate_two(shifted(mixed, 0.1), shifted(mixed, 0.07)) == gate_two(shifted(QUIET, 0.1), shifted(QUIET, 0.07))


def test_looks_must_be_counted() -> None:
    slow = shifted(QUIET, 0.1)
    with pytest.raises(BadInputError, match="looks is 0, but must count every look"):
        gate_two(slow, slow, looks=0)
    with pytest.raises(BadInputError, match="looks is -1, but must count every look"):
        gate_two(slow, [], looks=-1)
    with pytest.raises(BadInputError, match="look 2 needs the previous look's judgements"):
        gate_two(slow, slow, looks=2)


def test_stages_of_different_length_are_refused() -> None:
    with pytest.raises(BadInputError, match="equally long"):
        gate_pairs([QUIET], [], max_slowdown=0.05, floor=0.0, looks=0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_pair_that_is_not_finite_is_refused(wrong: float) -> None:
    with pytest.raises(BadInputError, match="cannot be averaged"):
        gate_two([*QUIET, wrong], [], looks=0)
    with pytest.raises(BadInputError, match="cannot be averaged"):
        gate_two(shifted(QUIET, 0.1), [wrong])


def test_a_configuration_without_a_pair_is_refused() -> None:
    with pytest.raises(BadInputError, match="at least one trial"):
        gate_two([], [], looks=0)
