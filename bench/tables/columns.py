"""The columns of a table, each made of one raw field or of a few that belong together (median, low, high, n).

A cell is computed from the values of those fields and nothing else, so that every format shows the same numbers.
"""

import itertools
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from bench.errors import BadInputError
from bench.planning.dimensions import IDENTITY
from bench.stats.student import t_quantile
from bench.storage.table import Value
from bench.tables.fields import FIELDS, QUANTITIES, STATISTICS, Field, Unit, hidden_dimensions
from bench.tables.prices import Prices, cost_of, format_cost
from bench.tables.summary import Sample, Summary
from bench.units import (
    format_bytes,
    format_flops,
    format_number,
    format_percent,
    format_points,
    format_rate,
    format_seconds,
    format_spread,
)
from mnist_mlp.spelling import did_you_mean

MAX_CELL_CHARACTERS: Final = 40
"""Longer texts are cut; a list of nine layers still fits."""

EXPORTED_CHARACTERS: Final = 10_000
"""Texts that are not to be cut are whole up to this length."""

_FORMATS: Final[Mapping[Unit, Callable[[float], str]]] = MappingProxyType(
    {
        "": format_number,
        "s": format_seconds,
        "B": format_bytes,
        "/s": format_rate,
        "FLOP/s": lambda rate: f"{format_flops(rate)}/s",
        "fraction": format_percent,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table: its raw `fields`, and the `cell` text of their values. Sorting uses the first field."""

    key: str
    header: str
    fields: tuple[Field, ...]
    cell: Callable[[Sequence[Value]], str]

    def text(self, summary: Summary) -> str:
        """Return this column's cell for `summary`; empty where nothing was measured."""
        return self.cell([field.value(summary) for field in self.fields])

    def texts(self, summaries: Sequence[Summary]) -> list[str]:
        """Return the cells of `summaries`; texts that differ only in what would be cut off are not cut."""
        cells = [self.text(summary) for summary in summaries]
        values: dict[str, set[Value]] = defaultdict(set)
        for cell, summary in zip(cells, summaries, strict=True):
            if cell.endswith("…"):
                values[cell].add(self.fields[0].value(summary))
        alike = {cell for cell, of_cell in values.items() if len(of_cell) > 1}
        if not alike:
            return cells
        whole = (_shortened(str(self.fields[0].value(summary)), EXPORTED_CHARACTERS) for summary in summaries)
        return [text if cell in alike else cell for cell, text in zip(cells, whole, strict=True)]


def harmless(text: str, limit: int) -> str:
    """Return `text` on one line, without anything that could control a terminal, cut to `limit` characters.

    White space becomes spaces; control and format characters (escape sequences, direction marks) and surrogates become
    ``?``.
    """
    if len(text) <= limit and text.isprintable():  # fast path: tables can have very many cells
        return text
    kept = "".join(map(_harmless_letter, text[: limit + 1]))
    return kept if len(kept) <= limit else f"{kept[: limit - 1]}…"


def _harmless_letter(letter: str) -> str:
    if letter.isspace():
        return " "
    return "?" if unicodedata.category(letter).startswith("C") else letter


def short_layers(text: str, limit: int) -> str:
    """Return layers longer than `limit` with the repeated ones counted, ``784-14x128-10``; any other text unchanged."""
    if len(text) <= limit or not re.fullmatch(r"[0-9]+(-[0-9]+)+", text):
        return text
    runs = [(layer, len(list(run))) for layer, run in itertools.groupby(text.split("-"))]
    return "-".join(layer if length == 1 else f"{length}x{layer}" for layer, length in runs)


def _shortened(text: str, limit: int) -> str:
    return harmless(short_layers(text, MAX_CELL_CHARACTERS), limit)


def _plain_cell(unit: Unit) -> Callable[[Sequence[Value]], str]:
    def cell(values: Sequence[Value]) -> str:
        (value,) = values
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return _shortened(value, MAX_CELL_CHARACTERS)
        return _FORMATS[unit](value)

    return cell


def _spread_cell(unit: Unit) -> Callable[[Sequence[Value]], str]:
    """Make a cell of median, low, high and n: the median, and half the range where there is more than one value."""

    def cell(values: Sequence[Value]) -> str:
        median, low, high, n = (value if isinstance(value, int | float) else None for value in values)
        if median is None or low is None or high is None or n is None:
            return ""
        text = _FORMATS[unit](median)
        if n < 2:  # noqa: PLR2004 - one value has no range
            return text
        if unit == "fraction":
            return f"{text} {format_points((high - low) / 2)}"
        return f"{text} {format_spread((high - low) / 2 / median)}" if median else text

    return cell


def _mean_cell(unit: Unit) -> Callable[[Sequence[Value]], str]:
    """Make a cell of mean, standard deviation and n: the mean, and its 95 % interval by Student's t."""

    def cell(values: Sequence[Value]) -> str:
        mean, deviation, n = (value if isinstance(value, int | float) else None for value in values)
        if mean is None or n is None:
            return ""
        text = _FORMATS[unit](mean)
        if deviation is None:
            return text
        half = t_quantile(n - 1) * deviation / math.sqrt(n)
        return f"{text} ({_FORMATS[unit](mean - half)} to {_FORMATS[unit](mean + half)})"

    return cell


def _counted(cell: Callable[[Sequence[Value]], str]) -> Callable[[Sequence[Value]], str]:
    """Make a cell of what only some trials reached: `cell`, and how many of all trials did where not all of them."""

    def counted(values: Sequence[Value]) -> str:
        *of_reached, n = values  # the last of a cell's own values is their number
        text, reached = cell(of_reached), of_reached[-1]
        return f"{text} ({reached} of {n})" if text and reached != n else text

    return counted


def _count_cell(values: Sequence[Value]) -> str:
    n, failed = values
    return f"{n}+{failed} failed" if failed else str(n)


DEFAULT_METRICS: Final = (
    "epoch_seconds",
    "throughput_per_second_median",
    "peak_memory_bytes",
    "test_accuracy",
    "n",
)

REACHED: Final = frozenset({"seconds_to_97_percent", "seconds_to_98_percent"})
"""Quantities that a measured trial may not have: their cells say how many trials do, if not all."""

RANK_MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "strong_efficiency": "throughput over that of one process with the same batch size times the number of ranks",
        "weak_efficiency": "the same against one process with each rank's part of the batch",
        "exchange_share": "share of a step that exchanging gradients adds",
    }
)
"""Further metrics, shown if several ranks trained, each with what it means."""

