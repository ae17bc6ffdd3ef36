"""Formats quantities as text, and parses durations. Stored values stay in SI base units, unrounded.

All have three significant digits with trailing zeros, so that columns of numbers align and do not suggest a precision
that a benchmark lacks. Accuracies are the exception: 0.01 % is one of MNIST's 10 000 test images.
"""

import math
import re
from typing import Final

from bench.errors import BadInputError

_MINUTE_SECONDS: Final = 60
_HOUR_SECONDS: Final = 3600
_MAX_HOURS: Final = 1_000_000
"""From here, over a century, a duration is written in seconds instead of hours and minutes."""

_SECOND_SCALES: Final = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
_BYTE_SCALES: Final = tuple((float(1024**power), unit) for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB")))
_RATE_SCALES: Final = ((1.0, "/s"), (1e3, "k/s"), (1e6, "M/s"), (1e9, "G/s"), (1e12, "T/s"))

_FLOP_SCALES: Final = (
    (1.0, "FLOP"),
    (1e3, "kFLOP"),
    (1e6, "MFLOP"),
    (1e9, "GFLOP"),
    (1e12, "TFLOP"),
    (1e15, "PFLOP"),
)

_LONGEST_SECONDS: Final = 10 * 365 * 24 * 3600.0
"""Ten years. Nobody waits longer, and clocks cannot count to the longest time that could be written."""

_DURATION: Final = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s)?", flags=re.ASCII)
_BARE_SECONDS: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?", flags=re.ASCII)


def format_seconds(seconds: float) -> str:
    """Return `seconds` as ``85.0 µs``, ``812 ms``, ``1.23 s``, ``2 min 5 s`` or ``1 h 30 min``."""
    if seconds < 0:
        return f"-{format_seconds(-seconds)}"
    if seconds == 0:
        return "0 s"
    # A value that would round to a full minute or hour is written in minutes or hours.
    if _rounded(seconds) < _MINUTE_SECONDS or seconds >= _MAX_HOURS * _HOUR_SECONDS or math.isnan(seconds):
        return _scaled(seconds, _SECOND_SCALES, base=1000)
    if round(seconds) < _HOUR_SECONDS:
        minutes, rest = divmod(round(seconds), _MINUTE_SECONDS)
        return f"{minutes} min {rest} s"
    hours, rest = divmod(round(seconds / _MINUTE_SECONDS), _MINUTE_SECONDS)
    return f"{hours} h {rest} min"


def format_bytes(count: float) -> str:
    """Return `count` bytes in binary units: ``512 B``, ``412 MiB``, ``1.50 GiB``."""
    if count < 0:
        return f"-{format_bytes(-count)}"
    if count < _BYTE_SCALES[1][0] and float(count).is_integer():
        return f"{count:.0f} B"
    return _scaled(count, _BYTE_SCALES, base=1024)


def format_rate(per_second: float) -> str:
    """Return a rate per second with decimal prefixes: ``850/s``, ``73.4k/s``, ``1.20M/s``."""
    if per_second < 0:
        return f"-{format_rate(-per_second)}"
    if per_second == 0:
        return "0/s"
    return _scaled(per_second, _RATE_SCALES, base=1000, gap="")


def format_flops(count: float) -> str:
    """Return floating-point operations as ``1.23 GFLOP``; for a rate, append ``/s``."""
    return "0 FLOP" if count == 0 else _scaled(count, _FLOP_SCALES, base=1000)


def format_percent(fraction: float) -> str:
    """Return an accuracy, given as a fraction, as ``97.85 %``."""
    return f"{fraction * 100:.2f} %"


def format_points(fraction: float) -> str:
    """Return half the range of an accuracy, in percentage points: ``±0.10`` for 0.001."""
    return f"±{fraction * 100:.2f}"


def format_spread(fraction: float) -> str:
    """Return a relative half-range: ``±2.1 %`` for 0.021, ``±12 %`` for 0.12."""
    percent = fraction * 100
    text = f"{percent:.1f}"
    return f"±{text} %" if float(text) < 10 else f"±{percent:.0f} %"  # noqa: PLR2004 - two digits from 10 on


def format_number(value: float) -> str:
    """Return a count in full, and any other number without a unit with four significant digits."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def format_count(number: int, noun: str) -> str:
    """Return a number of things: ``1 trial``, ``2 trials``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration_text(seconds: float) -> str:
    """Return seconds in the form that `parse_duration` takes, to the nanosecond: ``45s``, ``0.00001s``."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def parse_duration(text: str, *, or_zero: bool = False) -> float:
    """Return the seconds of a duration such as ``45``, ``90s``, ``10m``, ``1h30m`` or ``1m30.5s``.

    Raises:
        BadInputError: `text` is not a duration, is zero unless `or_zero` is set, is longer than ten years, or ends with
            a number without a unit after others with one, such as ``1h30``.
    """
    written = text.strip()
    match = _DURATION.fullmatch(f"{written}s" if _BARE_SECONDS.fullmatch(written) else written)
    readings = [f"{written}{unit}" for unit in "ms" if match is None and _DURATION.fullmatch(f"{written}{unit}")]
    if readings:
        raise BadInputError(
            f"duration {text!r} ends with a number without a unit, which is seconds only where it stands alone: write "
            f"{' or '.join(readings)}"
        )
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = hours * _HOUR_SECONDS + minutes * _MINUTE_SECONDS + seconds
    is_zero = match is not None and any(match.groups()) and total == 0
    if not (0 < total <= _LONGEST_SECONDS or (or_zero and is_zero)):
        raise BadInputError(
            f"duration {text!r} is not a time in hours, minutes and seconds, above zero and at most ten years: "
            "write it like 45, 90s, 10m or 1h30m"
        )
    return total


def _scaled(value: float, scales: tuple[tuple[float, str], ...], *, base: int, gap: str = " ") -> str:
    """Return positive `value` in the first unit in which it is below `base` after rounding."""
    for scale, unit in scales:
        text = _three_digits(value / scale)
        if float(text) < base:
            return f"{text}{gap}{unit}"
    scale, unit = scales[-1]
    return f"{value / scale:.3g}{gap}{unit}"


def _three_digits(value: float) -> str:
    """Return positive `value` with three significant digits, or more if it has more before the decimal point."""
    if value < 1:
        # Leading zeros are not significant.
        return f"{value:#.3g}"
    for decimals in (2, 1):
        text = f"{value:.{decimals}f}"
        if float(text) < 10 ** (3 - decimals):
            return text
    return f"{value:.0f}"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
