"""The comparison of two stored runs: matching, drift, verdicts, mean; what must never depend on order or side."""

import dataclasses
import math

import pytest
from bench_builders import (
    make_configuration,
    make_division,
    make_epoch,
    make_failure,
    make_machine,
    make_measurement,
    make_record,
    make_run,
    make_software,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from stored_runs import Quiet, compare, configurations, other, shuffled, side, trial, with_records

from bench.compare.compare_runs import Between, compare_runs
from bench.compare.comparison import Comparison, Source, geometric_mean
from bench.compare.matching import match
from bench.compare.trials import gather, make_table
from bench.errors import IncomparableError
from bench.records import Configuration
from bench.stats.drift import DEFAULT_DRIFT_DEVIATION, Drift
from bench.stats.inference import Estimate, independent_estimate
from bench.stats.judgement import Judgement, Verdict, compare_times

MIRROR = {
    Verdict.FASTER: Verdict.SLOWER,
    Verdict.SLOWER: Verdict.FASTER,
    Verdict.HIGHER: Verdict.LOWER,
    Verdict.LOWER: Verdict.HIGHER,
}


ELSEWHERE = make_machine(cpu_model="Fictional CPU 1")


def time_verdicts(comparison: Comparison) -> list[Verdict]:
    return [row.time.verdict for row in comparison.rows]


def accuracy_of(comparison: Comparison) -> Judgement:
    judgement = comparison.rows[0].accuracy
    assert judgement is not None
    return judgement


def ratio(comparison: Comparison) -> float:
    estimate = comparison.rows[0].time.estimate
    assert estimate is not None
    return math.exp(estimate.value)


def test_ratio_is_that_of_the_trials_median_epoch_times() -> None:
    epochs = tuple(make_epoch(train_seconds=seconds) for seconds in (9.0, 2.0, 3.0, 2.5))
    slow = make_record(outcome=make_measurement(epochs=epochs))
    comparison = compare(side((2.0,), repeats=1), make_run(repeats=1, records=[slow], run_id="b0b0b0b0"))
    assert ratio(comparison) == pytest.approx(2.75 / 2.0)


def test_a_slower_candidate_is_slower_and_a_faster_one_faster() -> None:
    assert time_verdicts(compare(side(), other(2.6))) == [Verdict.SLOWER]
    assert time_verdicts(compare(side(), other(1.6))) == [Verdict.FASTER]
    assert time_verdicts(compare(side(), other(2.0))) == [Verdict.SAME]
    (note,) = compare(side(), other(2.0)).notes
    assert note.startswith("intervals of cpu include a drift")


def test_drift_that_repeats_do_not_show_keeps_a_difference_from_being_called() -> None:
    baseline, candidate = side(), other(2.4)
    assert time_verdicts(compare(baseline, candidate)) == [Verdict.SLOWER]
    comparison = compare(baseline, candidate, None)
    assert time_verdicts(comparison) == [Verdict.INCONCLUSIVE]
    assert any("10 %" in note and "bench calibrate" in note and "bench ab" in note for note in comparison.notes)


def test_the_drift_of_both_tables_is_in_the_variance() -> None:
    estimate = compare(side(), other()).rows[0].time.estimate
    assert estimate is not None
    assert estimate.extra_variance == pytest.approx(2 * 0.005**2)
    assert Drift(None, None).variance("cpu", "cpu") == pytest.approx(2 * DEFAULT_DRIFT_DEVIATION**2)
    assert Drift(Quiet(drift=0.03), Quiet(drift=0.04)).variance("cpu", "cpu") == pytest.approx(0.05**2)
    assert Drift(Quiet(drift=None), Quiet(drift=0.04)).variance("cpu", "cpu") == pytest.approx(0.1**2 + 0.04**2)
    assert estimate.extra_degrees_of_freedom == 49


def test_a_drift_is_known_as_well_as_by_the_fewer_sessions_of_both_sides() -> None:
    assert Drift(Quiet(sessions=3), Quiet(sessions=5)).degrees_of_freedom("cpu", "cpu") == 2
    assert Drift(Quiet(drift=None), Quiet(sessions=5)).degrees_of_freedom("cpu", "cpu") == 4
    assert Drift(None, None).degrees_of_freedom("cpu", "cpu") == math.inf


def test_few_sessions_widen_the_mean_as_they_widen_the_rows() -> None:
    few, many = (compare(side(), other(2.2), Quiet(sessions=sessions)).mean for sessions in (3, 50))
    assert few is not None
    assert many is not None
    assert few.interval.high - few.log_ratio > 1.5 * (many.interval.high - many.log_ratio)


class CalmCpu(Quiet):
    """A profile of a machine whose CPU alone was calibrated."""

    def drift_deviation(self, device: str) -> float | None:
        return 0.005 if device == "cpu" else None

    def drift_freedom(self, device: str) -> int | None:
        return 19 if device == "cpu" else None


def test_of_two_devices_each_side_has_its_own_drift() -> None:
    on_cuda = side({make_configuration(device="cuda:0"): 2.0}, run_id="b0b0b0b0")
    comparison = compare_runs(
        Source(label="A", table=make_table(side()), profile=CalmCpu()),
        Source(label="B", table=make_table(on_cuda), profile=CalmCpu()),
        Between(dimension="device", baseline="cpu", candidate="cuda"),
    )
    estimate = comparison.rows[0].time.estimate
    assert estimate is not None
    assert estimate.extra_variance == pytest.approx(0.005**2 + DEFAULT_DRIFT_DEVIATION**2)
    assert any("cpu against cuda:0 include" in note and "assumed" in note for note in comparison.notes)
    # The yardstick runs on the device: it differs as the sides do.
    assert comparison.rows[0].relative_log_ratio is None


def test_each_side_s_drift_is_that_of_its_own_machine() -> None:
    assert Drift(CalmCpu(), Quiet(drift=0.02)).variance("cpu", "cuda:0") == pytest.approx(0.005**2 + 0.02**2)


def test_a_run_against_itself_is_the_same_everywhere_even_from_one_trial() -> None:
    for repeats in (1, 8):
        run = side((0.5, 2.0, 30.0), repeats=repeats)
        comparison = compare(run, run, None)
        assert time_verdicts(comparison) == [Verdict.SAME] * 3
        assert "both sides are the same run: this says nothing about any change" in comparison.notes
        for row in comparison.rows:
            assert row.time.reason == "the same measurements on both sides"
            assert row.time.interval is not None
            assert (row.time.interval.low, row.time.interval.high) == (0.0, 0.0)
            assert row.accuracy is not None
            assert row.accuracy.verdict is Verdict.SAME
        assert comparison.mean is not None
        assert (comparison.mean.log_ratio, comparison.mean.interval.low, comparison.mean.interval.high) == (0, 0, 0)


def test_a_merge_against_one_of_its_shards_compares_what_the_shard_measured_with_itself() -> None:
    shard = side((2.0,), run_id="00000001", header={"division": make_division((1,))})
    merged = side((2.0, 3.0), run_id="d0d0d0d0", header={"division": make_division((1, 1))})
    for comparison in (compare(shard, merged), compare(merged, shard)):
        assert [row.time.reason for row in comparison.rows] == ["the same measurements on both sides"]
        assert (
            "both sides hold run 00000001: the rows that it measured say nothing about any change" in comparison.notes
        )


def test_equal_values_of_two_runs_are_still_two_measurements() -> None:
    comparison = compare(side(), other(), None)
    assert time_verdicts(comparison) == [Verdict.INCONCLUSIVE]
    for judgement in (comparison.rows[0].time, accuracy_of(comparison)):
        assert "the same measurements" not in judgement.reason
        assert judgement.interval is not None
        assert judgement.interval.low < 0 < judgement.interval.high


def test_a_longer_copy_of_a_run_is_not_taken_for_the_very_same_measurements() -> None:
    whole = side()
    part = with_records(whole, whole.records[:5])
    assert compare(part, whole).rows[0].time.reason != "the same measurements on both sides"


@given(
    data=st.lists(
        st.tuples(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(0, 9_990), st.integers(0, 9_990)),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 2**32),
)
def test_order_of_records_changes_nothing_and_swapped_sides_mirror(
    data: list[tuple[float, float, int, int]], seed: int
) -> None:
    chosen = configurations(len(data))
    runs = []
    values = ([(row[0], row[2]) for row in data], [(row[1], row[3]) for row in data])
    for run_id, of_side in zip(("aaaa0000", "bbbb0000"), values, strict=True):
        records = [
            trial(each, repeat, seconds=seconds, correct=correct + 5)
            for each, (seconds, correct) in zip(chosen, of_side, strict=True)
            for repeat in range(4)
        ]
        runs.append(make_run(chosen, 4, records=records, run_id=run_id))
    mixed = [with_records(run, shuffled(run.records, seed)) for run in runs]
    comparison, swapped = compare(runs[0], runs[1]), compare(mixed[1], mixed[0])
    assert compare(mixed[0], mixed[1]).rows == comparison.rows
    for row, mirrored in zip(comparison.rows, swapped.rows, strict=True):
        for ours, theirs in ((row.time, mirrored.time), (row.accuracy, mirrored.accuracy)):
            assert ours is not None
            assert theirs is not None
            assert theirs.verdict is MIRROR.get(ours.verdict, ours.verdict)
            assert ours.estimate is not None
            assert theirs.estimate is not None
            assert theirs.estimate.value == -ours.estimate.value
            assert theirs.interval is not None
            assert ours.interval is not None
            assert (theirs.interval.low, theirs.interval.high) == (-ours.interval.high, -ours.interval.low)
    assert comparison.mean is not None
    assert swapped.mean is not None
    assert swapped.mean.log_ratio == -comparison.mean.log_ratio


def test_the_yardstick_takes_a_slower_machine_out_of_the_ratio() -> None:
    comparison = compare(side(), other(3.0, yardstick_seconds=0.015625 * 1.5))
    assert ratio(comparison) == pytest.approx(1.5)
    relative = comparison.rows[0].relative_log_ratio
    assert relative is not None
    assert math.exp(relative) == pytest.approx(1.0)


@pytest.mark.parametrize("seconds", [2.0, 0.002])  # longer than the yardstick, and shorter
def test_slowdown_relative_to_the_yardstick_has_a_normalised_ratio_above_1(seconds: float) -> None:
    relative = compare(side((seconds,)), other(1.5 * seconds)).rows[0].relative_log_ratio
    assert relative is not None
    assert math.exp(relative) == pytest.approx(1.5)


@pytest.mark.parametrize("yardstick_seconds", [0.0, 5e-324])
def test_a_trial_without_a_usable_yardstick_leaves_the_normalised_ratio_empty(yardstick_seconds: float) -> None:
    records = [trial(repeat=0), trial(repeat=1, yardstick_seconds=yardstick_seconds)]
    comparison = compare(side(), make_run(repeats=2, records=records, run_id="b0b0b0b0"))
    assert comparison.rows[0].relative_log_ratio is None
    assert comparison.rows[0].time.estimate is not None


def test_accuracy_is_judged_by_the_difference_of_final_accuracies() -> None:
    judgement = accuracy_of(compare(side(), other(correct=9_525)))
    assert judgement.verdict is Verdict.LOWER
    assert judgement.estimate is not None
    assert judgement.estimate.value == pytest.approx(-0.02)


def test_accuracies_of_different_data_are_incomparable_and_times_are_not() -> None:
    comparison = compare(side(), other(dataset_sha256="f" * 64))
    assert accuracy_of(comparison).verdict is Verdict.INCOMPARABLE
    assert "ffffffff" in accuracy_of(comparison).reason
    assert time_verdicts(comparison) == [Verdict.SAME]


def test_epochs_of_different_length_have_incomparable_times() -> None:
    epoch = make_epoch(train_samples=1_000)
    shorter = [make_record(repeat=repeat, outcome=make_measurement(epochs=(epoch,))) for repeat in range(3)]
    comparison = compare(side(), make_run(repeats=3, records=shorter, run_id="b0b0b0b0"))
    assert time_verdicts(comparison) == [Verdict.INCOMPARABLE]
    assert comparison.mean is None


def test_accuracy_of_noise_is_left_empty() -> None:
    assert compare(side(correct=None), other(correct=None)).rows[0].accuracy is None
    assert accuracy_of(compare(side(), other(correct=None))).verdict is Verdict.INCOMPARABLE


def test_configurations_of_one_side_only_are_listed_and_keep_out_of_the_mean() -> None:
    comparison = compare(side((1.0, 2.0)), make_run(configurations(3)[1:], 3, run_id="b0b0b0b0"))
    assert [row.baseline.subject for row in comparison.rows] == configurations(2)[1:]
    assert list(comparison.baseline_only) == configurations(1)
    assert list(comparison.candidate_only) == configurations(3)[2:]
    assert comparison.mean is not None
    assert comparison.mean.count == 1


def test_rows_are_sorted_as_show_sorts_whatever_the_plan() -> None:
    chosen = configurations(4)
    baseline, candidate = make_run(chosen[::-1], 3), make_run([chosen[i] for i in (2, 0, 3, 1)], 3, run_id="b0b0b0b0")
    assert [row.baseline.subject for row in compare(baseline, candidate).rows] == chosen


def test_nothing_in_common_is_an_error_that_names_the_nearest_difference() -> None:
    ours, theirs = make_configuration(epochs=5), make_configuration(epochs=3)
    far = make_configuration(model="784-10", layers=(784, 10), batch_size=7)
    with pytest.raises(
        IncomparableError,
        match=r"A has 1 configuration and B has 2 .* the nearest two differ, baseline / candidate, in epochs: 5 / 3;",
    ):
        compare(make_run([ours]), make_run([far, theirs], run_id="b0b0b0b0"))


def test_of_very_many_with_nothing_in_common_no_nearest_is_looked_for() -> None:
    ours, theirs = ([make_configuration(epochs=e, batch_size=1 + i) for i in range(101)] for e in (5, 3))
    with pytest.raises(IncomparableError, match="none of them in both: measure both with the same options"):
        compare(make_run(ours, 1, records=[]), make_run(theirs, 1, records=[], run_id="b0b0b0b0"))


def test_the_geometric_mean_is_over_matched_configurations() -> None:
    comparison = compare(side((1.0, 1.0)), side((2.0, 4.5), run_id="b0b0b0b0"))
    assert comparison.mean is not None
    assert math.exp(comparison.mean.log_ratio) == pytest.approx(3.0)


def test_drift_is_not_averaged_out_over_configurations() -> None:
    noise = Quiet(drift=0.2)
    one = compare(side((1.0,)), side((1.0,), run_id="b0b0b0b0"), noise).mean
    many = compare(side((1.0,) * 8), side((1.0,) * 8, run_id="b0b0b0b0"), noise).mean
    assert one is not None
    assert many is not None
    for mean in (one, many):
        assert mean.interval.high > 1.9 * math.sqrt(2) * 0.2
    still = compare(side((1.0,) * 8), side((1.0,) * 8, run_id="b0b0b0b0"), Quiet(drift=0.0)).mean
    assert still is not None
    assert still.interval.high < 0.01


def test_one_trial_per_side_gives_a_mean_without_an_interval() -> None:
    mean = compare(side(repeats=1), other(2.2, repeats=1)).mean
    assert mean is not None
    assert mean.log_ratio == pytest.approx(math.log(1.1))
    assert math.isinf(mean.interval.high)


def test_a_mean_of_one_ratio_is_that_ratio_with_its_interval() -> None:
    comparison = compare(side(), other(2.2))
    assert comparison.mean is not None
    interval = comparison.rows[0].time.interval
    assert interval is not None
    assert comparison.mean.interval.low == pytest.approx(interval.low)
    assert comparison.mean.interval.high == pytest.approx(interval.high)


def test_the_interval_of_a_mean_adds_variances_and_averages_drift() -> None:
    estimates = [
        Estimate(value=0.1, variance=0.01, degrees_of_freedom=4, scale=2 / 3, extra_variance=0.02**2, n=(3, 3)),
        Estimate(value=0.3, variance=0.0025, degrees_of_freedom=9, scale=1 / 2, extra_variance=0.04**2, n=(4, 4)),
    ]
    (row,) = compare(side(), other()).rows
    mean = geometric_mean([dataclasses.replace(row, time=judged) for judged in compare_times(estimates)])
    assert mean is not None
    variances = [0.01 * 2 / 3, 0.0025 / 2]
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 4 + variances[1] ** 2 / 9)
    half = stats.t.isf(0.025, freedom) * math.sqrt(sum(variances) / 4 + 0.03**2)
    assert mean.log_ratio == pytest.approx(0.2)
    assert (mean.interval.low, mean.interval.high) == pytest.approx((0.2 - half, 0.2 + half))


