import dataclasses
import enum
from dataclasses import dataclass
from typing import Literal, TypeVar

import pytest
from bench_builders import (
    make_conditions,
    make_configuration,
    make_contention,
    make_energy,
    make_epoch,
    make_failure,
    make_machine,
    make_measurement,
    make_record,
    make_run,
    make_settings,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.coding import LATER, MAX_INTEGER, dumps, from_json, loads
from bench.errors import BadInputError
from bench.records import Configuration, Header, Measurement, Settings, TrialRecord
from bench.storage.canonical import CanonicalReader, Shared


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "deep blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: float
    y: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    name: str
    flag: bool
    colour: Colour
    size: Literal["small", "large", 1]
    origin: Point
    number: float | None
    label: Label | None
    points: tuple[Point, ...]
    numbers: tuple[float, ...]
    shape: Point | Label
    maybe_shape: Point | Label | None
    last: int


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-10, 10)
whole = st.integers(-MAX_INTEGER, MAX_INTEGER) | st.integers(-9, 99)
texts = st.text() | st.text("abc []{}:,\"\\'/é", max_size=5)
points = st.builds(Point, x=numbers, y=st.none() | whole)


def is_plain(number: float) -> bool:
    return number == 0 or abs(number) > 1e-99  # a smaller one's exponent has three digits


plain_points = st.builds(
    Point, x=st.floats(-1e15, 1e15).filter(is_plain), y=st.none() | st.integers(-(10**18) + 1, 10**18 - 1)
)
labels = st.builds(Label, text=st.none() | texts)
drawings = st.builds(
    Drawing,
    name=texts,
    flag=st.booleans(),
    colour=st.sampled_from(Colour),
    size=st.sampled_from(("small", "large", 1)),
    origin=points,
    number=st.none() | numbers,
    label=st.none() | labels,
    points=st.lists(points, max_size=3).map(tuple),
    numbers=st.lists(numbers, max_size=3).map(tuple),
    shape=points | labels,
    maybe_shape=st.none() | points | labels,
    last=whole,
)

DRAWING = Drawing(
    name="a",
    flag=True,
    colour=Colour.BLUE,
    size="large",
    origin=Point(x=0.5, y=None),
    number=None,
    label=Label(text=""),
    points=(Point(x=1.0, y=1), Point(x=-2.5e-07, y=2)),
    numbers=(1.0, 2.0),
    shape=Label(text=None),
    maybe_shape=Point(x=3.0, y=0),
    last=7,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growing:
    first: int
    number: float | None = dataclasses.field(default=None, metadata=LATER)
    words: tuple[str, ...] | None = dataclasses.field(default=None, metadata=LATER)
    text: str = dataclasses.field(default="", metadata=LATER)
    point: Point | None = dataclasses.field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Garden:
    plants: tuple[Growing, ...]
    gate: Growing | Label


growing = st.builds(
    Growing,
    first=whole,
    number=st.none() | numbers,
    words=st.none() | st.lists(texts, max_size=2).map(tuple),
    text=texts,
    point=st.none() | points,
)
gardens = st.builds(Garden, plants=st.lists(growing, max_size=3).map(tuple), gate=growing | labels)
GARDEN = Garden(
    plants=(
        Growing(first=1),
        Growing(first=2, number=0.5, words=("a", "b"), text="c", point=Point(x=1.0, y=None)),
        Growing(first=3, words=()),
    ),
    gate=Growing(first=4, text="d"),
)

LAST = "last"

DRAWINGS = CanonicalReader(Drawing, {})
GARDENS = CanonicalReader(Garden, {})
RECORDS = CanonicalReader(TrialRecord, {Configuration: {}, Settings: {}})
HEADERS = CanonicalReader(Header, {Configuration: {}})
HEADER_TEXT = dumps(make_run((make_configuration(), make_configuration(batch_size=7))).header)
RECORD_TEXTS = tuple(
    dumps(record)
    for record in (
        make_record(),
        make_record(repeat=1, outcome=make_failure()),
        make_record(
            outcome=make_measurement(
                epochs=(
                    make_epoch(),
                    make_epoch(device_conditions=make_conditions(), contention=make_contention(load_average=0.5)),
                    make_epoch(device_conditions=make_conditions(clock_reasons=None)),
                ),
                energy=make_energy(),
            )
        ),
        make_record(make_configuration(), outcome=make_measurement(energy_reason="none")),
    )
)

# What a mutation puts into a text: what JSON gives a meaning, what it forbids, and whole numbers and members.
PIECES = (
    *'{}[]",:\\ \n\t\0-+.eE0159',
    *("null", "true", "NaN", "Infinity", "1e999", "1e-999", "-0", "-0.0", "01", "1.", ".5", "9" * 19, "9" * 400),
    *('"epochs":[', '"wall_seconds":1.5,', '"type":"Failure",', '"kind":"crash"', "[]", "{}", "{},", "é", "\\u0041"),
    *('"test_loss":0.5,', '"repeat":0', '"threads":2,', '"x":1,', "٣", "1_0"),
)


T = TypeVar("T")


def read_exactly(kind: type[T], text: str) -> T | None:
    try:
        return from_json(kind, loads(text))
    except BadInputError:
        return None


def require_agreement(reader: CanonicalReader[T], kind: type[T], text: str) -> None:
    """What the reader takes, the exact way takes as the same, down to types and signs of zeros."""
    read = reader.read(text)
    if read is not None:
        exact = read_exactly(kind, text)
        assert read == exact
        assert dumps(read) == dumps(exact)
        assert repr(read) == repr(exact)


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[str]) -> str:
    """A text with parts of it removed, doubled, or replaced by pieces that mean something in JSON."""
    text = draw(originals)
    for _ in range(draw(st.integers(1, 3))):
        start, taken, goal = (draw(st.integers(0, len(text))) for _ in range(3))
        length = draw(st.integers(0, 3) | st.integers(0, 60))
        piece = draw(st.sampled_from(PIECES) | st.just(text[taken : taken + length]))
        text = draw(
            st.sampled_from(
                [text[:start] + piece + text[start + length :], text[:goal] + piece + text[goal:], text[:start]]
            )
        )
    return text


