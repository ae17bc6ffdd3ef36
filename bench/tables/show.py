"""A stored run as text: a table for a terminal, Markdown, CSV or JSON, all with the same rows and numbers."""

from collections.abc import Sequence
from typing import Any, Final

from bench.coding import to_json
from bench.records import Run
from bench.storage.table import Value
from bench.tables.columns import DROP_ORDER, Column, cost_columns, default_columns, find_columns
from bench.tables.fields import FIELDS, Field
from bench.tables.layout import Format, csv_text, draw_heading, draw_notes, draw_table, fitting, json_text
from bench.tables.legend import count_failures, count_warnings, legend, run_heading
from bench.tables.machines import machine_headers
from bench.tables.prices import Prices
from bench.tables.selection import nothing_meets, select
from bench.tables.summary import PeakRates, Summary, summarise_run
from bench.warning_rules import ADVICE

_NO_ROWS: Final = "no configuration to show"


def render_run(  # noqa: PLR0913 - these are the options of the command, one each
    run: Run,
    *,
    format: Format = "table",  # noqa: A002 - the option's name
    columns: Sequence[str] | None = None,
    sort: Sequence[str] = (),
    filters: Sequence[str] = (),
    width: int = 80,
    prices: Prices | None = None,
    peak_rates: PeakRates = lambda _: lambda _: None,
) -> str:
    """Return the configurations of `run` that meet `filters`, one per row, without a final line break.

    A configuration that several machines measured has a row for each.

    Without `columns`, table and Markdown show the default columns (the table those that fit into `width`), and CSV and
    JSON all raw fields. With `columns`, CSV and JSON hold the raw fields that each of them is made of:
    ``epoch_seconds`` stands for its median, low, high and n. `prices` adds the columns of cost to every format.
    `peak_rates` gives, for a machine's header, the highest FLOP/s measured there, which utilisation is relative to.

    Raises:
        BadInputError: a column is unknown, or a filter cannot be parsed.
    """
    costs = _costs(prices)
    chosen = None if columns is None else find_columns(columns, costs)
    everything = summarise_run(run, peak_rates)
    summaries = select(everything, filters=filters, sort=sort, costs=costs)
    if everything and not summaries and format in {"table", "markdown"}:
        nothing = f"{_NO_ROWS}: {nothing_meets(everything, filters)}"
        return "\n\n".join(draw_heading(lines, format, width) for lines in (run_heading(run), [nothing]))
    match format:
        case "csv":
            fields = _fields(chosen, prices)
            return csv_text([field.key for field in fields], (_raw_row(each, fields) for each in summaries))
        case "json":
            return _render_json(run, summaries, _fields(chosen, prices))
        case "table" | "markdown":
            return _render_text(run, summaries, chosen, prices, format, width)


def _fields(chosen: Sequence[Column] | None, prices: Prices | None) -> tuple[Field, ...]:
    fields = FIELDS.values() if chosen is None else [field for column in chosen for field in column.fields]
    costs = [field for column in _costs(prices) for field in column.fields]
    return tuple({field.key: field for field in (*fields, *costs)}.values())


def _costs(prices: Prices | None) -> tuple[Column, ...]:
    return () if prices is None else cost_columns(prices)


def _shown(summaries: Sequence[Summary], chosen: Sequence[Column] | None, prices: Prices | None) -> tuple[Column, ...]:
    """Return the columns of a table: the `chosen` ones or the default ones, and those of cost if there are `prices`."""
    shown = chosen or default_columns(summaries)
    named = {column.key for column in shown}
    return (*shown, *(column for column in _costs(prices) if column.key not in named))


def _render_text(  # noqa: PLR0913, PLR0917 - what a table is drawn from
    run: Run,
    summaries: Sequence[Summary],
    chosen: Sequence[Column] | None,
    prices: Prices | None,
    layout: str,
    width: int,
) -> str:
    columns = _shown(summaries, chosen, prices)
    cells = {column.key: (column.header, column.texts(summaries)) for column in columns}
    may_drop = layout == "table" and chosen is None and summaries
    keys = fitting(cells, DROP_ORDER, width) if may_drop else list(cells)
    kept = [column for column in columns if column.key in keys]
    dropped = [column for column in columns if column.key not in keys]
    rows = list(zip(*(cells[key][1] for key in keys), strict=True))
    numeric = [column.fields[0].numeric for column in kept]
    table = draw_table([column.header for column in kept], rows, numeric, layout, width) if rows else _NO_ROWS
    notes = (*legend(run, summaries, kept, dropped), *(() if prices is None else (prices.note(),)))
    parts = draw_heading(run_heading(run), layout, width), table, draw_notes(notes, layout, width)
    return "\n\n".join(part for part in parts if part)


def _raw_row(summary: Summary, fields: Sequence[Field]) -> dict[str, Value]:
    return {field.key: field.value(summary) for field in fields}


def _render_json(run: Run, summaries: Sequence[Summary], fields: Sequence[Field]) -> str:
    document: dict[str, Any] = {
        "run_id": run.header.run_id,
        "machine": to_json(run.header.machine),
        "software": to_json(run.header.software),
        "machines": {name: to_json(header.machine) for name, header in machine_headers(run).items()},
        "complete": run.is_complete,
        "rows": [_raw_row(summary, fields) for summary in summaries],
        "failures": [to_json(failed) for failed in count_failures(summaries)],
        "warnings": [
            *(
                {"kind": warning.value, "rows": count, "message": ADVICE[warning]}
                for warning, count in count_warnings(summaries).items()
            ),
            *({"kind": "file", "rows": None, "message": text} for text in run.warnings),
        ],
    }
    return json_text(document)
