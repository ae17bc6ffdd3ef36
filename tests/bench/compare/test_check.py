"""The gate: every verdict from a real cause, the worst one wins, and nothing unknown ever passes."""

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence

import pytest
from bench_builders import (
    make_configuration,
    make_division,
    make_failure,
    make_footer,
    make_machine,
    make_record,
    make_run,
)
from stored_runs import Quiet, configurations, shuffled, side, trial, with_records

from bench.compare.check import check_runs, refresh_command
from bench.compare.check_report import Finding, Gate, GateReport, Limits
from bench.compare.check_view import check_json, check_markdown, check_text
from bench.compare.comparison import Source
from bench.compare.trials import make_table
from bench.errors import BadInputError, ExitCode
from bench.records import Configuration, Failure, FailureKind, Measurement, Run, TrialWarning
from bench.stats.inference import Estimate
from bench.stats.judgement import ERROR_LEVEL, GATE_EXIT_CODES, Judgement, Verdict, undecided

QUIET = Quiet()
ELSEWHERE = {"machine": make_machine(cpu_model="Fictional CPU 1")}


def check(baseline: Run, candidate: Run, profile: Quiet | None = QUIET, limits: Limits | None = None) -> GateReport:
    return check_runs(
        Source(label="A", table=make_table(baseline), profile=profile),
        Source(label="B", table=make_table(candidate), profile=profile),
        limits or Limits(),
    )


def candidate_side(seconds: Sequence[float] = (2.0,), **changes: object) -> Run:
    return side(seconds, **{"run_id": "b0b0b0b0"} | changes)  # type: ignore[arg-type] # changes of any field


def verdicts(report: GateReport) -> list[tuple[str, str]]:
    return [(finding.quantity, finding.judgement.verdict.value) for finding in report.findings]


def only(report: GateReport, verdict: Verdict) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.judgement.verdict is verdict]
    return finding


def test_the_same_again_passes_in_time_and_in_accuracy() -> None:
    report = check(side((2.0, 1.0)), candidate_side((2.0, 1.0)))
    assert verdicts(report) == [("epoch time", "pass")] * 2 + [("test accuracy", "pass")] * 2
    assert report.exit_code is ExitCode.PASS
    assert report.reason == "4 checks passed"


def test_a_slower_candidate_is_a_regression_of_time() -> None:
    report = check(side(), candidate_side((2.6,)))
    assert verdicts(report) == [("epoch time", "regression"), ("test accuracy", "pass")]
    assert report.exit_code is ExitCode.REGRESSION


def test_a_less_accurate_candidate_is_a_regression_of_accuracy() -> None:
    report = check(side(), candidate_side(correct=9_525))
    assert verdicts(report) == [("epoch time", "pass"), ("test accuracy", "regression")]


def test_one_slower_configuration_among_many_is_found() -> None:
    report = check(side((2.0,) * 10), candidate_side((2.0,) * 4 + (2.6,) + (2.0,) * 5))
    assert only(report, Verdict.REGRESSION).subject == configurations(10)[4]


def test_without_a_profile_a_small_difference_of_time_is_neither_passed_nor_failed() -> None:
    report = check(side(), candidate_side((2.05,)), None)
    assert verdicts(report) == [("epoch time", "inconclusive"), ("test accuracy", "pass")]
    assert report.exit_code is ExitCode.INCONCLUSIVE
    assert "bench ab" in report.findings[0].advice
    assert any("bench calibrate" in note for note in report.notes)


def test_difference_that_equal_code_shows_on_this_machine_is_not_a_regression() -> None:
    assert check(side(), candidate_side((2.4,))).verdict is Verdict.REGRESSION
    assert check(side(), candidate_side((2.4,)), Quiet(floor=0.2)).verdict is Verdict.INCONCLUSIVE


