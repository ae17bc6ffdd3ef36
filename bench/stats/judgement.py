"""The rules of verdicts: turn the estimates of a family of configurations into a verdict and its reason for each. Pure.

Times are log ratios candidate / baseline (above 0: slower), accuracies differences candidate - baseline as fractions.
A family is everything that one command judges at once: levels hold for the family, not for each configuration. Rules,
levels and studies are explained in docs/statistics.md.
"""

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from bench.errors import BadInputError, ExitCode
from bench.stats.inference import Estimate, Family, Interval, holm
from bench.stats.judgement_text import change_words

ERROR_LEVEL: Final = 0.01
"""Probability of any false alarm in a family: a regression, or a difference, where there is none."""

PASS_LEVEL: Final = 0.05
"""Probability of any false pass in a family: one that hides more than is allowed."""

SAME_TIME_WITHIN: Final = 0.05
"""Largest relative difference of times that is called the same."""

SAME_ACCURACY_WITHIN: Final = 0.005
"""Largest difference of accuracies, as a fraction, that is called the same."""

INTERVAL_LEVEL: Final = 0.95
"""Level of the two-sided interval shown with each estimate, which holds for that configuration alone."""

TOLERATED_SHARE: Final = 0.2
"""Share of the allowed drop in accuracy that a drop must significantly exceed to be a regression: 0.1 pp of 0.5 pp.

Testing against "no drop at all" instead would call one A/A check in a hundred a regression, at any number of seeds;
this way, with 10 seeds a side, it is one in three thousand (docs/statistics.md).
"""

ROUNDING: Final = 1e-12
"""Tolerance for rounding in binary fractions, by which 0.98 - 0.979 falls short of 0.001.

Far below one image in any test set, far above the rounding.
"""

_TRIALS: Final = "trials a side"

MIN_WITHOUT_SPREAD: Final = 3
"""Trials a side from which on equal ones may be called different from equal ones of the other side.

On a test set of 360 images two seeds agree in one case of eight, and three in one of fifty. With two, one table of ten
configurations in twelve had a false difference (docs/statistics.md).
"""


class Verdict(enum.StrEnum):
    """What a comparison or a gate says of one configuration."""

    FASTER = "faster"
    SLOWER = "slower"
    HIGHER = "higher"
    LOWER = "lower"
    SAME = "same"
    INCONCLUSIVE = "inconclusive"
    PASS = "pass"  # noqa: S105 - no password
    REGRESSION = "regression"
    FAILED = "failed"
    INCOMPARABLE = "incomparable"


GATE_EXIT_CODES: Final[Mapping[Verdict, ExitCode]] = MappingProxyType(
    {
        Verdict.FAILED: ExitCode.FAILED_TRIAL,
        Verdict.REGRESSION: ExitCode.REGRESSION,
        Verdict.INCOMPARABLE: ExitCode.INCOMPARABLE,
        Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
        Verdict.PASS: ExitCode.PASS,
    }
)
"""The verdicts of a gate, the worst first, each with the exit code of a command that found nothing worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict and what it rests on; None if a quantity does not exist or the standard error is unknown.

    Attributes:
        verdict: the verdict.
        estimate: the estimate, with the variance that was used.
        interval: two-sided 95 % interval of this configuration alone.
        bound: the one-sided bound, simultaneous over the family, that the rule for a pass uses.
        adjusted_p: Holm-adjusted p-value that the rule for a difference uses.
        minimum_detectable_effect: the true effect (log ratio or fraction) that the rule for a difference would find
            with probability 0.8, at the level of the family's first step.
        needed_n: total trials a side (or pairs) that would decide with probability 0.8 or more if the estimate holds;
            None if it is decided or no number would do.
        reason: a short sentence for people.
    """

    verdict: Verdict
    estimate: Estimate | None
    interval: Interval | None
    bound: float | None
    adjusted_p: float | None
    minimum_detectable_effect: float | None
    needed_n: int | None
    reason: str


def undecided(verdict: Verdict, reason: str) -> Judgement:
    """Return a judgement that rests on no estimate."""
    return Judgement(
        verdict=verdict,
        estimate=None,
        interval=None,
        bound=None,
        adjusted_p=None,
        minimum_detectable_effect=None,
        needed_n=None,
        reason=reason,
    )


