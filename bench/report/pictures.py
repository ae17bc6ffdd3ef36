"""The report's charts as pictures for papers and slides: SVG and PNG by matplotlib, the same bytes for the same run.

Colours are Okabe and Ito's and the colour map cividis, which colour-blind readers can distinguish; series differ by
marker too, and cells show their numbers. Figures are made without pyplot, so that no global state changes and no window
opens.
"""

import io
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

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

Format: TypeAlias = Literal["svg", "png"]

FORMATS: Final[tuple[Format, ...]] = ("svg", "png")

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito, "Color Universal Design" (2008), with grey instead of their yellow, which is too faint on paper."""

_HEAT: Final = colormaps["cividis_r"]

_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")

_SETTINGS: Final[dict[Any, Any]] = {  # matplotlib types its keys by its version
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so pictures look the same everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.3",
    "grid.color": "0.9",
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "text.parse_math": False,  # a name with dollars is a name
    "svg.hashsalt": "mnist-mlp-bench",  # without it ids are random
}

_WIDTH_INCHES: Final = 6.4
_HEIGHT_INCHES: Final = 4.2
_PADDING_INCHES: Final = 0.08
_POINTS_PER_INCH: Final = 72
_DOTS_PER_INCH: Final = 200
_NAME_CHARACTERS: Final = 60
_LABEL_INCHES: Final = 2.4
"""A wider label makes the picture wider by the difference."""
_LETTER_INCHES: Final = 0.08
_WIDE_LETTER_INCHES: Final = 0.145
"""Mean width of an ASCII letter at the font's size, and of any other, such as the box for a missing glyph."""
_TITLE_CHARACTERS_PER_INCH: Final = 11
_MARK_CHARACTERS_PER_INCH: Final = 16


def draw_picture(chart: Chart, *, source: str = "") -> dict[Format, bytes]:
    """Return `chart` in every format, with its marks explained below; `source` goes into the file's metadata."""
    metadata = {
        "Title": harmless(chart.title, 200),
        "Description": harmless(chart.description, 400),
        "Source": harmless(source, 400),
    }
    with _own_settings():
        figure = make_figure(chart)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={**metadata, "Date": None})
        figure.savefig(png, format="png", dpi=_DOTS_PER_INCH, metadata=metadata)
    return {"svg": svg.getvalue(), "png": png.getvalue()}


def make_figure(chart: Chart) -> Figure:
    """Return `chart` with its title above and its marks explained below, by matplotlib's current settings."""
    match chart:
        case LineChart():
            figure = _lines(chart)
        case Heatmap():
            figure = _heatmap(chart)
        case RatioChart():
            figure = _ratios(chart)
    width = figure.get_figwidth()
    figure.suptitle(_filled(chart.title, width * _TITLE_CHARACTERS_PER_INCH), fontsize=10)
    marks = (_filled(mark, width * _MARK_CHARACTERS_PER_INCH) for mark in chart.marks)
    figure.supxlabel("\n".join(marks), fontsize=7, color="0.3")
    return figure