def test_too_few_seeds_for_accuracy_say_how_many_would_do() -> None:
    limits = Limits(max_accuracy_drop=0.001)
    report = check(side(repeats=3), candidate_side(repeats=3, correct=9_719), limits=limits)
    finding = next(finding for finding in report.findings if finding.quantity == "test accuracy")
    assert finding.judgement.verdict is Verdict.INCONCLUSIVE
    assert finding.judgement.needed_n is not None
    assert f"--repeats {finding.judgement.needed_n}" in finding.advice
    assert "bench ab" not in finding.advice  # it judges times alone


@pytest.mark.parametrize("gate", ["all", "time"])
def test_time_of_another_machine_is_incomparable_and_the_way_out_is_named(gate: str) -> None:
    limits = Limits(gate=gate)  # type: ignore[arg-type] # one of the choices
    report = check(side(), candidate_side(header=ELSEWHERE), limits=limits)
    assert report.exit_code is ExitCode.INCOMPARABLE
    assert "--gate accuracy" in only(report, Verdict.INCOMPARABLE).advice


def test_accuracy_is_gated_across_machines_whatever_their_threads() -> None:
    theirs = {make_configuration(threads=32): 0.1}
    report = check(side(), side(theirs, run_id="b0b0b0b0", header=ELSEWHERE), limits=Limits(gate="accuracy"))
    assert verdicts(report) == [("test accuracy", "pass")]
    text = " ".join(check_text(report).split())
    assert f"threads {make_configuration().threads} / 32, test accuracy" in text
    assert "machine differs, baseline / candidate: " in text


def test_each_gate_judges_its_own_quantity_only() -> None:
    slow_and_wrong = candidate_side((3.0,), correct=9_000)
    assert verdicts(check(side(), slow_and_wrong, limits=Limits(gate="time"))) == [("epoch time", "regression")]
    assert verdicts(check(side(), slow_and_wrong, limits=Limits(gate="accuracy"))) == [("test accuracy", "regression")]


def test_a_configuration_missing_on_either_side_is_incomparable_and_named() -> None:
    header = {"command": ("run", "--models", "784-128-10", "--name", "two words")}
    report = check(side((1.0, 2.0), header=header), candidate_side((1.0,)))
    finding = only(report, Verdict.INCOMPARABLE)
    assert finding.subject == configurations(2)[1]
    assert "missing in the candidate" in finding.judgement.reason
    assert "python -m bench run --models 784-128-10 --name 'two words'" in finding.advice
    assert "measure the candidate as the baseline was measured" in finding.advice
    finding = only(check(side((1.0,), header=header), candidate_side((1.0, 2.0))), Verdict.INCOMPARABLE)
    assert "missing in the baseline" in finding.judgement.reason
    assert (
        "if the right run is named, refresh the baseline, which was made by python -m bench run --models"
        in finding.advice
    )


def test_missing_configurations_name_their_nearest_and_share_one_advice() -> None:
    ours = [make_configuration(batch_size=size) for size in (64, 256, 1024)]
    theirs = [ours[0], dataclasses.replace(ours[1], epochs=9), dataclasses.replace(ours[2], engine="fused")]
    other = {"command": ("run", "--epochs", "9")}
    report = check(side(dict.fromkeys(ours, 1.0)), side(dict.fromkeys(theirs, 1.0), run_id="b0b0b0b0", header=other))
    reasons = [each.judgement.reason for each in report.findings if "missing" in each.judgement.reason]
    assert len(reasons) == 4
    assert sum("epochs: 3 / 9" in reason for reason in reasons) == 2
    assert sum("engine: eager / fused" in reason for reason in reasons) == 2
    text = " ".join(check_text(report).split())
    assert text.count("next, for 2 of the findings above: measure the candidate as the baseline was") == 1
    assert text.count("next, for 2 of the findings above: if the right run is named, refresh the baseline") == 1


@pytest.mark.parametrize("empty", ["baseline", "candidate"])
def test_each_configuration_is_missing_in_a_run_that_has_none(empty: str) -> None:
    nothing, two = make_run([], 3), side((1.0, 2.0), run_id="b0b0b0b0")
    report = check(nothing, two) if empty == "baseline" else check(two, nothing)
    missing = [each for each in report.findings if f"missing in the {empty}" in each.judgement.reason]
    assert [each.subject for each in missing] == configurations(2)


