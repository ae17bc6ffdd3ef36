"""What a run's figures are made of: its measured configurations in groups and lines; and the figures of memory.

Values over a configuration's trials come from `bench.tables.summary`, as in `show`. The lines of one chart differ in
one thing only: models by batch size for one device and engine, or batch sizes by epoch for one model.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from bench.planning.dimensions import IDENTITY
from bench.planning.shards import listed
from bench.records import Configuration, Measurement, Run
from bench.report.axes import Axis
from bench.report.charts import MAX_SERIES, Chart, Kind, LineChart, Point, Series
from bench.storage.table import Value
from bench.tables.columns import COLUMNS, find_columns
from bench.tables.fields import FIELDS, hidden_dimensions
from bench.tables.layout import WordTable
from bench.tables.summary import Summary
from bench.units import format_bytes

Trials: TypeAlias = Sequence[tuple[int, Measurement]]
"""Seed and measurement of each measured trial of a configuration, by repeat."""

_Key: TypeAlias = tuple[Value, ...]
"""The raw values that identify a group or a line: texts of different values can be equal."""

Several = TypeVar("Several")

MAX_CHARTS: Final = 40
"""Per kind and run: nobody looks at more, and the table has all values."""

NO_MAP: Final = "no map of throughput"
"""How the reason for a missing map begins."""

_OF_MODEL: Final = frozenset({"width", "layers", "epochs"})
"""Dimensions that distinguish models: they make different lines of one chart, not different groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Charts that belong together, with tables of the same data. `notes` say what is not drawn, and why."""

    title: str
    charts: tuple[Chart, ...]
    tables: tuple[WordTable, ...]
    notes: tuple[str, ...] = ()

    @property
    def legend(self) -> tuple[str, ...]:
        """The explanations of all charts' marks, each once, and the notes."""
        return (*dict.fromkeys(mark for chart in self.charts for mark in chart.marks), *self.notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model: its configurations by batch size, and the batch sizes at which every trial failed.

    The name is the model's own in its run: the same in every group, and no other model's.
    """

    name: str
    summaries: tuple[Summary, ...]
    failed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One way to train (device, engine and whatever else the run varies), with a line for each model."""

    name: str
    lines: tuple[Line, ...]


def trials_of(run: Run) -> Mapping[Configuration, Trials]:
    """Return the measured trials of each configuration."""
    found: dict[Configuration, list[tuple[int, Measurement]]] = defaultdict(list)
    for record in sorted(run.records, key=lambda each: each.trial.repeat):
        if isinstance(record.outcome, Measurement):
            found[record.trial.configuration].append((record.trial.seed, record.outcome))
    return found


def groups(summaries: Sequence[Summary]) -> tuple[Group, ...]:
    """Group what was measured of `summaries`, in order; names contain every dimension in which they differ."""
    varying = hidden_dimensions(summaries, IDENTITY)
    ways = ("device", *(key for key in varying if key not in _OF_MODEL))
    models = ("model", *(key for key in varying if key in _OF_MODEL))
    found: dict[_Key, dict[_Key, list[Summary]]] = defaultdict(lambda: defaultdict(list))
    for summary in summaries:
        if summary.n or summary.failures:
            found[_key(summary, ways)][_key(summary, models)].append(summary)
    way_names, model_names = _names(summaries, ways), _names(summaries, models)
    made = (
        Group(
            name=way_names[way],
            lines=tuple(
                _line(model_names[model], of_model)
                for model, of_model in by_model.items()
                if any(summary.n for summary in of_model)
            ),
        )
        for way, by_model in found.items()
    )
    return tuple(group for group in made if group.lines)


def _line(name: str, summaries: Iterable[Summary]) -> Line:
    measured: list[Summary] = []
    failed: list[Summary] = []
    for summary in summaries:
        (measured if summary.n else failed).append(summary)
    return Line(name=name, summaries=tuple(measured), failed=tuple(map(batch_size, failed)))


def _key(summary: Summary, keys: Iterable[str]) -> _Key:
    return tuple(FIELDS[key].value(summary) for key in keys)


def _names(summaries: Iterable[Summary], keys: Sequence[str]) -> Mapping[_Key, str]:
    """Return the name of each combination of values: their texts, numbered from the second with the same texts on."""
    names: dict[_Key, str] = {}
    taken = set[str]()
    for summary in summaries:
        key = _key(summary, keys)
        if key not in names:
            names[key] = _unused(", ".join(_text(summary, each) for each in keys), taken)
            taken.add(names[key])
    return names


def _unused(name: str, taken: Collection[str]) -> str:
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(each for each in itertools.chain((name,), numbered) if each not in taken)


def _text(summary: Summary, key: str) -> str:
    """Return the cell of `key` as in `show`, that of a number with its header: ``threads 2``."""
    column = COLUMNS[key]
    return f"{column.header} {column.text(summary)}" if column.fields[0].numeric else column.text(summary)


def batch_size(summary: Summary) -> int:
    """Return the batch size of a configuration."""
    return summary.configuration.batch_size


def group_table(title: str, group: Group, keys: Sequence[str]) -> WordTable:
    """Return the columns `keys` of every configuration of `group`, as in `show`."""
    columns = find_columns(("model", "batch_size", *keys))
    return WordTable(
        title=f"{title}: {group.name}",
        headers=["model", *(column.header for column in columns[1:])],
        rows=[
            [line.name, *(column.text(summary) for column in columns[1:])]
            for line in group.lines
            for summary in line.summaries
        ],
        numeric=[column.fields[0].numeric for column in columns],
    )


def extremes(series: Iterable[Series], text: Callable[[float], str]) -> str:
    """Say between which values lines by batch size lie: what one would first see in the chart."""
    points = [(point, each.name) for each in series for point in each.points]
    if not points:
        return "Nothing was measured."
    (low, least), (high, most) = (choose(points, key=lambda each: each[0].y) for choose in (min, max))
    return f"From {text(low.y)} ({least}, batch {low.x:.0f}) to {text(high.y)} ({most}, batch {high.x:.0f})."


def batch_axis(lines: Iterable[Line]) -> Axis:
    """Return an axis with the batch sizes of `lines`."""
    sizes = sorted({float(batch_size(summary)) for line in lines for summary in line.summaries})
    return Axis(label="batch size", text=lambda value: f"{value:.0f}", ticks=tuple(sizes), is_log=True)


def parts(several: Sequence[Several], most: int = MAX_SERIES) -> Iterator[tuple[str, Sequence[Several]]]:
    """Yield `several` in parts of at most `most`, each with the end of its title."""
    count = -(-len(several) // most)
    for part in range(count):
        chosen = several[part * most : (part + 1) * most]
        yield (f", part {part + 1} of {count}" if count > 1 else ""), chosen


def interruptions(lines: Iterable[tuple[str, Line]]) -> Iterator[str]:
    """Say where the lines leave batch sizes out, each with its group's name, because every trial failed there."""
    for group, line in lines:
        if line.failed:
            sizes = listed(line.failed)
            yield f"{group}, {line.name}: the line leaves out batch size {sizes}, where every trial failed"


def memory_figures(found: Sequence[Group]) -> Iterator[Figure]:
    """Yield each group's measured peak memory beside the least memory that training needs."""
    for group in found:
        charts = [_memory_chart(group, part, lines) for part, lines in parts(group.lines)]
        left_out = interruptions((group.name, line) for line in group.lines)
        drawn = tuple(chart for chart in charts if any(each.points for each in chart.series if not each.is_dashed))
        yield Figure(
            title=f"Memory: {group.name}",
            charts=drawn,
            tables=(group_table("memory", group, ("peak_memory_bytes", "memory_floor_bytes", "n")),),
            notes=tuple(left_out) if drawn else (f"no memory chart for {group.name}: its peak was not measured",),
        )


def _memory_chart(group: Group, part: str, lines: Sequence[Line]) -> LineChart:
    peaks = [_field_series(line, style, "peak_memory_bytes") for style, line in enumerate(lines)]
    floors = [_field_series(line, style, "memory_floor_bytes") for style, line in enumerate(lines)]
    return LineChart(
        kind=Kind.MEMORY,
        subject=f"{group.name}{part}",
        title=f"Peak memory and memory floor by batch size{part}: {group.name}",
        caption=f"Peak memory and memory floor by batch size{part}",
        description=f"Two lines per model: the measured peak and, dashed, the floor. {extremes(peaks, format_bytes)}",
        marks=(
            "filled markers: peak memory, measured, median of the trials",
            "hollow markers on dashes: memory floor, the least memory that a step needs, computed from the model",
        ),
        x=batch_axis(lines),
        y=Axis(label="memory", text=format_bytes, unit=_binary_unit(peaks), is_log=None, has_zero=True),
        series=(*floors, *peaks),
    )


def _binary_unit(series: Iterable[Series]) -> float:
    """Return the largest power of 1024 that the highest value reaches, because bytes are read in such units."""
    most = max((point.y for each in series for point in each.points), default=0.0)
    unit = 1.0
    while most >= 1024 * unit:
        unit *= 1024
    return unit


def _field_series(line: Line, style: int, key: str) -> Series:
    values = [(summary, FIELDS[key].value(summary)) for summary in line.summaries]
    points = [Point(x=batch_size(each), y=float(value)) for each, value in values if isinstance(value, int | float)]
    is_floor = key == "memory_floor_bytes"
    return Series(
        name="" if is_floor else line.name,
        style=style,
        points=tuple(points),
        is_dashed=is_floor,
        breaks=line.failed,
    )
