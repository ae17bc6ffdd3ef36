"""Converts frozen dataclasses to JSON and back, strictly: every decoded value has the right type and is finite.

Supported field types: `str`, `int`, `float`, `bool`, `StrEnum`, `Literal`, dataclasses, ``tuple[X, ...]``, ``X | None``
and, as a record's own field, unions of dataclasses (distinguished by a ``"type"`` member with the class name).

A field marked `LATER` was added after files of its type had been written. If its member is missing, it has its default,
and its default is not written. So older files can still be read, and records that do not use it are written as before.
"""

import dataclasses
import enum
import functools
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, TypeVar

from bench.errors import BadInputError

T = TypeVar("T")

TAG: Final = "type"
"""The member that distinguishes the members of a union."""

LATER: Final[Mapping[str, bool]] = types.MappingProxyType({"later": True})
"""Metadata of a field with a default that was added to a type after files of it had been written."""

_REQUIRED: Final = object()
"""Stands for the missing default of a member that is always written."""

_ENCODER: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))

MAX_INTEGER: Final = 2**63 - 1
"""Counts, bytes and seeds fit into 64 bits, which pandas and CSV readers also support."""


def finite(value: float | None) -> float | None:
    """Return `value`, or None for what JSON cannot represent: infinities and NaN."""
    return value if value is not None and math.isfinite(value) else None


