"""Estimates of one number a configuration, their uncertainty, and p-values and bounds of families. Pure mathematics.

A value is one trial (independent sides) or one pair of trials (paired), never an epoch or a block. Times enter as
logarithms, so that an estimate is a log ratio and its negative is the comparison the other way round; accuracies enter
as fractions. Sums are exactly rounded, so that the order of trials never matters and swapped sides mirror exactly.

Questions about several configurations go to a `Family`, whose answers are arrays in the order of its estimates.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, cast

from bench.errors import BadInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

TRIMMED_SHARE: Final = 0.2
"""Share of the values cut off at each end. Wilcox (Introduction to Robust Estimation, 2012) recommends 20 %."""

MAX_N: Final = 10_000
"""If more trials of a configuration than this were needed, it is reported that no number would do."""

POWER: Final = 0.8
"""Probability with which an effect that is called detectable is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An estimated mean (or difference of means) and what is known of its uncertainty.

    Attributes:
        value: log ratio candidate / baseline of time, or difference candidate - baseline of accuracy as a fraction.
        variance: of one value; 0 and meaningless if `degrees_of_freedom` is 0.
        degrees_of_freedom: of `variance`; 0 if it is unknown (a side has one trial), infinite if it is known exactly.
        scale: factor from `variance` to that of the estimate: 1/n for pairs, 1/n₁ + 1/n₂ for independent sides.
        extra_variance: of the estimate itself, which more trials do not reduce (drift between runs).
        extra_degrees_of_freedom: of `extra_variance`; infinite if it is taken as known.
        n: baseline and candidate trials; for pairs both are the number of pairs.
    """

    value: float
    variance: float
    degrees_of_freedom: float
    scale: float
    extra_variance: float = 0.0
    extra_degrees_of_freedom: float = math.inf
    n: tuple[int, int]

    @property
    def standard_error(self) -> float:
        """Standard deviation of the estimate; infinite without a degree of freedom to estimate it from."""
        if self.degrees_of_freedom == 0:
            return math.inf
        return math.sqrt(self.variance * self.scale + self.extra_variance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided interval that covers the true value with probability `level`."""

    low: float
    high: float
    level: float


def mean(values: Sequence[float]) -> float:
    """Return the mean; for equal values exactly that value, which a rounded sum over n need not be."""
    return min(max(math.fsum(values) / len(values), min(values)), max(values))


def trimmed_mean(values: Sequence[float], share: float = TRIMMED_SHARE) -> float:
    """Return the mean without the ⌊share · n⌋ smallest and as many largest values.

    Raises:
        BadInputError: no value, a value that is not finite, or a share outside 0 to below one half.
    """
    kept, _ = _trim(values, share)
    return mean(kept)


def paired_estimate(values: Sequence[float]) -> Estimate:
    """Return mean and sample variance of `values`, one for each pair.

    Assumes that pairs are independent, identically distributed and roughly normal (Student's one-sample t).

    Raises:
        BadInputError: no value, or a value that is not finite.
    """
    found = moments_of(values)
    n = found.n
    variance = found.squares / (n - 1) if n > 1 else 0.0
    return Estimate(value=found.mean, variance=variance, degrees_of_freedom=n - 1, scale=1 / n, n=(n, n))


def robust_paired_estimate(values: Sequence[float], share: float = TRIMMED_SHARE) -> Estimate:
    """Return the trimmed mean of `values`, one for each pair, with Yuen's variance and a widened standard error.

    With g values cut off at each end, h = n - 2g left and s² the sample variance after the g extremes at each end are
    replaced by their nearest kept neighbour, Yuen's squared standard error is (n - 1) s² / (h (h - 1)) with h - 1
    degrees of freedom (Tukey and McLaughlin, 1963; Yuen, Biometrika 61, 1974). `variance` is (n - 1) s² / (h - 1) and
    `scale` is 1/h, times the square of `_widening`. With fewer than 5 values nothing is cut off at 20 % and this is
    `paired_estimate`.

    Assumes independent pairs, symmetrically distributed apart from up to g outliers in either direction.

    Raises:
        BadInputError: no value, a value that is not finite, or a share outside 0 to below one half.
    """
    kept, cut = _trim(values, share)
    n, h = len(values), len(kept)
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    variance = moments_of(winsorised).squares / (h - 1) if h > 1 else 0.0
    scale = _widening(cut, h) ** 2 / h
    return Estimate(value=mean(kept), variance=variance, degrees_of_freedom=h - 1, scale=scale, n=(n, n))