@contextmanager
def _own_settings() -> Iterator[None]:
    """Draw with `_SETTINGS`, whatever the user's matplotlibrc says."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box is drawn instead
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def _filled(text: str, characters: float) -> str:
    return textwrap.fill(harmless(text, 200), int(characters), break_on_hyphens=False)


def _figure(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    figure.set_layout_engine("constrained", w_pad=_PADDING_INCHES, h_pad=_PADDING_INCHES)
    return figure, figure.subplots()


def _widest_inches(names: Iterable[str]) -> float:
    """Return the approximate width of the widest of these names as a label."""
    return max((_inches(harmless(name, _NAME_CHARACTERS)) for name in names), default=0.0)


def _inches(text: str) -> float:
    return sum(_LETTER_INCHES if letter.isascii() else _WIDE_LETTER_INCHES for letter in text)


# Lines


def _lines(chart: LineChart) -> Figure:
    widest = _widest_inches(series.name for series in chart.series)
    figure, axes = _figure(_WIDTH_INCHES + max(0.0, widest - _LABEL_INCHES), _HEIGHT_INCHES)
    drawn = list(places(chart))
    x = make_scale(chart.x, [a for a, _ in drawn], 0, 4.5 * _POINTS_PER_INCH)
    y = make_scale(chart.y, [b for _, b in drawn], 3 * _POINTS_PER_INCH, 0)
    _set_axis(axes, "x", chart.x.label, x, chart.x.text)
    _set_axis(axes, "y", chart.y.label, y, chart.y.text)
    axes.grid(visible=True, axis="y")
    moved = [[_aside(figure, points) for points in each] for each in dodges(chart.series)]
    for series, (_, aside) in zip(chart.series, moved, strict=True):
        _draw_traces(axes, series, axes.transData + aside)
    for value, label in chart.guides:
        if y.low <= value <= y.high:
            axes.axhline(value, color="0.4", linestyle=":", linewidth=1)
            axes.text(0.01, value, harmless(label, 20), transform=axes.get_yaxis_transform(), va="bottom", fontsize=8)
    for series, (aside, _) in zip(chart.series, moved, strict=True):
        _draw_series(axes, series, axes.transData + aside)
    named = sorted(chart.labelled, key=last_value, reverse=True)  # in the order of the lines' ends, from the top
    handles = [
        Line2D([], [], color=_COLOURS[series.style], marker=_MARKERS[series.style], linestyle=_line(series))
        for series in named
    ]
    figure.legend(
        handles,
        [harmless(series.name, _NAME_CHARACTERS) for series in named],
        loc="outside right center",
        frameon=False,
    )
    return figure


def _set_axis(axes: Axes, name: Literal["x", "y"], label: str, scale: Scale, text: Callable[[float], str]) -> None:
    """Give an axis the same ends and ticks as in the report."""
    words = f"{label}, log scale" if scale.is_log else label
    axes.set(**{f"{name}scale": "log" if scale.is_log else "linear", f"{name}label": words})
    axes.set(**{f"{name}lim": (scale.low, scale.high)})
    place = axes.xaxis if name == "x" else axes.yaxis
    place.set_ticks(scale.ticks, [text(tick) for tick in scale.ticks])
    place.set_minor_locator(NullLocator())
    axes.set_axisbelow(True)


def _aside(figure: Figure, points: float) -> ScaledTranslation:
    """Return what moves a drawing to the right."""
    return ScaledTranslation(points / _POINTS_PER_INCH, 0, figure.dpi_scale_trans)


def _draw_traces(axes: Axes, series: Series, place: Transform) -> None:
    """Draw the single trials as thin lines, or as small dots beside a bar that would hide them."""
    colour = _COLOURS[series.style]
    dots = [trace[0] for trace in series.traces if len(trace) == 1]
    if dots:
        axes.plot(*zip(*dots, strict=True), ".", color=colour, markersize=3, alpha=0.7, transform=place)
    for trace in series.traces:
        if len(trace) > 1:
            axes.plot(*zip(*trace, strict=True), color=colour, linewidth=0.6, alpha=0.35)


def _draw_series(axes: Axes, series: Series, place: Transform) -> None:
    colour = _COLOURS[series.style]
    if series.level is not None:
        axes.axhline(series.level, color=colour, linestyle="--", linewidth=0.9)
    if series.bars:
        xs, lows, highs = zip(*series.bars, strict=True)
        axes.vlines(xs, lows, highs, color=colour, transform=place)
    for piece in series.pieces():
        axes.plot(
            [each.x for each in piece],
            [each.y for each in piece],
            color=colour,
            linestyle=_line(series),
            marker=_MARKERS[series.style],
            markerfacecolor="white" if series.is_dashed else colour,
            transform=place,
        )


def _line(series: Series) -> Literal["", "-", "--"]:
    if not series.has_line:
        return ""
    return "--" if series.is_dashed else "-"


# Heatmaps


def _heatmap(chart: Heatmap) -> Figure:
    width = max(4.0, 1.0 + _widest_inches(chart.rows) + 0.8 * len(chart.columns))
    figure, axes = _figure(width, 1.5 + 0.32 * len(chart.rows))
    shades = np.log(np.array(chart.values, dtype=float))  # None becomes NaN, which stays white
    norm = Normalize(*chart.shades())
    axes.imshow(shades, cmap=_HEAT, norm=norm, aspect="auto")
    axes.set_xticks(range(len(chart.columns)), [harmless(each, _NAME_CHARACTERS) for each in chart.columns])
    axes.set_yticks(range(len(chart.rows)), [harmless(each, _NAME_CHARACTERS) for each in chart.rows])
    axes.set_xlabel(chart.column_label)
    axes.set_ylabel(chart.row_label)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, texts in enumerate(chart.texts):
        for column, text in enumerate(texts):
            colour = _text_colour(_HEAT(norm(shades[row, column])))
            axes.text(column, row, harmless(text, _NAME_CHARACTERS), ha="center", va="center", color=colour, fontsize=8)
    return figure


def _text_colour(behind: Sequence[float]) -> Literal["black", "white"]:
    """Return the one with more contrast to the colour `behind`, by WCAG 2's relative luminance."""
    linear = 0.04045  # sRGB is linear up to here
    parts = (part / 12.92 if part <= linear else ((part + 0.055) / 1.055) ** 2.4 for part in behind[:3])
    luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"


# Ratios


def _ratios(chart: RatioChart) -> Figure:
    widest = _widest_inches(each.name for each in chart.ratios)
    figure, axes = _figure(7.6 + max(0.0, widest - _LABEL_INCHES), 1.5 + 0.24 * len(chart.ratios))
    x = ratio_scale(chart, 0, 4 * _POINTS_PER_INCH)
    _set_axis(axes, "x", chart.label, x, ratio_tick)
    axes.grid(visible=True, axis="x")
    axes.axvline(1, color="0.3", linestyle=":")
    axes.set_ylim(len(chart.ratios) - 0.5, -0.5)
    axes.set_yticks(range(len(chart.ratios)), [harmless(each.name, _NAME_CHARACTERS) for each in chart.ratios])
    axes.tick_params(axis="y", length=0)
    aside = axes.get_yaxis_transform() + _aside(figure, 8)
    for row, each in enumerate(chart.ratios):
        if each.low and each.high:
            axes.hlines(row, each.low, each.high, color=_COLOURS[0])
        axes.plot(each.value, row, marker=_MARKERS[each.marker], color=_COLOURS[0])
        axes.text(1, row, harmless(f"{each.text} {each.verdict}", 60), transform=aside, va="center")
    return figure