@pytest.mark.parametrize("which", ["baseline", "candidate"])
def test_a_configuration_that_only_one_side_has_is_told_from_its_like_by_what_it_differs_in(which: str) -> None:
    like, other = make_configuration(), make_configuration(engine="fused")
    both, one = {like: 1.0, other: 1.0}, {like: 1.0}
    ours, theirs = (both, one) if which == "baseline" else (one, both)
    text = " ".join(check_text(check(side(ours), side(theirs, run_id="b0b0b0b0"))).split())
    assert "engine fused" in text


def test_runs_of_nothing_in_common_are_one_finding() -> None:
    ours, theirs = make_configuration(model="mlp_128"), make_configuration(model="mlp_120_84")
    header = {"command": ("run", "--models", "mlp_120_84")}
    report = check(side({ours: 1.0}), side({theirs: 1.0}, run_id="b0b0b0b0", header=header))
    finding = only(report, Verdict.INCOMPARABLE)
    assert (
        "no configuration is in both runs (the nearest one differs, baseline / candidate, in model: mlp_128 /"
        in finding.judgement.reason
    )
    assert "check that the right runs are named" in finding.advice


@pytest.mark.parametrize("changed", [{"epochs": 9}, {"model": "squad_net"}])
@pytest.mark.parametrize("others", [{}, {make_configuration(batch_size=1024): 1.0}])
def test_a_recipe_that_changed_below_the_same_command_is_not_to_be_measured_again(
    changed: dict[str, object], others: dict[Configuration, float]
) -> None:
    before = make_configuration()
    after = dataclasses.replace(before, **changed)  # type: ignore[arg-type] # changes of any field
    refreshed = {"command": ("run", "--preset", "accuracy", "--name", "accuracy", "--output", "accuracy.jsonl")}
    in_ci = {"command": ("run", "--preset", "accuracy", "--output", "other.jsonl")}
    report = check(
        side({before: 1.0, **others}, header=refreshed),
        side({after: 1.0, **others}, run_id="b0b0b0b0", header=in_ci),
    )
    assert report.exit_code is ExitCode.INCOMPARABLE
    text = " ".join(check_text(report).split())
    assert text.count("the same command measures something else now") == 1
    assert "refresh the baseline: python -m bench run --preset accuracy --name accuracy" in text
    assert "measure the candidate" not in text


@pytest.mark.parametrize("output", [("--output", "a.jsonl"), ("--output=a.jsonl",)])
def test_a_command_to_repeat_writes_no_file_again(output: tuple[str, ...]) -> None:
    header = dataclasses.replace(make_run().header, command=("run", *output, "--epochs", "2"))
    assert refresh_command(header) == "python -m bench run --epochs 2"


def test_nothing_in_common_is_incomparable_and_tells_the_nearest_difference() -> None:
    theirs = side({make_configuration(epochs=1): 2.0}, run_id="b0b0b0b0")
    report = check(side(), theirs)
    assert report.exit_code is ExitCode.INCOMPARABLE
    assert "epochs: 3 / 1" in report.reason


def test_two_empty_runs_do_not_pass() -> None:
    report = check(make_run([], 3), make_run([], 3, run_id="b0b0b0b0"))
    assert report.exit_code is ExitCode.INCOMPARABLE
    assert report.reason == "neither run has a configuration"


@pytest.mark.parametrize("which", ["baseline", "candidate"])
def test_a_failed_trial_on_either_side_fails_the_check(which: str) -> None:
    good = side()
    bad = with_records(good, [*good.records[:-1], make_record(repeat=7, outcome=make_failure())])
    other = candidate_side()
    failed = with_records(other, [*other.records[:-1], make_record(repeat=7, outcome=make_failure())])
    report = check(bad, other) if which == "baseline" else check(good, failed)
    assert report.exit_code is ExitCode.FAILED_TRIAL
    finding = only(report, Verdict.FAILED)
    assert f"1 of 8 trials of the {which} failed, out_of_memory: 9 GiB wanted" in finding.judgement.reason


