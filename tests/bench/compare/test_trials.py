"""What a stored run keeps of its trials for comparing."""

import dataclasses
import math

import pytest
from bench_builders import make_epoch, make_epochs, make_failure, make_measurement, make_record, make_run
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import side, trial, with_records

from bench.compare.flagged import times_without_flagged
from bench.compare.trials import Flagged, Trials, gather
from bench.records import Measurement, Run, TrialRecord, TrialWarning
from bench.warning_rules import DISTURBED


def only(run: Run) -> Trials:
    (trials,) = gather(run)
    return trials


def flagged(record: TrialRecord, *warnings: TrialWarning) -> TrialRecord:
    return dataclasses.replace(record, warnings=warnings)


def test_a_run_without_warnings_flags_nothing() -> None:
    trials = only(side())
    assert trials.flagged == Flagged()
    assert times_without_flagged(trials) is trials


def test_flagged_trials_are_included_in_all_values_and_listed_separately() -> None:
    whole = side()
    records = [
        flagged(whole.records[0], TrialWarning.STALL),
        *whole.records[1:7],
        flagged(trial(repeat=7, seconds=4.0), TrialWarning.CONTAMINATION, TrialWarning.STALL),
    ]
    trials = only(with_records(whole, records))
    assert trials.n == 8
    assert trials.flagged.n == 2
    assert trials.flagged.warnings == (TrialWarning.STALL, TrialWarning.CONTAMINATION)
    assert trials.flagged.log_seconds == pytest.approx((math.log(2.0), math.log(4.0 * 1.002)))
    left = times_without_flagged(trials)
    assert (left.n, left.flagged, left.log_relative, left.accuracies) == (6, Flagged(), None, None)
    assert sorted((*left.log_seconds, *trials.flagged.log_seconds)) == list(trials.log_seconds)
    assert left.mean_log_seconds == pytest.approx(math.fsum(left.log_seconds) / 6)


def test_of_equal_times_only_as_many_are_taken_out_as_are_flagged() -> None:
    records = [trial(), flagged(trial(), TrialWarning.STALL), trial()]
    records = [dataclasses.replace(each, trial=make_record(repeat=i).trial) for i, each in enumerate(records)]
    assert times_without_flagged(only(make_run(records=records))).n == 2


def test_where_all_are_flagged_nothing_is_left() -> None:
    run = make_run(records=[flagged(trial(repeat=r), TrialWarning.STALL) for r in range(3)])
    left = times_without_flagged(only(run))
    assert (left.n, left.mean_log_seconds, left.log_seconds) == (0, None, ())


def test_warnings_that_are_of_the_repeats_flag_no_trial() -> None:
    run = make_run(records=[flagged(trial(), TrialWarning.SPREAD, TrialWarning.FEW_REPEATS)])
    assert only(run).flagged.n == 0


def test_a_flagged_trial_is_flagged_by_what_disturbed_it_alone() -> None:
    found = only(make_run(records=[flagged(trial(), TrialWarning.STALL, TrialWarning.SPREAD)])).flagged
    assert found.warnings == (TrialWarning.STALL,)


def test_ratio_to_the_yardstick_needs_one_beside_every_epoch_and_accuracy_labels_in_every_trial() -> None:
    epochs = (make_epoch(), make_epoch(yardstick_seconds=0.0), make_epoch())
    partly = make_record(repeat=1, outcome=make_measurement(epochs=epochs))
    without_labels = make_record(repeat=1, outcome=make_measurement(epochs=(make_epoch(test_correct=None),)))
    for second, relative, accuracies in ((partly, None, 2), (without_labels, 2, None)):
        trials = only(make_run(repeats=2, records=[make_record(), second]))
        assert trials.n == 2
        assert (trials.log_relative and len(trials.log_relative)) == relative
        assert (trials.accuracies and len(trials.accuracies)) == accuracies


@pytest.mark.parametrize("warning", sorted(DISTURBED))
def test_every_warning_that_something_disturbed_a_trial_flags_it(warning: TrialWarning) -> None:
    assert only(make_run(records=[flagged(trial(), warning)])).flagged.n == 1


def test_a_failed_trial_has_no_time_to_be_flagged() -> None:
    run = make_run(records=[make_record(outcome=make_failure(), warnings=(TrialWarning.STALL,))])
    assert only(run).flagged.n == 0


@given(st.lists(st.tuples(st.floats(0.01, 100), st.integers(9_700, 9_900)), min_size=1, max_size=5))
def test_time_to_98_percent_is_the_measurements_own(epochs: list[tuple[float, int]]) -> None:
    measurement: Measurement = make_measurement(
        epochs=make_epochs([seconds for seconds, _ in epochs], [correct for _, correct in epochs])
    )
    expected = measurement.seconds_to_accuracy(0.98)
    reached = only(make_run(records=[make_record(outcome=measurement)])).seconds_to_98_percent
    assert reached == pytest.approx(() if expected is None else (expected,), rel=1e-12)  # Python 3.12 sums otherwise


@pytest.mark.parametrize(("samples", "least"), [(10_000, 9_800), (150, 147), (50, 49), (49, 49), (3, 3)])
def test_98_percent_are_reached_by_98_images_in_a_hundred_and_no_fewer(samples: int, least: int) -> None:
    for correct, reached in ((least, 1), (least - 1, 0)):
        epoch = make_epoch(test_samples=samples, test_correct=correct)
        record = make_record(outcome=make_measurement(epochs=(epoch,)))
        assert len(only(make_run(records=[record])).seconds_to_98_percent) == reached


def test_noise_never_reaches_98_percent() -> None:
    assert only(side(correct=None)).seconds_to_98_percent == ()
