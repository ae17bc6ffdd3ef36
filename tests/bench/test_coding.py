import dataclasses
import enum
import json
import math
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import pytest
from bench_builders import make_header, make_record
from hypothesis import given
from hypothesis import strategies as st

from bench.coding import LATER, MAX_INTEGER, dumps, from_json, loads, to_json
from bench.errors import BadInputError
from bench.records import FailureKind, Header, TrialRecord

T = TypeVar("T")


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "deep blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Circle:
    radius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    side: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    text: str
    count: int
    number: float
    flag: bool
    colour: Colour
    size: Literal["small", "large", 1]
    part: Circle
    numbers: tuple[float, ...]
    parts: tuple[Square, ...]
    pairs: tuple[tuple[int, ...], ...]
    maybe: int | None
    maybe_part: Square | None
    shape: Circle | Square
    maybe_shape: Circle | Square | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """A type that got members after files of it were written."""

    old: int
    new: str = field(default="plain", metadata=LATER)
    usual: int = 0


finite = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(min_value=-MAX_INTEGER, max_value=MAX_INTEGER)
circles = st.builds(Circle, radius=finite)
squares = st.builds(Square, side=finite)
everything = st.builds(
    Everything,
    text=st.text(),
    count=whole,
    number=finite,
    flag=st.booleans(),
    colour=st.sampled_from(Colour),
    size=st.sampled_from(("small", "large", 1)),
    part=circles,
    numbers=st.lists(finite, max_size=3).map(tuple),
    parts=st.lists(squares, max_size=2).map(tuple),
    pairs=st.lists(st.lists(whole, max_size=2).map(tuple), max_size=2).map(tuple),
    maybe=st.none() | whole,
    maybe_part=st.none() | squares,
    shape=circles | squares,
    maybe_shape=st.none() | circles | squares,
)

EXAMPLE = Everything(
    text="a",
    count=1,
    number=0.5,
    flag=True,
    colour=Colour.BLUE,
    size="small",
    part=Circle(radius=1.0),
    numbers=(1.0, 2.0),
    parts=(Square(side=1.0),),
    pairs=((1, 2), ()),
    maybe=None,
    maybe_part=None,
    shape=Square(side=2.0),
    maybe_shape=None,
)


def test_a_member_added_later_may_be_missing_and_is_written_only_where_it_says_something() -> None:
    before = {"old": 1, "usual": 0}
    assert from_json(Grown, before) == Grown(old=1)
    assert to_json(Grown(old=1)) == before
    assert to_json(Grown(old=1, new="other")) == {"old": 1, "new": "other", "usual": 0}
    assert from_json(Grown, {**before, "new": "other"}) == Grown(old=1, new="other")


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"old": 1}, "lacks usual"),
        ({"usual": 0, "new": "x"}, "lacks old"),
        ({"old": 1, "usual": 0, "newest": 1}, "unknown 'newest'"),
        ({"old": 1, "usual": 0, "new": 1}, "Grown.new must be a text"),
    ],
)
def test_only_a_member_added_later_may_be_missing(members: dict[str, object], problem: str) -> None:
    assert problem in refusal(Grown, members)


def refusal(kind: type[T], data: object, where: str = "") -> str:
    with pytest.raises(BadInputError) as caught:
        from_json(kind, data, where)
    return str(caught.value)


def refusal_of(**members: object) -> str:
    """Return why `EXAMPLE` with these members is refused."""
    return refusal(Everything, to_json(EXAMPLE) | members)


# Round trips


@given(everything)
def test_every_supported_type_survives_a_round_trip(value: Everything) -> None:
    read = from_json(Everything, loads(dumps(value)))
    assert read == value
    assert dumps(read) == dumps(value)


def test_what_is_stored_survives_a_round_trip() -> None:
    record, header = make_record(), make_header()
    assert from_json(TrialRecord, loads(dumps(record))) == record
    assert from_json(Header, loads(dumps(header))) == header


def test_a_value_is_one_line_of_plain_ascii_whatever_its_text() -> None:
    line = dumps(dataclasses.replace(EXAMPLE, text="two\nlines, µs \N{SNOWMAN}"))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["text"] == "two\nlines, µs \N{SNOWMAN}"


def test_a_whole_number_is_read_as_a_float_where_one_is_expected() -> None:
    radius = from_json(Circle, {"radius": 2}).radius
    assert isinstance(radius, float)
    assert radius == 2.0


def test_an_enum_is_read_as_its_member() -> None:
    assert from_json(Everything, to_json(EXAMPLE)).colour is Colour.BLUE
    assert from_json(FailureKind, "crash") is FailureKind.CRASH


# Unions