def test_a_failed_trial_of_a_configuration_that_only_one_side_has_is_not_overlooked() -> None:
    other = candidate_side((1.0, 2.0))
    failed = [make_record(configurations(2)[1], repeat, outcome=make_failure()) for repeat in range(8)]
    records = [record for record in other.records if record.trial.configuration != configurations(2)[1]]
    report = check(side((1.0,)), with_records(other, [*records, *failed]))
    assert report.exit_code is ExitCode.FAILED_TRIAL


@pytest.mark.parametrize("which", ["baseline", "candidate"])
def test_an_incomplete_run_is_inconclusive_even_if_all_that_is_there_passes(which: str) -> None:
    good, other = side(), candidate_side()
    cut = {
        "baseline": (with_records(good, good.records[:-1], make_footer(complete=False, missing=1)), other),
        "candidate": (good, with_records(other, other.records[:-1], make_footer(complete=False, missing=1))),
    }
    report = check(*cut[which])
    assert report.exit_code is ExitCode.INCONCLUSIVE
    assert f"the {which} run is incomplete" in report.reason
    assert "--resume" in only(report, Verdict.INCONCLUSIVE).advice


def test_a_footer_that_calls_a_run_complete_is_not_believed_when_trials_are_missing() -> None:
    other = candidate_side()
    assert check(side(), with_records(other, other.records[:-1])).exit_code is ExitCode.INCONCLUSIVE


def test_complete_shards_are_not_whole_runs() -> None:
    division = make_division()
    theirs = dataclasses.replace(division, held=(dataclasses.replace(division.held[0], run_id="b0b0b0b0"),))
    report = check(side(header={"division": division}), candidate_side(header={"division": theirs}))
    assert report.exit_code is ExitCode.INCONCLUSIVE
    advice = [each.advice for each in report.findings if each.judgement.verdict is Verdict.INCONCLUSIVE]
    assert len(advice) == 2
    assert all("add shard 2 of 2 with python -m bench merge" in each for each in advice)


def test_an_incomplete_run_that_is_slower_already_is_a_regression() -> None:
    slow = candidate_side((2.6,))
    report = check(side(), with_records(slow, slow.records[:-1], make_footer(complete=False, missing=1)))
    assert report.exit_code is ExitCode.REGRESSION


def test_a_configuration_without_any_trial_yet_does_not_pass() -> None:
    other = candidate_side((1.0, 2.0))
    some = [record for record in other.records if record.trial.configuration == configurations(1)[0]]
    report = check(side((1.0, 2.0)), with_records(other, some, make_footer(complete=False, missing=8)))
    assert report.exit_code is ExitCode.INCONCLUSIVE
    assert any("no trial of the candidate has been measured yet" in f.judgement.reason for f in report.findings)
    before = side((1.0, 2.0))
    some = [record for record in before.records if record.trial.configuration == configurations(1)[0]]
    report = check(with_records(before, some, make_footer(complete=False, missing=8)), other)
    assert any("no trial of the baseline has been measured yet" in f.judgement.reason for f in report.findings)


def test_another_dataset_under_the_same_name_is_incomparable() -> None:
    report = check(side(), candidate_side(dataset_sha256="f" * 64))
    assert verdicts(report) == [("epoch time", "incomparable"), ("test accuracy", "incomparable")]
    assert "the datasets differ" in report.reason