def _widening(cut: int, kept: int) -> float:
    """Return the factor on Yuen's standard error that makes Student's t fit a trimmed mean of normal values.

    Of g = `cut` values cut off at each end and h = `kept` left: 1 + 0.6 g^0.75 / (h - 1)^1.5. Without it a test of 8
    values at a level of 0.5 % errs in 0.61 % of cases, one at 0.05 % in 0.07 %: the kept values that agree by chance
    make both the numerator stray and the denominator small. The formula is our own, fitted to simulations of 5 to 40
    values (docs/statistics.md).
    """
    return 1 + 0.6 * cut**0.75 / (kept - 1) ** 1.5 if cut and kept > 1 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """The number of one side's values, their mean, and the sum of their squared deviations from it."""

    n: int
    mean: float
    squares: float


def moments_of(values: Sequence[float]) -> Moments:
    """Return the moments of `values`.

    Raises:
        BadInputError: no value, or a value that is not finite.
    """
    _check(values)
    centre = mean(values)
    return Moments(n=len(values), mean=centre, squares=math.fsum((value - centre) ** 2 for value in values))


def independent_estimate(baseline: Sequence[float], candidate: Sequence[float]) -> Estimate:
    """Return the difference of the means of independent values, candidate - baseline; see `difference_of_means`.

    Raises:
        BadInputError: a side without a value, or a value that is not finite.
    """
    return difference_of_means(moments_of(baseline), moments_of(candidate))


def difference_of_means(baseline: Moments, candidate: Moments) -> Estimate:
    """Return the difference of means, candidate - baseline, with the pooled variance (Student's two-sample t).

    Pooled rather than Welch's: the two sides run the same configuration on the same machine, so their spread is the
    same unless the change alters the noise itself; with equal n the test keeps its level even then (Box, Ann. Math.
    Stat. 25, 1954); and only a single variance with known degrees of freedom can be shrunk across configurations.

    With unequal n the pooled variance is nearly that of the larger side, and a stall or more noise on the smaller one
    would not count. So where Welch's error is the larger one, it replaces the pooled error, with its own degrees of
    freedom (Welch, Biometrika 34, 1947); and one value against several leaves the spread unknown, as one against one
    does. Assumes independent, roughly normal values.
    """
    scale = 1 / baseline.n + 1 / candidate.n
    variance, freedom = _variance_of_difference(baseline, candidate, scale)
    return Estimate(
        value=candidate.mean - baseline.mean,
        variance=variance,
        degrees_of_freedom=freedom,
        scale=scale,
        n=(baseline.n, candidate.n),
    )


def _variance_of_difference(baseline: Moments, candidate: Moments, scale: float) -> tuple[float, float]:
    """Return the variance of one value, and its degrees of freedom."""
    sides = (baseline, candidate)
    if min(side.n for side in sides) == 1:
        return 0.0, 0.0
    freedom = baseline.n + candidate.n - 2
    pooled = (baseline.squares + candidate.squares) / freedom
    if baseline.n == candidate.n:
        return pooled, freedom
    of_means = [side.squares / (side.n - 1) / side.n for side in sides]
    welch = math.fsum(of_means)
    if welch <= pooled * scale:
        return pooled, freedom
    shares = ((of_mean / welch) ** 2 / (side.n - 1) for of_mean, side in zip(of_means, sides, strict=True))
    return welch / scale, 1 / math.fsum(shares)