def test_a_configuration_with_only_failed_trials_has_failed() -> None:
    failed = [make_record(repeat=repeat, outcome=make_failure()) for repeat in range(3)]
    comparison = compare(side(), make_run(records=failed, run_id="b0b0b0b0"))
    assert time_verdicts(comparison) == [Verdict.FAILED]
    assert accuracy_of(comparison).verdict is Verdict.FAILED
    assert len(comparison.rows[0].candidate.failures) == 3


def test_a_side_that_failed_has_failed_whether_or_not_the_other_was_measured() -> None:
    failed = make_run(records=[make_record(repeat=r, outcome=make_failure()) for r in range(3)], run_id="b0b0b0b0")
    empty = with_records(side(), [])
    assert time_verdicts(compare(failed, empty)) == time_verdicts(compare(empty, failed)) == [Verdict.FAILED]


def test_some_failed_trials_are_counted_and_the_others_compared() -> None:
    records = [trial(repeat=0), trial(repeat=1), make_record(repeat=2, outcome=make_failure())]
    row = compare(side(), make_run(records=records, run_id="b0b0b0b0")).rows[0]
    assert (row.candidate.n, len(row.candidate.failures)) == (2, 1)
    assert row.time.estimate is not None


def test_planned_but_unmeasured_configuration_cannot_be_compared() -> None:
    comparison = compare(side((1.0, 2.0)), with_records(side((1.0, 2.0), run_id="b0b0b0b0"), []))
    assert time_verdicts(comparison) == [Verdict.INCOMPARABLE] * 2
    (note,) = (note for note in comparison.notes if "--resume" in note)
    assert note.startswith("the candidate is incomplete: resume with python -m bench run --resume b0b0b0b0")


