import itertools
import math
import statistics
from collections.abc import Sequence

import pytest
from bench_builders import (
    make_configuration,
    make_energy,
    make_epoch,
    make_epochs,
    make_failure,
    make_measurement,
    make_record,
    make_timed,
)
from hypothesis import given
from hypothesis import strategies as st

from bench.records import FailureKind, Peak, TrialWarning
from bench.tables.fields import QUANTITIES
from bench.tables.summary import Sample, Summary, sample, summarise, unmeasured_energy
from bench.warning_rules import (
    SPREAD_RATIO,
)

QUIET = make_configuration()
SECONDS = st.floats(min_value=1e-3, max_value=1e3)
JUST_OVER = 1.001


def summarise_times(times: Sequence[float]) -> Summary:
    (summary,) = summarise(make_record(QUIET, repeat, outcome=make_timed([time])) for repeat, time in enumerate(times))
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


@pytest.mark.parametrize("value", [0.1, 0.21, 1e-300, 1.7e308])
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
        make_record(QUIET, 0, outcome=make_timed([1.0]), warnings=(TrialWarning.STALL,)),
        make_record(QUIET, 1, outcome=make_timed([3.0]), warnings=(TrialWarning.CONTAMINATION,)),
        make_record(QUIET, 2, outcome=make_failure(FailureKind.TIMEOUT, "late")),
        make_record(QUIET, 3, outcome=make_failure(FailureKind.CRASH, "early")),
        make_record(other, 0, outcome=make_timed([2.0])),
    ]
    first = summarise(records)
    assert all(summarise(order) == first for order in itertools.permutations(records))
    assert [failure.message for failure in first[0].failures] == ["late", "early"]


def test_no_records_make_no_summaries() -> None:
    assert summarise([]) == ()


# --- quantities


def test_a_trial_counts_once_whatever_its_epochs() -> None:
    records = [make_record(QUIET, 0, outcome=make_timed([1.0] * 9)), make_record(QUIET, 1, outcome=make_timed([3.0]))]
    (summary,) = summarise(records)
    assert summary.epoch_seconds is not None
    assert (summary.n, summary.epoch_seconds.n, summary.epoch_seconds.median) == (2, 2, 2.0)


def test_every_quantity_is_summed_up_from_the_measurements() -> None:
    measurement = make_measurement(
        epochs=(
            make_epoch(train_seconds=2.0, test_correct=9_700, train_correct=30_000, test_loss=0.5, train_loss=0.75),
            make_epoch(train_seconds=2.0, test_correct=9_690, train_correct=45_000, test_loss=0.25, train_loss=0.125),
        ),
        cold_start_seconds=0.5,
        host_peak=Peak(bytes=100, method="VmHWM"),
        device_allocated_peak=Peak(bytes=200, method="m"),
        device_reserved_peak=Peak(bytes=300, method="m"),
        energy=make_energy(joules=480.0),
    )
    (summary,) = summarise([make_record(QUIET, outcome=measurement)])
    samples: dict[str, Sample | None] = {quantity: getattr(summary, quantity) for quantity in QUANTITIES}
    medians = {quantity: each.median for quantity, each in samples.items() if each is not None}
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


def test_unmeasured_quantities_stay_none() -> None:
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
    assert summary.warnings == ()  # that of no trial at all has no spread to warn of


def test_a_rate_too_large_for_a_float_counts_as_unmeasured() -> None:
    (summary,) = summarise([make_record(QUIET, outcome=make_timed([1e-310]))])
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


def test_a_summary_counts_flagged_trials_and_tells_the_median_without_them() -> None:
    stalled = make_record(QUIET, 3, outcome=make_timed([8.0]), warnings=(TrialWarning.STALL,))
    failed = make_record(QUIET, 4, outcome=make_failure(), warnings=(TrialWarning.STALL,))
    calm = [make_record(QUIET, repeat, outcome=make_timed([time])) for repeat, time in enumerate([1.0, 1.5, 5.0])]
    (summary,) = summarise([*calm, stalled, failed])
    assert (summary.n, summary.flagged, summary.unflagged_epoch_seconds) == (4, 1, 1.5)
    assert summary.epoch_seconds is not None
    assert summary.epoch_seconds.median == 3.25
    (summary,) = summarise([stalled])
    assert (summary.n, summary.flagged, summary.unflagged_epoch_seconds) == (1, 1, None)


def test_each_reason_for_unmeasured_energy_is_given_once_with_its_devices() -> None:
    no_nvml, no_rapl = make_measurement(energy_reason="no NVML"), make_measurement(energy_reason="no RAPL")
    devices = {"cuda:10": no_nvml, "cuda:2": no_nvml, "cpu": no_rapl, "cuda:0": make_measurement(energy=make_energy())}
    records = [
        make_record(make_configuration(device=device), repeat, outcome=outcome)
        for repeat in range(2)
        for device, outcome in devices.items()
    ]
    assert unmeasured_energy(records) == ("cuda:2, cuda:10: no NVML", "cpu: no RAPL")
    assert unmeasured_energy([make_record(), make_record(outcome=make_failure())]) == ()