def pool_variance(estimate: Estimate, other: Estimate) -> Estimate:
    """Return `estimate` with its variance pooled with that of `other`, an independent estimate of the same kind.

    Degrees of freedom must be finite.
    """
    freedom = estimate.degrees_of_freedom + other.degrees_of_freedom
    if freedom == 0:
        return estimate
    squares = estimate.variance * estimate.degrees_of_freedom + other.variance * other.degrees_of_freedom
    return replace(estimate, variance=squares / freedom, degrees_of_freedom=freedom)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return the adjusted p-values of Holm's step-down procedure (Scand. J. Stat. 6, 1979), in the order given.

    Rejecting those below a level keeps the chance of any false rejection in the family below it, whatever the
    dependence between the tests.
    """
    family = len(p_values)
    adjusted = [1.0] * family
    largest = 0.0
    for rank, place in enumerate(sorted(range(family), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (family - rank) * p_values[place]))
        adjusted[place] = largest
    return tuple(adjusted)


@dataclass(frozen=True, kw_only=True)
class Family:
    """The estimates of several configurations, for computing with all of them at once; results are in their order.

    An extra variance with fewer degrees of freedom than the trials' has a quantile of its own: a bound lies
    √(t²(d) · trials' + t²(d') · extra variance) away, which covers at least what it promises, whichever is the larger
    (Banerjee, Sankhyā 22, 1960). Otherwise both variances share the trials' quantile, which is cautious.
    """

    estimates: Sequence[Estimate]

    @cached_property
    def value(self) -> "Floats":
        """Estimated log ratios or differences."""
        return self._column("value")

    @cached_property
    def standard_error(self) -> "Floats":
        """Standard errors, infinite where unknown."""
        return self._if_known(self._error, math.inf)

    @cached_property
    def degrees_of_freedom(self) -> "Floats":
        """Degrees of freedom of the standard errors; 0 where these are unknown."""
        return self._column("degrees_of_freedom")

    def half_widths(self, probability: float) -> "Floats":
        """Distances from the value to its one-sided bound with confidence `probability`; infinite if unknown."""
        return self._if_known(self._errors_at(lambda freedom: _t_quantile(freedom, probability)), math.inf)

    def p_above(self, bound: float = 0.0) -> "Floats":
        """One-sided p-values of "the true value is at most `bound`", small if it is above.

        1 if the standard error is unknown. If it is 0: 0 above `bound`, 1 below, one half on it.
        """
        return self._p_beyond(self.value - bound)

    def p_below(self, bound: float = 0.0) -> "Floats":
        """One-sided p-values of "the true value is at least `bound`", small if it is below; see `p_above`."""
        return self._p_beyond(bound - self.value)

    def minimum_detectable_effects(self, level: float) -> "Floats":
        """Distances from the bound at which a one-sided test at `level` finds the effect with probability `POWER`.

        Standard error times the noncentrality that gives the power, see `_noncentrality`; infinite if unknown.
        """
        return self._if_known(self._errors_at(lambda freedom: _noncentrality(freedom, level, POWER)), math.inf)

    def effects_that_reach(self, bound: float) -> "Floats":
        """Smallest true values whose estimate reaches `bound` with probability `POWER`, taken as normal."""
        from scipy.special import ndtri  # noqa: PLC0415 - only where a family is judged

        return self._if_known(bound + float(ndtri(POWER)) * self._error, math.inf)

    def required_n(
        self,
        distances: Sequence[float],
        level: float,
        power: float = POWER,
        *,
        estimates_beyond: Sequence[float] | None = None,
    ) -> tuple[int | None, ...]:
        """Smallest n a side, equal on both, at which effects of `distances` are found with probability `power`.

        `estimates_beyond`: where the rule also asks that the estimate reach a limit, how far the effect is beyond it.
        The variance is taken as estimated, and each further trial a side (or pair) adds one degree of freedom, which is
        cautious for independent sides. None if the standard error is unknown, if `extra_variance` alone hides the
        distance, if the distance is not above 0, or beyond `MAX_N`.
        """
        import numpy as np  # noqa: PLC0415 - `bench --help` need not wait for it
        from scipy.special import ndtri  # noqa: PLC0415 - only where a family is judged

        distance = np.asarray(distances, dtype=np.float64)
        beyond = np.full_like(distance, math.inf) if estimates_beyond is None else np.asarray(estimates_beyond)
        n = np.asarray([2 / (1 / each.n[0] + 1 / each.n[1]) for each in self.estimates])
        freedom, extra, extra_freedom = self._freedom, self._column("extra_variance"), self._extra_freedom
        reached_at = float(ndtri(power))
        # The squared standard error at n is this over n, plus the extra variance.
        variance_of_one = self._column("variance") * self._column("scale") * n
        possible = (self.degrees_of_freedom > 0) & (distance > 0) & (beyond > 0)

        def enough(places: "NDArray[np.intp]", tried: "Floats") -> "NDArray[np.bool_]":
            free = np.maximum(freedom[places] + tried - n[places], 1.0)
            error = np.sqrt(variance_of_one[places] / tried + extra[places])
            found_at = _combined(
                lambda free: _noncentrality(free, level, power), error, free, extra[places], extra_freedom[places]
            )
            found: NDArray[np.bool_] = (found_at <= distance[places]) & (reached_at * error <= beyond[places])
            return found & (tried > 1)  # one trial shows no spread, even where others found none

        # Bisection: the answer, if there is one, lies above `low` and at or below `high`.
        low, high = np.ones_like(n), np.full_like(n, MAX_N)
        places = np.flatnonzero(possible)
        possible[places] = enough(places, high[places])
        places = np.flatnonzero(possible)
        for _ in range(MAX_N.bit_length() if len(places) else 0):
            middle = np.floor((low[places] + high[places]) / 2)
            found = enough(places, middle)
            high[places] = np.where(found, middle, high[places])
            low[places] = np.where(found, low[places], middle)
        return tuple(int(each) if may else None for each, may in zip(high, possible, strict=True))

    def _p_beyond(self, distance: "Floats") -> "Floats":
        import numpy as np  # noqa: PLC0415 - `bench --help` need not wait for it
        from scipy.special import stdtr  # noqa: PLC0415 - only where a family is judged

        exact = self._error == 0
        t = distance / np.where(exact, 1.0, self._error)
        p = np.where(exact, 0.5 - 0.5 * np.sign(distance), stdtr(self._freedom, -t))
        fewer = _is_fewer(self._freedom, self._column("extra_variance"), self._extra_freedom)
        if fewer.any():
            p = np.where(fewer, self._p_of_two_quantiles(distance), p)
        return self._if_known(p, 1.0)

    def _p_of_two_quantiles(self, distance: "Floats") -> "Floats":
        """Return the level at which a bound of two quantiles lies `distance` from the value, by bisection."""
        import numpy as np  # noqa: PLC0415 - `bench --help` need not wait for it

        low, high = np.full_like(distance, math.log(1e-300)), np.full_like(distance, math.log(0.5))
        for _ in range(64):
            middle = (low + high) / 2
            level = np.exp(middle)
            reaches = self._errors_at(functools.partial(_upper_quantile, level=level)) > abs(distance)
            low, high = np.where(reaches, middle, low), np.where(reaches, high, middle)
        p = np.exp(high)
        return np.where(distance < 0, 1 - p, p)

    def _errors_at(self, quantile: Callable[["Floats"], "Floats"]) -> "Floats":
        """Return the standard errors, each times the `quantile` of its degrees of freedom."""
        extra = self._column("extra_variance")
        return _combined(quantile, self._error, self._freedom, extra, self._extra_freedom)

    @cached_property
    def _extra_freedom(self) -> "Floats":
        return self._column("extra_degrees_of_freedom")

    @cached_property
    def _freedom(self) -> "Floats":
        """Degrees of freedom as scipy needs them: finite, and 1 in place of 0, whose results are replaced."""
        import numpy as np  # noqa: PLC0415 - `bench --help` need not wait for it

        return self._if_known(np.minimum(self.degrees_of_freedom, _NORMAL_FREEDOM), 1.0)

    @cached_property
    def _error(self) -> "Floats":
        """Standard errors, finite even if unknown, when results are replaced."""
        import numpy as np  # noqa: PLC0415 - `bench --help` need not wait for it

        return np.sqrt(self._column("variance") * self._column("scale") + self._column("extra_variance"))

    def _if_known(self, values: "Floats", otherwise: float) -> "Floats":
        """Return `values`, and `otherwise` where the standard error is unknown for lack of a degree of freedom."""
        import numpy as np  # noqa: PLC0415 - `bench --help` need not wait for it

        return np.where(self.degrees_of_freedom > 0, values, otherwise)

    def _column(self, name: str) -> "Floats":
        import numpy as np  # noqa: PLC0415 - `bench --help` need not wait for it

        return np.asarray([getattr(each, name) for each in self.estimates], dtype=np.float64)


def interval(estimate: Estimate, level: float = 0.95) -> Interval:
    """Return the two-sided t interval of one estimate by itself; infinite if its standard error is unknown."""
    half = float(Family(estimates=[estimate]).half_widths((1 + level) / 2)[0])
    return Interval(low=estimate.value - half, high=estimate.value + half, level=level)


_NORMAL_FREEDOM: Final = 1e10
"""With this many degrees of freedom Student's t is the normal to all digits; scipy needs a finite number."""