def test_equal_accuracies_on_another_number_of_test_images_are_incomparable() -> None:
    other = candidate_side()
    records = []
    for record in other.records:
        assert isinstance(record.outcome, Measurement)
        (epoch,) = record.outcome.epochs
        assert epoch.test_correct is not None
        on_training_images = dataclasses.replace(epoch, test_samples=60_000, test_correct=6 * epoch.test_correct)
        outcome = dataclasses.replace(record.outcome, epochs=(on_training_images,))
        records.append(dataclasses.replace(record, outcome=outcome))
    report = check(side(), with_records(other, records))
    assert report.exit_code is ExitCode.INCOMPARABLE
    assert "different numbers of images (10000, 60000): a wrong split?" in report.reason


@pytest.mark.parametrize("gate", ["all", "time"])
def test_half_an_epoch_in_half_the_time_is_incomparable(gate: Gate) -> None:
    half = candidate_side((1.0,))
    records = []
    for record in half.records:
        assert isinstance(record.outcome, Measurement)
        epochs = tuple(dataclasses.replace(epoch, train_samples=30_000) for epoch in record.outcome.epochs)
        records.append(dataclasses.replace(record, outcome=dataclasses.replace(record.outcome, epochs=epochs)))
    for halved in (records, [records[0], *half.records[1:]]):
        report = check(side(), with_records(half, halved), limits=Limits(gate=gate))
        assert report.exit_code is ExitCode.INCOMPARABLE
        assert "different numbers of training samples" in report.reason


def test_two_datasets_within_one_side_are_incomparable() -> None:
    other = candidate_side()
    mixed = [*other.records[:-1], trial(repeat=7, dataset_sha256="f" * 64)]
    assert check(side(), with_records(other, mixed)).exit_code is ExitCode.INCOMPARABLE


def test_noise_has_no_accuracy_to_gate() -> None:
    report = check(side(correct=None), candidate_side(correct=None))
    assert verdicts(report) == [("epoch time", "pass"), ("test accuracy", "incomparable")]
    assert "--gate time" in report.findings[1].advice  # a fresh baseline would have no accuracy either
    assert "refresh the baseline" not in check_text(report)
    floored = check(side(correct=None), candidate_side(correct=None), limits=Limits(min_accuracy=0.9))
    assert verdicts(floored) == verdicts(report)
    assert check(side(correct=None), candidate_side(correct=None), limits=Limits(gate="time")).verdict is Verdict.PASS


def test_noise_on_one_side_alone_is_named() -> None:
    def reason(ours: int | None, theirs: int | None) -> str:
        return only(check(side(correct=ours), candidate_side(correct=theirs)), Verdict.INCOMPARABLE).judgement.reason

    assert reason(None, None).startswith("the labels are noise")
    assert reason(None, 9_700).startswith("the labels of the baseline are noise")
    assert reason(9_700, None).startswith("the labels of the candidate are noise")


def test_one_trial_below_the_floor_is_a_regression_at_once() -> None:
    other = candidate_side()
    lapsed = with_records(other, [*other.records[:-1], trial(repeat=7, correct=8_990)])
    limits = Limits(min_accuracy=0.9)
    assert check(side(), other, limits=limits).verdict is Verdict.PASS
    report = check(side(), lapsed, limits=limits)
    assert report.exit_code is ExitCode.REGRESSION
    assert "90.00 %" in only(report, Verdict.REGRESSION).judgement.reason
    assert "below" in only(report, Verdict.REGRESSION).judgement.reason


def test_a_trial_on_the_floor_is_not_below_it() -> None:
    limits = Limits(min_accuracy=96.9 / 100)  # as the command reads 96.9%
    assert 9_690 / 10_000 < 96.9 / 100  # in binary fractions
    on_it, below = 9_694, 9_693  # the worst trial has 4 fewer
    assert check(side(correct=on_it), candidate_side(correct=on_it), limits=limits).verdict is Verdict.PASS
    report = check(side(correct=below), candidate_side(correct=below), limits=limits)
    assert "below the minimum of" in only(report, Verdict.REGRESSION).judgement.reason