def gate_times(
    estimates: Sequence[Estimate],
    *,
    max_slowdown: float,
    floor: float = 0.0,
    error_level: float = ERROR_LEVEL,
    pass_level: float = PASS_LEVEL,
) -> tuple[Judgement, ...]:
    """Gate log ratios of time: regression, pass or inconclusive.

    Regression: the Holm-adjusted one-sided p-value of "not slower" is below `error_level`, and the estimate is at least
    ln(1 + `max_slowdown`) and above `floor`, the machine's A/A floor (a log ratio). Pass: the simultaneous upper bound
    (Bonferroni at `pass_level`) is below ln(1 + `max_slowdown`).

    Raises:
        BadInputError: a threshold or level that makes no sense, or an estimate that is not finite.
    """
    family = family_of(estimates)
    rule = TimeRule(
        max_slowdown=max_slowdown,
        floor=floor,
        error_level=error_level,
        pass_level=pass_level,
        size=len(estimates),
        unit=_TRIALS,
    )
    return rule.judge(family, holm(family.p_above().tolist()))


def gate_accuracies(estimates: Sequence[Estimate], *, max_drop: float) -> tuple[Judgement, ...]:
    """Gate differences of final test accuracy: regression, pass, incomparable or inconclusive.

    Regression: the Holm-adjusted one-sided p-value of "the drop is at most the tolerated one" is below `ERROR_LEVEL`;
    tolerated is `TOLERATED_SHARE` of `max_drop`. Incomparable: a rise of at least `max_drop` whose Holm-adjusted
    two-sided p-value is below `ERROR_LEVEL`: a change of speed does not make a model that much better, but a wrong test
    split does. Pass: the simultaneous lower bound (Bonferroni at `PASS_LEVEL`) is above -`max_drop`.

    If the trials of each side all agree, the spread is unknown (one seed repeated, or a small test set), and the
    difference itself decides: a drop up to the tolerated one or a rise below `max_drop` passes, a drop beyond
    `max_drop` is a regression, a rise of `max_drop` is incomparable, and a drop in between is inconclusive. With fewer
    than `MIN_WITHOUT_SPREAD` trials on a side, everything but a pass is inconclusive.

    Raises:
        BadInputError: a margin that makes no sense, or an estimate that is not finite.
    """
    _check_settings(max_drop)
    family = family_of(estimates)
    size = max(len(estimates), 1)
    value, exact = family.value.tolist(), (family.standard_error == 0).tolist()
    tolerated = max_drop * TOLERATED_SHARE
    drop_p = holm(_p_of_drops(family, tolerated, max_drop))
    rise_p = holm([float(_is_few(each)) or p for each, p in zip(estimates, _two_sided_p(family), strict=True)])
    low = (family.value - family.half_widths(1 - PASS_LEVEL / size)).tolist()
    shared = _Shared.of(family, ERROR_LEVEL / size, tested_against=tolerated, without_spread=max_drop).from_enough()
    to_pass = family.required_n((family.value + max_drop).tolist(), PASS_LEVEL / size)
    to_fail = family.required_n((-family.value - tolerated).tolist(), ERROR_LEVEL / size)
    allowed = f"a drop of {max_drop * 100:g} pp is allowed"

    def judge(i: int) -> Judgement:
        if not shared.known[i]:
            return shared.of_single_trial(i, _TRIALS)
        change, bound = f"accuracy {_points(value[i])}", low[i]
        if drop_p[i] < ERROR_LEVEL:
            return shared.judgement(i, Verdict.REGRESSION, f"{change} ({_p(drop_p[i])})", bound, drop_p[i])
        if value[i] >= max_drop - ROUNDING and rise_p[i] < ERROR_LEVEL:
            reason = (
                f"{change}: evaluation or training changed (wrong split?); if that was intended, refresh the baseline"
            )
            return shared.judgement(i, Verdict.INCOMPARABLE, reason, bound, rise_p[i])
        if exact[i] and (-value[i] > tolerated + ROUNDING or value[i] >= max_drop - ROUNDING):
            reason = f"{change}, but identical trials show no spread: use {_ways(estimates[i])}"
            return shared.judgement(i, Verdict.INCONCLUSIVE, reason, bound, drop_p[i])
        if bound > -max_drop:
            return shared.judgement(
                i, Verdict.PASS, f"{change}, at worst {_points(bound)}; {allowed}", bound, drop_p[i]
            )
        needed = _fewest(to_pass[i], to_fail[i])
        reason = f"{change}, but {_points(bound)} is possible and {allowed}{_more(needed, _TRIALS)}"
        return shared.judgement(i, Verdict.INCONCLUSIVE, reason, bound, drop_p[i], needed)

    return tuple(map(judge, range(len(estimates))))