def test_a_member_of_a_union_carries_its_class_as_tag_and_any_other_dataclass_none() -> None:
    data = to_json(EXAMPLE)
    assert data["shape"] == {"type": "Square", "side": 2.0}
    assert data["part"] == {"radius": 1.0}
    assert data["parts"] == [{"side": 1.0}]


def test_the_tag_alone_decides_between_the_members_of_a_union() -> None:
    read = from_json(Everything, to_json(EXAMPLE) | {"shape": {"radius": 3.0, "type": "Circle"}})
    assert read.shape == Circle(radius=3.0)
    assert "Everything.shape lacks side and has unknown 'radius'" in refusal_of(shape={"radius": 3.0, "type": "Square"})


@pytest.mark.parametrize(
    "shape", [{"side": 1.0}, {"type": "Triangle"}, {"type": None}, {"type": ["Square"]}, None, "Square", []]
)
def test_a_union_without_a_known_tag_is_refused(shape: object) -> None:
    assert "Everything.shape must be an object whose 'type' is one of Circle, Square, not" in refusal_of(shape=shape)


# Wrong types


@pytest.mark.parametrize(
    ("member", "value", "wanted"),
    [
        ("text", 1, "a text"),
        ("text", None, "a text"),
        ("count", True, "a 64-bit whole number"),
        ("count", 1.0, "a 64-bit whole number"),
        ("count", "1", "a 64-bit whole number"),
        ("count", MAX_INTEGER + 1, "a 64-bit whole number"),
        ("count", -MAX_INTEGER - 1, "a 64-bit whole number"),
        ("number", True, "a finite number"),
        ("number", "1", "a finite number"),
        ("number", None, "a finite number"),
        ("number", math.nan, "a finite number"),
        ("number", -math.inf, "a finite number"),
        ("number", 10**400, "a finite number"),
        ("flag", 1, "true or false"),
        ("flag", "true", "true or false"),
        ("colour", "green", "one of 'red', 'deep blue'"),
        ("colour", ["red"], "one of 'red', 'deep blue'"),
        ("size", "medium", "one of 'small', 'large', 1"),
        ("size", 1.0, "one of 'small', 'large', 1"),
        ("size", True, "one of 'small', 'large', 1"),
        ("part", [], "an object"),
        ("part", None, "an object"),
        ("numbers", {"0": 1.0}, "a list"),
        ("numbers", "12", "a list"),
        ("maybe", 0.5, "a 64-bit whole number"),
        ("maybe_part", 1, "an object"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(member: str, value: object, wanted: str) -> None:
    assert f"Everything.{member} must be {wanted}, not " in refusal_of(**{member: value})


def test_the_place_of_a_mistake_is_named_through_lists_and_objects() -> None:
    assert refusal_of(pairs=[[1], [2, "x"]]).startswith("Everything.pairs[1][1] must be")
    assert refusal_of(parts=[{"side": 1}, {"side": "x"}]).startswith("Everything.parts[1].side must be")
    assert refusal(Everything, 5, "line 7: trial").startswith("line 7: trial must be an object, not 5")


def test_a_long_wrong_value_is_shown_shortened() -> None:
    assert len(refusal_of(count="x" * 10_000)) < 150


# Missing and unknown members


def test_missing_and_unknown_members_are_refused_together() -> None:
    data = to_json(EXAMPLE) | {"extra": 1, "more": 2}
    del data["flag"], data["text"]
    assert refusal(Everything, data) == "Everything lacks text, flag and has unknown 'extra', 'more'"


def test_a_member_that_may_be_none_must_still_be_there() -> None:
    data = to_json(EXAMPLE)
    del data["maybe"]
    assert refusal(Everything, data) == "Everything lacks maybe"


def test_only_the_first_unknown_members_are_shown() -> None:
    message = refusal_of(**{f"unknown_{index:03}": 0 for index in range(500)})
    assert "'unknown_004'" in message
    assert "'unknown_005'" not in message


# Text that is no strict JSON


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "NaN is not a JSON number"),
        ('{"a": [Infinity]}', "Infinity is not a JSON number"),
        ("-Infinity", "-Infinity is not a JSON number"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "member 'c' occurs twice in one object"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 100_000, "digits"),
        ('{"a": 1', "delimiter"),
        ("", "Expecting value"),
        (b"\xff\xfe\xfd", "decode"),
    ],
)
def test_text_that_is_not_strict_json_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(BadInputError, match=f"^not valid JSON: .*{reason}"):
        loads(text)


def test_a_number_too_large_for_a_float_is_refused_where_it_stands() -> None:
    assert refusal(Circle, loads('{"radius": 1e999}')) == "Circle.radius must be a finite number, not inf"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(dataclasses.replace(EXAMPLE, numbers=(1.0, number)))
