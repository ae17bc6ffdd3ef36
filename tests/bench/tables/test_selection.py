import itertools

import pytest
from bench_builders import make_configuration, make_epochs, make_measurement, make_record, make_run
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BadInputError
from bench.records import Peak
from bench.tables.columns import COLUMNS
from bench.tables.selection import select
from bench.tables.show import render_run
from bench.tables.summary import Summary, summarise
from mnist_mlp.recipes import layers_text


def trained(device: str, batch_size: int, seconds: float, *, host_bytes: int | None = None) -> Summary:
    measurement = make_measurement(
        epochs=make_epochs((seconds,), (9_700,)),
        host_peak=None if host_bytes is None else Peak(bytes=host_bytes, method="VmHWM"),
    )
    configuration = make_configuration(device=device, batch_size=batch_size, shuffle=batch_size > 64)
    (summary,) = summarise([make_record(configuration, outcome=measurement)])
    return summary


ROWS = (
    trained("cpu", 64, 4.0, host_bytes=100),
    trained("cpu", 256, 2.0),
    trained("cuda:10", 64, 1.0),
    trained("cuda:2", 1024, 2.0, host_bytes=300),
)


def places(*, filters: tuple[str, ...] = (), sort: tuple[str, ...] = ()) -> list[int]:
    """Where in `ROWS` the selected rows stand."""
    return [ROWS.index(row) for row in select(ROWS, filters=filters, sort=sort)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch_size>=256", [1, 3]),
        ("batch_size > 256", [3]),
        ("batch_size<256", [0, 2]),
        ("batch_size<=256", [0, 1, 2]),
        ("batch_size=64", [0, 2]),
        ("batch_size!=64", [1, 3]),
        ("epoch_seconds=2", [1, 3]),
        ("epoch_seconds_median<1.5", [2]),
        ("device=cpu", [0, 1]),
        (" device = cpu ", [0, 1]),
        ("device!=cpu", [2, 3]),
        ("device~uda", [2, 3]),
        ("device~", [0, 1, 2, 3]),
        ("device=cpu>gpu", []),
        ("shuffle=true", [1, 3]),
        ("shuffle!=true", [0, 2]),
        ("n=1", [0, 1, 2, 3]),
        ("warnings~few", [0, 1, 2, 3]),
        ("host_peak_bytes>0", [0, 3]),
        ("host_peak_bytes<=100", [0]),
        ("host_peak_bytes!=100", [1, 2, 3]),
        ("epoch_seconds<inf", [0, 1, 2, 3]),
        ("batch_size=64,256", [0, 1, 2]),
        ("batch_size = 64 , 1024", [0, 2, 3]),
        ("batch_size!=64,256", [3]),
        ("host_peak_bytes!=100,200", [1, 2, 3]),
        ("device=cpu,mps", [0, 1]),
        ("device=cpu, cuda:2", [0, 1, 3]),
        ("device!=cpu, mps", [2, 3]),
        ("device~cpu,cuda", []),
    ],
)
def test_a_filter_keeps_the_rows_that_meet_it(text: str, expected: list[int]) -> None:
    assert places(filters=(text,)) == expected


