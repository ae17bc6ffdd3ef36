"""JSON both ways for frozen dataclasses, strictly: what decodes is well typed and finite, or it is an error.

Supported field types: `str`, `int`, `float`, `bool`, `StrEnum`, `Literal`, dataclasses, ``tuple[X, ...]``, ``X | None``
and unions of dataclasses (told apart by a ``"type"`` member that holds the class name).
"""

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from bench.errors import BadInputError

T = TypeVar("T")

_TAG: Final = "type"

MAX_INTEGER: Final = 2**63 - 1
"""Counts, bytes and seeds fit 64 bits, which is also what pandas and CSV readers take."""


def to_json(value: object) -> Any:  # noqa: ANN401 - a JSON value has no narrower type
    """Return `value` as what `json.dumps` takes; enums become their values and tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _field_to_json(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def _field_to_json(record: Any, name: str) -> Any:  # noqa: ANN401 - any field of any record
    value = getattr(record, name)
    encoded = to_json(value)
    if dataclasses.is_dataclass(value) and len(_union_members(_hints(record.__class__)[name])) > 1:
        return {_TAG: type(value).__name__, **encoded}
    return encoded


def dumps(value: object) -> str:
    """Return `value` as one line of JSON, without NaN or infinity.

    Raises:
        ValueError: a float in it is not finite.
    """
    return json.dumps(to_json(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def loads(text: str | bytes) -> Any:  # noqa: ANN401 - a JSON value has no narrower type
    """Parse JSON; refuse NaN, infinities, duplicate keys and nesting beyond what a record needs.

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


def _unique_members(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"member {name!r} stands twice in one object")
        members[name] = value
    return members


def from_json(kind: type[T], data: object, where: str = "") -> T:
    """Return `data` (parsed JSON) as a `kind`; `where` is its place, for messages.

    Raises:
        BadInputError: a member is missing, unknown, of another type, or not finite.
    """
    return typing.cast("T", _decode(kind, data, where or kind.__name__))


def _decode(hint: Any, data: object, where: str) -> object:  # noqa: ANN401 - a type hint has no narrower type
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if any(data == choice and type(data) is type(choice) for choice in choices):
            return data
        raise _mismatch(where, f"one of {', '.join(map(repr, choices))}", data)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(hint, data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise _mismatch(where, "a list", data)
        (item, _ellipsis) = typing.get_args(hint)
        return tuple(_decode(item, value, f"{where}[{index}]") for index, value in enumerate(data))
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(typing.cast("type", hint), data, where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        values = [member.value for member in hint]
        if data in values:
            return hint(data)
        raise _mismatch(where, f"one of {', '.join(map(repr, values))}", data)
    return _decode_scalar(hint, data, where)


def _decode_scalar(hint: object, data: object, where: str) -> object:
    if hint is float and isinstance(data, int | float) and not isinstance(data, bool):
        try:
            number = float(data)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    elif hint is int:
        if isinstance(data, int) and not isinstance(data, bool) and abs(data) <= MAX_INTEGER:
            return data
    elif isinstance(data, typing.cast("type", hint)):
        return data
    names = {float: "a finite number", int: "a 64-bit whole number", str: "a text", bool: "true or false"}
    raise _mismatch(where, names[typing.cast("type", hint)], data)


def _decode_union(hint: object, data: object, where: str) -> object:
    members = _union_members(hint)
    if data is None and types.NoneType in typing.get_args(hint):
        return None
    if len(members) == 1:
        return _decode(members[0], data, where)
    by_name = {member.__name__: member for member in members}
    tag = data.get(_TAG) if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(tag, str) or tag not in by_name:
        raise _mismatch(where, f"an object whose {_TAG!r} is one of {', '.join(by_name)}", data)
    return _decode(by_name[tag], {name: value for name, value in data.items() if name != _TAG}, where)


def _decode_dataclass(kind: type, data: object, where: str) -> object:
    if not isinstance(data, dict):
        raise _mismatch(where, "an object", data)
    hints = _hints(kind)
    missing = [name for name in hints if name not in data]
    unknown = [name for name in data if name not in hints]
    if missing or unknown:
        problems = [f"lacks {', '.join(missing)}"] if missing else []
        problems += [f"has unknown {', '.join(map(repr, unknown[:5]))}"] if unknown else []
        raise BadInputError(f"{where} {' and '.join(problems)}")
    return kind(**{name: _decode(hint, data[name], f"{where}.{name}") for name, hint in hints.items()})


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _union_members(hint: object) -> list[Any]:
    return [member for member in typing.get_args(hint) if member is not types.NoneType]


def _mismatch(where: str, wanted: str, data: object) -> BadInputError:
    shown = repr(data)
    return BadInputError(f"{where} must be {wanted}, not {shown if len(shown) <= 60 else shown[:57] + '...'}")  # noqa: PLR2004
