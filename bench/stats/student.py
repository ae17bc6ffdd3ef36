"""Student's t for the intervals of means in tables (for those of verdicts see `bench.stats.inference`)."""

from typing import Final

LEVEL: Final = 0.95
"""Confidence level of every such interval."""


def t_quantile(degrees_of_freedom: float) -> float:
    """Return how many standard errors a two-sided interval at `LEVEL` reaches to either side."""
    from scipy.special import stdtrit  # noqa: PLC0415 - a fraction of a second that most commands need not pay

    return float(stdtrit(degrees_of_freedom, (1 + LEVEL) / 2))