def _p_of_drops(family: Family, tolerated: float, max_drop: float) -> list[float]:
    """Return the p-values of "the drop is at most `tolerated`"; without any spread 0 beyond `max_drop`, else 1."""
    columns = (family.p_below(-tolerated), -family.value, family.standard_error == 0)
    return [
        float(_is_few(each) or drop <= max_drop + ROUNDING) if exact else p
        for each, p, drop, exact in zip(family.estimates, *(column.tolist() for column in columns), strict=True)
    ]


def _is_few(estimate: Estimate) -> bool:
    """Return whether trials without any spread are too few to be called different."""
    return estimate.standard_error == 0 and min(estimate.n) < MIN_WITHOUT_SPREAD


def _ways(estimate: Estimate) -> str:
    """Return what would show a spread."""
    return f"at least {MIN_WITHOUT_SPREAD} {_TRIALS}" if _is_few(estimate) else "different seeds"


def _two_sided_p(family: Family) -> list[float]:
    """Return the p-values of "the true value is 0"."""
    sides = zip(family.p_below().tolist(), family.p_above().tolist(), strict=True)
    return [min(1.0, 2 * min(pair)) for pair in sides]


def _fewest(*numbers: int | None) -> int | None:
    return min((n for n in numbers if n is not None), default=None)


def compare_times(estimates: Sequence[Estimate]) -> tuple[Judgement, ...]:
    """Compare times: faster or slower, same, or inconclusive. Swapping the sides mirrors every verdict.

    Faster or slower: the Holm-adjusted two-sided p-value is below `ERROR_LEVEL` and the 95 % interval excludes 0. Same:
    the 95 % interval lies within ±ln(1 + `SAME_TIME_WITHIN`), which is two one-sided tests at 2.5 %. Without any
    spread, the difference itself is compared with that margin, and is inconclusive beyond it with fewer than
    `MIN_WITHOUT_SPREAD` trials on a side.

    Raises:
        BadInputError: an estimate that is not finite.
    """
    return _compare(estimates, math.log1p(SAME_TIME_WITHIN), change_words, (Verdict.FASTER, Verdict.SLOWER))


def compare_accuracies(estimates: Sequence[Estimate]) -> tuple[Judgement, ...]:
    """Compare accuracies: higher or lower, same within ±`SAME_ACCURACY_WITHIN`, or inconclusive; see `compare_times`.

    Raises:
        BadInputError: an estimate that is not finite.
    """
    return _compare(estimates, SAME_ACCURACY_WITHIN + ROUNDING, _points, (Verdict.LOWER, Verdict.HIGHER))


