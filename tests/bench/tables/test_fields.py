import dataclasses
import types
import typing
from functools import cached_property

from bench_builders import (
    make_configuration,
    make_energy,
    make_epochs,
    make_exchange,
    make_failure,
    make_measurement,
    make_record,
)
from hypothesis import given
from hypothesis import strategies as st

from bench.planning.dimensions import DIMENSIONS, IDENTITY
from bench.records import Configuration, FailureKind, Peak, TrialWarning
from bench.storage.table import Value
from bench.tables.fields import FIELDS, QUANTITIES, STATISTICS, hidden_dimensions
from bench.tables.summary import Sample, Summary, summarise


def summaries_of(*configurations: Configuration) -> tuple[Summary, ...]:
    return summarise(map(make_record, configurations))


def value(summary: Summary, key: str) -> Value:
    return FIELDS[key].value(summary)


def test_every_dimension_of_a_configuration_is_a_field() -> None:
    names = {field.name for field in dataclasses.fields(Configuration)}
    assert names <= set(FIELDS)
    assert {*IDENTITY, *DIMENSIONS} == names | {"width"}


def test_every_sample_of_a_summary_is_a_quantity_with_every_statistic() -> None:
    members = {name: member.func for name, member in vars(Summary).items() if isinstance(member, cached_property)}
    hints = {name: typing.get_type_hints(member)["return"] for name, member in members.items()}
    samples = {name for name, hint in hints.items() if hint == Sample | types.NoneType}
    assert samples == set(QUANTITIES)
    assert set(STATISTICS) == {field.name for field in dataclasses.fields(Sample)}
    assert {f"{quantity}_{statistic}" for quantity in QUANTITIES for statistic in STATISTICS} <= set(FIELDS)


def test_numeric_fields_hold_numbers_and_the_others_texts_or_flags() -> None:
    measurement = make_measurement(
        device_allocated_peak=Peak(bytes=1, method="m"),
        device_reserved_peak=Peak(bytes=2, method="m"),
        energy=make_energy(),
    )
    alone, together = make_configuration(batch_size=64), make_configuration(batch_size=64, world_size=2)
    each = make_configuration(batch_size=32)
    exchanging = dataclasses.replace(measurement, exchange=make_exchange())
    records = [make_record(alone, repeat=repeat, outcome=measurement) for repeat in range(2)]
    records += [make_record(each, repeat=repeat, outcome=measurement) for repeat in range(2)]
    records += [make_record(together, repeat=repeat, outcome=exchanging) for repeat in range(2)]
    *_, summary = summarise(records, lambda _: 1e12)
    assert summary.configuration == together
    for key, field in FIELDS.items():
        held = field.value(summary)
        assert (isinstance(held, int | float) and not isinstance(held, bool)) == field.numeric, key


def test_energy_is_shown_per_epoch_and_per_joule_and_empty_if_unmeasured() -> None:
    (measured,) = summarise([make_record(outcome=make_measurement(energy=make_energy(joules=480.0)))])
    assert value(measured, "joules_per_epoch_median") == 160.0
    assert value(measured, "samples_per_joule_median") == 375.0
    (unmeasured,) = summarise([make_record(outcome=make_measurement(energy_reason="no counter"))])
    assert value(unmeasured, "joules_per_epoch_median") is None
    assert value(unmeasured, "samples_per_joule_median") is None


def test_raw_values_are_not_rounded() -> None:
    (summary,) = summarise([make_record(outcome=make_measurement(cold_start_seconds=1 / 3))])
    assert value(summary, "cold_start_seconds_median") == 1 / 3
    assert value(summary, "cold_start_seconds_standard_deviation") is None
    assert value(summary, "seconds_to_98_percent_n") == 1
    assert value(summary, "device_allocated_peak_bytes_median") is None
    assert value(summary, "layers") == "784-128-10"


def test_peak_memory_is_the_hosts_on_the_cpu_and_the_devices_elsewhere() -> None:
    both = make_measurement(
        host_peak=Peak(bytes=100, method="VmHWM"), device_allocated_peak=Peak(bytes=7, method="allocator")
    )
    host_only = make_measurement(host_peak=Peak(bytes=100, method="VmHWM"))
    accelerated = make_configuration(device="cuda")
    cases = [(make_configuration(), both, 100), (accelerated, both, 7), (accelerated, host_only, None)]
    for configuration, measurement, expected in cases:
        (summary,) = summarise([make_record(configuration, outcome=measurement)])
        assert value(summary, "peak_memory_bytes") == expected


