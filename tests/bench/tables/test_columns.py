import unicodedata

import pytest
from bench_builders import make_configuration, make_epochs, make_failure, make_measurement, make_record
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BadInputError
from bench.tables.columns import (
    COLUMNS,
    MAX_CELL_CHARACTERS,
    RANK_MEANINGS,
    cost_columns,
    default_columns,
    find_columns,
    harmless,
)
from bench.tables.fields import FIELDS, QUANTITIES
from bench.tables.prices import parse_prices
from bench.tables.summary import summarise


@pytest.mark.parametrize(
    ("key", "values", "text"),
    [
        ("epoch_seconds", (2.0, 1.9, 2.2, 3), "2.00 s ±7.5 %"),
        ("epoch_seconds", (2.0, 2.0, 2.0, 1), "2.00 s"),
        ("epoch_seconds", (2.0, 2.0, 2.0, 2), "2.00 s ±0.0 %"),
        ("epoch_seconds", (None, None, None, None), ""),
        ("test_accuracy", (0.978, 0.977, 0.981, 3), "97.80 % ±0.20"),
        ("test_accuracy", (0.978, 0.978, 0.978, 1), "97.80 %"),
        ("host_peak_bytes", (2.0**20, 2.0**20, 2.0**21, 2), "1.00 MiB ±50 %"),
        ("host_peak_bytes", (0.0, 0.0, 0.0, 2), "0 B"),
        ("test_loss", (0.0875, 0.0875, 0.0875, 1), "0.0875"),
        ("throughput_per_second", (73_400.0, 70_000.0, 75_000.0, 3), "73.4k/s ±3.4 %"),
        ("throughput_per_second_median", (73_400.0,), "73.4k/s"),
        ("epoch_seconds_n", (3,), "3"),
        ("test_accuracy_mean_interval", (0.98, 0.002, 4), "98.00 % (97.68 % to 98.32 %)"),
        ("test_accuracy_mean_interval", (0.98, None, 1), "98.00 %"),
        ("test_accuracy_mean_interval", (None, None, None), ""),
        ("training_seconds_mean_interval", (2.0, 0.0, 3), "2.00 s (2.00 s to 2.00 s)"),
        ("host_peak_bytes_mean_interval", (2.0**20, 2.0**20, 2), "1.00 MiB (-7.98 MiB to 9.98 MiB)"),
        ("n", (3, 0), "3"),
        ("n", (2, 1), "2+1 failed"),
        ("n", (0, 3), "0+3 failed"),
        ("shuffle", (True,), "true"),
        ("shuffle", (False,), "false"),
        ("width", (None,), ""),
        ("model", ("x" * 99,), "x" * (MAX_CELL_CHARACTERS - 1) + "…"),
        ("model", ("784-128-128-10",), "784-128-128-10"),
        ("model", ("784-" + 14 * "128-" + "64-10",), "784-14x128-64-10"),
        ("layers", ("784-" + 12 * "128-" + "10",), "784-12x128-10"),
    ],
)
def test_a_cell_shows_its_values(key: str, values: tuple[str | float | None, ...], text: str) -> None:
    assert COLUMNS[key].cell(values) == text


def test_a_cell_is_made_of_nothing_but_its_fields() -> None:
    (summary,) = summarise([make_record(repeat=0), make_record(repeat=1, outcome=make_failure())])
    for column in COLUMNS.values():
        assert column.text(summary) == column.cell([field.value(summary) for field in column.fields])


def test_every_field_and_every_quantity_is_a_column() -> None:
    assert set(COLUMNS) == {*FIELDS, *QUANTITIES, *(f"{quantity}_mean_interval" for quantity in QUANTITIES)}
    assert all(column.key == key for key, column in COLUMNS.items())


def test_default_columns_hold_a_dimension_only_where_it_varies() -> None:
    one, other = make_configuration(threads=1), make_configuration(threads=2)
    metrics = ["epoch_seconds", "throughput_per_second_median", "peak_memory_bytes", "test_accuracy", "n"]
    same = default_columns(summarise([make_record(one)]))
    assert [column.key for column in same] == ["device", "model", "batch_size", *metrics]
    varied = default_columns(summarise([make_record(one), make_record(other)]))
    assert [column.key for column in varied] == ["device", "model", "batch_size", "threads", *metrics]


def test_default_columns_hold_those_of_ranks_where_any_has_a_value() -> None:
    one, two = (make_record(make_configuration(world_size=size)) for size in (1, 2))
    of_ranks = {key for key in RANK_MEANINGS if key != "exchange_share"}  # these trials did not measure it
    shown = {column.key for column in default_columns(summarise([one, two]))}
    assert shown & set(RANK_MEANINGS) == of_ranks - {"weak_efficiency"}  # no trial of half the batch size
    assert not {column.key for column in default_columns(summarise([one]))} & set(RANK_MEANINGS)


