"""A comparison as text: tables of time, accuracy and cost for a terminal and in Markdown; CSV and JSON unrounded."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final, Literal, TypeAlias

from bench.compare import Comparison, RoundsSource, Row
from bench.comparison_columns import ACCURACY_COLUMNS, Column, cost_columns, identity_columns, time_columns
from bench.comparison_export import csv_of, json_of
from bench.comparison_legend import cost_notes, dropped_note, heading, legend, results
from bench.layout import escape, markdown_table, text_table, text_table_width, wrap
from bench.prices import Prices

Format: TypeAlias = Literal["table", "markdown", "csv", "json"]

_DROP_ORDER: Final = ("normed", "reached", "flagged", "detectable", "n", "baseline")
"""Columns that a narrow terminal goes without, first the one that says least beside the others."""


def render_comparison(
    comparison: Comparison,
    *,
    format: Format = "table",  # noqa: A002 - the option's name
    only_changed: bool = False,
    width: int = 80,
    prices: Prices | None = None,
) -> str:
    """Return `comparison` as text, without a final line break; the table as many columns as fit in `width` characters.

    With `only_changed`, rows where nothing is shown to differ are left out of every format. With `prices`, every format
    has costs too.
    """
    rows = tuple(row for row in comparison.rows if row.is_changed or not only_changed)
    match format:
        case "table":
            return _table_text(comparison, rows, prices, width)
        case "markdown":
            return _markdown_text(comparison, rows, prices)
        case "csv":
            return csv_of(comparison, rows, prices)
        case "json":
            return json_of(comparison, rows, prices)


def _table_text(comparison: Comparison, rows: Sequence[Row], prices: Prices | None, width: int) -> str:
    dropped: list[Column] = []
    drawn = [
        f"{title}\n{_fitting(columns, rows, width, dropped)}" for title, columns in tables(comparison, rows, prices)
    ]
    left_out = dropped_note([column.header for column in dropped])
    below = wrap((*notes(comparison, rows, prices, without={column.key for column in dropped}), *left_out), width)
    return "\n\n".join((wrap(heading(comparison), width), *drawn, below))


def _fitting(columns: Sequence[Column], rows: Sequence[Row], width: int, dropped: list[Column]) -> str:
    """Return the table without the columns it has no room for, which are added to `dropped`."""
    cells = {column.key: [column.cell(row) for row in rows] for column in columns}
    kept = list(columns)
    for key in _DROP_ORDER:
        if text_table_width([column.header for column in kept], [cells[column.key] for column in kept]) <= width:
            break
        dropped += [column for column in kept if column.key == key]
        kept = [column for column in kept if column.key != key]
    in_rows = list(zip(*(cells[column.key] for column in kept), strict=True))
    return text_table([column.header for column in kept], in_rows, [column.is_numeric for column in kept], width)


def _markdown_text(comparison: Comparison, rows: Sequence[Row], prices: Prices | None) -> str:
    parts = ["  \n".join(map(escape, heading(comparison)))]
    for title, columns in tables(comparison, rows, prices):
        table = markdown_table(
            [column.header for column in columns],
            [[column.cell(row) for column in columns] for row in rows],
            [column.is_numeric for column in columns],
        )
        parts.append(f"**{title}**\n\n{table}")
    parts.append("\n".join(f"- {escape(line)}" for line in notes(comparison, rows, prices)))
    return "\n\n".join(parts)


def notes(
    comparison: Comparison, rows: Sequence[Row], prices: Prices | None = None, without: Collection[str] = ()
) -> Iterator[str]:
    """Yield the lines below the tables, which go `without` some columns."""
    yield from results(comparison, rows)
    yield from legend(comparison, rows, without)
    if prices is not None:
        yield from cost_notes(prices)


def tables(
    comparison: Comparison, rows: Sequence[Row], prices: Prices | None = None
) -> Iterator[tuple[str, list[Column]]]:
    """Yield the tables there are rows for, each with its title and columns."""
    if not rows:
        return
    identity = identity_columns(rows)
    quantity = "benchmark time" if isinstance(comparison.baseline, RoundsSource) else "epoch time"
    yield f"{quantity}, candidate / baseline", [*identity, *time_columns(rows)]
    if any(row.accuracy is not None for row in rows):
        yield "test accuracy, candidate - baseline in percentage points", [*identity, *ACCURACY_COLUMNS]
    if prices is not None:
        yield "cost of training, baseline / candidate", [*identity, *cost_columns(prices)]