DROP_ORDER: Final = (
    "throughput_per_second_median",
    "peak_memory_bytes",
    "weak_efficiency",
    "exchange_share",
    "test_accuracy",
    "strong_efficiency",
)
"""Default columns that are left out on a narrow terminal, the least informative first."""


def _columns() -> dict[str, Column]:
    columns = {
        key: Column(key=key, header=field.header, fields=(field,), cell=_plain_cell(field.unit))
        for key, field in FIELDS.items()
    }
    for quantity, (header, unit) in QUANTITIES.items():
        spread, interval = ("median", "low", "high", "n"), ("mean", "standard_deviation", "n")
        columns[quantity] = _quantity_column(quantity, quantity, header, spread, _spread_cell(unit))
        key, title = f"{quantity}_mean_interval", f"mean {header} (95 % interval)"
        columns[key] = _quantity_column(quantity, key, title, interval, _mean_cell(unit))
    # It is the only throughput in a default table, so it takes the quantity's plain header.
    rate = columns["throughput_per_second_median"]
    header = QUANTITIES["throughput_per_second"][0]
    columns[rate.key] = Column(key=rate.key, header=header, fields=rate.fields, cell=rate.cell)
    columns["n"] = Column(key="n", header="n", fields=(FIELDS["n"], FIELDS["failures"]), cell=_count_cell)
    return columns