def test_a_column_named_twice_is_shown_once() -> None:
    assert [column.key for column in find_columns(["n", "model", "n"])] == ["n", "model"]


def test_an_unknown_column_is_answered_with_the_nearest_and_the_list() -> None:
    with pytest.raises(BadInputError, match=r"'epoch_second' is unknown \(did you mean 'epoch_seconds'\?\)") as caught:
        find_columns(["model", "epoch_second"])
    for expected in ("device", "throughput_per_second", "peak_memory_bytes", "_standard_deviation"):
        assert expected in str(caught.value)


def test_a_hostile_column_name_does_not_reach_the_terminal() -> None:
    with pytest.raises(BadInputError, match=r"column '\?\[2Jqqq' is unknown: choose from"):
        find_columns(["\x1b[2Jqqq"])


def test_naming_no_column_is_refused() -> None:
    with pytest.raises(BadInputError, match="no column is named: choose from device"):
        find_columns([])


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 50))
def test_harmless_text_is_one_short_printable_line(text: str, limit: int) -> None:
    kept = harmless(text, limit)
    assert len(kept) <= limit
    assert len(kept.splitlines()) <= 1
    assert not any(unicodedata.category(letter).startswith("C") for letter in kept)
    kept.encode()


def test_harmless_text_is_left_alone() -> None:
    assert harmless("784-512-256-10 µ±é", 18) == "784-512-256-10 µ±é"
    assert harmless("a\nb\tc\x1b[31m\u202e", 20) == "a b c?[31m?"


def test_an_unmeasured_quantity_is_an_empty_cell() -> None:
    (summary,) = summarise([make_record(outcome=make_measurement(host_peak=None))])
    assert COLUMNS["host_peak_bytes"].text(summary) == ""
    assert COLUMNS["peak_memory_bytes"].text(summary) == ""


def test_costs_are_the_price_of_the_epoch_and_of_the_training_to_98_percent() -> None:
    seconds = make_measurement(epochs=make_epochs([2.0, 4.0, 2.0], [9_700, 9_800, 9_900]))
    never = make_measurement(epochs=make_epochs([2.0], [9_799]))
    records = [make_record(outcome=seconds), make_record(repeat=1, outcome=never)]
    epoch, to_98 = cost_columns(parse_prices("3.6"))
    (both,) = summarise(records)
    assert (epoch.text(both), to_98.text(both)) == ("0.00200", "0.00600 (1 of 2)")
    assert [field.value(both) for field in to_98.fields] == [pytest.approx(0.006), 1, 2]
    (reached,) = summarise(records[:1])
    assert to_98.text(reached) == "0.00600"
    (neither,) = summarise(records[1:])
    assert to_98.text(neither) == ""


def test_an_epoch_costs_the_median_of_the_trials() -> None:
    records = [
        make_record(repeat=repeat, outcome=make_measurement(epochs=make_epochs([seconds], [9_700])))
        for repeat, seconds in enumerate((1.0, 2.0, 9.0))
    ]
    epoch, _ = cost_columns(parse_prices("3.6"))
    assert [epoch.text(each) for each in summarise(records)] == ["0.00200"]


@pytest.mark.parametrize(("device", "devices"), [("cuda", 4), ("cpu", 1)])
def test_each_accelerator_that_takes_part_is_paid_and_the_cpu_once(device: str, devices: int) -> None:
    (cost, per_hour), _ = (column.fields for column in cost_columns(parse_prices("3.6")))
    alone, together = summarise([make_record(make_configuration(device=device, world_size=n)) for n in (1, 4)])
    assert (per_hour.value(alone), per_hour.value(together)) == (3.6, 3.6 * devices)
    assert (cost.value(alone), cost.value(together)) == (0.002125, 0.002125 * devices)


def test_a_device_without_a_price_and_a_failed_configuration_have_no_cost() -> None:
    rows = (*summarise([make_record()]), *summarise([make_record(outcome=make_failure())]))
    for summary, text in zip(rows, ("cuda=1", "1"), strict=True):
        assert [column.text(summary) for column in cost_columns(parse_prices(text))] == ["", ""]


def test_texts_that_differ_only_in_what_would_be_cut_off_are_whole() -> None:
    lists = ["-".join(map(str, (*range(784, 770, -1), last, 10))) for last in (100, 200)]
    long, short = "x" * 99, "mlp_128"
    records = [make_record(make_configuration(model=model)) for model in (*lists, long, short)]
    summaries = summarise([*records, make_record(make_configuration(model=lists[0], batch_size=256))])
    assert COLUMNS["model"].texts(summaries) == [lists[0], lists[0], lists[1], short, COLUMNS["model"].cell([long])]
    assert [COLUMNS["model"].text(each) for each in summaries[:2]] == COLUMNS["model"].texts(summaries[:2])
