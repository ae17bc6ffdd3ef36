"""A comparison as text: tables of time and of accuracy for a terminal and in Markdown; CSV and JSON unrounded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bench.compare import Comparison, RoundsSource, Row
from bench.comparison_export import csv_of, json_of
from bench.comparison_legend import configurations, dropped_note, heading, legend, results
from bench.fields import IDENTITY
from bench.judgement import Judgement
from bench.judgement_text import (
    effect_text,
    points_effect_text,
    points_interval_text,
    points_text,
    ratio_interval_text,
    ratio_text,
)
from bench.layout import escape, markdown_table, text_table, text_table_width, wrap
from bench.matching import describe, dimension, varying_dimensions
from bench.units import format_percent

Format: TypeAlias = Literal["table", "markdown", "csv", "json"]

_DROP_ORDER: Final = ("detectable", "normed", "n")
"""Columns that a narrow terminal goes without, first the one that says least beside the others."""

_NUMERIC_DIMENSIONS: Final = frozenset({"batch_size", "workers", "threads", "epochs", "width"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    key: str
    header: str
    is_numeric: bool = True
    cell: Callable[[Row], str]


def render_comparison(
    comparison: Comparison,
    *,
    format: Format = "table",  # noqa: A002 - the option's name
    only_changed: bool = False,
    width: int = 80,
) -> str:
    """Return `comparison` as text, without a final line break; the table as many columns as fit in `width` characters.

    With `only_changed`, rows where nothing is shown to differ are left out of every format.
    """
    rows = tuple(row for row in comparison.rows if row.is_changed or not only_changed)
    match format:
        case "table":
            return _table_text(comparison, rows, width)
        case "markdown":
            return _markdown_text(comparison, rows)
        case "csv":
            return csv_of(comparison, rows)
        case "json":
            return json_of(comparison, rows)


def _table_text(comparison: Comparison, rows: Sequence[Row], width: int) -> str:
    dropped: list[_Column] = []
    tables = [f"{title}\n{_fitting(columns, rows, width, dropped)}" for title, columns in _tables(comparison, rows)]
    left_out = dropped_note([column.header for column in dropped])
    below = wrap((*results(comparison, rows), *legend(comparison, rows), *left_out), width)
    return "\n\n".join((wrap(heading(comparison), width), *tables, below))


def _fitting(columns: Sequence[_Column], rows: Sequence[Row], width: int, dropped: list[_Column]) -> str:
    """Return the table without the columns it has no room for, which are added to `dropped`."""
    cells = {column.key: [column.cell(row) for row in rows] for column in columns}
    kept = list(columns)
    for key in _DROP_ORDER:
        if text_table_width([column.header for column in kept], [cells[column.key] for column in kept]) <= width:
            break
        dropped += [column for column in kept if column.key == key]
        kept = [column for column in kept if column.key != key]
    in_rows = list(zip(*(cells[column.key] for column in kept), strict=True))
    return text_table([column.header for column in kept], in_rows, [column.is_numeric for column in kept])


def _markdown_text(comparison: Comparison, rows: Sequence[Row]) -> str:
    parts = ["  \n".join(map(escape, heading(comparison)))]
    for title, columns in _tables(comparison, rows):
        table = markdown_table(
            [column.header for column in columns],
            [[column.cell(row) for column in columns] for row in rows],
            [column.is_numeric for column in columns],
        )
        parts.append(f"**{title}**\n\n{table}")
    parts.append("\n".join(f"- {escape(line)}" for line in (*results(comparison, rows), *legend(comparison, rows))))
    return "\n\n".join(parts)


def _tables(comparison: Comparison, rows: Sequence[Row]) -> Iterator[tuple[str, list[_Column]]]:
    """Yield the tables there are rows for, each with its title and columns."""
    if not rows:
        return
    identity = _identity_columns(rows)
    quantity = "benchmark time" if isinstance(comparison.baseline, RoundsSource) else "epoch time"
    yield f"{quantity}, candidate / baseline", [*identity, *_time_columns(rows)]
    if any(row.accuracy is not None for row in rows):
        yield "test accuracy, candidate - baseline in percentage points", [*identity, *_ACCURACY_COLUMNS]


def _identity_columns(rows: Sequence[Row]) -> list[_Column]:
    chosen = [each for row in rows for each in configurations(row)]
    if not chosen:
        return [
            _Column(key="name", header="benchmark", is_numeric=False, cell=lambda row: describe(row.baseline.subject))
        ]
    has_devices = len({each.device for each in chosen}) > 1
    keys = [key for key in (*IDENTITY, *varying_dimensions(chosen)) if key != "device" or has_devices]
    return [_dimension_column(key) for key in keys]


def _dimension_column(key: str) -> _Column:
    """Make a column of a configuration's dimension, with both values where the two sides differ in it."""
    return _Column(
        key=key,
        header=key.replace("_", " "),
        is_numeric=key in _NUMERIC_DIMENSIONS,
        cell=lambda row: " / ".join(dict.fromkeys(dimension(each, key) for each in configurations(row))),
    )


def _time_columns(rows: Sequence[Row]) -> list[_Column]:
    columns = [_RATIO, _RATIO_INTERVAL]
    if any(row.relative_log_ratio is not None for row in rows):
        columns.append(_NORMED)
    columns.append(_N)
    if any(row.baseline.failures or row.candidate.failures for row in rows):
        columns.append(_FAILED)
    return [*columns, _DETECTABLE, _VERDICT]


def _text(judgement: Judgement | None, present: Callable[[float], str]) -> str:
    """Return the judgement's estimate; empty without one."""
    return "" if judgement is None or judgement.estimate is None else present(judgement.estimate.value)


_RATIO: Final = _Column(key="ratio", header="ratio", cell=lambda row: _text(row.time, ratio_text))
_RATIO_INTERVAL: Final = _Column(
    key="interval",
    header="95 % interval",
    cell=lambda row: "" if row.time.interval is None else ratio_interval_text(row.time.interval),
)
_NORMED: Final = _Column(
    key="normed",
    header="normed",
    cell=lambda row: "" if row.relative_log_ratio is None else ratio_text(row.relative_log_ratio),
)
_N: Final = _Column(key="n", header="n", cell=lambda row: f"{row.baseline.n}/{row.candidate.n}")
_FAILED: Final = _Column(
    key="failed",
    header="failed",
    cell=lambda row: f"{len(row.baseline.failures)}/{len(row.candidate.failures)}",
)
_DETECTABLE: Final = _Column(
    key="detectable", header="least found", cell=lambda row: effect_text(row.time.minimum_detectable_effect)
)
_VERDICT: Final = _Column(key="verdict", header="verdict", is_numeric=False, cell=lambda row: row.time.verdict.value)

_ACCURACY_COLUMNS: Final = (
    _Column(
        key="baseline",
        header="baseline",
        cell=lambda row: format_percent(row.baseline.mean_accuracy) if row.baseline.mean_accuracy is not None else "",
    ),
    _Column(key="difference", header="change", cell=lambda row: _text(row.accuracy, points_text)),
    _Column(
        key="interval",
        header="95 % interval",
        cell=lambda row: (
            "" if row.accuracy is None or row.accuracy.interval is None else points_interval_text(row.accuracy.interval)
        ),
    ),
    _N,
    _Column(
        key="detectable",
        header="least found",
        cell=lambda row: "" if row.accuracy is None else points_effect_text(row.accuracy.minimum_detectable_effect),
    ),
    _Column(
        key="verdict",
        header="verdict",
        is_numeric=False,
        cell=lambda row: "" if row.accuracy is None else row.accuracy.verdict.value,
    ),
)