def _quantity_column(
    quantity: str, key: str, header: str, statistics: Sequence[str], cell: Callable[[Sequence[Value]], str]
) -> Column:
    """Return a column of these `statistics` of a quantity; the last one is the number of trials that have it."""
    fields = tuple(FIELDS[f"{quantity}_{statistic}"] for statistic in statistics)
    if quantity in REACHED:
        fields, cell = (*fields, FIELDS["n"]), _counted(cell)
    return Column(key=key, header=header, fields=fields, cell=cell)


COLUMNS: Final[Mapping[str, Column]] = MappingProxyType(_columns())
"""Every column by its key: each field, each quantity with its spread or interval, and ``n`` with the failures."""


def find_columns(keys: Iterable[str], costs: Sequence[Column] = ()) -> tuple[Column, ...]:
    """Return the columns named by `keys`, each once. `costs` are available too if prices are known.

    Raises:
        BadInputError: no key is given, or one is unknown.
    """
    chosen = tuple(dict.fromkeys(keys))
    if not chosen:
        raise BadInputError(f"no column is named: choose from {_known_keys()}")
    known = {**COLUMNS, **{column.key: column for column in costs}}
    for key in chosen:
        if key not in known:
            if key in COST_KEYS:
                raise BadInputError(f"column {key!r} needs a price: add --price-per-hour")
            hint = did_you_mean(key, known)
            raise BadInputError(f"column {harmless(key, 60)!r} is unknown{hint}: choose from {_known_keys()}")
    return tuple(known[key] for key in chosen)


def default_columns(summaries: Sequence[Summary]) -> tuple[Column, ...]:
    """Return the columns of a table that shows every dimension in which `summaries` differ."""
    of_ranks = [key for key in RANK_MEANINGS if any(getattr(summary, key) is not None for summary in summaries)]
    return find_columns((*IDENTITY, *hidden_dimensions(summaries, IDENTITY), *of_ranks, *DEFAULT_METRICS))


COST_KEYS: Final = ("cost_per_epoch", "cost_to_98_percent")
"""Columns that exist only if prices are known."""


def cost_columns(prices: Prices) -> tuple[Column, ...]:
    """Return the columns of what an epoch costs at `prices`, and what training to 98 % test accuracy costs.

    The latter is over the trials that got there; if some did not, the cell says how many did.
    """

    def price(summary: Summary) -> float | None:
        configuration = summary.configuration
        return prices.of(configuration.device, devices=len(configuration.devices))

    def cost(sample: Sample | None, summary: Summary) -> float | None:
        return None if sample is None else cost_of(sample.median, price(summary))

    def field(key: str, header: str, value: Callable[[Summary], Value]) -> Field:
        return Field(key=key, header=header, unit="", numeric=True, value=value)

    per_hour = field("price_per_hour", "price per hour", price)
    epoch = field(COST_KEYS[0], "cost per epoch", lambda summary: cost(summary.epoch_seconds, summary))
    to_98 = field(COST_KEYS[1], "cost to 98 %", lambda summary: cost(summary.seconds_to_98_percent, summary))
    reached, n = FIELDS["seconds_to_98_percent_n"], FIELDS["n"]
    return (
        Column(key=epoch.key, header=epoch.header, fields=(epoch, per_hour), cell=_cost_cell),
        Column(key=to_98.key, header=to_98.header, fields=(to_98, reached, n), cell=_counted(_cost_cell)),
    )


def _cost_cell(values: Sequence[Value]) -> str:
    cost = values[0]
    return format_cost(cost) if isinstance(cost, int | float) else ""


def _known_keys() -> str:
    plain = [key for key in COLUMNS if not any(key.startswith(f"{quantity}_") for quantity in QUANTITIES)]
    endings = ", ".join(f"_{name}" for name in (*STATISTICS, "mean_interval"))
    return f"{', '.join(plain)}; a quantity can also end in {endings}"
