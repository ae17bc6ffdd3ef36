"""The figures of a run's throughput: ways to train side by side, and the models of each way by batch size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bench.records import Configuration
from bench.report.axes import Axis
from bench.report.charts import Heatmap, Kind, LineChart, Point, Series
from bench.report.figures import (
    MAX_CHARTS,
    NO_MAP,
    Figure,
    Group,
    Line,
    Trials,
    batch_axis,
    batch_size,
    extremes,
    group_table,
    interruptions,
    parts,
)
from bench.tables.columns import COLUMNS
from bench.tables.fields import FIELDS
from bench.tables.layout import WordTable
from bench.units import format_rate
from mnist_mlp.recipes import layers_text

_CAPTION: Final = "Training samples per second by batch size"


def throughput_figures(found: Sequence[Group], trials: Mapping[Configuration, Trials]) -> Iterator[Figure]:
    """Yield the groups side by side, if they share models, and then each group with its map and its curves.

    A group of one configuration that is already shown side by side has no figure of its own, with a single point.
    """
    shared = _shared(found)
    if shared:
        yield _side_by_side(found, shared, trials)
    for group in found:
        if _is_single(group) and group.lines[0].name in shared:
            continue
        heatmap = _heatmap(group)
        table = group_table("throughput", group, ("throughput_per_second", "throughput_per_second_n", "epoch_seconds"))
        yield Figure(
            title=f"Throughput: {group.name}",
            charts=((heatmap,) if heatmap else ()) + tuple(_curves(group, trials)),
            tables=(table, _raw_table(group, trials)),
            notes=tuple(_not_drawn(group)),
        )


def _is_single(group: Group) -> bool:
    return sum(len(line.summaries) for line in group.lines) == 1


# Groups side by side


def _shared(found: Sequence[Group]) -> dict[str, list[tuple[str, Line]]]:
    """Return each model that several groups have in common: its line in each group, with the group's name."""
    models: dict[str, list[tuple[str, Line]]] = {}
    for group in found:
        for line in group.lines:
            models.setdefault(line.name, []).append((group.name, line))
    return {model: lines for model, lines in models.items() if len(lines) > 1}


def _side_by_side(
    found: Sequence[Group],
    shared: Mapping[str, Sequence[tuple[str, Line]]],
    trials: Mapping[Configuration, Trials],
) -> Figure:
    # A group keeps its colour and marker in every chart.
    styles = [(part, {group.name: style for style, group in enumerate(groups)}) for part, groups in parts(found)]
    charts = [
        _side_by_side_chart(
            f"{model}{part}", [(names[name], name, line) for name, line in lines if name in names], trials
        )
        for part, names in styles
        for model, lines in shared.items()
        if any(name in names for name, _ in lines)
    ]
    failed = interruptions(each for lines in shared.values() for each in lines)
    note = f"side by side: drawn for the first {MAX_CHARTS} of {len(charts)}; the table has them all"
    return Figure(
        title="Throughput side by side",
        charts=tuple(charts[:MAX_CHARTS]),
        tables=(_side_by_side_table(shared, trials),),
        notes=(*failed, *((note,) if len(charts) > MAX_CHARTS else ())),
    )


def _side_by_side_chart(
    subject: str, chosen: Sequence[tuple[int, str, Line]], trials: Mapping[Configuration, Trials]
) -> LineChart:
    series = [_series(name, style, line, trials) for style, name, line in chosen]
    return LineChart(
        kind=Kind.SIDE_BY_SIDE,
        subject=subject,
        title=f"{_CAPTION}: {subject}",
        caption=subject,
        description=f"One line per way to train. {extremes(series, format_rate)}",
        marks=_marks(series),
        x=batch_axis([line for _, _, line in chosen]),
        y=_rate_axis(),
        series=tuple(series),
    )


def _side_by_side_table(
    shared: Mapping[str, Sequence[tuple[str, Line]]], trials: Mapping[Configuration, Trials]
) -> WordTable:
    """Return what the charts show, with the rows to compare below each other."""
    rows = [
        (model, batch_size(summary), name, summary)
        for model, lines in shared.items()
        for name, line in lines
        for summary in line.summaries
    ]
    places = {model: place for place, model in enumerate(shared)}
    rows.sort(key=lambda row: (places[row[0]], row[1]))  # stable: the groups stay in their order
    column = COLUMNS["throughput_per_second"]
    return WordTable(
        title="throughput side by side",
        headers=("model", "batch size", "trained on", column.header, "each trial"),
        rows=[
            [model, str(size), name, column.text(summary), _rates(trials[summary.configuration])]
            for model, size, name, summary in rows
        ],
        numeric=(False, True, False, True, False),
    )


# One group


