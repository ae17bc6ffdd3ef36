import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BadInputError
from bench.units import (
    duration_text,
    format_bytes,
    format_number,
    format_percent,
    format_points,
    format_rate,
    format_seconds,
    format_spread,
    parse_duration,
)

SECONDS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
BYTES = {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
RATES = {"/s": 1.0, "k/s": 1e3, "M/s": 1e6, "G/s": 1e9, "T/s": 1e12}


def read_back(text: str, units: dict[str, float]) -> float:
    """Sum the numbers in `text`, each times the unit that follows it: an independent inverse of the formatters."""
    sign = -1.0 if text.startswith("-") else 1.0
    parts = re.findall(r"([0-9.e+]+|[0-9.]+e-[0-9]+) ?([A-Za-zµ/]+)", text.removeprefix("-"))
    return sign * math.fsum(float(number) * units[unit] for number, unit in parts)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (3e-9, "3.00 ns"),
        (85e-6, "85.0 µs"),
        (0.812, "812 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (999.6e-6, "1.00 ms"),
        (1.2345, "1.23 s"),
        (9.996, "10.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (125.0, "2 min 5 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (5400.0, "1 h 30 min"),
        (100_000.0, "27 h 47 min"),
        (-2.0, "-2.00 s"),
        (1e300, "1e+300 s"),
    ],
)
def test_seconds_have_three_significant_digits_in_a_fitting_unit(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1023.7, "1.00 KiB"),
        (1024, "1.00 KiB"),
        (1000 * 2**20, "1000 MiB"),
        (2**30 - 1, "1.00 GiB"),
        (412 * 2**20, "412 MiB"),
        (1.5 * 2**30, "1.50 GiB"),
        (-(2.0**20), "-1.00 MiB"),
        (0.5, "0.500 B"),
        (2.0**60, "1.05e+06 TiB"),
    ],
)
def test_bytes_are_binary(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.0, "0/s"),
        (0.5, "0.500/s"),
        (0.995, "0.995/s"),
        (0.9996, "1.00/s"),
        (850.0, "850/s"),
        (999.6, "1.00k/s"),
        (73_400.0, "73.4k/s"),
        (1.2e6, "1.20M/s"),
        (-850.0, "-850/s"),
        (1e30, "1e+18T/s"),
    ],
)
def test_rates_have_decimal_prefixes(rate: float, text: str) -> None:
    assert format_rate(rate) == text


def test_quantities_that_are_not_numbers_are_shown_as_such() -> None:
    assert format_seconds(math.nan) == "nan s"
    assert format_seconds(-math.inf) == "-inf s"
    assert format_bytes(math.inf) == "inf TiB"


@given(st.floats(min_value=1e-8, max_value=3.5e9))
def test_seconds_read_back_within_their_digits(seconds: float) -> None:
    text = format_seconds(seconds)
    # Three digits are at worst 0.5 % off (1.00 against 1.005); above an hour, half a minute.
    slack = 30.0 if " h " in text else 0.5 if " min " in text else 0.00501 * seconds
    assert abs(read_back(text, SECONDS) - seconds) <= slack


@given(st.integers(min_value=0, max_value=2**50))
def test_bytes_read_back_within_their_digits(count: int) -> None:
    assert read_back(format_bytes(count), BYTES) == pytest.approx(count, rel=0.00501)


@given(st.floats(min_value=1e-3, max_value=1e15))
def test_rates_read_back_within_their_digits(rate: float) -> None:
    assert read_back(format_rate(rate), RATES) == pytest.approx(rate, rel=0.00501)


@given(st.floats(min_value=1e-8, max_value=59.0), st.floats(min_value=1e-8, max_value=59.0))
def test_a_longer_time_never_reads_shorter(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert read_back(format_seconds(low), SECONDS) <= read_back(format_seconds(high), SECONDS)


@given(st.floats(min_value=1e-12, max_value=59.0))
def test_times_below_a_minute_have_a_number_below_a_thousand(seconds: float) -> None:
    number, _unit = format_seconds(seconds).split()
    assert float(number) < 1000
    if seconds >= 1e-9:
        assert len(number.replace(".", "")) == 3


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_the_sign_is_never_lost(magnitude: float) -> None:
    for formatter in (format_seconds, format_bytes, format_rate):
        assert formatter(-magnitude) == f"-{formatter(magnitude)}"


def test_accuracies_show_one_image_in_ten_thousand() -> None:
    assert format_percent(0.9785) == "97.85 %"
    assert format_percent(0.9786) == "97.86 %"
    assert format_percent(1.0) == "100.00 %"
    assert format_points(0.001) == "±0.10"


def test_spread_has_a_decimal_below_ten_percent_only() -> None:
    spreads = [format_spread(fraction) for fraction in (0.0, 0.004, 0.021, 0.0994, 0.0996, 0.12, 1.5)]
    assert spreads == ["±0.0 %", "±0.4 %", "±2.1 %", "±9.9 %", "±10 %", "±12 %", "±150 %"]


def test_counts_are_written_in_full_and_other_numbers_with_four_digits() -> None:
    assert [format_number(value) for value in (65_536, 0.001, 0.08751234)] == ["65536", "0.001", "0.08751"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45", 45.0),
        ("90s", 90.0),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("1h", 3600.0),
        ("90", 90.0),
        ("90.5", 90.5),
        (" 1m30.5s ", 90.5),
        ("1h5s", 3605.0),
    ],
)
def test_durations_are_read_in_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "0", "0h0m", "-5", "5 m", "1e3", "1m1h", "ten", "nan", "1.5h", "٣s", "1" * 400, "87601h"]
)
def test_a_text_that_is_not_a_duration_is_refused_with_value_rule_and_remedy(text: str) -> None:
    with pytest.raises(
        BadInputError, match="in hours, minutes and seconds, above zero and at most ten years: write it like"
    ) as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("1h30", "write 1h30m or 1h30s"),
        (" 1h30 ", "write 1h30m or 1h30s"),
        ("1m30", "write 1m30s"),
        ("1h1m30", "write 1h1m30s"),
        ("1h30.5", "write 1h30.5s"),
        ("1h0", "write 1h0m or 1h0s"),
    ],
)
def test_a_number_without_a_unit_after_one_with_a_unit_is_refused_as_ambiguous(text: str, remedy: str) -> None:
    rule = "ends with a number without a unit, which is seconds only where it stands alone"
    with pytest.raises(BadInputError) as caught:
        parse_duration(text, or_zero=True)
    assert str(caught.value) == f"duration {text!r} {rule}: {remedy}"


@pytest.mark.parametrize("text", ["0", "0s", "0h0m"])
def test_no_time_at_all_is_a_duration_only_where_that_is_allowed(text: str) -> None:
    assert parse_duration(text, or_zero=True) == 0
    for no_duration in ("", " ", "-0", "none"):
        with pytest.raises(BadInputError):
            parse_duration(no_duration, or_zero=True)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_every_duration_written_in_units_is_read(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@pytest.mark.parametrize("seconds", [1e-5, 0.1, 45.0, 12345.678, 3.6e6, 315_360_000.0])
def test_a_duration_as_text_is_read_as_the_same(seconds: float) -> None:
    assert parse_duration(duration_text(seconds)) == seconds