def test_the_floor_holds_for_configurations_that_the_baseline_lacks() -> None:
    report = check(side(), candidate_side((2.0, 2.0), correct=8_500), limits=Limits(min_accuracy=0.9, gate="accuracy"))
    assert report.exit_code is ExitCode.REGRESSION
    assert configurations(2)[1] in [
        finding.subject for finding in report.findings if "below the minimum" in finding.judgement.reason
    ]


def test_a_floor_that_held_is_told() -> None:
    report = check(side(), candidate_side(), limits=Limits(min_accuracy=0.9))
    held = [finding.judgement.reason for finding in report.findings if finding.subject is None]
    assert held == ["the lowest of any trial is 97.21 %; the minimum is 90.00 %"]  # the worst trial has 4 fewer
    assert "verdict: pass (3 checks passed)" in check_text(report)


def test_a_floor_of_accuracy_without_a_gate_of_accuracy_is_refused() -> None:
    with pytest.raises(BadInputError, match="--min-accuracy does nothing with --gate time"):
        Limits(gate="time", min_accuracy=0.9)


def test_run_is_refused_as_candidate_for_itself() -> None:
    with pytest.raises(BadInputError, match="the same run, 0a1b2c3d"):
        check(side(), side())


def test_a_shard_is_refused_against_a_merge_that_contains_it() -> None:
    division = make_division((1, 1))
    shard = side(run_id="00000002", header={"division": dataclasses.replace(division, held=division.held[1:])})
    merged = side(run_id="a0a0a0a0", header={"division": division})
    for baseline, candidate in ((shard, merged), (merged, shard)):
        with pytest.raises(BadInputError, match="the same run, 00000002, or contain it"):
            check(baseline, candidate)


def test_the_worst_finding_decides() -> None:
    order = [Verdict.FAILED, Verdict.REGRESSION, Verdict.INCOMPARABLE, Verdict.INCONCLUSIVE, Verdict.PASS]
    base = check(side(), candidate_side())
    for better, worse in itertools.combinations(order[::-1], 2):
        findings = tuple(
            Finding(subject=None, quantity="trials", judgement=undecided(verdict, verdict.value), advice="")
            for verdict in (better, worse, better)
        )
        report = GateReport(
            baseline=base.baseline,
            candidate=base.candidate,
            limits=Limits(),
            findings=findings,
            dimensions=(),
            notes=(),
        )
        assert report.verdict is worse
        assert report.exit_code is GATE_EXIT_CODES[worse]


def test_order_of_records_changes_nothing() -> None:
    ours, theirs = side((1.0, 2.0, 3.0)), candidate_side((1.0, 2.5, 3.0))
    mixed = [with_records(run, shuffled(run.records)) for run in (ours, theirs)]
    assert check(mixed[0], mixed[1]).findings == check(ours, theirs).findings


def test_devices_are_judged_apart_and_share_the_level_of_error() -> None:
    chosen = [make_configuration(device=device) for device in ("cpu", "cuda")]
    runs = [
        make_run(chosen, 8, records=[trial(each, r) for r in range(8) for each in chosen], run_id=run_id)
        for run_id in ("aaaa0000", "bbbb0000")
    ]
    both = check(runs[0], runs[1], limits=Limits(gate="time")).findings[0].judgement
    one = check(side(), candidate_side(), limits=Limits(gate="time")).findings[0].judgement
    assert both.bound is not None
    assert one.bound is not None
    assert both.bound > one.bound


def test_devices_share_the_error_level() -> None:
    limits = Limits(gate="time", max_slowdown=0.01)

    def judge(*devices: str) -> Judgement:
        chosen = [make_configuration(device=device) for device in devices]
        before, after = side(dict.fromkeys(chosen, 2.0)), side(dict.fromkeys(chosen, 2.047), run_id="b0b0b0b0")
        return check(before, after, limits=limits).findings[0].judgement

    alone, one_of_two = judge("cpu"), judge("cpu", "cuda")
    assert alone.adjusted_p is not None
    assert ERROR_LEVEL / 2 < alone.adjusted_p < ERROR_LEVEL
    assert alone.verdict is Verdict.REGRESSION
    assert one_of_two.adjusted_p == alone.adjusted_p
    assert one_of_two.verdict is Verdict.INCONCLUSIVE