# The same as the exact way, or nothing


@given(drawings)
def test_what_is_written_reads_as_in_the_exact_way_or_not_at_all(drawing: Drawing) -> None:
    require_agreement(DRAWINGS, Drawing, dumps(drawing))


@settings(max_examples=1000)
@given(mutated(drawings.map(dumps) | st.just(dumps(DRAWING))))
def test_a_changed_text_reads_as_in_the_exact_way_or_not_at_all(text: str) -> None:
    require_agreement(DRAWINGS, Drawing, text)


@given(gardens)
def test_members_that_may_be_missing_read_as_in_the_exact_way_or_not_at_all(garden: Garden) -> None:
    require_agreement(GARDENS, Garden, dumps(garden))


@settings(max_examples=1000)
@given(mutated(gardens.map(dumps) | st.just(dumps(GARDEN))))
def test_a_changed_text_with_members_missing_reads_as_in_the_exact_way_or_not_at_all(text: str) -> None:
    require_agreement(GARDENS, Garden, text)


@settings(max_examples=1000)
@given(mutated(st.sampled_from(RECORD_TEXTS)))
def test_a_changed_record_reads_as_in_the_exact_way_or_not_at_all(text: str) -> None:
    require_agreement(RECORDS, TrialRecord, text)


@settings(max_examples=1000)
@given(mutated(st.just(HEADER_TEXT)))
def test_a_changed_header_reads_as_in_the_exact_way_or_not_at_all(text: str) -> None:
    require_agreement(HEADERS, Header, text)


@pytest.mark.parametrize("text", RECORD_TEXTS)
def test_no_character_of_a_record_can_be_left_out_or_changed_unseen(text: str) -> None:
    for place in range(len(text)):
        for piece in ("", "0", ",", '"', "}", "]"):
            require_agreement(RECORDS, TrialRecord, text[:place] + piece + text[place + 1 :])


@pytest.mark.parametrize(
    ("written", "changed"),
    [
        ('"x":0.5', '"x":1e999'),
        ('"x":0.5', '"x":1.5e999'),
        ('"x":0.5', '"x":' + "9" * 400 + ".5"),
        ('"x":0.5', '"x":NaN'),
        ('"x":0.5', '"x":-Infinity'),
        ('"x":0.5', '"x":00.5'),
        ('"x":0.5', '"x":.5'),
        ('"x":0.5', '"x":0.'),
        ('"x":0.5', '"x":0.5e'),
        ('"x":0.5', '"x":+0.5'),
        ('"x":0.5', '"x":0_0.5'),
        ('"x":0.5', '"x":"0.5"'),
        ('"x":0.5', '"x":null'),
        ('"x":0.5,"y":null', '"x":0.5,"x":0.5,"y":null'),
        ('"x":0.5,"y":null', '"x":0.5,"y":null,"z":1'),
        ('"x":0.5,"y":null', '"x":0.5'),
        ('"last":7', '"last":7.0'),
        ('"last":7', '"last":true'),
        ('"last":7', '"last":07'),
        ('"last":7', '"last":\u0667'),
        ('"last":7', '"last":9223372036854775808'),
        ('"last":7', '"last":' + "9" * 5000),
        ('"flag":true', '"flag":1'),
        ('"flag":true', '"flag":null'),
        ('"name":"a"', '"name":"\n"'),
        ('"name":"a"', '"name":"\\"'),
        ('"name":"a"', '"name":null'),
        ('"deep blue"', '"green"'),
        ('"numbers":[1.0,2.0]', '"numbers":[1.0,]'),
        ('"numbers":[1.0,2.0]', '"numbers":[1.0,NaN]'),
        ('"numbers":[1.0,2.0]', '"numbers":{}'),
        ('"points":[{', '"points":[,{'),
        ('"y":2}]', '"y":2},]'),
        ('"y":1},{', '"y":1}{'),
        ('"y":1},{', '"y":1},x{'),
        ('"type":"Label"', '"type":"Point"'),
        ('"type":"Label",', ""),
    ],
)
def test_what_the_exact_way_refuses_is_never_read(written: str, changed: str) -> None:
    text = dumps(DRAWING)
    assert DRAWINGS.read(text) == DRAWING
    assert text.count(written) == 1
    text = text.replace(written, changed)
    assert read_exactly(Drawing, text) is None
    assert DRAWINGS.read(text) is None


