"""Differences, intervals and detectable effects as short texts. Times come as log ratios, accuracies as fractions."""

import math
import sys
from typing import Final

from bench.stats.inference import Interval

_LARGEST_LOG: Final = math.log(sys.float_info.max)

_LARGEST_PERCENT: Final = 100_000
"""A thousand times. Intervals and detectable effects of a few trials can be of any size; no real change is larger."""

UNKNOWN: Final = "unknown"
"""Shown for an infinite interval, such as that of a single trial a side."""


def from_log(value: float) -> float:
    """Return e to the power of `value`, infinity where no float can hold it."""
    return math.exp(value) if value <= _LARGEST_LOG else math.inf


def ratio_text(log_ratio: float) -> str:
    """Return a ratio as ``1.023``, or with three digits if it is far from 1."""
    ratio = from_log(log_ratio)
    return f"{ratio:.3f}" if 0.1 <= ratio < 10 else f"{ratio:.3g}"  # noqa: PLR2004 - where three decimals are enough


def ratio_interval_text(interval: Interval) -> str:
    """Return an interval of log ratios as ``0.951-1.102``."""
    return f"{ratio_text(interval.low)}-{ratio_text(interval.high)}" if _is_known(interval) else UNKNOWN


def change_text(log_ratio: float) -> str:
    """Return a log ratio as a change: ``+2.3 %``, or ``> +100000 %`` above a thousand times."""
    percent = (from_log(log_ratio) - 1) * 100
    return f"{percent:+.1f} %" if percent <= _LARGEST_PERCENT else f"> +{_LARGEST_PERCENT} %"


def change_words(log_ratio: float) -> str:
    """Return a log ratio of time in words, with the figure of `change_text`: ``3.2 % slower``, ``unchanged``."""
    if log_ratio == 0:
        return "unchanged"
    figure = change_text(log_ratio).replace("+", "").replace("-", "")
    return f"{'less than 0.1 %' if figure == '0.0 %' else figure} {'faster' if log_ratio < 0 else 'slower'}"


def change_interval_text(interval: Interval) -> str:
    """Return an interval of log ratios as changes: ``-4.9 % to +10.2 %``."""
    return f"{change_text(interval.low)} to {change_text(interval.high)}" if _is_known(interval) else UNKNOWN


def effect_text(log_ratio: float | None) -> str:
    """Return a detectable slowdown as ``4.1 %``; empty if nothing would be detected."""
    return "" if log_ratio is None or not math.isfinite(log_ratio) else change_text(log_ratio).replace("+", "")


def points_text(fraction: float) -> str:
    """Return a difference of accuracies in percentage points, without the unit: ``-0.12``."""
    return f"{fraction * 100:+.2f}"


def points_interval_text(interval: Interval) -> str:
    """Return an interval of differences of accuracies in percentage points, without the unit: ``-0.30 to +0.06``."""
    return f"{points_text(interval.low)} to {points_text(interval.high)}" if _is_known(interval) else UNKNOWN


def points_effect_text(fraction: float | None) -> str:
    """Return a detectable drop in percentage points, without the unit; empty if nothing would be detected."""
    return "" if fraction is None or not math.isfinite(fraction) else f"{fraction * 100:.2f}"


def _is_known(interval: Interval) -> bool:
    return math.isfinite(interval.low) and math.isfinite(interval.high)