def test_trials_that_agree_by_chance_are_believed_as_far_as_those_of_the_other_configurations_allow() -> None:
    def find_estimate(count: int) -> Estimate:
        *_, steady = configurations(count)
        before, after = (
            with_records(
                run,
                [
                    dataclasses.replace(each, outcome=trial().outcome) if each.trial.configuration == steady else each
                    for each in run.records
                ],
            )
            for run in (side((2.0,) * count), candidate_side((2.0,) * count))
        )
        report = check(before, after, limits=Limits(gate="time"))
        (estimate,) = [each.judgement.estimate for each in report.findings if each.subject == steady]
        assert estimate is not None
        return estimate

    alone, among_others = find_estimate(1), find_estimate(12)
    assert among_others.variance > 1e-8 > alone.variance
    assert among_others.degrees_of_freedom > alone.degrees_of_freedom


@pytest.mark.parametrize(("factor", "repeats"), [(20, 8), (20, 2), (5e6, 2)])
def test_a_slowdown_of_many_times_has_the_same_figure_in_words_and_brackets(factor: float, repeats: int) -> None:
    report = check(side(repeats=repeats), candidate_side((2.0 * factor,), repeats=repeats), None)
    (line,) = [line for line in check_text(report, 9_999).splitlines() if line.startswith("regression: ")]
    figure, rest = re.fullmatch(r".*epoch time: (.+) % slower .*\[(.+ % to .+ %), n .*", line, re.DOTALL).groups()  # type: ignore[union-attr]
    estimate, low, high = re.fullmatch(r"(.+) %, 95 % interval (.+) % to (.+) %", rest).groups()  # type: ignore[union-attr]
    assert estimate.replace("+", "") == figure == ("1900.0" if factor == 20 else "> 100000")
    if factor == 20:
        assert float(low) < float(estimate) < float(high)
    else:
        assert low == high == "> +100000"


# --- flagged trials


def disturbed(slow: Sequence[int], *, seconds: float = 6.0) -> Run:
    """A candidate whose trials of the repeats `slow` took `seconds`, and are flagged."""
    run, slower = candidate_side(), candidate_side((seconds,))
    return with_records(
        run,
        [
            dataclasses.replace(late, warnings=(TrialWarning.CONTAMINATION,)) if late.trial.repeat in slow else record
            for record, late in zip(run.records, slower.records, strict=True)
        ],
    )


def test_flagged_trials_stay_in_the_verdict_and_the_report_gives_the_one_without_them() -> None:
    report = check(side(), disturbed(range(8), seconds=2.6))
    assert report.verdict is Verdict.REGRESSION
    report = check(side(), disturbed((0, 1, 2, 3)))
    (finding,) = [finding for finding in report.findings if finding.quantity == "epoch time"]
    assert finding.judgement.verdict is not Verdict.PASS
    assert report.exit_code is GATE_EXIT_CODES[finding.judgement.verdict]
    said = f"{finding.judgement.verdict}, but pass without the 4 flagged trials (contamination)"
    assert finding.change == said
    assert f"flagged trials matter: {said}" in check_text(report, 9_999)
    assert f"flagged trials matter: {said}" in check_markdown(report)
    document = json.loads(check_json(report))
    (entry, accuracy) = document["findings"]
    assert (entry["flagged"], entry["verdict_without_flagged"]) == ([0, 4], "pass")
    assert (accuracy["flagged"], accuracy["verdict_without_flagged"]) == (None, None)
    assert document["exit_code"] == report.exit_code


def test_a_check_that_flagged_trials_do_not_change_has_no_word_of_them() -> None:
    report = check(side(), disturbed((3,), seconds=2.0))
    assert report.verdict is Verdict.PASS
    assert "flagged" not in check_text(report)
    assert json.loads(check_json(report))["findings"][0]["verdict_without_flagged"] == "pass"