def test_failures_are_counted_and_their_kinds_named_once() -> None:
    kinds = [FailureKind.TIMEOUT, FailureKind.CRASH, FailureKind.TIMEOUT]
    records = [make_record(repeat=repeat, outcome=make_failure(kind)) for repeat, kind in enumerate(kinds)]
    (summary,) = summarise(records)
    assert (value(summary, "n"), value(summary, "failures")) == (0, 3)
    assert value(summary, "failure_kinds") == "crash timeout"


def test_a_dimension_that_varies_is_hidden_unless_shown() -> None:
    rows = summaries_of(make_configuration(threads=1), make_configuration(threads=2, engine="fused"))
    assert hidden_dimensions(rows, IDENTITY) == ("engine", "threads")
    assert hidden_dimensions(rows, (*IDENTITY, "threads")) == ("engine",)


def test_dimension_that_follows_from_the_models_name_is_not_hidden() -> None:
    rows = summaries_of(
        make_configuration(model="mlp_128", layers=(784, 128, 10), learning_rate=0.1, transform="unit"),
        make_configuration(model="mlp_100_100", layers=(784, 100, 100, 10), learning_rate=0.2, transform="half"),
    )
    assert hidden_dimensions(rows, IDENTITY) == ()


def test_dimension_that_differs_within_one_model_is_hidden() -> None:
    rows = summaries_of(make_configuration(learning_rate=0.1), make_configuration(learning_rate=0.2))
    assert hidden_dimensions(rows, IDENTITY) == ("learning_rate",)


def test_layers_are_hidden_only_where_model_and_width_do_not_tell_them() -> None:
    wide = make_configuration(model="m", layers=(784, 256, 10))
    deep = make_configuration(model="m", layers=(784, 256, 256, 10))
    assert hidden_dimensions(summaries_of(wide, make_configuration(model="m")), IDENTITY) == ("width",)
    assert hidden_dimensions(summaries_of(wide, deep), IDENTITY) == ("layers",)


def test_workers_follow_from_the_pipeline_unless_one_pipeline_has_several_counts() -> None:
    resident = make_configuration()
    loading = make_configuration(pipeline="dataloader", workers=2)
    more = make_configuration(pipeline="dataloader", workers=4)
    assert hidden_dimensions(summaries_of(resident, loading), IDENTITY) == ("pipeline",)
    assert hidden_dimensions(summaries_of(resident, loading, more), IDENTITY) == ("pipeline", "workers")


@given(
    st.lists(
        st.builds(
            make_configuration,
            device=st.sampled_from(["cpu", "cuda"]),
            model=st.sampled_from(["a", "b"]),
            layers=st.sampled_from([(784, 8, 10), (784, 9, 10), (784, 8, 8, 10), (784, 10)]),
            batch_size=st.sampled_from([16, 64]),
            threads=st.sampled_from([1, 2]),
            pipeline=st.sampled_from(["resident", "dataloader"]),
            workers=st.sampled_from([0, 2]),
            shuffle=st.booleans(),
            learning_rate=st.sampled_from([0.1, 0.2]),
        ),
        min_size=1,
        max_size=8,
        unique=True,
    )
)
def test_rows_that_differ_always_differ_in_a_shown_column(configurations: list[Configuration]) -> None:
    rows = summaries_of(*configurations)
    shown = (*IDENTITY, *hidden_dimensions(rows, IDENTITY))
    assert len({tuple(value(row, key) for key in shown) for row in rows}) == len(rows)


def test_flagged_trials_are_a_count_and_the_epoch_time_without_them_a_value() -> None:
    slow = make_measurement(epochs=make_epochs([9.0], [9_725]))
    records = [make_record(), make_record(repeat=1, outcome=slow, warnings=(TrialWarning.STALL,))]
    (summary,) = summarise(records)
    assert (value(summary, "flagged"), value(summary, "unflagged_epoch_seconds")) == (1, 2.125)
    (summary,) = summarise(records[1:])
    assert (value(summary, "flagged"), value(summary, "unflagged_epoch_seconds")) == (1, None)
