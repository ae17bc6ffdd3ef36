"""Draws charts as SVG elements. Colours are classes, which the page's style sheet defines for light and dark pages."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from typing import Final

from bench.report.axes import Scale, make_scale
from bench.report.charts import (
    Chart,
    Heatmap,
    LineChart,
    RatioChart,
    Series,
    dodges,
    last_value,
    places,
    ratio_scale,
    ratio_tick,
)
from bench.tables.columns import harmless

_WIDTH: Final = 500
_HEIGHT: Final = 300
_TOP: Final = 14
_BOTTOM: Final = 46
_LEFT: Final = 80
_CHARACTER: Final = 7.2
"""Mean width of a letter at the charts' font size of 12, in a wide font."""

_LABEL_CHARACTERS: Final = 22
"""A longer name makes the chart wider by the difference."""

_NAME_CHARACTERS: Final = 60
_LABEL_GAP: Final = 14

_RATIOS_WIDTH: Final = 760
_MIN_RATIOS_WIDTH: Final = 240
"""Width of a ratio chart, and the minimum width of its plot area."""

_MARKERS: Final = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.5-3.5h7v7h-7z",
    "M0-4.5L4.5 3.5H-4.5z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 4.5L4.5-3.5H-4.5z",
    "M-4-1.5h2.5V-4h3v2.5H4v3H1.5V4h-3V1.5H-4z",
    "M-5-2.5h10v5h-10z",
    "M-2.5-5h5v10h-5z",
)


def draw(chart: Chart, key: str) -> str:
    """Return `chart` as an SVG element whose ids begin with `key`; all texts in it are escaped."""
    match chart:
        case LineChart():
            width, height, body = _lines(chart)
        case Heatmap():
            width, height, body = _heatmap(chart)
        case RatioChart():
            width, height, body = _ratios(chart)
    ids = f"{key}-title", f"{key}-desc"
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-labelledby="{ids[0]} {ids[1]}"><title id="{ids[0]}">{_safe(chart.title, 200)}</title>'
        f'<desc id="{ids[1]}">{_safe(chart.description, 400)}</desc>{"".join(body)}</svg>'
    )


def _safe(text: str, limit: int = _NAME_CHARACTERS) -> str:
    return escape(harmless(text, limit))


def _text(x: float, y: float, text: str, kind: str, anchor: str = "") -> str:
    classes = f"{kind} {anchor}".rstrip()
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}">{text}</text>'


def _upright(middle: float, text: str) -> str:
    """Return the label of a y axis, beside it at the left edge."""
    return f'<text class="name mid" transform="translate(13 {middle:.1f})rotate(-90)">{text}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


# Lines


def _lines(chart: LineChart) -> tuple[int, int, Iterator[str]]:
    longest = max((len(harmless(each.name, _NAME_CHARACTERS)) for each in chart.series), default=0)
    width = _WIDTH + round(_CHARACTER * max(0, longest - _LABEL_CHARACTERS))
    return width, _HEIGHT, _line_parts(chart, width - 24 - _CHARACTER * longest)


def _line_parts(chart: LineChart, right: float) -> Iterator[str]:
    x = make_scale(chart.x, [x for x, _ in places(chart)], _LEFT, right)
    y = make_scale(chart.y, [y for _, y in places(chart)], _HEIGHT - _BOTTOM, _TOP)
    yield from _axes(chart, x, y)
    moved = dodges(chart.series)
    for series, (_, aside) in zip(chart.series, moved, strict=True):
        yield from _traces(series, _moved(x, aside), y)
    for value, label in chart.guides:
        if y.low <= value <= y.high:
            yield _line(_LEFT, y(value), x.end, y(value), "guide")
            yield _text(_LEFT + 5, y(value) - 4, _safe(label), "tick")
    for series, (aside, _) in zip(chart.series, moved, strict=True):
        yield from _curve(series, _moved(x, aside), y)
    yield from _labels(chart, x, y)


def _moved(scale: Scale, aside: float) -> Scale:
    return replace(scale, start=scale.start + aside, end=scale.end + aside)


def _axes(chart: LineChart, x: Scale, y: Scale) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    for tick in y.ticks:
        yield _line(_LEFT, y(tick), x.end, y(tick), "grid")
        yield _text(_LEFT - 6, y(tick) + 4, _safe(chart.y.text(tick)), "tick", "end")
    for tick in x.ticks:
        yield _line(x(tick), bottom, x(tick), bottom + 4, "axis")
        yield _text(x(tick), bottom + 17, _safe(chart.x.text(tick)), "tick", "mid")
    yield f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{x.end:.1f}"/>'
    middle = (_LEFT + x.end) / 2
    yield _text(middle, _HEIGHT - 10, _safe(chart.x.label + (", log scale" if x.is_log else "")), "name", "mid")
    yield _upright((_TOP + bottom) / 2, _safe(chart.y.label + (", log scale" if y.is_log else "")))


def _traces(series: Series, x: Scale, y: Scale) -> Iterator[str]:
    dots = [trace[0] for trace in series.traces if len(trace) == 1]
    lines = [trace for trace in series.traces if len(trace) > 1]
    if dots:
        path = "".join(f"M{x(a):.1f} {y(b):.1f}h0" for a, b in dots)
        yield f'<path class="dots s{series.style}" d="{path}"/>'
    if lines:
        path = "".join(f"M{'L'.join(f'{x(a):.1f} {y(b):.1f}' for a, b in trace)}" for trace in lines)
        yield f'<path class="raw s{series.style}" d="{path}"/>'


