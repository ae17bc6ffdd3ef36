"""What the variances of many configurations say of each one's: empirical Bayes. Pure mathematics."""

import math
from collections.abc import Sequence
from typing import Final

from bench.stats.inference import Estimate

MIN_CONFIGURATIONS: Final = 10
"""Fewer variances than this say too little about how variances vary.

In simulation (docs/statistics.md) a prior learnt from 5 configurations raised the false alarms of a 1 % level to 1.5 %;
one learnt from 10 kept the level.
"""

VARIANCE_FLOOR_SHARE: Final = 1e-5
"""Variances below this share of the family's median count as this share in the fit of the prior, which takes their
logarithm. limma's fitFDist has the same guard with the same value."""


def moderate(estimates: Sequence[Estimate]) -> tuple[Estimate, ...]:
    """Return the estimates with their variances raised towards what the family's variances have in common.

    Empirical Bayes (Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004): true variances are assumed to vary between
    configurations as s₀² d₀ / χ²(d₀). Mean and variance of the log variances give s₀² and d₀; a variance s² with d
    degrees of freedom becomes (d₀ s₀² + d s²) / (d₀ + d) with d₀ + d degrees, at most the family's total.

    One departure: a variance is never lowered. A stalled trial inflates its own configuration's variance together with
    its mean, and lowering that variance would make the verdict overconfident just there. With a larger standard error
    at the same quantile, the test can only become more cautious. A variance without degrees of freedom becomes s₀².

    Estimates are returned unchanged if fewer than `MIN_CONFIGURATIONS` of them have degrees of freedom or if none of
    those has a variance above 0. `extra_variance` is never changed. Degrees of freedom must be finite.

    The configurations should be of one device: variances of a CPU and a GPU have little in common.
    """
    known = [each for each in estimates if each.degrees_of_freedom > 0]
    if len(known) < MIN_CONFIGURATIONS or not any(each.variance > 0 for each in known):
        return tuple(estimates)
    prior_freedom, prior_variance = fit_prior(
        [each.variance for each in known], [each.degrees_of_freedom for each in known]
    )
    most = math.fsum(each.degrees_of_freedom for each in known)

    def moderated(estimate: Estimate) -> Estimate:
        own = estimate.degrees_of_freedom
        share = own / (prior_freedom + own)  # 0 for an infinite prior
        shrunk = (1 - share) * prior_variance + share * estimate.variance
        variance = max(estimate.variance, shrunk) if own else prior_variance
        return Estimate(  # several times as fast as `replace`, and there can be a hundred thousand estimates
            value=estimate.value,
            variance=variance,
            degrees_of_freedom=min(prior_freedom + own, most),
            scale=estimate.scale,
            extra_variance=estimate.extra_variance,
            extra_degrees_of_freedom=estimate.extra_degrees_of_freedom,
            n=estimate.n,
        )

    return tuple(map(moderated, estimates))


def fit_prior(variances: Sequence[float], freedoms: Sequence[float]) -> tuple[float, float]:
    """Return d₀ and s₀² of the scaled inverse χ² that `variances` with `freedoms` degrees of freedom were drawn from.

    By the moments of e = ln s² - ψ(d/2) + ln(d/2): its variance minus the mean of ψ'(d/2) is ψ'(d₀/2), and its mean is
    ln s₀² - ψ(d₀/2) + ln(d₀/2) (Smyth 2004, section 6.2). If that difference is not above 0, d₀ is infinite.
    """
    import numpy as np  # noqa: PLC0415 - `bench --help` need not wait for it
    from scipy.special import polygamma, psi  # noqa: PLC0415 - only where a family is judged

    spread = np.asarray(variances)
    half = np.asarray(freedoms) / 2
    positive = spread[spread > 0]
    logs = np.sort(np.log(np.maximum(spread, VARIANCE_FLOOR_SHARE * np.median(positive))) - psi(half) + np.log(half))
    beyond = float(np.var(logs, ddof=1) - np.mean(np.sort(polygamma(1, half))))
    centre = float(np.mean(logs))
    if beyond <= 0:
        return math.inf, math.exp(centre)
    prior_half = inverse_trigamma(beyond)
    return 2 * prior_half, math.exp(centre + float(psi(prior_half)) - math.log(prior_half))


def inverse_trigamma(value: float) -> float:
    """Return y > 0 with ψ'(y) = `value` > 0, by Newton's method on 1/ψ', which is convex (Smyth 2004, appendix)."""
    from scipy.special import polygamma  # noqa: PLC0415 - `bench --help` need not wait for it

    if value > 1e7:  # noqa: PLR2004 - the limits of ψ' for small and large y, as in limma: Newton would lose digits
        return 1 / math.sqrt(value)
    if value < 1e-6:  # noqa: PLR2004 - the other of those limits
        return 1 / value
    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, y))
        y += step
        if -step / y < 1e-10:  # noqa: PLR2004 - far more precise than an estimated variance
            break
    return y
