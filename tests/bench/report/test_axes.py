"""Axes: scales that contain their values, and ticks that can be read."""

import itertools
import sys

import pytest

from bench.report.axes import LOG_RATIO, Axis, make_scale

PLAIN = Axis(label="", text="{:g}".format)
LOG = Axis(label="", text="{:g}".format, is_log=True)


@pytest.mark.parametrize("values", [(1e-3, 1e308), (sys.float_info.min, sys.float_info.max), (2.0,)])
def test_a_logarithmic_scale_contains_the_most_extreme_values(values: tuple[float, ...]) -> None:
    scale = make_scale(Axis(label="", text=str, is_log=True), values, 0, 100)
    assert 0 < scale.low <= min(values) <= max(values) <= scale.high
    assert all(0 <= scale(value) <= 100 for value in values)


@pytest.mark.parametrize(
    ("has_zero", "values", "ends"),
    [
        (False, (90.0, 100.0), (89.5, 100.5)),
        (True, (90.0, 100.0), (0.0, 100.5)),
        (True, (-90.0, 110.0), (-100.0, 120.0)),
        (False, (1.0, 101.0), (0.0, 106.0)),  # nothing below zero was measured
        (False, (100.0,), (95.0, 105.0)),
        (False, (), (-0.05, 1.05)),
    ],
)
def test_a_linear_scale_ends_a_little_beyond_its_values(
    has_zero: bool,  # noqa: FBT001 - a parameter of the test
    values: tuple[float, ...],
    ends: tuple[float, float],
) -> None:
    scale = make_scale(Axis(label="", text=str, has_zero=has_zero), values, 0, 100)
    assert (scale.low, scale.high) == pytest.approx(ends)


@pytest.mark.parametrize(
    ("values", "is_log"),
    [((1.0, LOG_RATIO), True), ((1.0, LOG_RATIO - 0.1), False), ((0.0, 1e6), False), ((), False)],
)
def test_values_far_apart_make_a_scale_logarithmic_but_not_with_zero(
    values: tuple[float, ...], *, is_log: bool
) -> None:
    assert make_scale(Axis(label="", text=str, is_log=None, has_zero=True), values, 0, 100).is_log is is_log


@pytest.mark.parametrize(
    ("axis", "values", "ticks"),
    [
        (PLAIN, (0.0, 90.0), (0, 20, 40, 60, 80)),
        (LOG, (1.0, 1000.0), (1, 10, 100, 1000)),
        (LOG, (2.0, 50.0), (3, 10, 30)),
        (LOG, (1.5, 12.0), (2, 5, 10)),
        (LOG, (1.5, 4.0), (2, 3, 4)),
        (Axis(label="", text=str, unit=1024.0), (0.0, 4500.0), (0, 1024, 2048, 3072, 4096)),
        (Axis(label="", text=str, unit=1024.0, is_log=True), (1024.0, 102_400.0), (1024, 10_240, 102_400)),
    ],
)
def test_ticks_are_round_multiples_of_the_unit(axis: Axis, values: tuple[float, ...], ticks: tuple[float, ...]) -> None:
    assert make_scale(axis, values, 0, 400).ticks == ticks


@pytest.mark.parametrize(("start", "end", "gap"), [(0, 200, 34), (200, 0, 16)])
def test_ticks_stand_apart_by_the_size_of_their_texts(start: int, end: int, gap: int) -> None:
    ticks = tuple(map(float, range(41)))
    scale = make_scale(Axis(label="", text="{:g}".format, ticks=ticks), ticks, start, end)
    assert scale.ticks[0] == 0
    apart = [abs(scale(b) - scale(a)) for a, b in itertools.pairwise(scale.ticks)]
    assert gap <= min(apart) <= max(apart) < gap + 5


def test_a_long_text_keeps_the_next_tick_away() -> None:
    axis = Axis(label="", text=lambda place: "x" * 13 if place == 0 else "x", ticks=(0.0, 1.0, 2.0))
    assert make_scale(axis, (0.0, 2.0), 0, 200).ticks == (0, 2)
