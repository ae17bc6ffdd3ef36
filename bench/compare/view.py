"""A comparison as text: tables of time, accuracy and cost for a terminal and in Markdown; CSV and JSON unrounded."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from bench.compare.columns import Column, accuracy_columns, cost_columns, identity_columns, time_columns
from bench.compare.comparison import Comparison, RoundsSource, Row
from bench.compare.export import csv_of, json_of
from bench.compare.legend import cost_notes, heading, legend, results
from bench.compare.matching import MAX_NAME_CHARACTERS
from bench.tables.layout import (
    GAP,
    Format,
    draw_heading,
    draw_notes,
    draw_table,
    fitting,
    left_out_note,
    text_table_width,
)
from bench.tables.prices import Prices

_DROP_ORDER: Final = ("normalised", "reached", "flagged", "failed", "detectable", "n", "baseline")
"""Columns that are left out on a narrow terminal, the least informative first."""


def render_comparison(
    comparison: Comparison,
    *,
    format: Format = "table",  # noqa: A002 - the option's name
    only_changed: bool = False,
    width: int = 80,
    prices: Prices | None = None,
) -> str:
    """Return `comparison` as text, without a final line break; a table shows the columns that fit into `width`.

    `only_changed` leaves rows that are the same or inconclusive out of every format. `prices` adds costs to every
    format.
    """
    rows = tuple(row for row in comparison.rows if row.is_changed or not only_changed)
    match format:
        case "csv":
            return csv_of(comparison, rows, prices)
        case "json":
            return json_of(comparison, rows, prices)
        case "table" | "markdown":
            return _text(comparison, rows, prices, format, width)


def _text(comparison: Comparison, rows: Sequence[Row], prices: Prices | None, layout: str, width: int) -> str:
    dropped: list[Column] = []
    limit = _name_limit(comparison, rows, prices, width) if layout == "table" else MAX_NAME_CHARACTERS
    drawn = [
        _table(title, columns, rows, layout, width, dropped)
        for title, columns in tables(comparison, rows, prices, limit)
    ]
    below = (
        *notes(comparison, rows, prices, without={column.key for column in dropped}),
        *left_out_note(dict.fromkeys(column.header for column in dropped)),
    )
    return "\n\n".join((draw_heading(heading(comparison), layout, width), *drawn, draw_notes(below, layout, width)))


def _name_limit(comparison: Comparison, rows: Sequence[Row], prices: Prices | None, width: int) -> int:
    """Return how many characters of a name fit beside the other columns, at least `MAX_NAME_CHARACTERS`."""
    used = [0]
    for _, columns in tables(comparison, rows, prices):
        others = [column for column in columns if column.key not in {"name", "model"}]
        cells = [[column.cell(row) for row in rows] for column in others]
        used.append(text_table_width([column.header for column in others], cells))
    return max(MAX_NAME_CHARACTERS, width - max(used) - len(GAP))


def _table(  # noqa: PLR0913, PLR0917 - what a table is drawn from
    title: str, columns: Sequence[Column], rows: Sequence[Row], layout: str, width: int, dropped: list[Column]
) -> str:
    """Return the table; columns that do not fit the terminal are added to `dropped`."""
    cells = {column.key: (column.header, [column.cell(row) for row in rows]) for column in columns}
    keys = fitting(cells, _DROP_ORDER, width) if layout == "table" else list(cells)
    kept = [column for column in columns if column.key in keys]
    dropped += [column for key in _DROP_ORDER for column in columns if column.key == key and key not in keys]
    in_rows = list(zip(*(cells[key][1] for key in keys), strict=True))
    table = draw_table([each.header for each in kept], in_rows, [each.is_numeric for each in kept], layout, width)
    return f"{title}\n{table}" if layout == "table" else f"**{title}**\n\n{table}"


def notes(
    comparison: Comparison, rows: Sequence[Row], prices: Prices | None = None, without: Collection[str] = ()
) -> Iterator[str]:
    """Yield the lines below the tables, from which the columns `without` were left out."""
    yield from results(comparison, rows)
    yield from legend(comparison, rows, without)
    if prices is not None and rows:
        yield from cost_notes(prices, without)


def tables(
    comparison: Comparison, rows: Sequence[Row], prices: Prices | None = None, name_limit: int = MAX_NAME_CHARACTERS
) -> Iterator[tuple[str, list[Column]]]:
    """Yield the title and columns of each table, with names cut to `name_limit` characters; none without rows."""
    if not rows:
        return
    identity = identity_columns(rows, name_limit)
    quantity = "benchmark time" if isinstance(comparison.baseline, RoundsSource) else "epoch time"
    yield f"{quantity}, candidate / baseline", [*identity, *time_columns(rows)]
    if any(row.accuracy is not None for row in rows):
        yield "test accuracy, candidate - baseline in percentage points", [*identity, *accuracy_columns(rows)]
    if prices is not None:
        yield "cost of training, baseline / candidate", [*identity, *cost_columns(prices)]