def _curve(series: Series, x: Scale, y: Scale) -> Iterator[str]:
    style = f"s{series.style}"
    if series.level is not None:
        yield _line(_LEFT, y(series.level), x.end, y(series.level), f"dash {style}")
    if series.bars:
        path = "".join(f"M{x(a) - 3:.1f} {y(b):.1f}h6m-3 0V{y(c):.1f}m-3 0h6" for a, b, c in series.bars)
        yield f'<path class="bar {style}" d="{path}"/>'
    for piece in series.pieces() if series.has_line else ():
        if len(piece) > 1:
            path = "L".join(f"{x(each.x):.1f} {y(each.y):.1f}" for each in piece)
            yield f'<path class="{"dash" if series.is_dashed else "line"} {style}" d="M{path}"/>'
    for each in series.points:
        yield _series_marker(series, x(each.x), y(each.y))


def _series_marker(series: Series, x: float, y: float) -> str:
    return _marker(series.style, x, y, f"{'hollow' if series.is_dashed else 'mark'} s{series.style}")


def _marker(shape: int, x: float, y: float, kind: str) -> str:
    return f'<path class="{kind}" transform="translate({x:.1f} {y:.1f})" d="{_MARKERS[shape]}"/>'


def _labels(chart: LineChart, x: Scale, y: Scale) -> Iterator[str]:
    """Yield the names of the lines at their right ends, moved apart if they would overlap."""
    named = sorted(chart.labelled, key=lambda each: y(last_value(each)))
    for place, series in zip(_spread([y(last_value(each)) for each in named]), named, strict=True):
        yield _series_marker(series, x.end + 12, place)
        yield _text(x.end + 20, place + 4, _safe(series.name), "label")


def _spread(places: Sequence[float]) -> list[float]:
    """Return sorted `places` moved at least one line apart: downwards first, then back up from the bottom."""
    spread: list[float] = []
    for place in places:
        spread.append(max(place, spread[-1] + _LABEL_GAP) if spread else max(place, float(_TOP)))
    limit = float(_HEIGHT - _BOTTOM + 4)
    for i in reversed(range(len(spread))):
        spread[i] = min(spread[i], limit)
        limit = spread[i] - _LABEL_GAP
    return spread


# Heatmaps


def _heatmap(chart: Heatmap) -> tuple[int, int, Iterator[str]]:
    longest = max(map(len, (text for row in chart.texts for text in row)), default=0)
    cell = max(66, round(_CHARACTER * longest) + 14)
    left = round(_CHARACTER * max(len(harmless(row, _NAME_CHARACTERS)) for row in chart.rows)) + 38
    width, height = left + cell * len(chart.columns) + 6, 26 * len(chart.rows) + 52
    return width, height, _cells(chart, cell, left, height)


def _cells(chart: Heatmap, cell: int, left: int, height: int) -> Iterator[str]:
    low, high = chart.shades()
    for i, (name, values, texts) in enumerate(zip(chart.rows, chart.values, chart.texts, strict=True)):
        y = 6 + 26 * i
        yield _text(left - 8, y + 17, _safe(name), "tick", "end")
        for j, (value, text) in enumerate(zip(values, texts, strict=True)):
            x = left + cell * j
            shade = "none" if value is None else f"h{round(8 * (math.log(value) - low) / (high - low))}"
            yield f'<rect class="cell {shade}" x="{x}" y="{y}" width="{cell - 2}" height="24" rx="3"/>'
            yield _text(x + cell / 2 - 1, y + 16, _safe(text), "value", "mid")
    bottom = 6 + 26 * len(chart.rows)
    for j, name in enumerate(chart.columns):
        yield _text(left + cell * (j + 0.5), bottom + 16, _safe(name, 30), "tick", "mid")
    yield _text(left + cell * len(chart.columns) / 2, height - 8, _safe(chart.column_label), "name", "mid")
    yield _upright((6 + bottom) / 2, _safe(chart.row_label))


# Ratios


def _ratios(chart: RatioChart) -> tuple[int, int, Iterator[str]]:
    left = 16 + _CHARACTER * max(len(harmless(each.name, _NAME_CHARACTERS)) for each in chart.ratios)
    right = 18 + _CHARACTER * max(len(f"{each.text} {each.verdict}") for each in chart.ratios)
    width = round(max(_RATIOS_WIDTH, left + _MIN_RATIOS_WIDTH + right))
    return width, 22 * len(chart.ratios) + 58, _ratio_rows(chart, left, width - right)


def _ratio_rows(chart: RatioChart, left: float, right: float) -> Iterator[str]:
    x = ratio_scale(chart, left, right)
    bottom = 22 * len(chart.ratios) + 10
    for tick in x.ticks:
        yield _line(x(tick), 6, x(tick), bottom, "grid")
        yield _text(x(tick), bottom + 16, ratio_tick(tick), "tick", "mid")
    yield _line(x(1.0), 6, x(1.0), bottom, "guide")
    for i, each in enumerate(chart.ratios):
        y = 20.0 + 22 * i
        yield _text(left - 8, y + 4, _safe(each.name), "tick", "end")
        if each.low and each.high:
            bar = f"M{x(each.low):.1f} {y - 4:.1f}v8m0-4H{x(each.high):.1f}m0-4v8"
            yield f'<path class="bar s0" d="{bar}"/>'
        yield _marker(each.marker, x(each.value), y, "mark s0")
        yield _text(x.end + 10, y + 4, _safe(f"{each.text} {each.verdict}"), "label")
    yield _text((left + x.end) / 2, bottom + 38, _safe(f"{chart.label}, log scale"), "name", "mid")
