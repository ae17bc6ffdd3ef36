"""Charts as data: lines with ranges and raw points, heatmaps, ratios with their intervals.

`bench.report.svg` draws them for the page, `bench.report.pictures` for papers. Both show everything twice: series by
colour and marker, cells by shade and number.
"""

import enum
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from bench.report.axes import Axis, Scale, make_scale

MAX_SERIES: Final = 8
"""The number of markers and colours."""


_DOTS_ASIDE: Final = 7.0
"""How far beside its bar a series has its dots, and the next series its bar, in points."""

_WIDEST_DODGE: Final = 18.0
"""The space that all bars at the same place share, in points: half of what lies between ticks."""


class Kind(enum.StrEnum):
    """What a chart shows. Together with the chart's `subject` it is a short name, unique in its run."""

    SIDE_BY_SIDE = "side-by-side"
    THROUGHPUT_MAP = "throughput-map"
    THROUGHPUT = "throughput"
    TIME_TO_ACCURACY = "time-to-accuracy"
    ACCURACY = "accuracy"
    LOSS = "loss"
    ACCURACY_BY_SEED = "accuracy-by-seed"
    MEMORY = "memory"
    RATIOS = "ratios"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value of a line, and the range around it if there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


Trace: TypeAlias = tuple[tuple[float, float], ...]
"""Raw points that belong together; a single one is drawn as a dot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line through `points` above its raw `traces`, and a horizontal line at `level` if there is one.

    `style` selects colour and marker. An empty name has no label. The line is interrupted at `breaks` on the x axis.
    """

    name: str
    style: int
    points: tuple[Point, ...]
    traces: tuple[Trace, ...] = ()
    is_dashed: bool = False
    has_line: bool = True
    level: float | None = None
    breaks: tuple[float, ...] = ()

    @property
    def bars(self) -> list[tuple[float, float, float]]:
        """Place, lower and upper end of each point's range, which would hide raw points at the same place."""
        return [(each.x, each.low, each.high) for each in self.points if each.low is not None and each.high is not None]

    def pieces(self) -> list[list[Point]]:
        """Return the points, divided at the breaks."""
        by_piece = itertools.groupby(self.points, key=lambda point: sum(place < point.x for place in self.breaks))
        return [list(piece) for _, piece in by_piece]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Titled:
    """The texts of every chart. `marks` explain what is drawn, `description` summarises what there is to see.

    `caption` is a shorter title, for use where the charts' common subject is clear from the context.
    """

    kind: Kind
    subject: str
    title: str
    caption: str
    description: str
    marks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart(_Titled):
    """Series over two axes. `guides` are horizontal lines with their labels."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    guides: tuple[tuple[float, str], ...] = ()

    @property
    def labelled(self) -> list[Series]:
        """The series that have a label: a name, and something that it names."""
        return [each for each in self.series if each.name and (each.points or each.traces)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap(_Titled):
    """A grid of values above zero, None where nothing was measured; shades follow the logarithms of the values."""

    column_label: str
    row_label: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    texts: tuple[tuple[str, ...], ...]

    def shades(self) -> tuple[float, float]:
        """Return the logarithms of the faintest and the strongest shade, at least a factor of two apart.

        Without that minimum, values that hardly differ would look as different as those that differ a hundredfold.
        """
        logs = [math.log(value) for row in self.values for value in row if value is not None]
        low, high = min(logs, default=0.0), max(logs, default=0.0)
        missing = max(0.0, math.log(2) - (high - low))
        return low - missing / 2, high + missing / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio with its interval, if that is known, its text and its verdict."""

    name: str
    value: float
    low: float | None
    high: float | None
    text: str
    verdict: str

    @property
    def marker(self) -> int:
        """A triangle down for less time, up for more, a square for the same; a circle for everything else."""
        return {"faster": 4, "slower": 2, "same": 1}.get(self.verdict, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioChart(_Titled):
    """Ratios, one per row, beside a line at 1, which means no difference.

    The axis covers `among`, the ratios of all parts of a divided chart.
    """

    label: str
    ratios: tuple[Ratio, ...]
    among: tuple[Ratio, ...]


Chart: TypeAlias = LineChart | Heatmap | RatioChart


def places(chart: LineChart) -> Iterator[tuple[float, float]]:
    """Yield x and y of everything that the axes of `chart` cover: not its guides, which could compress the rest."""
    for series in chart.series:
        for point in series.points:
            yield from ((point.x, y) for y in (point.y, point.low, point.high) if y is not None)
        for trace in series.traces:
            yield from trace


def dodges(several: Sequence[Series]) -> list[tuple[float, float]]:
    """Return how far each series is moved along the x axis, and its dots, in points of 1/72 inch on paper.

    Where a bar would hide another, all series with bars stand side by side, each with its dots beside it.
    """
    bars = sorted(bar for series in several for bar in series.bars)
    if not any(x == other and low <= high for (x, _, high), (other, low, _) in itertools.pairwise(bars)):
        return [(0.0, _DOTS_ASIDE if each.bars else 0.0) for each in several]
    count = sum(bool(each.bars) for each in several)
    step = min(_DOTS_ASIDE, _WIDEST_DODGE / count)
    places = itertools.count(-step * (count - 1) / 2, step)
    return [(place := next(places), place + step / 2) if each.bars else (0.0, 0.0) for each in several]


def last_value(series: Series) -> float:
    """Return where the label of a non-empty `series` belongs: its level, or its last value."""
    if series.level is not None:
        return series.level
    return series.points[-1].y if series.points else series.traces[-1][-1][1]


def ratio_tick(value: float) -> str:
    """Return the text of a tick of a ratio chart."""
    return f"{value:.4g}"


def ratio_scale(chart: RatioChart, start: float, end: float) -> Scale:
    """Return the logarithmic scale of a ratio chart from `start` to `end`, which includes 1."""
    values = [value for each in chart.among for value in (each.value, each.low, each.high) if value]
    axis = Axis(label=chart.label, text=ratio_tick, is_log=True)
    return make_scale(axis, [*values, *_around(values)], start, end)


def _around(values: Iterable[float]) -> tuple[float, float]:
    """Return two values at equal distances from 1, so that the line at 1 is there, and not at the edge."""
    far = max((abs(math.log(value)) for value in values), default=0.0)
    return math.exp(-0.2 * far), math.exp(0.2 * far)