def test_other_hardware_is_a_hardware_comparison_in_which_threads_may_differ() -> None:
    theirs = make_configuration(threads=16)
    candidate = side({theirs: 1.0}, run_id="b0b0b0b0", header={"machine": ELSEWHERE})
    comparison = compare(side((2.0,)), candidate)
    assert comparison.is_hardware
    assert time_verdicts(comparison) == [Verdict.FASTER]
    assert [row.candidate.subject for row in comparison.rows] == [theirs]
    assert any("differ only in threads are paired" in note for note in comparison.notes)
    with pytest.raises(IncomparableError, match="threads: 2 / 16"):
        compare(side((2.0,)), side({theirs: 1.0}, run_id="b0b0b0b0"))


@pytest.mark.parametrize("failed", [True, False])
def test_failed_trial_ran_on_its_machine_and_missing_trial_on_none(*, failed: bool) -> None:
    records = [make_record(outcome=make_failure())] if failed else []
    elsewhere = make_run(repeats=1, records=records, run_id="b0b0b0b0", machine=ELSEWHERE)
    assert compare(side(), elsewhere).is_hardware is failed


def test_threads_are_never_guessed_where_several_could_be_meant() -> None:
    ours = gather(make_run([make_configuration(threads=threads) for threads in (1, 2, 4)]))
    theirs = gather(make_run([make_configuration(threads=threads) for threads in (2, 8)]))
    matching = match(ours, theirs, ignoring=("threads",))
    pairs = [(a.subject, b.subject) for a, b in matching.pairs]
    assert pairs == [(make_configuration(threads=2), make_configuration(threads=2))]
    assert len(matching.baseline_only) == 2
    assert len(matching.candidate_only) == 1