def test_rows_must_meet_every_filter() -> None:
    assert places(filters=("device~cuda", "batch_size=64")) == [2]
    assert places() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("batch_size", "is not a column, one of = != < <= > >= ~, and a value: write it like batch_size>=256"),
        ("", "is not a column"),
        (">=3", "is not a column"),
        ("batch size=3", "is not a column"),
        ("batchsize=3", r"column 'batchsize' is unknown \(did you mean 'batch_size'\?\)"),
        (
            "batch_size=many",
            "'batch_size=many' compares a number: use = != < <= > >= and a plain number, like batch_size>=256",
        ),
        ("batch_size~6", "compares a number"),
        ("batch_size=64 and width>200", "like batch_size>=256; each condition needs a --filter of its own"),
        ("batch_size=64,256,", "compares a number"),
        ("batch_size=64,width=200", "compares a number"),
        ("batch_size>64,256", "like batch_size>=256; commas between values need = or !="),
        ("test_accuracy=0.9,97", "compares a fraction: write 0.97 or 97%"),
        ("epoch_seconds<100ms", "a plain number of seconds, like epoch_seconds>=0.5"),
        ("test_accuracy>97", "compares a fraction: write 0.97 or 97%"),
        ("test_accuracy>2", "compares a fraction: write 0.02 or 2%"),
        ("test_accuracy>x%", "from 0 to 1, or a percentage, like test_accuracy>=0.97"),
        ("epoch_seconds<nan", "compares a number"),
        ("batch_size>=", "compares a number"),
        ("device<cpu", "'device<cpu' orders text, which has no size: use device=…, device!=… or device~…"),
        ("device=cpu\x1b", None),
        ("\x1b[2J", r"filter '\?\[2J' is not a column"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused_with_the_rule(text: str, problem: str | None) -> None:
    if problem is None:
        assert places(filters=(text,)) == []
        return
    with pytest.raises(BadInputError, match=problem):
        places(filters=(text,))


def test_the_first_sort_key_is_foremost_and_ties_keep_their_order() -> None:
    assert places(sort=("epoch_seconds",)) == [2, 1, 3, 0]
    assert places(sort=("-epoch_seconds",)) == [0, 1, 3, 2]
    assert places(sort=("batch_size", "epoch_seconds")) == [2, 0, 1, 3]
    assert places(sort=("batch_size", "-epoch_seconds")) == [0, 2, 1, 3]


def test_numbers_in_texts_sort_by_size() -> None:
    assert places(sort=("-device",)) == [2, 3, 0, 1]


def test_flags_sort_false_first() -> None:
    assert places(sort=("shuffle",)) == [0, 2, 1, 3]


def test_unmeasured_values_come_last_in_both_directions() -> None:
    assert places(sort=("host_peak_bytes",)) == [0, 3, 1, 2]
    assert places(sort=("-host_peak_bytes",)) == [3, 0, 1, 2]


@pytest.mark.parametrize("key", ["batchsize", "--batch_size", ""])
def test_an_unknown_sort_key_is_refused(key: str) -> None:
    with pytest.raises(BadInputError, match="is unknown"):
        places(sort=(key,))


@given(st.text(max_size=20))
def test_any_text_is_a_filter_or_bad_input(text: str) -> None:
    try:
        kept = select(ROWS, filters=[text], sort=())
    except BadInputError:
        return
    assert set(kept) <= set(ROWS)


@given(st.sampled_from(["batch_size", "epoch_seconds"]), st.integers(0, 2000))
def test_opposite_filters_part_the_measured_rows(key: str, bound: int) -> None:
    for one, other in (("<", ">="), (">", "<="), ("=", "!=")):
        parts = [select(ROWS, filters=[f"{key}{sign}{bound}"], sort=()) for sign in (one, other)]
        assert sorted(map(ROWS.index, itertools.chain(*parts))) == [0, 1, 2, 3]


def test_fractions_are_filtered_by_percentages_too() -> None:
    summaries = summarise(make_run().records)
    assert len(select(summaries, filters=["test_accuracy>98%"], sort=[])) == 1
    assert len(select(summaries, filters=["test_accuracy>98.2%"], sort=[])) == 0


@given(st.integers(0, 10_000))
def test_a_row_is_found_by_the_accuracy_that_it_shows(correct: int) -> None:
    epochs = make_epochs((1.0,), (correct,))
    summaries = summarise([make_record(outcome=make_measurement(epochs=epochs))])
    shown = COLUMNS["test_accuracy"].text(summaries[0])
    for sign in ("=", ">=", "<="):
        assert select(summaries, filters=[f"test_accuracy{sign}{shown}"], sort=[])


@pytest.mark.parametrize("key", ["model", "layers"])
def test_long_layers_are_found_whole_and_as_they_are_shown(key: str) -> None:
    layers = (784, *[128] * 20, 10)
    deep = make_configuration(model=layers_text(layers), layers=layers)
    summaries = summarise([make_record(), make_record(deep)])
    for text in (layers_text(layers), "784-20x128-10"):
        assert [each.configuration for each in select(summaries, filters=[f"{key}={text}"], sort=[])] == [deep]
        assert deep not in [each.configuration for each in select(summaries, filters=[f"{key}!={text}"], sort=[])]


def test_filters_that_no_row_meets_are_reported_with_the_existing_values() -> None:
    chosen = [make_configuration(batch_size=size) for size in (64, 256)]
    run = make_run(chosen)
    shown = " ".join(render_run(run, filters=["batch_size=7"]).split())
    assert "no configuration to show: none of 2 configurations meets batch_size=7; batch_size is 64, 256" in shown


def test_an_empty_text_is_not_reported_as_unmeasured() -> None:
    shown = " ".join(render_run(make_run(), filters=["failure_kinds=timeout"]).split())
    assert shown.endswith("failure_kinds=timeout; failure_kinds is empty")


def test_a_name_with_a_comma_is_found_whole() -> None:
    records = [make_record(make_configuration(model=model)) for model in ("a,b", "a", "c")]
    chosen = select(summarise(records), filters=["model=a,b"], sort=[])
    assert [each.configuration.model for each in chosen] == ["a", "a,b"]


def test_a_share_above_one_is_no_percentage_but_two_is() -> None:
    run = make_run([make_configuration()])
    assert select(summarise(run.records), filters=["test_accuracy<1.5"], sort=[])
    with pytest.raises(BadInputError, match=r"write 0\.02 or 2%"):
        select(ROWS, filters=["test_accuracy<2"], sort=[])
    assert select(ROWS, filters=["test_accuracy<200%"], sort=[]) == ROWS  # nothing is unclear about it


def test_values_that_no_row_has_are_answered_with_the_first_that_rows_have() -> None:
    chosen = [make_configuration(batch_size=size) for size in range(1, 11)]
    for count, listed in ((10, "1, 2, 3, 4, 5, 6, 7, 8, …"), (8, "1, 2, 3, 4, 5, 6, 7, 8")):
        shown = " ".join(render_run(make_run(chosen[:count]), filters=["batch_size=99"]).split())
        assert shown.endswith(f"; batch_size is {listed}")
    shown = " ".join(render_run(make_run(chosen), filters=["joules_per_epoch=5"]).split())
    assert shown.endswith("; joules_per_epoch is unmeasured")
