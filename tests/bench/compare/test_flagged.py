"""The comparison of two stored runs without their flagged trials, beside the one with them."""

import dataclasses
from collections.abc import Iterable

import pytest
from bench_builders import make_failure, make_record
from stored_runs import compare, other, shuffled, side, with_records

from bench.compare.comparison import Comparison
from bench.compare.flagged import WithoutFlagged, judge_without_flagged
from bench.compare.trials import gather
from bench.records import Measurement, Run, TrialRecord, TrialWarning
from bench.stats.drift import Drift
from bench.stats.judgement import Judgement, Verdict


def flag(run: Run, repeats: Iterable[int], *, slower: float = 1.0, at: int = 0) -> Run:
    """`run` with a stall in the trials of `repeats` of its configuration `at`, which took `slower` times as long."""
    chosen, places = run.header.plan.configurations[at], set(repeats)

    def change(record: TrialRecord) -> TrialRecord:
        if record.trial.configuration != chosen or record.trial.repeat not in places:
            return record
        assert isinstance(record.outcome, Measurement)
        (epoch,) = record.outcome.epochs
        epoch = dataclasses.replace(epoch, train_seconds=epoch.train_seconds * slower)
        outcome = dataclasses.replace(record.outcome, epochs=(epoch,))
        return dataclasses.replace(record, outcome=outcome, warnings=(TrialWarning.STALL,))

    return with_records(run, [change(record) for record in run.records])


def without(comparison: Comparison, place: int = 0) -> WithoutFlagged:
    found = comparison.rows[place].without_flagged
    assert found is not None
    return found


def test_no_flagged_trial_leaves_nothing_to_be_judged_again() -> None:
    assert [row.without_flagged for row in compare(side((1.0, 2.0)), side((1.0, 2.0), run_id="b0b0b0b0")).rows] == [
        None,
        None,
    ]


def test_flagged_trials_stay_in_the_verdict_beside_the_one_without_them() -> None:
    comparison = compare(side(), flag(other(), range(5), slower=3.0))
    (row,) = comparison.rows
    assert row.candidate.n == 8
    assert row.time.verdict is Verdict.SLOWER
    calm = without(comparison)
    assert calm.judgement.verdict is Verdict.SAME
    assert calm.judgement.estimate is not None
    assert calm.judgement.estimate.n == (8, 3)
    assert calm.counts == (0, 5)
    assert calm.change(row.time.verdict) == "slower, but same without the 5 flagged trials (stall)"


def test_verdict_that_flagged_trials_do_not_change_is_the_same_without_them() -> None:
    comparison = compare(side(), flag(other(2.6), [3]))
    assert without(comparison).judgement.verdict is comparison.rows[0].time.verdict is Verdict.SLOWER
    assert without(comparison).change(Verdict.SLOWER) is None
    assert without(comparison).change(Verdict.SAME) == "same, but slower without the 1 flagged trial (stall)"


def test_judgement_without_flagged_trials_is_that_of_a_run_without_them() -> None:
    ours, theirs = side((1.0, 2.0)), flag(side((1.0, 2.2), run_id="b0b0b0b0"), [0, 4], slower=1.5, at=1)
    kept = [record for record in theirs.records if not record.warnings]
    expected = compare(ours, with_records(theirs, kept)).rows
    for row, bare in zip(compare(ours, theirs).rows, expected, strict=True):
        assert row.without_flagged is not None
        assert row.without_flagged.judgement == bare.time


@pytest.mark.parametrize(
    ("repeats", "said"),
    [(3, "all 3 trials of the baseline are flagged (stall)"), (1, "the baseline's only trial is flagged (stall)")],
)
def test_where_all_trials_of_a_side_are_flagged_nothing_would_be_left(repeats: int, said: str) -> None:
    comparison = compare(flag(side(repeats=repeats), range(repeats)), other(2.6, repeats=repeats))
    calm = without(comparison)
    assert calm.judgement.verdict is Verdict.INCOMPARABLE
    verdict = comparison.rows[0].time.verdict
    assert calm.change(verdict) == f"{verdict}, but {said}, so nothing can be judged without them"


def test_a_row_without_a_flagged_trial_can_be_changed_by_those_of_others() -> None:
    calm = WithoutFlagged(counts=(0, 0), warnings=(), judgement=compare(side(), other()).rows[0].time)
    assert calm.change(Verdict.SLOWER) == (
        "slower, but same without the flagged trials of other rows, which are judged together with it"
    )


def test_incomparable_pair_stays_so_without_flagged_trials() -> None:
    failed = [make_record(repeat=repeat, outcome=make_failure()) for repeat in range(8)]
    comparison = compare(flag(side(), [0]), with_records(other(), failed))
    assert without(comparison).judgement == comparison.rows[0].time


def test_a_run_against_itself_is_the_same_without_flagged_trials_too() -> None:
    run = flag(side(), [0, 1], slower=3.0)
    comparison = compare(run, run, None)
    assert without(comparison).judgement == comparison.rows[0].time


def test_flagged_trials_do_not_depend_on_the_order_of_records() -> None:
    theirs = flag(other(2.2), [1, 5], slower=1.4)
    mixed = with_records(theirs, shuffled(theirs.records))
    assert compare(side(), mixed).rows == compare(side(), theirs).rows


def test_nothing_is_judged_again_without_flagged_trials() -> None:
    def judge(_: object) -> tuple[Judgement, ...]:
        raise AssertionError

    (trials,) = gather(side())
    assert judge_without_flagged([(trials, trials)], [], Drift(None, None), judge) == (None,)