def test_nearest_configurations_name_their_layers_as_tables_do() -> None:
    wide = make_configuration(model="784-512-10", layers=(784, 512, 10))
    with pytest.raises(IncomparableError, match="layers: 784-128-10 / 784-512-10"):
        compare(side({make_configuration(): 2.0}), side({wide: 2.0}, run_id="b0b0b0b0"))


def test_software_differences_are_named() -> None:
    comparison = compare(side(), other(header={"software": make_software(torch="2.12.0", driver=None)}))
    assert comparison.differences == ("torch: 2.11.0 / 2.12.0", "driver: 580.1 / none")


def test_a_difference_of_commits_gives_their_first_ten_digits() -> None:
    comparison = compare(side(), other(header={"software": make_software(git_commit="b" * 40)}))
    assert comparison.differences == ("git commit: 0123456789 / bbbbbbbbbb",)


def test_equal_configurations_that_are_different_objects_are_one() -> None:
    records = [trial(dataclasses.replace(make_configuration()), repeat) for repeat in range(8)]
    (row,) = compare(side({make_configuration(): 2.0}), make_run(repeats=8, records=records, run_id="b0b0b0b0")).rows
    assert row.candidate.n == 8


def test_a_variance_that_is_small_by_luck_is_raised_to_that_of_the_devices_other_configurations() -> None:
    chosen = configurations(12)
    alike = [
        make_record(each, repeat, outcome=trial(each, repeat if each != chosen[0] else 0).outcome)
        for each in chosen
        for repeat in range(6)
    ]
    comparison = compare(make_run(chosen, 6, records=alike), make_run(chosen, 6, records=alike, run_id="b0b0b0b0"))
    lucky = comparison.rows[0].time.estimate
    assert lucky is not None
    assert independent_estimate(comparison.rows[0].baseline.log_seconds, [0.0] * 6).variance == 0
    assert lucky.variance > 0
    assert lucky.degrees_of_freedom > 10


def test_a_shared_configuration_is_hashed_once_and_not_for_every_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = 0
    plain = Configuration.__hash__

    def count(self: Configuration) -> int:
        nonlocal hashed
        hashed += 1
        return plain(self)

    run = side((1.0, 2.0), repeats=200)
    monkeypatch.setattr(Configuration, "__hash__", count)
    gather(run)
    assert hashed < 20