def _is_fewer(freedom: "Floats", extra: "Floats", extra_freedom: "Floats") -> "NDArray[np.bool_]":
    """Return where the extra variance has fewer degrees of freedom than the trials' variance."""
    return (extra > 0) & (extra_freedom < freedom)


def _combined(
    quantile: Callable[["Floats"], "Floats"],
    error: "Floats",
    freedom: "Floats",
    extra: "Floats",
    extra_freedom: "Floats",
) -> "Floats":
    """Return the standard errors times their `quantile`; of two quantiles where the extra variance has its own."""
    import numpy as np  # noqa: PLC0415 - `bench --help` need not wait for it

    factor = quantile(freedom)
    fewer = _is_fewer(freedom, extra, extra_freedom)
    if not fewer.any():
        return factor * error
    own = quantile(np.where(fewer, extra_freedom, freedom))
    return np.where(fewer, np.sqrt(np.maximum(factor**2 * (error**2 - extra), 0) + own**2 * extra), factor * error)


def _t_quantile(freedom: "Floats", probability: "float | Floats") -> "Floats":
    from scipy.special import stdtrit  # noqa: PLC0415 - only where a family is judged

    return cast("Floats", stdtrit(freedom, probability))


def _upper_quantile(freedom: "Floats", level: "Floats") -> "Floats":
    """Return the value that is exceeded with probability `level`, computed at the lower end, where it keeps digits."""
    return -_t_quantile(freedom, level)


