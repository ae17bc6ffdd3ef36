"""Which configurations a table shows, and in which order: ``--filter`` and ``--sort``."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

from bench.errors import BadInputError
from bench.storage.table import Value
from bench.tables.columns import COLUMNS, Column, find_columns, harmless
from bench.tables.fields import Field, Unit
from bench.tables.ordering import natural_key
from bench.tables.summary import Summary

Condition: TypeAlias = Callable[[Summary], bool]

_FILTER: Final = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>|~)\s*(.*?)\s*", flags=re.ASCII | re.DOTALL)

_EQUALITY: Final = frozenset({"=", "!="})
"""The signs after which there can be several values."""

_SEVERAL: Final = re.compile(r"[&|]|\b(and|or)\b", flags=re.IGNORECASE)
"""What somebody writes between several conditions."""

_UNITS: Final[Mapping[Unit, tuple[str, str]]] = MappingProxyType(
    {
        "": ("", "256"),
        "s": (" of seconds", "0.5"),
        "B": (" of bytes", "1e9"),
        "/s": (" per second", "1e5"),
        "FLOP/s": (" of FLOP/s", "1e11"),
        "fraction": (" from 0 to 1, or a percentage", "0.97"),
    }
)
"""The unit of a filter's number, and an example."""

_NO_FRACTION: Final = 2.0
"""From here on a number without % must be meant as a percentage: a share can exceed 1, but seldom by this much."""

_LISTED: Final = 8
"""Values of a column that are listed if no row meets the filters."""

_ORDERINGS: Final[Mapping[str, Callable[[float, float], bool]]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)


def select(
    summaries: Sequence[Summary], *, filters: Sequence[str], sort: Sequence[str], costs: Sequence[Column] = ()
) -> tuple[Summary, ...]:
    """Return the `summaries` that meet all `filters`, sorted by the keys `sort`, the most important first.

    A filter is a column's key, one of ``= != < <= > >= ~`` (contains) and a value in SI base units, such as
    ``batch_size>=256``; a fraction can also be given in percent. After ``=`` and ``!=`` there can be several values,
    with commas between them: any, or none, of these. A value that was not measured meets only ``!=``. A sort key with a
    leading ``-`` sorts in descending order; values that were not measured always come last. `costs` are columns that
    are available beside the usual ones.

    Raises:
        BadInputError: a filter cannot be parsed or names an unknown column, or a sort key is unknown.
    """
    conditions = [_parse_filter(text, costs) for text in filters]
    selected = [summary for summary in summaries if all(holds(summary) for holds in conditions)]
    # The sort is stable, so sorting by the most important key last makes it decide.
    for key in reversed(sort):
        selected = _sorted(selected, _find_field(key.removeprefix("-"), costs), descending=key.startswith("-"))
    return tuple(selected)


def _sorted(summaries: Sequence[Summary], field: Field, *, descending: bool) -> list[Summary]:
    known = [summary for summary in summaries if field.value(summary) is not None]
    unknown = [summary for summary in summaries if field.value(summary) is None]
    return sorted(known, key=lambda summary: _sort_key(field.value(summary)), reverse=descending) + unknown


def _sort_key(value: Value) -> tuple[float, tuple[tuple[int, str], ...]]:
    """Return a key that orders numbers by size, and texts by the numbers inside them."""
    return (0.0, natural_key(value)) if isinstance(value, str) else (float(value or 0), ())


def _find_field(key: str, costs: Sequence[Column]) -> Field:
    (column,) = find_columns((key,), costs)
    return column.fields[0]


def _parse_filter(text: str, costs: Sequence[Column]) -> Condition:
    match = _FILTER.fullmatch(text)
    if match is None:
        raise BadInputError(
            f"filter {harmless(text, 60)!r} is not a column, one of = != < <= > >= ~, and a value: "
            "write it like batch_size>=256 or device=cpu"
        )
    key, sign, wanted = match.groups()
    field = _find_field(key, costs)
    return _number_condition(field, key, sign, wanted) if field.numeric else _text_condition(field, sign, wanted)


def _number_condition(field: Field, key: str, sign: str, wanted: str) -> Condition:
    several = sign in _EQUALITY
    parts = wanted.split(",") if several else [wanted]
    numbers = [_number(field, part) for part in parts]
    if sign == "~" or any(math.isnan(number) for number in numbers):
        raise BadInputError(
            f"filter {harmless(f'{key}{sign}{wanted}', 60)!r} compares a number: use = != < <= > >= "
            f"and a plain number{_UNITS[field.unit][0]}, like {key}>={_UNITS[field.unit][1]}"
            + ("; commas between values need = or !=" if "," in wanted and not several else "")
            + ("; each condition needs a --filter of its own" if _SEVERAL.search(wanted) else "")
        )
    plain = [number for number, part in zip(numbers, parts, strict=True) if not part.endswith("%")]
    unclear = next((number for number in plain if field.unit == "fraction" and abs(number) >= _NO_FRACTION), None)
    if unclear is not None:
        raise BadInputError(
            f"filter {harmless(f'{key}{sign}{wanted}', 60)!r} compares a fraction: "
            f"write {unclear / 100:g} or {unclear:g}%"
        )
    if several:
        return lambda summary: (field.value(summary) in numbers) == (sign == "=")
    compare = _ORDERINGS[sign]

    def holds(summary: Summary) -> bool:
        value = field.value(summary)
        return isinstance(value, int | float) and compare(value, numbers[0])

    return holds


def _number(field: Field, text: str) -> float:
    """Return the number in a filter, for a fraction possibly in percent; NaN if it is not a number."""
    percent = field.unit == "fraction" and text.endswith("%")
    try:
        # Read at once: dividing by 100 would round again, and 97.85 % would not be the accuracy 0.9785.
        return float(f"{text.removesuffix('%').rstrip()}e-2") if percent else float(text)
    except ValueError:
        return math.nan


def nothing_meets(summaries: Sequence[Summary], filters: Sequence[str]) -> str:
    """Say that none of `summaries` meets all the `filters`, and which values their columns have."""
    matches = (_FILTER.fullmatch(text) for text in filters)
    columns = dict.fromkeys(match[1] for match in matches if match is not None)
    values = (f"{key} is {_listed(summaries, key)}" for key in columns if key in COLUMNS)
    return "; ".join((f"none of {len(summaries)} configurations meets {' and '.join(filters)}", *values))


def _listed(summaries: Sequence[Summary], key: str) -> str:
    column = COLUMNS[key]
    absent = "unmeasured" if column.fields[0].numeric else "empty"
    texts = list(dict.fromkeys(column.text(summary) or absent for summary in summaries))
    return f"{', '.join(texts[:_LISTED])}{', …' * (len(texts) > _LISTED)}"


def _text_condition(field: Field, sign: str, wanted: str) -> Condition:
    if sign not in ("=", "!=", "~"):
        raise BadInputError(
            f"filter {harmless(f'{field.key}{sign}{wanted}', 60)!r} orders text, which has no size: "
            f"use {field.key}=…, {field.key}!=… or {field.key}~… (contains)"
        )

    accepted = {wanted, *(part.strip() for part in wanted.split(","))}
    column = COLUMNS[field.key]

    def holds(summary: Summary) -> bool:
        value = field.value(summary)
        whole = str(value).lower() if isinstance(value, bool) else str(value)
        texts = {whole, column.text(summary)}  # long layers are shown in short
        if sign == "~":
            return any(wanted in text for text in texts)
        return texts.isdisjoint(accepted) == (sign == "!=")

    return holds