def _raw_table(group: Group, trials: Mapping[Configuration, Trials]) -> WordTable:
    return WordTable(
        title=f"single trials: {group.name}",
        headers=("model", "batch size", "train samples, each trial"),
        rows=[
            [line.name, str(batch_size(summary)), _rates(trials[summary.configuration])]
            for line in group.lines
            for summary in line.summaries
        ],
        numeric=(False, True, False),
    )


def _rates(measured: Trials) -> str:
    return ", ".join(format_rate(trial.throughput_per_second) for _, trial in measured)


def _not_drawn(group: Group) -> Iterator[str]:
    if len(group.lines) > MAX_CHARTS:
        yield f"{NO_MAP} for {group.name}: at most {MAX_CHARTS} models are drawn, but it has {len(group.lines)}"
    yield from interruptions((group.name, line) for line in group.lines)


def _heatmap(group: Group) -> Heatmap | None:
    cells = {(line.name, batch_size(summary)): summary for line in group.lines for summary in line.summaries}
    sizes = sorted({size for _, size in cells})
    is_wide = any(len(line.summaries) > 1 for line in group.lines)
    is_high = any(sum((line.name, size) in cells for line in group.lines) > 1 for size in sizes)
    if not (is_wide and is_high) or len(group.lines) > MAX_CHARTS:
        return None
    field, column = FIELDS["throughput_per_second_median"], COLUMNS["throughput_per_second_median"]
    widths = [_width(line) for line in group.lines]
    are_widths = None not in widths
    caption = f"Throughput by batch size and {'width' if are_widths else 'model'}"
    summaries = [[cells.get((line.name, size)) for size in sizes] for line in group.lines]
    values = ((None if each is None else field.value(each) for each in row) for row in summaries)
    return Heatmap(
        kind=Kind.THROUGHPUT_MAP,
        subject=group.name,
        title=f"{caption}: {group.name}",
        caption=caption,
        description=f"Median training samples per second. {extremes(map(_medians, group.lines), format_rate)}",
        marks=("cells: training samples per second, median of the trials; bluer is more, on a log scale",),
        column_label="batch size",
        row_label="width" if are_widths else "model",
        columns=tuple(map(str, sizes)),
        rows=tuple(str(width) if are_widths else line.name for width, line in zip(widths, group.lines, strict=True)),
        values=tuple(tuple(each if isinstance(each, int | float) else None for each in row) for row in values),
        texts=tuple(tuple("" if each is None else column.text(each) for each in row) for row in summaries),
    )


def _width(line: Line) -> int | None:
    """Return the width of a model with one hidden layer whose name says nothing else, None for any other model."""
    layers = line.summaries[0].configuration.layers
    is_plain = len(layers) == 3 and line.name == layers_text(layers)  # noqa: PLR2004 - input, hidden, output
    return layers[1] if is_plain else None


def _curves(group: Group, trials: Mapping[Configuration, Trials]) -> Iterator[LineChart]:
    """Yield charts of throughput by batch size, with at most `MAX_SERIES` models in each."""
    for part, lines in parts(group.lines):
        series = [_series(line.name, style, line, trials) for style, line in enumerate(lines)]
        yield LineChart(
            kind=Kind.THROUGHPUT,
            subject=f"{group.name}{part}",
            title=f"{_CAPTION}{part}: {group.name}",
            caption=f"{_CAPTION}{part}",
            description=f"One line per model. {extremes(series, format_rate)}",
            marks=_marks(series),
            x=batch_axis(lines),
            y=_rate_axis(),
            series=tuple(series),
        )


def _series(name: str, style: int, line: Line, trials: Mapping[Configuration, Trials]) -> Series:
    """Return the median, the range and the single trials of `line` by batch size."""
    return Series(
        name=name,
        style=style,
        points=_medians(line).points,
        traces=tuple(
            ((float(batch_size(summary)), trial.throughput_per_second),)
            for summary in line.summaries
            for _, trial in trials[summary.configuration]
        ),
        breaks=line.failed,
    )


def _medians(line: Line) -> Series:
    points = (
        Point(
            x=batch_size(summary),
            y=found.median,
            low=found.low if found.n > 1 else None,
            high=found.high if found.n > 1 else None,
        )
        for summary in line.summaries
        if (found := summary.throughput_per_second) is not None
    )
    return Series(name=line.name, style=0, points=tuple(points))


def _marks(series: Sequence[Series]) -> tuple[str, ...]:
    """Explain the marks: a single trial has no range."""
    if any(each.bars for each in series):
        return ("markers: median of the trials; bars: lowest to highest; dots beside them: single trials",)
    return ("markers: the only trial",)


def _rate_axis() -> Axis:
    return Axis(label="training samples per second", text=format_rate, is_log=None, has_zero=True)
