import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence

import pytest
from bench_builders import (
    make_conditions,
    make_configuration,
    make_contention,
    make_energy,
    make_epoch,
    make_epochs,
    make_failure,
    make_measurement,
    make_record,
)
from hypothesis import given
from hypothesis import strategies as st

from bench.records import Contention, FailureKind, Measurement, Peak, Sample, Summary, TrialWarning
from bench.stats import (
    ADVICE,
    DISTURBED,
    MIN_TICKED_SECONDS,
    OTHER_CPU_SHARE,
    SLOW_FIRST_EPOCH_RATIO,
    SLOWING_DOWN_RATIO,
    SPREAD_RATIO,
    STALL_RATIO,
    STEAL_SHARE,
    THROTTLED_SHARE,
    WAITED_CPU_SHARE,
    is_flagged,
    natural_key,
    sample,
    summarise,
    trial_warnings,
    unmeasured_energy,
)

QUIET = make_configuration()
SECONDS = st.floats(min_value=1e-3, max_value=1e3)
JUST_OVER = 1.001


def measure(train_seconds: Sequence[float], contention: Contention | None = None) -> Measurement:
    """A measurement of epochs of `train_seconds`; undisturbed and with both threads busy unless told otherwise."""
    epochs = tuple(
        make_epoch(
            train_seconds=seconds,
            contention=contention
            or make_contention(process_cpu_seconds=2 * seconds, other_cpu_seconds=0.0, steal_seconds=0.0),
        )
        for seconds in train_seconds
    )
    return make_measurement(epochs=epochs)


def warn(train_seconds: Sequence[float]) -> set[TrialWarning]:
    return set(trial_warnings(measure(train_seconds), QUIET))


def summarise_times(times: Sequence[float]) -> Summary:
    (summary,) = summarise(make_record(QUIET, repeat, outcome=measure([time])) for repeat, time in enumerate(times))
    return summary


# --- sample


@given(st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=2, max_size=12))
def test_a_sample_agrees_with_the_statistics_module(values: list[float]) -> None:
    summed = sample(values)
    assert summed is not None
    assert (summed.n, summed.low, summed.high) == (len(values), min(values), max(values))
    assert summed.median == statistics.median(values)
    assert summed.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert summed.standard_deviation == pytest.approx(statistics.stdev(values), abs=1e-6)


def test_median_of_even_sample_is_midpoint() -> None:
    summed = sample([4.0, 1.0, 2.0, 3.0])
    assert summed is not None
    assert summed.standard_deviation == pytest.approx(math.sqrt(5 / 3), rel=1e-15)
    deviation = summed.standard_deviation
    assert summed == Sample(n=4, median=2.5, low=1.0, high=4.0, mean=2.5, standard_deviation=deviation)


@pytest.mark.parametrize("value", [0.1, 1e-300, 1e300])
def test_equal_values_have_themselves_for_a_mean_and_no_deviation(value: float) -> None:
    for n in (2, 3, 7):
        summed = sample([value] * n)
        assert summed is not None
        assert (summed.mean, summed.standard_deviation) == (value, 0)


def test_a_single_value_has_no_standard_deviation() -> None:
    assert sample([7]) == Sample(n=1, median=7.0, low=7.0, high=7.0, mean=7.0, standard_deviation=None)


def test_no_values_make_no_sample() -> None:
    assert sample([]) is None


