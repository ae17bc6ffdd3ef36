"""What a run's charts show: throughput, memory, accuracy and loss, each with the table of what is drawn.

Values over a configuration's trials come from `bench.summary`, as in `show`. One chart holds what differs in one thing
only: models over batch sizes for one device and engine, batch sizes over epochs for one model.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from bench.columns import COLUMNS, find_columns
from bench.fields import FIELDS, IDENTITY, hidden_dimensions
from bench.layout import WordTable
from bench.records import Configuration, Measurement, Run
from bench.report_axes import Axis
from bench.report_charts import MAX_SERIES, Chart, Heatmap, Kind, LineChart, Point, Series
from bench.shards import listed
from bench.summary import Sample, Summary
from bench.units import format_bytes, format_rate

Trials: TypeAlias = Sequence[tuple[int, Measurement]]
"""Seed and measurement of each measured trial of a configuration, by repeat."""

MAX_CHARTS: Final = 40
"""Of a kind and run: nobody looks at more, and what they would show stands in the table."""

NO_MAP: Final = "no map of throughput"
"""How the reason begins for which there is none."""

_SIZES: Final = frozenset({"width", "layers"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Charts that belong together, with the tables that tell the same. `notes` say what is not drawn, and why."""

    title: str
    charts: tuple[Chart, ...]
    tables: tuple[WordTable, ...]
    notes: tuple[str, ...] = ()

    @property
    def legend(self) -> tuple[str, ...]:
        """What the marks of all charts mean, each said once, and the notes."""
        return (*dict.fromkeys(mark for chart in self.charts for mark in chart.marks), *self.notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model: its configurations by batch size, and the batch sizes at which every trial failed."""

    name: str
    summaries: tuple[Summary, ...]
    failed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One way to train, device and engine and whatever else the run varies: its lines by model."""

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
    """Return what was measured of `summaries`, in their order; names tell every dimension in which they differ."""
    varying = hidden_dimensions(summaries, IDENTITY)
    ways = ("device", *(key for key in varying if key not in _SIZES))
    models = ("model", *(key for key in varying if key in _SIZES))
    found: dict[tuple[str, ...], dict[tuple[str, ...], list[Summary]]] = defaultdict(lambda: defaultdict(list))
    for summary in summaries:
        if summary.n or summary.failures:
            found[_texts(summary, ways)][_texts(summary, models)].append(summary)
    made = (
        Group(
            name=", ".join(way),
            lines=tuple(
                _line(", ".join(model), sorted(of_model, key=_batch_size))
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
    return Line(name=name, summaries=tuple(measured), failed=tuple(map(_batch_size, failed)))


def _texts(summary: Summary, keys: Iterable[str]) -> tuple[str, ...]:
    """Return the cells of `keys` as `show` has them; of numbers with their headers, which say what they count."""
    columns = [COLUMNS[key] for key in keys]
    return tuple(
        f"{column.header} {column.text(summary)}" if column.fields[0].numeric else column.text(summary)
        for column in columns
    )


def _batch_size(summary: Summary) -> int:
    return summary.configuration.batch_size


def throughput_figures(found: Sequence[Group], trials: Mapping[Configuration, Trials]) -> Iterator[Figure]:
    """Yield the heatmap of each group's throughput that has more than one size, and its curves over batch size."""
    for group in found:
        table = _table("throughput", group, ("throughput_per_second", "throughput_per_second_n", "epoch_seconds"))
        heatmap = _heatmap(group)
        curves = _curves(group, trials)
        yield Figure(
            title=f"Throughput: {group.name}",
            charts=((heatmap,) if heatmap else ()) + tuple(curves),
            tables=(table, _raw_table(group, trials)),
            notes=tuple(_not_drawn(group)),
        )


def _table(title: str, group: Group, keys: Sequence[str]) -> WordTable:
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


def _raw_table(group: Group, trials: Mapping[Configuration, Trials]) -> WordTable:
    return WordTable(
        title=f"single trials: {group.name}",
        headers=("model", "batch size", "train samples of each trial"),
        rows=[
            [
                line.name,
                str(_batch_size(summary)),
                ", ".join(format_rate(trial.throughput_per_second) for _, trial in trials[summary.configuration]),
            ]
            for line in group.lines
            for summary in line.summaries
        ],
        numeric=(False, True, False),
    )


def _not_drawn(group: Group) -> Iterator[str]:
    if len(group.lines) > MAX_CHARTS:
        yield f"{NO_MAP} of {group.name}: at most {MAX_CHARTS} models are drawn, and it has {len(group.lines)}"
    for line in group.lines:
        if line.failed:
            yield f"{line.name}: the line breaks at batch size {listed(line.failed)}, where every trial failed"


def _heatmap(group: Group) -> Heatmap | None:
    cells = {(line.name, _batch_size(summary)): summary for line in group.lines for summary in line.summaries}
    sizes = sorted({size for _, size in cells})
    if len(sizes) < 2 or not 2 <= len(group.lines) <= MAX_CHARTS:  # noqa: PLR2004 - a row or a column is no map
        return None
    field, column = FIELDS["throughput_per_second_median"], COLUMNS["throughput_per_second_median"]
    widths = [_width(line) for line in group.lines]
    are_widths = None not in widths and len(set(widths)) == len(widths)
    summaries = [[cells.get((line.name, size)) for size in sizes] for line in group.lines]
    values = ((None if each is None else field.value(each) for each in row) for row in summaries)
    return Heatmap(
        kind=Kind.THROUGHPUT_MAP,
        subject=group.name,
        title=f"Throughput by batch size and {'width' if are_widths else 'model'}: {group.name}",
        description="Median training samples a second; darker is more. The table below holds the same numbers.",
        marks=("cells: training samples a second, median of the trials; darker is more",),
        column_label="batch size",
        row_label="width" if are_widths else "model",
        columns=tuple(map(str, sizes)),
        rows=tuple(str(width) if are_widths else line.name for width, line in zip(widths, group.lines, strict=True)),
        values=tuple(tuple(each if isinstance(each, int | float) else None for each in row) for row in values),
        texts=tuple(tuple("" if each is None else column.text(each) for each in row) for row in summaries),
    )


def _width(line: Line) -> int | None:
    """Return the width of a line of one hidden layer that is all its name tells, None for any other."""
    layers = line.summaries[0].configuration.layers
    is_plain = len(layers) == 3 and line.name == "-".join(map(str, layers))  # noqa: PLR2004 - input, hidden, output
    return layers[1] if is_plain else None


def _curves(group: Group, trials: Mapping[Configuration, Trials]) -> Iterator[LineChart]:
    """Yield charts of throughput over batch size, as many models in each as can be told apart."""
    for part, lines in _parts(group.lines):
        series = [
            Series(
                name=line.name,
                style=style,
                points=tuple(
                    Point(x=_batch_size(summary), y=found.median, **_range(found))
                    for summary in line.summaries
                    if (found := summary.throughput_per_second) is not None
                ),
                traces=tuple(
                    ((float(_batch_size(summary)), trial.throughput_per_second),)
                    for summary in line.summaries
                    for _, trial in trials[summary.configuration]
                ),
                breaks=line.failed,
            )
            for style, line in enumerate(lines)
        ]
        yield LineChart(
            kind=Kind.THROUGHPUT,
            subject=f"{group.name}{part}",
            title=f"Training samples a second over batch size{part}: {group.name}",
            description=f"One line a model. {_extremes(series, format_rate)}",
            marks=("markers: median of the trials; bars: lowest to highest; dots beside them: single trials",),
            x=_batch_axis(lines),
            y=Axis(label="training samples a second", text=format_rate, is_log=None, has_zero=True),
            series=tuple(series),
        )


def _range(sample: Sample) -> dict[str, float]:
    return {"low": sample.low, "high": sample.high} if sample.n > 1 else {}


def _extremes(series: Iterable[Series], text: Callable[[float], str]) -> str:
    """Say between which values the lines run: what a look at the chart would tell first."""
    points = [(point, each.name) for each in series for point in each.points]
    if not points:
        return "Nothing was measured."
    (low, least), (high, most) = (choose(points, key=lambda each: each[0].y) for choose in (min, max))
    return f"From {text(low.y)} ({least}, at {low.x:g}) to {text(high.y)} ({most}, at {high.x:g})."


def _batch_axis(lines: Iterable[Line]) -> Axis:
    sizes = sorted({float(_batch_size(summary)) for line in lines for summary in line.summaries})
    return Axis(label="batch size", text=lambda value: f"{value:.0f}", ticks=tuple(sizes), is_log=True)


def _parts(lines: Sequence[Line]) -> Iterator[tuple[str, Sequence[Line]]]:
    """Yield `lines` as many at a time as a chart can tell apart, each with the end of its title."""
    count = -(-len(lines) // MAX_SERIES)
    for part in range(count):
        chosen = lines[part * MAX_SERIES : (part + 1) * MAX_SERIES]
        yield (f", part {part + 1} of {count}" if count > 1 else ""), chosen


def memory_figures(found: Sequence[Group]) -> Iterator[Figure]:
    """Yield the measured peak of each group's memory beside the least that must be alive."""
    for group in found:
        charts = [_memory_chart(group, part, lines) for part, lines in _parts(group.lines)]
        drawn = tuple(chart for chart in charts if any(each.points for each in chart.series if not each.is_dashed))
        yield Figure(
            title=f"Memory: {group.name}",
            charts=drawn,
            tables=(_table("memory", group, ("peak_memory_bytes", "memory_floor_bytes", "n")),),
            notes=() if drawn else (f"no memory is drawn of {group.name}: its peak was not measured",),
        )


def _memory_chart(group: Group, part: str, lines: Sequence[Line]) -> LineChart:
    peaks = [_field_series(line, style, "peak_memory_bytes") for style, line in enumerate(lines)]
    floors = [_field_series(line, style, "memory_floor_bytes") for style, line in enumerate(lines)]
    return LineChart(
        kind=Kind.MEMORY,
        subject=f"{group.name}{part}",
        title=f"Peak memory and memory floor over batch size{part}: {group.name}",
        description=f"Two lines a model: the measured peak and, dashed, the floor. {_extremes(peaks, format_bytes)}",
        marks=(
            "filled markers: peak memory, measured, median of the trials",
            "hollow markers on dashes: memory floor, the least that must be alive, counted from the model",
        ),
        x=_batch_axis(lines),
        y=Axis(label="memory", text=format_bytes, unit=_binary_unit(peaks), is_log=None, has_zero=True),
        series=(*floors, *peaks),
    )


def _binary_unit(series: Iterable[Series]) -> float:
    """Return the largest of 1, 1024, 1024 squared, … that the highest value reaches: bytes are read in such units."""
    most = max((point.y for each in series for point in each.points), default=0.0)
    unit = 1.0
    while most >= 1024 * unit:
        unit *= 1024
    return unit


def _field_series(line: Line, style: int, key: str) -> Series:
    values = [(summary, FIELDS[key].value(summary)) for summary in line.summaries]
    points = [Point(x=_batch_size(each), y=float(value)) for each, value in values if isinstance(value, int | float)]
    is_floor = key == "memory_floor_bytes"
    return Series(
        name="" if is_floor else line.name,
        style=style,
        points=tuple(points),
        is_dashed=is_floor,
        breaks=line.failed,
    )
