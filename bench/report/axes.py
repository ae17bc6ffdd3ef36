"""Scales and ticks of a chart's axes: from values to positions on the page."""

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

LOG_RATIO: Final = 20
"""Ratio of the largest to the smallest value from which on a linear axis would compress the small values."""

_PADDING: Final = 0.05
"""Fraction of the axis's length that is left free at each end."""

_TICKS: Final = 5

_CHARACTER: Final = 6.5
"""Mean width of a digit at the charts' font size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis: its label, how its numbers are written, and its `ticks`; by default these are round multiples of `unit`.

    With `has_zero` it begins at zero, unless it is logarithmic; `is_log` None lets the values decide that. It never
    extends beyond `most`, which no value can exceed.
    """

    label: str
    text: Callable[[float], str]
    ticks: tuple[float, ...] = ()
    unit: float = 1.0
    is_log: bool | None = False
    has_zero: bool = False
    most: float = math.inf

    def log_for(self, values: Iterable[float]) -> bool:
        """Return whether the axis is logarithmic, if necessary according to `values`."""
        if self.is_log is not None:
            return self.is_log
        found = list(values)
        return bool(found) and min(found) > 0 and max(found) / min(found) >= LOG_RATIO


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps values from `low` to `high` to positions from `start` to `end`, by their logarithms if `is_log`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Return the position of `value`."""
        low, high, place = (math.log(each) if self.is_log else each for each in (self.low, self.high, value))
        return self.start + (place - low) / (high - low) * (self.end - self.start)


def make_scale(axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale that contains all `values`, with ticks far enough apart to be legible."""
    is_log = axis.log_for(values)
    low, high = _padded(min(values, default=0.0), max(values, default=1.0), is_log=is_log)
    if axis.has_zero and not is_log:
        low = min(low, 0.0)
    high = min(high, axis.most)
    ticks = axis.ticks or _ticks(axis, low, high, is_log=is_log)
    scale = Scale(low=low, high=high, start=start, end=end, is_log=is_log, ticks=())
    inside = [tick for tick in ticks if low <= tick <= high]
    return Scale(low=low, high=high, start=start, end=end, is_log=is_log, ticks=_apart(scale, inside, axis.text))


def _padded(low: float, high: float, *, is_log: bool) -> tuple[float, float]:
    if is_log:
        factor = math.exp(_PADDING * (math.log(high) - math.log(low))) if high > low else 2.0
        return max(low / factor, sys.float_info.min), min(high * factor, sys.float_info.max)
    padding = (high - low) * _PADDING if high > low else abs(high) * _PADDING or 1.0
    # Padding does not extend the axis of non-negative values below zero.
    return (max(0.0, low - padding) if low > 0 else low - padding), high + padding


def _apart(scale: Scale, ticks: Sequence[float], text: Callable[[float], str]) -> tuple[float, ...]:
    """Return `ticks` without those whose text is too close to the previous one."""
    is_across = scale.end > scale.start
    kept: list[float] = []
    for tick in ticks:
        letters = max(len(text(tick)), len(text(kept[-1]))) if kept else 0
        gap = max(34.0, _CHARACTER * letters + 8) if is_across else 16.0
        if not kept or abs(scale(tick) - scale(kept[-1])) >= gap:
            kept.append(tick)
    return tuple(kept)


def _ticks(axis: Axis, low: float, high: float, *, is_log: bool) -> tuple[float, ...]:
    """Return round multiples of the axis's unit, far enough apart for their texts to differ."""
    low, high = low / axis.unit, high / axis.unit
    decades = _decades(low, high) if is_log else []
    if decades:
        return tuple(tick * axis.unit for tick in decades)
    step = _nice_step((high - low) / _TICKS)
    while True:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        ticks = tuple(round(place * step, 12) * axis.unit for place in range(first, last + 1))
        if len({axis.text(tick) for tick in ticks}) == len(ticks):
            return ticks
        step = _nice_step(1.5 * step)


def _decades(low: float, high: float) -> list[float]:
    """Return powers of ten, with multiples if there are few; nothing if there are still too few."""
    last = min(math.ceil(math.log10(high)), sys.float_info.max_10_exp)
    decades = range(math.floor(math.log10(low)), last + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [digit * 10.0**decade for decade, digit in itertools.product(decades, digits)]
        inside = [each for each in found if low <= each <= high]
        if len(inside) >= 3:  # noqa: PLR2004 - fewer show no scale
            return inside
    return []


def _nice_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(nice * power for nice in (1, 2, 5, 10) if nice * power >= step * (1 - 1e-9))
