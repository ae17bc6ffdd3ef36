"""Print parts of docs/results-format.md: `members` of lines, `columns` of the CSV, columns `shown` by `show`."""

import dataclasses
import enum
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tabulate import tabulate

from bench.coding import later_defaults, member_hints
from bench.records import Fingerprint, Footer, Header, TrialRecord
from bench.storage.table import COLUMNS
from bench.tables.columns import COLUMNS as SHOWN
from bench.tables.fields import QUANTITIES

_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false"}
_UNIT_WORDS = {"": "", "s": "s", "B": "bytes", "/s": "1/s", "FLOP/s": "FLOP/s", "fraction": "0 to 1"}
_CSV_WORDS = {"string": "text", "boolean": "true or false", "Int64": "integer", "Float64": "number"}


def members() -> str:
    """Return a list of the types of stored lines with their members, each type before the types that it contains."""
    kinds = dict.fromkeys(kind for start in (Header, Fingerprint, TrialRecord, Footer) for kind in _types(start))
    items = (f"- **{kind.__name__}**: {', '.join(_members(kind))}" for kind in kinds)
    return "\n".join(textwrap.fill(item, width=120, subsequent_indent="  ", break_on_hyphens=False) for item in items)


def columns() -> str:
    """Return the table of the CSV's columns."""
    rows = [(f"`{column.name}`", _CSV_WORDS[column.dtype], column.description) for column in COLUMNS]
    return tabulate(rows, headers=("column", "type", "meaning"), tablefmt="pipe")


def shown() -> str:
    """Return the table of the columns of `show`; a quantity has one row, without its variants such as `_median`."""
    plain = [column for key, column in SHOWN.items() if not any(key.startswith(f"{each}_") for each in QUANTITIES)]
    rows = [(f"`{each.key}`", each.header, _UNIT_WORDS[each.fields[0].unit], _kind(each.key)) for each in plain]
    return tabulate(rows, headers=("column", "header", "unit", ""), tablefmt="pipe")


def _kind(key: str) -> str:
    return "quantity" if key in QUANTITIES else ""


def _members(kind: type) -> Iterator[str]:
    for name, hint in member_hints(kind).items():
        yield f"`{name}` {_words(hint)}" + (" (may be missing)" if name in later_defaults(kind) else "")


def _words(hint: typing.Any) -> str:  # noqa: ANN401 - a type hint has no narrower type
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join("null" if argument is types.NoneType else _words(argument) for argument in arguments)
    if typing.get_origin(hint) is tuple:
        return f"list of {_words(arguments[0])}"
    if issubclass(hint, enum.Enum):
        return "one of " + ", ".join(f"`{member.value}`" for member in hint)
    return _WORDS.get(hint) or hint.__name__


def _types(hint: typing.Any) -> Iterator[type]:  # noqa: ANN401 - a type hint has no narrower type
    """Yield the record types that `hint` contains, itself first."""
    if dataclasses.is_dataclass(hint):
        yield typing.cast("type", hint)
    inner = member_hints(hint).values() if dataclasses.is_dataclass(hint) else typing.get_args(hint)
    for each in inner:
        yield from _types(each)


if __name__ == "__main__":
    print({"members": members, "columns": columns, "shown": shown}[sys.argv[1]]())