def test_a_check_says_where_nothing_would_be_left_without_flagged_trials() -> None:
    report = check(side(), disturbed(range(8), seconds=2.6))
    assert "regression, but all 8 trials of the candidate are flagged (" in check_text(report, 9_999)
    assert report.exit_code is ExitCode.REGRESSION


def test_of_very_many_missing_configurations_no_nearest_is_looked_for() -> None:
    ours = [make_configuration(batch_size=size) for size in range(1, 103)]
    theirs = [ours[0], *(dataclasses.replace(each, epochs=9) for each in ours[1:])]
    report = check(side(dict.fromkeys(ours, 1.0)), side(dict.fromkeys(theirs, 1.0), run_id="b0b0b0b0"))
    missing = [each.judgement.reason for each in report.findings if "missing" in each.judgement.reason]
    assert len(missing) == 202
    assert not any("nearest" in reason for reason in missing)


# --- very many configurations


def many(count: int) -> dict[Configuration, float]:
    return {make_configuration(batch_size=size): 1.0 for size in range(1, count + 1)}


def test_of_many_missing_configurations_the_first_are_named_and_json_has_all() -> None:
    header = {"command": ("run", "--shard", "1/501")}
    report = check(side(many(501), repeats=2), side(many(1), repeats=2, run_id="b0b0b0b0", header=header))
    text = check_text(report, 9_999)
    assert text.count("missing in the candidate") == 4 + 1  # and the verdict's own line
    assert "\nincomparable: 497 others (--json lists them), trials: missing in the candidate\n" in text
    assert "next, for 500 of the findings above: measure the candidate" in text
    markdown = check_markdown(report)
    assert markdown.count("| incomparable |") == 4
    assert "| 497 others (--json lists them), trials |" in markdown
    missing = [each for each in json.loads(check_json(report))["findings"] if each["quantity"] == "trials"]
    assert len(missing) == 500


def test_missing_configurations_are_shortened_whatever_their_nearest_is() -> None:
    theirs = {dataclasses.replace(each, epochs=1000 + each.batch_size): 1.0 for each in many(9)} | many(1)
    text = check_text(check(side(many(10), repeats=2), side(theirs, repeats=2, run_id="b0b0b0b0")), 9_999)
    assert text.count("the nearest one differs") == 3 + 3 + 1
    assert "6 others (--json lists them), trials: missing in the candidate\n" in text
    assert "6 others (--json lists them), trials: missing in the baseline\n" in text


def test_a_fourth_finding_of_a_kind_is_named_as_well() -> None:
    text = check_text(check(side(many(5), repeats=2), side(many(1), repeats=2, run_id="b0b0b0b0")), 9_999)
    assert "others" not in text
    assert all(f"batch {size}, trials: missing" in text for size in range(2, 6))


def test_of_many_failures_those_of_another_kind_are_named_on_their_own() -> None:
    def run(kinds: Sequence[FailureKind], run_id: str) -> Run:
        records = [
            make_record(each, outcome=Failure(kind=kind, message=f"after {place} epochs"))
            for place, (each, kind) in enumerate(zip(many(9), kinds, strict=True))
        ]
        return make_run(list(many(9)), 1, records=records, run_id=run_id)

    kinds = [FailureKind.CRASH] * 9
    kinds[7] = FailureKind.TIMEOUT
    report = check(side(many(9), repeats=1), run(kinds, "b0b0b0b0"))
    text = check_text(report, 9_999)
    assert "failed: 5 others (--json lists them), trials: trials of the candidate failed, crash\n" in text
    assert "batch 8, trials: 1 of 1 trials of the candidate failed, timeout: after 7 epochs\n" in text
    assert report.exit_code is ExitCode.FAILED_TRIAL


def test_configurations_with_numbers_of_their_own_are_all_named() -> None:
    report = check(side(many(9)), side(many(9), run_id="b0b0b0b0", correct=9_000))
    assert check_text(report, 9_999).count("regression: ") == 9
