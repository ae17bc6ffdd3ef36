"""Estimates as tests of the statistics need them."""

from bench.stats.inference import Estimate


def make_estimate(
    value: float = 0.02, variance: float = 0.0009, freedom: float = 7, n: int = 8, extra: float = 0.0
) -> Estimate:
    return Estimate(
        value=value, variance=variance, degrees_of_freedom=freedom, scale=1 / n, extra_variance=extra, n=(n, n)
    )