def to_json(value: object) -> Any:  # noqa: ANN401 - a JSON value has no narrower type
    """Return `value` in a form that `json.dumps` accepts; enums become their values and tuples become lists."""
    if value is None or type(value) in _SCALARS:  # the most frequent case first
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _record_to_json(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def _record_to_json(record: Any) -> dict[str, Any]:  # noqa: ANN401 - any record
    encoded: dict[str, Any] = {}
    for name, default, is_union in _written_members(record.__class__):
        value = getattr(record, name)
        if value is None or type(value) in _SCALARS:
            if default is _REQUIRED or value != default:
                encoded[name] = value
        elif default is _REQUIRED or value != default:
            encoded[name] = {TAG: type(value).__name__, **to_json(value)} if is_union else to_json(value)
    return encoded


def dumps(value: object) -> str:
    """Return `value` as one line of JSON, without NaN or infinity.

    Raises:
        ValueError: a float in it is not finite.
    """
    return _ENCODER.encode(to_json(value))


def loads(text: str | bytes) -> Any:  # noqa: ANN401 - a JSON value has no narrower type
    """Parse JSON; refuse NaN, named infinities, duplicate keys and nesting that is too deep for Python.

    A number too large for a float becomes infinite here and is refused by `from_json`.

    Raises:
        BadInputError: `text` is not such JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_members)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadInputError(f"not valid JSON: {reason}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"member {twice!r} occurs twice in one object")
    return members


def from_json(kind: type[T], data: object, where: str = "") -> T:
    """Return `data` (parsed JSON) as a `kind`; `where` is its place for messages.

    Raises:
        BadInputError: a member is missing, unknown, of the wrong type, or not finite.
    """
    try:
        return typing.cast("T", _decoder(typing.cast("Any", kind))(data))
    except _MismatchError as mismatch:
        raise BadInputError(f"{where or kind.__name__}{mismatch.place} {mismatch.problem}") from None


class _MismatchError(Exception):
    """What is wrong, and where. The place is built while the error propagates, so that valid data never pays for it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.place = ""


def _mismatch(wanted: str, data: object) -> _MismatchError:
    shown = repr(data)
    return _MismatchError(f"must be {wanted}, not {shown if len(shown) <= 60 else shown[:57] + '...'}")  # noqa: PLR2004 - half a line


Decoder: typing.TypeAlias = Callable[[Any], Any]


@functools.cache
def _decoder(hint: Any) -> Decoder:  # noqa: ANN401 - a type hint has no narrower type
    """Return the function that decodes a type `hint`. It is built only once: stored runs have very many records."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return _choice_decoder({choice: choice for choice in typing.get_args(hint)})
    if origin in (typing.Union, types.UnionType):
        return _union_decoder(hint)
    if origin is tuple:
        return _list_decoder(_decoder(typing.get_args(hint)[0]))
    if dataclasses.is_dataclass(hint):
        return _record_decoder(typing.cast("type", hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choice_decoder({member.value: member for member in hint})
    return _SCALARS[hint]


def _decode_float(data: object) -> float:
    if type(data) is float and math.isfinite(data):
        return data
    if type(data) is int and abs(data) <= sys.float_info.max:
        return float(data)
    raise _mismatch("a finite number", data)


def _decode_int(data: object) -> int:
    if type(data) is int and abs(data) <= MAX_INTEGER:  # type() excludes bool, a subclass of int
        return data
    raise _mismatch("a 64-bit whole number", data)


def _decode_str(data: object) -> str:
    if isinstance(data, str):
        return data
    raise _mismatch("a text", data)


def _decode_bool(data: object) -> bool:
    if isinstance(data, bool):
        return data
    raise _mismatch("true or false", data)


_SCALARS: Final[dict[object, Decoder]] = {
    float: _decode_float,
    int: _decode_int,
    str: _decode_str,
    bool: _decode_bool,
}


def _choice_decoder(choices: dict[object, object]) -> Decoder:
    def decode(data: object) -> object:
        if isinstance(data, str | int) and data in choices and type(data) in {type(choice) for choice in choices}:
            return choices[data]
        raise _mismatch(f"one of {', '.join(map(repr, choices))}", data)

    return decode


def _list_decoder(decode_item: Decoder) -> Decoder:
    def decode(data: object) -> tuple[object, ...]:
        if not isinstance(data, list):
            raise _mismatch("a list", data)
        items: list[object] = []
        try:
            for item in data:
                items.append(decode_item(item))  # noqa: PERF401 - the length is the place of a mismatch
        except _MismatchError as mismatch:
            mismatch.place = f"[{len(items)}]{mismatch.place}"
            raise
        return tuple(items)

    return decode


def _union_decoder(hint: object) -> Decoder:
    members = _union_members(hint)
    optional = types.NoneType in typing.get_args(hint)
    by_name = {member.__name__: _decoder(member) for member in members} if len(members) > 1 else {}

    def decode_tagged(data: object) -> object:
        tag = data.get(TAG) if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(tag, str) or tag not in by_name:
            raise _mismatch(f"an object whose {TAG!r} is one of {', '.join(by_name)}", data)
        return by_name[tag]({name: value for name, value in data.items() if name != TAG})

    decode = decode_tagged if by_name else _decoder(members[0])
    return (lambda data: None if data is None else decode(data)) if optional else decode


def _record_decoder(kind: type) -> Decoder:
    decoders = {name: _decoder(hint) for name, hint in member_hints(kind).items()}
    required = decoders.keys() - later_defaults(kind).keys()

    def decode(data: object) -> object:
        if not isinstance(data, dict):
            raise _mismatch("an object", data)
        if not required <= data.keys() <= decoders.keys():
            raise _wrong_members(decoders.keys(), required, data)
        values: dict[str, object] = {}
        name = ""
        try:
            for name, decode_member in decoders.items():
                if name in data:
                    values[name] = decode_member(data[name])
        except _MismatchError as mismatch:
            mismatch.place = f".{name}{mismatch.place}"
            raise
        return kind(**values)

    return decode


def _wrong_members(known: Iterable[str], required: Collection[str], data: dict[str, object]) -> _MismatchError:
    names = list(known)
    missing = [name for name in names if name in required and name not in data]
    unknown = [name for name in data if name not in names]
    problems = [f"lacks {', '.join(missing)}"] if missing else []
    problems += [f"has unknown {', '.join(map(repr, unknown[:5]))}"] if unknown else []
    return _MismatchError(" and ".join(problems))


@functools.cache
def _written_members(kind: type) -> tuple[tuple[str, object, bool], ...]:
    """Return each member's name, the default that is not written, and whether its type is a union of records."""
    defaults = later_defaults(kind)
    return tuple(
        (name, defaults.get(name, _REQUIRED), typing.get_origin(hint) is not tuple and len(_union_members(hint)) > 1)
        for name, hint in member_hints(kind).items()
    )


@functools.cache
def later_defaults(kind: type) -> dict[str, object]:
    """Return the default of each field marked `LATER`, by name."""
    return {field.name: field.default for field in dataclasses.fields(kind) if "later" in field.metadata}


@functools.cache
def member_hints(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's members, by name, in order."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _union_members(hint: object) -> list[Any]:
    return [member for member in typing.get_args(hint) if member is not types.NoneType]