def _compare(
    estimates: Sequence[Estimate],
    margin: float,
    describe: Callable[[float], str],
    sides: tuple[Verdict, Verdict],
) -> tuple[Judgement, ...]:
    family = family_of(estimates)
    size = max(len(estimates), 1)
    adjusted = holm(
        [
            float(_is_few(each) or abs(each.value) <= margin) if each.standard_error == 0 else p
            for each, p in zip(estimates, _two_sided_p(family), strict=True)
        ]
    )
    shared = _Shared.of(family, ERROR_LEVEL / 2 / size, without_spread=margin).from_enough()
    to_differ = family.required_n(abs(family.value).tolist(), ERROR_LEVEL / 2 / size)
    # "Same" takes both one-sided tests: at 0.9 each, both succeed with at least 0.8, even if they never fail together.
    to_agree = family.required_n((margin - abs(family.value)).tolist(), (1 - INTERVAL_LEVEL) / 2, power=0.9)

    def judge(i: int) -> Judgement:
        interval = shared.interval(i)
        if interval is None:
            return shared.of_single_trial(i, _TRIALS)
        value, p = estimates[i].value, adjusted[i]
        if p < ERROR_LEVEL and not interval.low <= 0 <= interval.high:
            return shared.judgement(i, sides[1] if value > 0 else sides[0], f"{describe(value)} ({_p(p)})", None, p)
        if _is_few(estimates[i]) and abs(value) > margin:
            reason = f"{describe(value)}, but identical trials show no spread: use {_ways(estimates[i])}"
            return shared.judgement(i, Verdict.INCONCLUSIVE, reason, None, p)
        span = f"95 % interval {describe(interval.low)} to {describe(interval.high)}"
        if -margin <= interval.low and interval.high <= margin:
            return shared.judgement(i, Verdict.SAME, f"{describe(value)}, {span}", None, p)
        needed = _fewest(to_differ[i], to_agree[i])
        reason = f"{describe(value)}, {span}{_more(needed, _TRIALS)}"
        return shared.judgement(i, Verdict.INCONCLUSIVE, reason, None, p, needed)

    return tuple(map(judge, range(len(estimates))))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What every judgement of a family contains, whatever the rule."""

    family: Family
    half_widths: Sequence[float]
    detectable: Sequence[float | None]
    known: Sequence[bool]

    @classmethod
    def of(
        cls,
        family: Family,
        level: float,
        *,
        without_spread: float,
        tested_against: float = 0.0,
        estimated_at_least: float = 0.0,
    ) -> "_Shared":
        """Return it for a rule that tests, at `level`, whether an effect is above `tested_against`.

        The rule also requires an estimate of `estimated_at_least`; without any spread, `without_spread` is the limit.
        """
        tested = (tested_against + family.minimum_detectable_effects(level)).tolist()
        reached = family.effects_that_reach(estimated_at_least).tolist()
        exact = (family.standard_error == 0).tolist()
        return cls(
            family=family,
            half_widths=family.half_widths((1 + INTERVAL_LEVEL) / 2).tolist(),
            detectable=[
                without_spread if sure else max(pair) for sure, *pair in zip(exact, tested, reached, strict=True)
            ],
            known=(family.degrees_of_freedom > 0).tolist(),
        )

    def from_enough(self) -> "_Shared":
        """Return it for a rule that calls nothing different by trials that agree but are too few."""
        effects = zip(self.family.estimates, self.detectable, strict=True)
        return replace(self, detectable=[None if _is_few(each) else effect for each, effect in effects])

    def interval(self, i: int) -> Interval | None:
        if not self.known[i]:
            return None
        value, half = self.family.estimates[i].value, self.half_widths[i]
        return Interval(low=value - half, high=value + half, level=INTERVAL_LEVEL)

    def of_single_trial(self, i: int, unit: str) -> Judgement:
        """Return the judgement where a side has one measurement, which leaves the standard error unknown."""
        reason = f"a single measurement shows no spread: at least 3 {unit} are needed"
        return self.judgement(i, Verdict.INCONCLUSIVE, reason, None, None)

    def judgement(  # noqa: PLR0913, PLR0917 - the fields that rules differ in
        self,
        i: int,
        verdict: Verdict,
        reason: str,
        bound: float | None,
        adjusted_p: float | None,
        needed_n: int | None = None,
    ) -> Judgement:
        return Judgement(
            verdict=verdict,
            estimate=self.family.estimates[i],
            interval=self.interval(i),
            bound=bound,
            adjusted_p=adjusted_p,
            minimum_detectable_effect=self.detectable[i] if self.known[i] else None,
            needed_n=needed_n,
            reason=reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRule:
    """The rule for log ratios of time.

    `size` is the number of configurations that share the levels, `unit` what further measurements are called.

    Raises:
        BadInputError: a margin, floor or level that makes no sense.
    """

    max_slowdown: float
    floor: float
    error_level: float
    pass_level: float
    size: int
    unit: str

    def __post_init__(self) -> None:
        """Refuse thresholds that make no sense."""
        _check_settings(self.max_slowdown, self.error_level, self.pass_level)
        if not 0 <= self.floor < math.inf:
            raise BadInputError(
                f"A/A floor {self.floor} must be a finite log ratio of at least 0; use 0 if it is unknown"
            )

    def judge(self, family: Family, adjusted: Sequence[float] | None) -> tuple[Judgement, ...]:
        """Judge all; without adjusted p-values the only possible decision is a pass."""
        limit = math.log1p(self.max_slowdown)
        least = max(limit, self.floor)
        error_level, pass_level = self.error_level / max(self.size, 1), self.pass_level / max(self.size, 1)
        shared = _Shared.of(family, error_level, estimated_at_least=least, without_spread=least)
        upper = (family.value + family.half_widths(1 - pass_level)).tolist()
        passed = [bound < limit for bound in upper]
        # A distance of 0 skips the search where its result is not needed.
        to_pass = family.required_n(
            [0.0 if done else limit - each.value for done, each in zip(passed, family.estimates, strict=True)],
            pass_level,
        )
        to_fail = family.required_n(
            [each.value if each.value >= limit else 0.0 for each in family.estimates],
            error_level,
            estimates_beyond=[each.value - least for each in family.estimates],
        )

        def judge_one(i: int) -> Judgement:
            if not shared.known[i]:
                return shared.of_single_trial(i, self.unit)
            value, bound, p = family.estimates[i].value, upper[i], None if adjusted is None else adjusted[i]
            slow, allowed = value >= limit, f"{self.max_slowdown * 100:g} % is allowed"
            if slow and value > self.floor and p is not None and p < self.error_level:
                reason = f"{change_words(value)} ({_p(p)}); {allowed}"
                return shared.judgement(i, Verdict.REGRESSION, reason, bound, p)
            if passed[i]:
                reason = f"{change_words(value)}, at worst {change_words(bound)}; {allowed}"
                return shared.judgement(i, Verdict.PASS, reason, bound, p)
            needed = to_pass[i] if not slow else to_fail[i] if value > self.floor else None
            if slow and value <= self.floor:
                reason = f"{change_words(value)}, which equal code shows on this machine too (A/A floor)"
            else:
                reason = self._doubt(value, bound, p, allowed) + _more(needed, self.unit)
            return shared.judgement(i, Verdict.INCONCLUSIVE, reason, bound, p, needed)

        return tuple(map(judge_one, range(len(family.estimates))))

    def _doubt(self, value: float, bound: float, p: float | None, allowed: str) -> str:
        if p is None:
            return f"{change_words(value)} at the screen, {change_words(bound)} is possible; {allowed}"
        if value >= math.log1p(self.max_slowdown):
            return f"{change_words(value)}, but it may be noise ({_p(p)}); {allowed}"
        return f"{change_words(value)}, but {change_words(bound)} is possible; {allowed}"


def family_of(estimates: Sequence[Estimate]) -> Family:
    """Return the estimates as a family that can be judged.

    Raises:
        BadInputError: a number in them is not finite, or negative where it must not be.
    """
    for each in estimates:
        numbers = (each.value, each.variance, each.scale, each.extra_variance)
        if not all(map(math.isfinite, numbers)) or math.isnan(each.degrees_of_freedom):
            raise BadInputError(f"an estimate that is not finite cannot be judged: {each}")
        if not each.extra_degrees_of_freedom > 0:
            raise BadInputError(f"an extra variance without a degree of freedom cannot be judged: {each}")
        if min(each.variance, each.scale, each.extra_variance, each.degrees_of_freedom) < 0:
            raise BadInputError(f"an estimate with a negative variance, scale or freedom cannot be judged: {each}")
    return Family(estimates=estimates)


def _check_settings(margin: float, *levels: float) -> None:
    if not 0 < margin < math.inf:
        raise BadInputError(f"margin {margin} must be a finite fraction above 0, such as 0.05 for 5 %")
    for level in levels:
        if not 0 < level < 0.5:  # noqa: PLR2004 - at one half a bound would be on the wrong side of the estimate
            raise BadInputError(f"level {level} must be above 0 and below 0.5, such as 0.01")


def _points(difference: float) -> str:
    """Return a difference of accuracies in words: ``0.12 pp lower``, ``unchanged``."""
    if difference == 0:
        return "unchanged"
    figure = f"{abs(difference) * 100:.2f}"
    return f"{'less than 0.01' if figure == '0.00' else figure} pp {'lower' if difference < 0 else 'higher'}"


def _p(adjusted: float) -> str:
    return "adjusted p < 0.0001" if adjusted < 0.0001 else f"adjusted p = {adjusted:.2g}"  # noqa: PLR2004 - as the text says


def _more(needed: int | None, unit: str) -> str:
    return "; no number of trials would decide" if needed is None else f"; about {needed} {unit} would decide"
