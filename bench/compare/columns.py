"""The columns of a comparison's tables: epoch time, test accuracy, cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.compare.comparison import Row
from bench.compare.costs import CostRatio, SideCost, cost_ratio, side_cost
from bench.compare.legend import CHANGED_MARK, configurations, verdict_change
from bench.compare.matching import MAX_NAME_CHARACTERS, dimension, varying_dimensions
from bench.planning.dimensions import IDENTITY
from bench.stats.inference import Interval
from bench.stats.judgement import Judgement
from bench.stats.judgement_text import (
    UNKNOWN,
    effect_text,
    points_effect_text,
    points_interval_text,
    points_text,
    ratio_interval_text,
    ratio_text,
)
from bench.tables.columns import harmless
from bench.tables.fields import FIELDS
from bench.tables.prices import SIDES, Prices, Side, format_cost
from bench.units import format_percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its key, its header and the text of each row's cell. Numbers are aligned right."""

    key: str
    header: str
    is_numeric: bool = True
    cell: Callable[[Row], str]


def identity_columns(rows: Sequence[Row], name_limit: int = MAX_NAME_CHARACTERS) -> list[Column]:
    """Return the columns that identify `rows`: model, batch size, and whatever else differs among them.

    Names are cut to `name_limit` characters.
    """
    chosen = [each for row in rows for each in configurations(row)]
    if not chosen:
        return [
            Column(
                key="name",
                header="benchmark",
                is_numeric=False,
                cell=lambda row: harmless(str(row.baseline.subject), name_limit),
            )
        ]
    has_devices = len({each.device for each in chosen}) > 1
    keys = [key for key in (*IDENTITY, *varying_dimensions(chosen)) if key != "device" or has_devices]
    return [_dimension_column(key, name_limit if key == "model" else MAX_NAME_CHARACTERS) for key in keys]


def _dimension_column(key: str, limit: int) -> Column:
    """Return the column of a dimension, with both values in a cell if the two sides differ."""
    return Column(
        key=key,
        header=FIELDS[key].header,
        is_numeric=FIELDS[key].numeric,
        cell=lambda row: " / ".join(dict.fromkeys(dimension(each, key, limit) for each in configurations(row))),
    )


def time_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of epoch time; those of what is not always there only if a row has it."""
    columns = [_RATIO, _RATIO_INTERVAL]
    if any(row.relative_log_ratio is not None for row in rows):
        columns.append(_NORMALISED)
    columns.append(_N)
    if any(row.baseline.failures or row.candidate.failures for row in rows):
        columns.append(_FAILED)
    if any(row.baseline.flagged.n or row.candidate.flagged.n for row in rows):
        columns.append(_FLAGGED)
    if any(map(_DETECTABLE.cell, rows)):
        columns.append(_DETECTABLE)
    return [*columns, _VERDICT]


def accuracy_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of test accuracy; that of detectable effects only if a row has one."""
    return [column for column in _ACCURACY_COLUMNS if column.key != "detectable" or any(map(column.cell, rows))]


def cost_columns(prices: Prices) -> list[Column]:
    """Return the columns of what training costs on each side, and of the ratio of the costs of an epoch."""

    def cost(row: Row, side: Side) -> SideCost:
        return side_cost(row.baseline if side == "baseline" else row.candidate, prices, side)

    def ratio(row: Row) -> CostRatio | None:
        return cost_ratio(row.time, cost(row, "baseline"), cost(row, "candidate"))

    def per_epoch(row: Row) -> str:
        return " / ".join(_cost_text(cost(row, side).per_epoch) for side in SIDES)

    def to_98_percent(row: Row) -> str:
        return " / ".join(_cost_text(cost(row, side).to_98_percent) for side in SIDES)

    def reached(row: Row) -> str:
        return "/".join(str(cost(row, side).reached) for side in SIDES)

    def ratio_cell(row: Row) -> str:
        found = ratio(row)
        return "" if found is None else ratio_text(found.log_ratio)

    def interval_cell(row: Row) -> str:
        found = ratio(row)
        return "" if found is None or found.interval is None else ratio_interval_text(found.interval)

    return [
        Column(key="per_epoch", header="per epoch", cell=per_epoch),
        Column(key="ratio", header="ratio", cell=ratio_cell),
        Column(key="interval", header="95 % interval", cell=interval_cell),
        Column(key="to_98", header="to 98 %", cell=to_98_percent),
        Column(key="reached", header="reached", cell=reached),
    ]


def _cost_text(cost: float | None) -> str:
    return "-" if cost is None else format_cost(cost)


def _text(judgement: Judgement | None, present: Callable[[float], str]) -> str:
    """Return the judgement's estimate, empty if there is none."""
    return "" if judgement is None or judgement.estimate is None else present(judgement.estimate.value)


def _interval_text(judgement: Judgement | None, present: Callable[[Interval], str]) -> str:
    """Return the interval of the judgement's estimate, ``unknown`` if it has none because a side has one trial."""
    if judgement is None or judgement.estimate is None:
        return ""
    return UNKNOWN if judgement.interval is None else present(judgement.interval)


_RATIO: Final = Column(key="ratio", header="ratio", cell=lambda row: _text(row.time, ratio_text))
_RATIO_INTERVAL: Final = Column(
    key="interval",
    header="95 % interval",
    cell=lambda row: _interval_text(row.time, ratio_interval_text),
)
_NORMALISED: Final = Column(
    key="normalised",
    header="norm. ratio",
    cell=lambda row: "" if row.relative_log_ratio is None else ratio_text(row.relative_log_ratio),
)
_N: Final = Column(key="n", header="n", cell=lambda row: f"{row.baseline.n}/{row.candidate.n}")
_FAILED: Final = Column(
    key="failed",
    header="failed",
    cell=lambda row: f"{len(row.baseline.failures)}/{len(row.candidate.failures)}",
)
_FLAGGED: Final = Column(
    key="flagged",
    header="flagged",
    cell=lambda row: f"{row.baseline.flagged.n}/{row.candidate.flagged.n}",
)
_DETECTABLE: Final = Column(
    key="detectable", header="MDE", cell=lambda row: effect_text(row.time.minimum_detectable_effect)
)
_VERDICT: Final = Column(
    key="verdict",
    header="verdict",
    is_numeric=False,
    cell=lambda row: f"{row.time.verdict} {CHANGED_MARK}" if verdict_change(row) else row.time.verdict.value,
)

_ACCURACY_COLUMNS: Final = (
    Column(
        key="baseline",
        header="baseline",
        cell=lambda row: format_percent(row.baseline.mean_accuracy) if row.baseline.mean_accuracy is not None else "",
    ),
    Column(key="difference", header="change", cell=lambda row: _text(row.accuracy, points_text)),
    Column(
        key="interval",
        header="95 % interval",
        cell=lambda row: _interval_text(row.accuracy, points_interval_text),
    ),
    _N,
    Column(
        key="detectable",
        header="MDE",
        cell=lambda row: "" if row.accuracy is None else points_effect_text(row.accuracy.minimum_detectable_effect),
    ),
    Column(
        key="verdict",
        header="verdict",
        is_numeric=False,
        cell=lambda row: "" if row.accuracy is None else row.accuracy.verdict.value,
    ),
)
