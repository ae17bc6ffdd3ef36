import dataclasses
from collections.abc import Sequence

import pytest
from bench_builders import (
    make_conditions,
    make_configuration,
    make_contention,
    make_epoch,
    make_measurement,
    make_record,
    make_timed,
)
from hypothesis import given
from hypothesis import strategies as st

from bench.records import Contention, TrialWarning
from bench.warning_rules import (
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
    trial_warnings,
)

QUIET = make_configuration()
SECONDS = st.floats(min_value=1e-3, max_value=1e3)
JUST_OVER = 1.001


def warn(train_seconds: Sequence[float]) -> set[TrialWarning]:
    return set(trial_warnings(make_timed(train_seconds), QUIET))


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


def test_a_slow_first_epoch_is_reported_only_with_two_later_ones() -> None:
    assert warn([1.9, 1.0]) == set()


def test_a_slow_first_epoch_is_relative_to_the_median_of_the_later_ones() -> None:
    assert TrialWarning.SLOW_FIRST_EPOCH in warn([1.3, 1.0, 1.0, 1.9])


def test_a_stalled_epoch_is_warned_about() -> None:
    assert warn([1.0, STALL_RATIO * JUST_OVER, 1.0]) == {TrialWarning.STALL}
    assert warn([1.0, STALL_RATIO, 1.0]) == set()


def test_a_stall_is_reported_only_with_three_epochs() -> None:
    assert warn([1.0, 62.0]) == set()


def test_epochs_that_slow_down_are_warned_about() -> None:
    slow = SLOWING_DOWN_RATIO * JUST_OVER
    assert warn([1.0, 1.0, slow, slow]) == {TrialWarning.EPOCHS_SLOWING_DOWN}
    assert warn([1.0, 1.0, SLOWING_DOWN_RATIO, slow]) == set()


def test_one_slow_last_epoch_does_not_count_as_slowing_down() -> None:
    assert warn([1.0, 1.0, 1.0, 1.4]) == set()


def test_slowing_down_is_reported_only_with_four_epochs() -> None:
    assert warn([1.0, 1.2, 1.2]) == set()


def test_slowing_down_is_relative_to_the_first_half() -> None:
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
def test_contamination_is_recognised_in_two_seconds_of_training(contention: Contention, contaminated: bool) -> None:  # noqa: FBT001 - a table's column
    warned = trial_warnings(make_timed([2.0], contention), QUIET)
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


def test_own_data_loading_workers_are_not_contamination() -> None:
    loading = make_configuration(pipeline="dataloader", workers=2)
    contention = make_contention(process_cpu_seconds=0.5, other_cpu_seconds=3.0, steal_seconds=0.0)
    assert trial_warnings(make_timed([2.0], contention), loading) == ()
    assert trial_warnings(make_timed([2.0], contention), dataclasses.replace(loading, workers=0)) == ()
    assert trial_warnings(make_timed([2.0], contention), dataclasses.replace(loading, pipeline="resident")) == ()
    stolen = dataclasses.replace(contention, steal_seconds=1.0)
    assert trial_warnings(make_timed([2.0], stolen), loading) == (TrialWarning.CONTAMINATION,)


def test_a_trial_on_an_accelerator_may_leave_the_processor_idle() -> None:
    contention = make_contention(process_cpu_seconds=0.5, other_cpu_seconds=0.0, steal_seconds=0.0)
    assert trial_warnings(make_timed([2.0], contention), make_configuration(device="cuda")) == ()
    assert trial_warnings(make_timed([2.0], contention), QUIET) == (TrialWarning.CONTAMINATION,)


def test_ranks_that_wait_for_one_another_may_leave_the_processor_idle() -> None:
    contention = make_contention(process_cpu_seconds=0.5, other_cpu_seconds=0.0, steal_seconds=0.0)
    assert trial_warnings(make_timed([2.0], contention), make_configuration(world_size=2)) == ()


def test_a_few_clock_ticks_in_a_short_trial_are_not_contamination() -> None:
    ticks = make_contention(process_cpu_seconds=1.0, other_cpu_seconds=0.2, steal_seconds=0.2)
    assert trial_warnings(make_timed([MIN_TICKED_SECONDS * 0.99], ticks), QUIET) == ()
    assert trial_warnings(make_timed([MIN_TICKED_SECONDS], ticks), QUIET) == (TrialWarning.CONTAMINATION,)


def throttle(seconds: float | None) -> Contention:
    return make_contention(process_cpu_seconds=2.0, other_cpu_seconds=0.0, steal_seconds=0.0, throttled_seconds=seconds)


def test_a_quota_that_holds_a_trial_back_is_warned_about_however_short_the_trial() -> None:
    assert warn_under(throttle(THROTTLED_SHARE * JUST_OVER)) == (TrialWarning.THROTTLED,)
    assert warn_under(throttle(THROTTLED_SHARE)) == ()
    assert warn_under(throttle(None)) == ()
    short = make_epoch(train_seconds=0.01, contention=throttle(0.001))
    assert trial_warnings(make_measurement(epochs=(short,)), QUIET) == (TrialWarning.THROTTLED,)


def warn_under(contention: Contention) -> tuple[TrialWarning, ...]:
    return trial_warnings(make_timed([1.0], contention), QUIET)


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


@pytest.mark.parametrize(("on_battery", "warned"), [(None, False), (False, False), (True, True)])
def test_a_machine_that_ran_from_its_battery_is_warned_about(on_battery: bool | None, warned: bool) -> None:  # noqa: FBT001 - a table's columns
    measurement = dataclasses.replace(make_timed([2.0]), on_battery=on_battery)
    assert trial_warnings(measurement, QUIET) == ((TrialWarning.ON_BATTERY,) if warned else ())
    assert TrialWarning.ON_BATTERY in DISTURBED


def test_stall_pressure_alone_is_not_contamination() -> None:
    contention = make_contention(process_cpu_seconds=4.0, other_cpu_seconds=0.0, pressure_stall_seconds=2.0)
    assert trial_warnings(make_timed([2.0], contention), QUIET) == ()


@given(st.lists(SECONDS, min_size=1, max_size=8), st.sampled_from([0.5, 2.0, 8.0]))
def test_warnings_about_epochs_do_not_depend_on_the_scale_of_time(seconds: list[float], factor: float) -> None:
    assert warn([each * factor for each in seconds]) == warn(seconds)


# --- flagged


def test_every_warning_is_either_of_a_disturbed_trial_or_of_the_repeats_together() -> None:
    assert set(TrialWarning) - DISTURBED == {TrialWarning.SPREAD, TrialWarning.FEW_REPEATS}


def test_warnings_of_the_repeats_flag_no_trial() -> None:
    assert not is_flagged(make_record(warnings=(TrialWarning.SPREAD, TrialWarning.FEW_REPEATS)))
    assert is_flagged(make_record(warnings=(TrialWarning.SPREAD, TrialWarning.STALL)))
