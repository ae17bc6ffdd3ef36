"""Records read from text exactly as `bench.coding` writes it, several times as fast as from JSON of any form.

A record's type tells how it is written: its members in order, no space, numbers as Python prints them. So one regular
expression, made from the type, both checks the text and takes it apart. What it matches is a part of what
``from_json(kind, loads(text))`` takes, with the same value; all else, right or wrong, is left to those two.
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
"""For each of some types the objects that some texts stand for; those that a list holds are entered."""

_PLAIN: Final = {
    # So few digits that no whole number leaves 64 bits and no other is infinite.
    int: ("(-?(?:0|[1-9][0-9]{0,17}))", "int({})"),
    float: (r"(-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+(?:e[+-]?[0-9]{1,2})?|e[+-]?[0-9]{1,2}))", "float({})"),
    str: (r'"([ !#-\[\]-~]*)"', "intern({})"),  # printable ASCII, nothing escaped; most texts come again and again
}
"""For each type a regular expression of one group, and the source that makes the value of what that group matched."""

_LOOSE: Final = r'(\{[^}]*\}|\[[^\]]*\]|"[^"]*"|[a-z]+)'
"""What may be a value: whether it is, `loads` says when it is seen for the first time."""

_LIST: Final = r"[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*"
"""What may stand between the brackets of a list of records: whether it does, their own regular expression says."""


class CanonicalReader(Generic[T]):
    """Reads a `kind` of dataclass, frozen and slotted, from text as `coding.dumps` writes it.

    Equal texts of a type in `shared` become one object: the one that is given there, or one made once for each text.
    """

    def __init__(self, kind: type[T], shared: Shared) -> None:
        """Make the regular expression, and the function that makes a record of what its groups matched."""
        self._shared = shared
        self._groups = 0
        self._scope: dict[str, Any] = {"new": object.__new__, "intern": sys.intern}
        self._lines: list[str] = []
        self._indent = "    "
        self._pattern, result = self._record(kind)
        self._match = re.compile(self._pattern).fullmatch
        arguments = ", ".join(f"g{group}" for group in range(self._groups))
        source = "\n".join([f"def make({arguments}):", *self._lines, f"    return {result}"])
        exec(source, self._scope)  # noqa: S102 - our own words, and members' names, which are identifiers
        self._make = self._scope["make"]

    def read(self, text: str) -> T | None:
        """Return the record that `text` stands for; None where only `loads` and `from_json` can tell."""
        found = self._match(text)
        if found is None:
            return None
        try:
            return typing.cast("T", self._make(*found.groups()))
        except BadInputError:
            return None

    def _any(self, hint: Any) -> tuple[str, str]:  # noqa: ANN401 - a type hint has no narrower type
        """Return the regular expression of a `hint`, and source for its value; may add lines that come before."""
        if hint in _PLAIN:
            pattern, value = _PLAIN[hint]
            return pattern, value.format(self._group())
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            return self._union(typing.get_args(hint))
        if dataclasses.is_dataclass(hint) and hint not in self._shared:
            return self._record(typing.cast("type", hint))
        item = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
        if isinstance(item, type) and dataclasses.is_dataclass(item):
            # Lists inside it are no end of it; deeper ones, and brackets in texts, are left to the exact way.
            read_all = _ListReader(item, self._shared).read_all
            return rf"\[({_LIST})\]", f"{self._constant(read_all)}({self._group()})"
        return _LOOSE, f"{self._constant(_Table(hint, self._shared.get(hint, {})))}[{self._group()}]"

    def _union(self, members: tuple[Any, ...]) -> tuple[str, str]:
        tagged = len(members) - (types.NoneType in members) > 1
        result = f"union{self._groups}"
        self._line(f"{result} = None")
        patterns = []
        # None first: what is looser than a record would take null for its own.
        for member in sorted(members, key=lambda member: member is not types.NoneType):
            if member is types.NoneType:
                patterns.append("null")
                continue
            # A group that takes part in a match only if this member does: a plain type's own, or one around it all.
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
        # A frozen class fills its slots slowly; one with the same slots does not, and may turn into it afterwards.
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
        """Return the regular expression of a member that may be missing; its `start` holds its comma and name."""
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
    """Reads what stands between the brackets of a list of a `kind`."""

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
            raise BadInputError("this list is not as it would have been written")  # `read` takes it for an unknown text
        return tuple(items)


class _Table(dict[str, object]):
    """The objects that texts stand for; one that is not in it is read in the exact way and entered."""

    def __init__(self, hint: Any, known: Mapping[str, object]) -> None:  # noqa: ANN401 - a hint has no narrower type
        super().__init__(known)
        self._hint = hint

    def __missing__(self, text: str) -> object:
        value: object = from_json(self._hint, loads(text))
        self[text] = value
        return value