@given(st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=1, max_size=6), st.randoms())
def test_a_sample_does_not_depend_on_order(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis types its random source as an object
    assert sample(shuffled) == sample(values)


@given(st.lists(SECONDS, min_size=2, max_size=8), st.sampled_from([2.0**-10, 0.5, 4.0, 1024.0]))
def test_relative_spread_does_not_depend_on_scale(values: list[float], factor: float) -> None:
    small, large = sample(values), sample([value * factor for value in values])
    assert small is not None
    assert large is not None
    assert small.standard_deviation is not None
    assert large.standard_deviation is not None
    assert large.standard_deviation / large.mean == pytest.approx(small.standard_deviation / small.mean)


@given(st.lists(SECONDS, min_size=1, max_size=8))
def test_location_lies_within_the_range(values: list[float]) -> None:
    summed = sample(values)
    assert summed is not None
    assert summed.low <= summed.median <= summed.high
    assert summed.low <= summed.mean <= summed.high


# --- order


def test_numbers_in_names_sort_by_size() -> None:
    names = ["784-1024-10", "784-128-10", "cuda:10", "cuda:2", "cuda", "mlp_128", "784-0128-10"]
    assert sorted(names, key=natural_key) == [
        "784-128-10",
        "784-0128-10",
        "784-1024-10",
        "cuda",
        "cuda:2",
        "cuda:10",
        "mlp_128",
    ]


@given(st.text(), st.text())
def test_every_pair_of_names_can_be_ordered(one: str, other: str) -> None:
    assert (natural_key(one) < natural_key(other)) + (natural_key(one) >= natural_key(other)) == 1


def test_configurations_sort_by_device_then_model_then_batch_size() -> None:
    wanted = [
        make_configuration(device="cpu", model="784-128-10", batch_size=64, threads=1),
        make_configuration(device="cpu", model="784-128-10", batch_size=64, threads=2),
        make_configuration(device="cpu", model="784-128-10", batch_size=512, threads=1),
        make_configuration(device="cpu", model="784-1024-10", layers=(784, 1024, 10), batch_size=64),
        make_configuration(device="cuda", model="784-128-10", batch_size=64),
    ]
    for order in itertools.permutations(wanted):
        assert [summary.configuration for summary in summarise(map(make_record, order))] == wanted


def test_a_summary_does_not_depend_on_the_order_of_records() -> None:
    other = make_configuration(batch_size=256)
    records = [
        make_record(QUIET, 0, outcome=measure([1.0]), warnings=(TrialWarning.STALL,)),
        make_record(QUIET, 1, outcome=measure([3.0]), warnings=(TrialWarning.CONTAMINATION,)),
        make_record(QUIET, 2, outcome=make_failure(FailureKind.TIMEOUT, "late")),
        make_record(QUIET, 3, outcome=make_failure(FailureKind.CRASH, "early")),
        make_record(other, 0, outcome=measure([2.0])),
    ]
    first = summarise(records)
    assert all(summarise(order) == first for order in itertools.permutations(records))
    assert [failure.message for failure in first[0].failures] == ["late", "early"]


def test_no_records_make_no_summaries() -> None:
    assert summarise([]) == ()


# --- quantities


def test_a_trial_counts_once_whatever_its_epochs() -> None:
    records = [make_record(QUIET, 0, outcome=measure([1.0] * 9)), make_record(QUIET, 1, outcome=measure([3.0]))]
    (summary,) = summarise(records)
    assert summary.epoch_seconds is not None
    assert (summary.n, summary.epoch_seconds.n, summary.epoch_seconds.median) == (2, 2, 2.0)


def test_every_quantity_is_summed_up_from_the_measurements() -> None:
    measurement = make_measurement(
        epochs=(
            make_epoch(train_seconds=2.0, test_correct=9_700, train_correct=30_000, test_loss=0.5),
            make_epoch(train_seconds=2.0, test_correct=9_690, train_correct=45_000, test_loss=0.25, train_loss=0.125),
        ),
        cold_start_seconds=0.5,
        host_peak=Peak(bytes=100, method="VmHWM"),
        device_allocated_peak=Peak(bytes=200, method="m"),
        device_reserved_peak=Peak(bytes=300, method="m"),
        energy=make_energy(joules=480.0),
    )
    (summary,) = summarise([make_record(QUIET, outcome=measurement)])
    medians = {
        field.name: value.median
        for field in dataclasses.fields(summary)
        if isinstance(value := getattr(summary, field.name), Sample)
    }
    assert medians == {
        "epoch_seconds": 2.0,
        "training_seconds": 4.0,
        "throughput_per_second": 30_000.0,
        "training_flops_per_second": 30_000.0 * measurement.training_flops_per_sample,
        "cold_start_seconds": 0.5,
        "host_peak_bytes": 100.0,
        "device_allocated_peak_bytes": 200.0,
        "device_reserved_peak_bytes": 300.0,
        "joules_per_epoch": 240.0,
        "samples_per_joule": 250.0,
        "train_loss": 0.125,
        "train_accuracy": 0.75,
        "test_accuracy": 0.969,
        "test_loss": 0.25,
        "seconds_to_97_percent": 2.0,
    }
    assert summary.seconds_to_98_percent is None


def test_time_to_accuracy_counts_only_the_trials_that_reached_it() -> None:
    reached = make_measurement(epochs=make_epochs((1.0, 1.0), (9_600, 9_800)))
    missed = make_measurement(epochs=make_epochs((1.0, 1.0), (9_600, 9_799)))
    (summary,) = summarise([make_record(QUIET, 0, outcome=reached), make_record(QUIET, 1, outcome=missed)])
    assert summary.seconds_to_98_percent == sample([2.0])
    assert summary.seconds_to_97_percent == sample([2.0, 2.0])


def test_what_was_not_measured_stays_none() -> None:
    epoch = make_epoch(train_correct=None, test_correct=None)
    measurement = make_measurement(epochs=(epoch,), host_peak=None)
    (summary,) = summarise([make_record(QUIET, outcome=measurement)])
    assert summary.host_peak_bytes is None
    assert summary.device_allocated_peak_bytes is None
    assert summary.joules_per_epoch is None
    assert summary.samples_per_joule is None
    assert summary.train_accuracy is None
    assert summary.test_accuracy is None
    assert summary.seconds_to_97_percent is None


def test_a_configuration_without_a_measured_trial_has_failures_only() -> None:
    failures = [make_failure(FailureKind.CRASH, "signal 9"), make_failure(FailureKind.TIMEOUT, "60 s")]
    (summary,) = summarise(make_record(QUIET, repeat, outcome=failure) for repeat, failure in enumerate(failures))
    assert (summary.n, summary.failures, summary.epoch_seconds) == (0, tuple(failures), None)
    assert summary.warnings == (TrialWarning.FEW_REPEATS,)


def test_a_rate_too_large_for_a_float_counts_as_unmeasured() -> None:
    (summary,) = summarise([make_record(QUIET, outcome=measure([1e-310]))])
    assert summary.throughput_per_second is None


# --- warnings of a configuration


def test_fewer_than_three_measured_trials_are_few() -> None:
    assert TrialWarning.FEW_REPEATS in summarise_times([1.0, 1.0]).warnings
    assert summarise_times([1.0, 1.0, 1.0]).warnings == ()


def test_spread_above_a_tenth_of_the_mean_is_warned_about() -> None:
    # For m - d, m, m + d the standard deviation is d.
    inside = summarise_times([1 - SPREAD_RATIO / JUST_OVER, 1.0, 1 + SPREAD_RATIO / JUST_OVER])
    outside = summarise_times([1 - SPREAD_RATIO * JUST_OVER, 1.0, 1 + SPREAD_RATIO * JUST_OVER])
    assert TrialWarning.SPREAD not in inside.warnings
    assert TrialWarning.SPREAD in outside.warnings
    # 0.104 is above a tenth of the median, 1, but not of the mean, 1.06.
    assert TrialWarning.SPREAD not in summarise_times([1.0, 1.0, 1.18]).warnings


def test_two_trials_can_already_spread() -> None:
    assert TrialWarning.SPREAD in summarise_times([1.0, 2.0]).warnings
    assert TrialWarning.SPREAD not in summarise_times([1.0]).warnings


def test_a_configuration_has_the_warnings_of_all_its_trials_once_in_fixed_order() -> None:
    warned = [(TrialWarning.CONTAMINATION,), (TrialWarning.STALL, TrialWarning.CONTAMINATION), ()]
    records = [make_record(QUIET, repeat, warnings=warnings) for repeat, warnings in enumerate(warned)]
    assert summarise(records)[0].warnings == (TrialWarning.STALL, TrialWarning.CONTAMINATION)


def test_every_warning_has_advice() -> None:
    assert set(ADVICE) == set(TrialWarning)
    assert all(len(advice) > 30 for advice in ADVICE.values())


@pytest.mark.parametrize(
    ("warning", "stated"),
    [
        (TrialWarning.SLOW_FIRST_EPOCH, f"over {round((SLOW_FIRST_EPOCH_RATIO - 1) * 100)} % longer"),
        (TrialWarning.EPOCHS_SLOWING_DOWN, f"over {round((SLOWING_DOWN_RATIO - 1) * 100)} % longer"),
        (TrialWarning.SPREAD, f"over {round(SPREAD_RATIO * 100)} %"),
        (TrialWarning.THROTTLED, f"over {round(THROTTLED_SHARE * 100)} %"),
    ],
)
def test_advice_states_the_threshold_that_was_crossed(warning: TrialWarning, stated: str) -> None:
    assert stated in ADVICE[warning]


# --- warnings of a trial


@given(st.integers(1, 8), SECONDS)
def test_even_undisturbed_epochs_are_never_warned_about(epochs: int, seconds: float) -> None:
    assert warn([seconds] * epochs) == set()


def test_a_slow_first_epoch_is_warned_about() -> None:
    assert warn([SLOW_FIRST_EPOCH_RATIO * JUST_OVER, 1.0, 1.0]) == {TrialWarning.SLOW_FIRST_EPOCH}
    assert warn([SLOW_FIRST_EPOCH_RATIO, 1.0, 1.0]) == set()


def test_a_slow_first_epoch_needs_two_later_ones_to_be_told() -> None:
    assert warn([1.9, 1.0]) == set()


def test_a_slow_first_epoch_is_told_against_the_median_of_the_later_ones() -> None:
    assert TrialWarning.SLOW_FIRST_EPOCH in warn([1.3, 1.0, 1.0, 1.9])


def test_a_stalled_epoch_is_warned_about() -> None:
    assert warn([1.0, STALL_RATIO * JUST_OVER, 1.0]) == {TrialWarning.STALL}
    assert warn([1.0, STALL_RATIO, 1.0]) == set()


def test_a_stall_needs_three_epochs_to_be_told() -> None:
    assert warn([1.0, 62.0]) == set()


def test_epochs_that_slow_down_are_warned_about() -> None:
    slow = SLOWING_DOWN_RATIO * JUST_OVER
    assert warn([1.0, 1.0, slow, slow]) == {TrialWarning.EPOCHS_SLOWING_DOWN}
    assert warn([1.0, 1.0, SLOWING_DOWN_RATIO, slow]) == set()


def test_one_slow_last_epoch_is_no_slowing_down() -> None:
    assert warn([1.0, 1.0, 1.0, 1.4]) == set()


def test_slowing_down_needs_four_epochs_to_be_told() -> None:
    assert warn([1.0, 1.2, 1.2]) == set()


def test_slowing_down_is_told_against_the_first_half() -> None:
    # Of five epochs the first half is the first two; the third is already slow.
    assert warn([1.0, 1.2, 1.3, 1.3, 1.3]) == {TrialWarning.EPOCHS_SLOWING_DOWN}


@pytest.mark.parametrize(
    ("contention", "contaminated"),
    [
        (make_contention(process_cpu_seconds=4.0, other_cpu_seconds=0.0, steal_seconds=2 * STEAL_SHARE * 1.01), True),
        (make_contention(process_cpu_seconds=4.0, other_cpu_seconds=0.0, steal_seconds=2 * STEAL_SHARE), False),
        (make_contention(process_cpu_seconds=4.0, other_cpu_seconds=2 * OTHER_CPU_SHARE * 1.01), True),
        (make_contention(process_cpu_seconds=4.0, other_cpu_seconds=2 * OTHER_CPU_SHARE), False),
        (make_contention(process_cpu_seconds=2 * WAITED_CPU_SHARE * 0.99), True),
        (make_contention(process_cpu_seconds=2 * WAITED_CPU_SHARE), False),
        (make_contention(process_cpu_seconds=4.0, other_cpu_seconds=None, steal_seconds=None), False),
        (make_contention(process_cpu_seconds=1.0, other_cpu_seconds=None, steal_seconds=None), True),
    ],
)
def test_contamination_is_told_from_two_seconds_of_training(contention: Contention, contaminated: bool) -> None:  # noqa: FBT001 - a table's column
    warned = trial_warnings(measure([2.0], contention), QUIET)
    assert warned == ((TrialWarning.CONTAMINATION,) if contaminated else ())


def test_contamination_is_summed_over_the_epochs() -> None:
    disturbed = make_contention(process_cpu_seconds=2.0, other_cpu_seconds=0.0, steal_seconds=0.3)
    quiet = make_contention(process_cpu_seconds=2.0, other_cpu_seconds=0.0, steal_seconds=0.0)
    epochs = [make_epoch(train_seconds=1.0, contention=each) for each in (disturbed, quiet, quiet, quiet)]
    assert trial_warnings(make_measurement(epochs=tuple(epochs)), QUIET) == ()
    assert trial_warnings(make_measurement(epochs=tuple(epochs[:2])), QUIET) == (TrialWarning.CONTAMINATION,)


def test_epochs_without_a_counter_do_not_dilute_those_with_one() -> None:
    disturbed = make_contention(process_cpu_seconds=2.0, other_cpu_seconds=None, steal_seconds=0.2)
    unknown = make_contention(process_cpu_seconds=2.0, other_cpu_seconds=None, steal_seconds=None)
    epochs = tuple(make_epoch(train_seconds=1.0, contention=each) for each in (disturbed, unknown, unknown))
    assert trial_warnings(make_measurement(epochs=epochs), QUIET) == (TrialWarning.CONTAMINATION,)


def test_own_data_loading_workers_are_no_contamination() -> None:
    loading = make_configuration(pipeline="dataloader", workers=2)
    contention = make_contention(process_cpu_seconds=0.5, other_cpu_seconds=3.0, steal_seconds=0.0)
    assert trial_warnings(measure([2.0], contention), loading) == ()
    assert trial_warnings(measure([2.0], contention), dataclasses.replace(loading, workers=0)) == ()
    assert trial_warnings(measure([2.0], contention), dataclasses.replace(loading, pipeline="resident")) == ()
    stolen = dataclasses.replace(contention, steal_seconds=1.0)
    assert trial_warnings(measure([2.0], stolen), loading) == (TrialWarning.CONTAMINATION,)


def test_a_trial_on_an_accelerator_may_leave_the_processor_idle() -> None:
    contention = make_contention(process_cpu_seconds=0.5, other_cpu_seconds=0.0, steal_seconds=0.0)
    assert trial_warnings(measure([2.0], contention), make_configuration(device="cuda")) == ()
    assert trial_warnings(measure([2.0], contention), QUIET) == (TrialWarning.CONTAMINATION,)


def test_a_few_clock_ticks_in_a_short_trial_are_no_contamination() -> None:
    ticks = make_contention(process_cpu_seconds=1.0, other_cpu_seconds=0.2, steal_seconds=0.2)
    assert trial_warnings(measure([MIN_TICKED_SECONDS * 0.99], ticks), QUIET) == ()
    assert trial_warnings(measure([MIN_TICKED_SECONDS], ticks), QUIET) == (TrialWarning.CONTAMINATION,)


def throttle(seconds: float | None) -> Contention:
    return make_contention(process_cpu_seconds=2.0, other_cpu_seconds=0.0, steal_seconds=0.0, throttled_seconds=seconds)


def test_a_quota_that_holds_a_trial_back_is_warned_about_however_short_the_trial() -> None:
    assert warn_under(throttle(THROTTLED_SHARE * JUST_OVER)) == (TrialWarning.THROTTLED,)
    assert warn_under(throttle(THROTTLED_SHARE)) == ()
    assert warn_under(throttle(None)) == ()
    short = make_epoch(train_seconds=0.01, contention=throttle(0.001))
    assert trial_warnings(make_measurement(epochs=(short,)), QUIET) == (TrialWarning.THROTTLED,)


def warn_under(contention: Contention) -> tuple[TrialWarning, ...]:
    return trial_warnings(measure([1.0], contention), QUIET)


def test_throttling_is_summed_over_the_epochs_that_tell_of_it() -> None:
    parts = [throttle(0.12), throttle(0.0), throttle(None)]
    epochs = tuple(make_epoch(train_seconds=1.0, contention=part) for part in parts)
    assert trial_warnings(make_measurement(epochs=epochs), QUIET) == (TrialWarning.THROTTLED,)
    assert trial_warnings(make_measurement(epochs=(*epochs, epochs[1])), QUIET) == ()


@pytest.mark.parametrize(
    ("reasons", "warned"),
    [
        (None, False),
        ((), False),
        (("gpu_idle",), False),
        (("sw_power_cap", "applications_clocks", "sync_boost", "display_clocks"), False),
        (("hw_slowdown",), True),
        (("sw_power_cap", "sw_thermal_slowdown"), True),
        (("hw_thermal_slowdown",), True),
        (("hw_power_brake",), True),
    ],
)
def test_a_device_that_heat_or_its_supply_slows_down_in_any_epoch_is_warned_about(
    reasons: tuple[str, ...] | None,
    warned: bool,  # noqa: FBT001 - a table's column
) -> None:
    cool, hot = make_conditions(clock_reasons=()), make_conditions(clock_reasons=reasons)
    epochs = tuple(make_epoch(device_conditions=each) for each in (cool, hot, None))
    assert trial_warnings(make_measurement(epochs=epochs), QUIET) == ((TrialWarning.THROTTLED,) if warned else ())


@pytest.mark.parametrize(("others", "warned"), [(None, False), (0, False), (1, True), (3, True)])
def test_a_device_that_others_compute_on_too_is_warned_about(others: int | None, warned: bool) -> None:  # noqa: FBT001 - a table's column
    epochs = tuple(
        make_epoch(device_conditions=each) for each in (make_conditions(), make_conditions(other_processes=others))
    )
    assert trial_warnings(make_measurement(epochs=epochs), QUIET) == ((TrialWarning.DEVICE_SHARED,) if warned else ())


def test_stall_pressure_alone_is_no_contamination() -> None:
    contention = make_contention(process_cpu_seconds=4.0, other_cpu_seconds=0.0, pressure_stall_seconds=2.0)
    assert trial_warnings(measure([2.0], contention), QUIET) == ()


def test_each_reason_for_unmeasured_energy_is_told_once_with_its_devices() -> None:
    no_nvml, no_rapl = make_measurement(energy_reason="no NVML"), make_measurement(energy_reason="no RAPL")
    devices = {"cuda:10": no_nvml, "cuda:2": no_nvml, "cpu": no_rapl, "cuda:0": make_measurement(energy=make_energy())}
    records = [
        make_record(make_configuration(device=device), repeat, outcome=outcome)
        for repeat in range(2)
        for device, outcome in devices.items()
    ]
    assert unmeasured_energy(records) == ("cuda:2, cuda:10: no NVML", "cpu: no RAPL")
    assert unmeasured_energy([make_record(), make_record(outcome=make_failure())]) == ()


@given(st.lists(SECONDS, min_size=1, max_size=8), st.sampled_from([0.5, 2.0, 8.0]))
def test_warnings_about_epochs_do_not_depend_on_the_scale_of_time(seconds: list[float], factor: float) -> None:
    assert warn([each * factor for each in seconds]) == warn(seconds)


# --- flagged


def test_every_warning_is_either_of_a_disturbed_trial_or_of_the_repeats_together() -> None:
    assert set(TrialWarning) - DISTURBED == {TrialWarning.SPREAD, TrialWarning.FEW_REPEATS}


def test_a_summary_counts_flagged_trials_and_tells_the_median_without_them() -> None:
    stalled = make_record(QUIET, 2, outcome=measure([8.0]), warnings=(TrialWarning.STALL,))
    failed = make_record(QUIET, 3, outcome=make_failure(), warnings=(TrialWarning.STALL,))
    calm = [make_record(QUIET, repeat, outcome=measure([float(repeat + 1)])) for repeat in range(2)]
    (summary,) = summarise([*calm, stalled, failed])
    assert (summary.n, summary.flagged, summary.unflagged_epoch_seconds) == (3, 1, 1.5)
    assert summary.epoch_seconds is not None
    assert summary.epoch_seconds.median == 2.0
    (summary,) = summarise([stalled])
    assert (summary.n, summary.flagged, summary.unflagged_epoch_seconds) == (1, 1, None)


def test_warnings_of_the_repeats_flag_no_trial() -> None:
    assert not is_flagged(make_record(warnings=(TrialWarning.SPREAD, TrialWarning.FEW_REPEATS)))
    assert is_flagged(make_record(warnings=(TrialWarning.SPREAD, TrialWarning.STALL)))