# What it is for


@given(
    st.builds(
        dataclasses.replace, st.just(DRAWING), origin=plain_points, points=st.lists(plain_points, min_size=1).map(tuple)
    )
)
def test_plain_text_is_read(drawing: Drawing) -> None:
    assert DRAWINGS.read(dumps(drawing)) == drawing


def test_members_that_may_be_missing_are_read_where_they_stand_and_have_their_defaults_elsewhere() -> None:
    text = dumps(GARDEN)
    assert '{"first":1}' in text
    assert '{"first":3,"words":[]}' in text
    assert GARDENS.read(text) == GARDEN
    explicit = text.replace('{"first":1}', '{"first":1,"number":null,"words":null}')
    assert explicit != text
    assert GARDENS.read(explicit) == GARDEN


@pytest.mark.parametrize("text", RECORD_TEXTS)
def test_records_as_they_are_stored_are_read(text: str) -> None:
    assert RECORDS.read(text) == read_exactly(TrialRecord, text)


def test_what_is_read_is_of_the_very_types() -> None:
    read = DRAWINGS.read(dumps(DRAWING))
    assert read is not None
    assert (type(read), type(read.origin), type(read.points[0])) == (Drawing, Point, Point)
    assert hash(read) == hash(DRAWING)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(read, LAST, 8)


def test_equal_texts_of_a_shared_type_become_one_object() -> None:
    configuration = make_configuration()
    shared: Shared = {Configuration: {dumps(configuration): configuration}, Settings: {}}
    reader = CanonicalReader(TrialRecord, shared)
    first, second = (reader.read(dumps(make_record(repeat=repeat))) for repeat in range(2))
    other = reader.read(dumps(make_record(make_configuration(batch_size=7))))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.trial.configuration is second.trial.configuration is configuration
    assert other.trial.configuration == make_configuration(batch_size=7)
    assert isinstance(first.outcome, Measurement)
    assert isinstance(second.outcome, Measurement)
    assert first.outcome.settings is second.outcome.settings
    assert first.outcome.settings == make_settings()


def test_items_of_a_list_of_a_shared_type_are_entered_by_their_text() -> None:
    run = make_run((make_configuration(), make_configuration(batch_size=7)))
    stored = dataclasses.replace(run.header, machine=make_machine(accelerators=()))
    texts: dict[str, object] = {}
    header = CanonicalReader(Header, {Configuration: texts}).read(dumps(stored))
    assert header == stored
    assert list(texts) == [dumps(configuration) for configuration in run.header.plan.configurations]
    assert all(ours is theirs for ours, theirs in zip(texts.values(), header.plan.configurations, strict=True))


def test_a_record_of_another_order_or_with_space_is_left_to_the_exact_way() -> None:
    text = dumps(DRAWING)
    assert DRAWINGS.read(text.replace('"x":0.5,"y":null', '"y":null,"x":0.5')) is None
    assert DRAWINGS.read(text.replace('"last":7', '"last": 7')) is None
    assert DRAWINGS.read(text.replace('"y":1},{', '"y":1} ,{')) is None
    assert DRAWINGS.read(text + "\n") is None


def test_a_shared_part_that_is_wrong_is_left_to_the_exact_way() -> None:
    text = dumps(make_record(outcome=make_measurement()))
    for written, changed in [
        ('"threads":2,"float32', '"threads":2,"threads":2,"float32'),
        ('"workers":0', '"workers":false'),
    ]:
        assert written in text
        assert RECORDS.read(text.replace(written, changed)) is None
        assert RECORDS.read(text) is not None
