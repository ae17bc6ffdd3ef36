"""Reads records from text exactly as `bench.coding` writes it, several times as fast as from arbitrary JSON.

A record's type determines how it is written: its members in order, no blanks, numbers as Python prints them. So one
regular expression, built from the type, both checks the text and splits it. It matches a subset of what
``from_json(kind, loads(text))`` accepts, with the same value; everything else, valid or not, is left to those two.
"""

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

from bench.coding import TAG, from_json, later_defaults, loads, member_hints
from bench.errors import BadInputError

T = TypeVar("T")

Shared = Mapping[type, dict[str, object]]
"""For some types, known texts and their objects; objects read from a list are added."""

_PLAIN: Final = {
    # So few digits that no whole number exceeds 64 bits and no other number is infinite.
    int: ("(-?(?:0|[1-9][0-9]{0,17}))", "int({})"),
    float: (r"(-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+(?:e[+-]?[0-9]{1,2})?|e[+-]?[0-9]{1,2}))", "float({})"),
    str: (r'"([ !#-\[\]-~]*)"', "intern({})"),  # printable ASCII, nothing escaped; most texts occur many times
}
"""For each type a regular expression with one group, and source code that converts that group to the value."""

_LOOSE: Final = r'(\{[^}]*\}|\[[^\]]*\]|"[^"]*"|[a-z]+)'
"""Matches anything that may be a value; `loads` checks each text when it occurs for the first time."""

_LIST: Final = r"[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*"
"""Matches anything that may be between the brackets of a list of records; the records' own expression checks it."""


class CanonicalReader(Generic[T]):
    """Reads a frozen and slotted dataclass `kind` from text as `coding.dumps` writes it.

    Equal texts of a type in `shared` become the same object: the one given there, or one created once for each text.
    """

    def __init__(self, kind: type[T], shared: Shared) -> None:
        """Build the regular expression, and the function that creates a record from its groups."""
        self._shared = shared
        self._groups = 0
        self._scope: dict[str, Any] = {"new": object.__new__, "intern": sys.intern}
        self._lines: list[str] = []
        self._indent = "    "
        self._pattern, result = self._record(kind)
        self._match = re.compile(self._pattern).fullmatch
        arguments = ", ".join(f"g{group}" for group in range(self._groups))
        source = "\n".join([f"def make({arguments}):", *self._lines, f"    return {result}"])
        exec(source, self._scope)  # noqa: S102 - source from this module and members' names, which are identifiers
        self._make = self._scope["make"]

    def read(self, text: str) -> T | None:
        """Return the record in `text`; None if only `loads` and `from_json` can decide."""
        found = self._match(text)
        if found is None:
            return None
        try:
            return typing.cast("T", self._make(*found.groups()))
        except BadInputError:
            return None

    def _any(self, hint: Any) -> tuple[str, str]:  # noqa: ANN401 - a type hint has no narrower type
        """Return the regular expression for a type `hint` and the source for its value; may add preceding lines."""
        if hint in _PLAIN:
            pattern, value = _PLAIN[hint]
            return pattern, value.format(self._group())
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            return self._union(typing.get_args(hint))
        if dataclasses.is_dataclass(hint) and hint not in self._shared:
            return self._record(typing.cast("type", hint))
        item = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
        if isinstance(item, type) and dataclasses.is_dataclass(item):
            # One level of nested lists is supported; deeper ones, and brackets in texts, are left to `from_json`.
            read_all = _ListReader(item, self._shared).read_all
            return rf"\[({_LIST})\]", f"{self._constant(read_all)}({self._group()})"
        return _LOOSE, f"{self._constant(_Table(hint, self._shared.get(hint, {})))}[{self._group()}]"

    def _union(self, members: tuple[Any, ...]) -> tuple[str, str]:
        tagged = len(members) - (types.NoneType in members) > 1
        result = f"union{self._groups}"
        self._line(f"{result} = None")
        patterns = []
        # None first: `_LOOSE`, which is looser than a record's expression, would also match null.
        for member in sorted(members, key=lambda member: member is not types.NoneType):
            if member is types.NoneType:
                patterns.append("null")
                continue
            # A group that matches only if this member does: a plain type's own group, or one around the whole member.
            guard = f"g{self._groups}" if member in _PLAIN else self._group()
            self._line(f"if {guard} is not None:")
            self._indent += "    "
            pattern, value = self._record(member, tagged=True) if tagged else self._any(member)
            self._line(f"{result} = {value}")
            self._indent = self._indent[4:]
            patterns.append(pattern if member in _PLAIN else f"({pattern})")
        return f"(?:{'|'.join(patterns)})", result

    def _record(self, kind: type, *, tagged: bool = False) -> tuple[str, str]:
        defaults = later_defaults(kind)
        pattern = f'"{TAG}":"{kind.__name__}"' if tagged else ""
        result = f"record{self._groups}_{len(self._lines)}"
        # Setting the fields of a frozen class is slow. An ordinary class with the same slots is filled, then converted.
        twin = type(kind.__name__, (), {"__slots__": tuple(member_hints(kind))})
        self._line(f"{result} = new({self._constant(twin)})")
        for name, hint in member_hints(kind).items():
            comma = "," if pattern else ""
            if name in defaults:
                pattern += self._later(f'{comma}"{name}":', hint, f"{result}.{name}", defaults[name])
                continue
            member, value = self._any(hint)
            pattern += f'{comma}"{name}":{member}'
            self._line(f"{result}.{name} = {value}")
        self._line(f"{result}.__class__ = {self._constant(kind)}")
        return rf"\{{{pattern}\}}", result

    def _later(self, start: str, hint: Any, target: str, default: object) -> str:  # noqa: ANN401 - see `_any`
        """Return the regular expression of a member that may be missing; `start` is its comma and name."""
        guard = self._group()
        self._line(f"{target} = {self._constant(default)}")
        self._line(f"if {guard} is not None:")
        self._indent += "    "
        pattern, value = self._any(hint)
        self._line(f"{target} = {value}")
        self._indent = self._indent[4:]
        return f"({start}{pattern})?"

    def _group(self) -> str:
        self._groups += 1
        return f"g{self._groups - 1}"

    def _line(self, line: str) -> None:
        self._lines.append(self._indent + line)

    def _constant(self, value: object) -> str:
        name = f"constant{len(self._scope)}"
        self._scope[name] = value
        return name


class _ListReader(CanonicalReader[T]):
    """Reads the text between the brackets of a list of a `kind`."""

    def __init__(self, kind: type[T], shared: Shared) -> None:
        super().__init__(kind, shared)
        self._find = re.compile("," + self._pattern).finditer
        self._known = shared.get(kind)

    def read_all(self, text: str) -> tuple[T, ...]:
        if not text:
            return ()
        items, end = [], 0
        for found in self._find("," + text):
            if found.start() != end:
                break
            item = self._make(*found.groups())
            if self._known is not None:
                item = self._known.setdefault(found[0][1:], item)
            items.append(item)
            end = found.end()
        if end != len(text) + 1:
            raise BadInputError("this list is not as it would have been written")  # makes `read` return None
        return tuple(items)


class _Table(dict[str, object]):
    """Maps texts to their objects; a text that is not in it yet is read with `from_json` and added."""

    def __init__(self, hint: Any, known: Mapping[str, object]) -> None:  # noqa: ANN401 - a hint has no narrower type
        super().__init__(known)
        self._hint = hint

    def __missing__(self, text: str) -> object:
        value: object = from_json(self._hint, loads(text))
        self[text] = value
        return value
