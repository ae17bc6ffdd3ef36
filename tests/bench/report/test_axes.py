"""Axes: scales that contain their values."""

import sys

import pytest

from bench.report.axes import Axis, make_scale


@pytest.mark.parametrize("values", [(1e-3, 1e308), (sys.float_info.min, sys.float_info.max), (2.0,)])
def test_a_logarithmic_scale_contains_the_most_extreme_values(values: tuple[float, ...]) -> None:
    scale = make_scale(Axis(label="", text=str, is_log=True), values, 0, 100)
    assert 0 < scale.low <= min(values) <= max(values) <= scale.high
    assert all(0 <= scale(value) <= 100 for value in values)