def _noncentrality(freedom: "Floats", level: float, power: float) -> "Floats":
    """Return how many standard errors an effect must have for a one-sided t test at `level` to have `power`.

    Noncentral t by its normal approximation (Abramowitz and Stegun 26.7.10): with the critical value t of d degrees
    of freedom, P(T > t) is Φ((δ - t (1 - 1/(4d))) / √(1 + t²/(2d))), solved for δ.
    """
    import numpy as np  # noqa: PLC0415 - `bench --help` need not wait for it
    from scipy.special import ndtri  # noqa: PLC0415 - only where a family is judged

    critical = _t_quantile(freedom, 1 - level)
    counted = np.maximum(freedom, 1.0)  # it breaks down below 1, which only a moderated variance can have
    centre = critical * (1 - 1 / (4 * counted))
    noncentrality: Floats = centre + float(ndtri(power)) * np.sqrt(1 + critical**2 / (2 * counted))
    return noncentrality


def _check(values: Sequence[float]) -> None:
    if not values:
        raise BadInputError("no value to estimate from: at least one trial is needed")
    for value in values:
        if not math.isfinite(value):
            raise BadInputError(f"{value} cannot be averaged: leave out trials without a finite measurement and say so")


def _trim(values: Sequence[float], share: float) -> tuple[list[float], int]:
    """Return the sorted values that are kept, and how many were cut off at each end."""
    _check(values)
    if not 0 <= share < 0.5:  # noqa: PLR2004 - with a half cut off at each end nothing is left
        raise BadInputError(f"share {share} to trim at each end must be at least 0 and below 0.5")
    cut = int(share * len(values))
    return sorted(values)[cut : len(values) - cut], cut
