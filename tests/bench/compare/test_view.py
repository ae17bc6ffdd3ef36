"""Comparisons as text: what each format says, that it fits, and that no name can do harm."""

import csv
import dataclasses
import io
import json
import math
import re

import pytest
from bench_builders import (
    make_configuration,
    make_failure,
    make_machine,
    make_record,
    make_run,
    make_software,
)
from stored_runs import Quiet, configurations, side, trial, with_records

from bench.compare.compare_runs import compare_runs
from bench.compare.comparison import Comparison, Source
from bench.compare.costs import side_cost
from bench.compare.trials import make_table
from bench.compare.view import render_comparison
from bench.records import Run, TrialWarning
from bench.stats.inference import Interval
from bench.stats.judgement import Verdict
from bench.stats.judgement_text import (
    change_interval_text,
    change_text,
    change_words,
    effect_text,
    points_effect_text,
    points_interval_text,
    points_text,
    ratio_interval_text,
    ratio_text,
)
from bench.tables.layout import Format, markdown_table, text_table, text_table_width
from bench.tables.prices import Prices, parse_prices


def compare(baseline: Run, candidate: Run, labels: tuple[str, str] = ("A", "B")) -> Comparison:
    sources = [
        Source(label=label, table=make_table(run), profile=Quiet())
        for label, run in zip(labels, (baseline, candidate), strict=True)
    ]
    return compare_runs(sources[0], sources[1])


@pytest.fixture
def mixed() -> Comparison:
    """One configuration slower and less accurate, one the same, one of the baseline alone."""
    ours = side((2.0, 1.0, 0.5))
    theirs = side((2.6, 1.0), run_id="b0b0b0b0")
    return compare(ours, theirs)


def test_the_table_is_shown_exactly_so(mixed: Comparison) -> None:
    text = render_comparison(mixed)
    assert text.startswith(
        """\
comparison: B against the baseline A
baseline: run 0a1b2c3d, nightly, 2026-11-21T03:15:00Z
candidate: run b0b0b0b0, nightly, 2026-11-21T03:15:00Z
Fictional CPU 9000 (4 of 8 logical cores), Fictional GPU F1, 16.0 GiB memory,
  torch 2.11.0, Python 3.12.4, Linux

epoch time, candidate / baseline
            batch                95 %  norm.
model        size  ratio     interval  ratio    n    MDE  verdict
----------  -----  -----  -----------  -----  ---  -----  -------
784-128-10     64  1.300  1.278-1.322  1.300  8/8  3.5 %  slower
784-128-10    128  1.000  0.983-1.017  1.000  8/8  3.5 %  same

test accuracy, candidate - baseline in percentage points
            batch
model        size  baseline  change   95 % interval    n   MDE  verdict
----------  -----  --------  ------  --------------  ---  ----  -------
784-128-10     64   97.25 %   +0.00  -0.03 to +0.03  8/8  0.06  same
784-128-10    128   97.25 %   +0.00  -0.03 to +0.03  8/8  0.06  same

geometric mean of 2 ratios: 1.140 (95 % interval 1.123-1.158)
only in the baseline (1): cpu 784-128-10 batch 256
"""
    )
    assert "every row: device cpu, dataset mnist, pipeline resident" in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_nothing_is_wider_than_the_terminal_but_a_table_that_cannot_be_narrower(width: int) -> None:
    chosen = [make_configuration(device=device, batch_size=size) for device in ("cpu", "cuda:1") for size in (8, 4096)]
    text = render_comparison(compare(make_run(chosen), make_run(chosen, run_id="b0b0b0b0")), width=width)
    assert max(map(len, text.splitlines())) <= max(width, 68)
    assert ("left out for lack of space" in text) == (width < 80)


def test_columns_are_left_out_in_order_and_named(mixed: Comparison) -> None:
    narrow = " ".join(render_comparison(mixed, width=60).split())
    assert "left out for lack of space: norm. ratio" in narrow
    assert "norm. ratio: normalised ratio" not in narrow  # what is not shown needs no explaining
    assert "verdict" in narrow
    narrowest = " ".join(render_comparison(mixed, width=20).split())
    assert "left out for lack of space: norm. ratio, MDE, n, baseline" in narrowest
    roomier = " ".join(render_comparison(mixed, width=80).split())
    assert "MDE: minimum detectable effect, the smallest difference" in roomier


def test_only_changed_leaves_out_rows_that_are_the_same_and_counts_them(mixed: Comparison) -> None:
    text = render_comparison(mixed, only_changed=True)
    assert "slower" in text
    assert "   128  " not in text
    assert "left out by --only-changed: 1 of 2 rows" in text
    assert "geometric mean of 2 ratios" in text


def test_an_unknown_interval_has_its_reason_once() -> None:
    text = render_comparison(compare(side(repeats=1), side(repeats=1, run_id="b0b0b0b0")), width=200)
    assert text.count("inconclusive: a single measurement shows no spread: at least 3 trials a side are needed") == 1


def test_detectable_effects_have_no_column_and_no_meaning_where_there_are_none() -> None:
    assert "MDE" not in render_comparison(compare(side(repeats=1), side(repeats=1, run_id="b0b0b0b0")), width=200)
    one, _ = configurations(2)

    def once_and_thrice(run: Run) -> Run:
        return with_records(
            run, [each for each in run.records if not each.trial.repeat or each.trial.configuration != one]
        )

    ours, theirs = (once_and_thrice(side((2.0, 1.0), repeats=3, run_id=run_id)) for run_id in ("0a1b2c3d", "b0b0b0b0"))
    text = render_comparison(compare(ours, theirs), width=200)
    assert re.findall(r" {2}MDE {2}", text) == ["  MDE  "] * 2
    assert "\nMDE: minimum" in text


def test_a_single_ratio_is_not_repeated_as_its_own_mean() -> None:
    assert "geometric mean of" not in render_comparison(compare(side(), side(run_id="b0b0b0b0")))


def test_means_are_explained_as_far_as_the_tables_show_them(mixed: Comparison) -> None:
    def told(comparison: Comparison) -> str:
        lines = render_comparison(comparison, width=200).splitlines()
        return next(line for line in lines if line.startswith("ratio: "))

    assert told(mixed) == "ratio: of geometric means over the trials; baseline: mean over its trials (show has medians)"
    noise = compare(side(correct=None), side(correct=None, run_id="b0b0b0b0"))
    assert told(noise) == "ratio: of geometric means over the trials (show has medians)"


def test_only_changed_shows_no_table_if_all_rows_are_the_same() -> None:
    run = side()
    for layout in ("table", "markdown"):
        text = render_comparison(compare(run, run), only_changed=True, format=layout)
        assert "verdict" not in text
        assert "left out by --only-changed: 1 of 1 rows" in text
    rows = render_comparison(compare(run, run), only_changed=True, format="csv").splitlines()
    assert len(rows) == 1
    assert json.loads(render_comparison(compare(run, run), only_changed=True, format="json"))["rows"] == []


def test_a_hardware_comparison_is_headed_so_and_names_both_machines() -> None:
    theirs = side(
        {make_configuration(threads=16): 1.0}, run_id="b0b0b0b0", header={"machine": make_machine(cpu_model="Y9")}
    )
    text = render_comparison(compare(side(), theirs))
    assert text.startswith("hardware comparison: B against the baseline A\n")
    assert "Fictional CPU 9000" in text
    assert "Y9" in text
    assert "2 / 16" in text
    assert "regression" not in text


def test_one_machine_with_other_software_says_what_differs() -> None:
    theirs = side(run_id="b0b0b0b0", header={"software": make_software(torch="2.12.0")})
    text = " ".join(render_comparison(compare(side(), theirs)).split())
    assert "differs, baseline / candidate, in torch: 2.11.0 / 2.12.0" in text
    assert text.index("torch 2.11.0") < text.index("candidate: ") < text.index("torch 2.12.0")
    assert render_comparison(compare(side(), side(run_id="b0b0b0b0"))).count("torch 2.11.0") == 1


def test_that_both_sides_failed_is_said_of_both() -> None:
    failures = [make_record(repeat=repeat, outcome=make_failure()) for repeat in range(3)]
    nothing, also_nothing = (with_records(side(run_id=name), failures) for name in ("a0a0a0a0", "b0b0b0b0"))
    told = " ".join(render_comparison(compare(nothing, also_nothing)).split())
    assert "every trial of the baseline and of the candidate failed: out_of_memory" in told
    assert "every trial of the candidate failed: out_of_memory" in " ".join(
        render_comparison(compare(side(), nothing)).split()
    )


def test_failures_have_a_column_only_where_there_are_any(mixed: Comparison) -> None:
    assert "failed" not in render_comparison(mixed)
    theirs = side(run_id="b0b0b0b0")
    failed = with_records(theirs, [*theirs.records[:-1], make_record(repeat=7, outcome=make_failure())])
    text = render_comparison(compare(side(), failed))
    assert "0/1" in text
    assert "8/7" in text


def test_dimensions_in_which_rows_differ_are_columns() -> None:
    chosen = [make_configuration(epochs=epochs) for epochs in (1, 2)]
    text = render_comparison(compare(make_run(chosen), make_run(chosen, run_id="b0b0b0b0")))
    assert "epochs" in text.split("ratio")[0]


def test_markdown_has_both_tables_and_escapes_names() -> None:
    chosen = [make_configuration(model="a|b<script>*", batch_size=size) for size in (1, 2)]
    text = render_comparison(
        compare(make_run(chosen), make_run(chosen, run_id="b0b0b0b0"), labels=("[x](y)", "B")), format="markdown"
    )
    assert "a\\|b\\<script>\\*" in text
    assert "\\[x\\](y)" in text
    assert text.count("\n| model") == 2


def test_json_holds_unrounded_numbers_and_reasons(mixed: Comparison) -> None:
    data = json.loads(render_comparison(mixed, format="json"))
    row = data["rows"][0]
    estimate = mixed.rows[0].time.estimate
    assert estimate is not None
    assert row["time_ratio"] == math.exp(estimate.value)
    assert row["time_ratio"] == pytest.approx(row["candidate_seconds"] / row["baseline_seconds"], rel=1e-12)
    assert row["time_verdict"] == "slower"
    assert row["time_reason"] == mixed.rows[0].time.reason
    assert row["accuracy_verdict"] == "same"
    assert data["baseline_only"][0]["batch_size"] == 256
    assert data["geometric_mean"]["count"] == 2
    assert data["baseline"]["run_id"] == "0a1b2c3d"
    assert data["notes"] == list(mixed.notes)
    assert data["rows_not_shown"] == 0


def test_csv_and_json_tell_the_same(mixed: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(render_comparison(mixed, format="csv"))))
    data = json.loads(render_comparison(mixed, format="json"))["rows"]
    for in_csv, in_json in zip(rows, data, strict=True):
        assert list(in_csv) == list(in_json)
        for key, value in in_json.items():
            text = "" if value is None else ("true" if value else "false") if isinstance(value, bool) else str(value)
            assert in_csv[key] == text


@pytest.mark.parametrize("layout", ["table", "markdown", "csv", "json"])
def test_unknown_intervals_and_impossible_ratios_do_not_crash(layout: Format) -> None:
    comparison = compare(side((1e-300,), repeats=1), side((1e300,), repeats=1, run_id="b0b0b0b0"))
    text = render_comparison(comparison, format=layout)
    assert "nan" not in text.lower()
    if layout == "json":
        assert json.loads(text)["rows"][0]["time_ratio"] is None
        assert json.loads(text)["rows"][0]["time_ratio_high"] is None


def test_interval_of_one_trial_a_side_is_unknown_and_that_of_failed_trials_is_empty() -> None:
    one = side((1.0,), repeats=1)
    text = render_comparison(compare(one, side((2.0,), repeats=1, run_id="b0b0b0b0")), format="markdown")
    assert text.count("|         unknown |") == 2
    failed = with_records(one, [dataclasses.replace(each, outcome=make_failure()) for each in one.records])
    assert "unknown" not in render_comparison(compare(failed, one), format="markdown")


def test_dimensions_have_the_names_that_show_gives_them() -> None:
    ranks = {make_configuration(world_size=ranks): 2.0 for ranks in (1, 2)}
    text = render_comparison(compare(side(ranks), side(ranks, run_id="b0b0b0b0")), format="markdown")
    assert "|   ranks |" in text


def test_five_reasons_are_listed_and_the_others_counted() -> None:
    chosen = [make_configuration(batch_size=size) for size in (1, 2, 3, 4, 5, 6, 7)]
    records = [trial(each, repeat, dataset_sha256=str(each.batch_size) * 64) for each in chosen for repeat in range(2)]
    ours = make_run(chosen, 2, records=records)
    text = render_comparison(compare(ours, side(dict.fromkeys(chosen, 2.0), repeats=2, run_id="b0b0b0b0")), width=200)
    assert text.count("incomparable: the datasets differ") == 5
    assert "and 2 more reasons: see time_reason and accuracy_reason in --format csv" in text


@pytest.mark.parametrize("layout", ["table", "markdown", "csv", "json"])
def test_hostile_names_cannot_command_a_terminal(layout: Format) -> None:
    evil = "\x1b[31m\u202eevil\r\n"
    chosen = [make_configuration(model=evil, device=evil, batch_size=size) for size in (1, 2)]
    software = make_software(torch=evil)
    machine = make_machine(cpu_model=evil)
    baseline = make_run([*chosen, make_configuration(model=evil, dataset=evil)], name=evil, machine=machine)
    candidate = make_run(chosen, run_id=evil, software=software, created_at=evil)
    text = render_comparison(compare(baseline, candidate, labels=(evil, evil)), format=layout)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\r" not in text


def test_names_are_as_long_as_a_wide_terminal_allows() -> None:
    def name_in(text: str) -> str:
        return max((match[0] for match in re.finditer("m+…?", text)), key=len)

    def of_length(length: int) -> Comparison:
        chosen = {make_configuration(model="m" * length): 2.0}
        return compare(side(chosen), side(chosen, run_id="b0b0b0b0"))

    for width in (40, 80):
        assert name_in(render_comparison(of_length(90), width=width)) == "m" * 59 + "…"
    assert name_in(render_comparison(of_length(90), width=160)) == "m" * 90
    full = render_comparison(of_length(300), width=160)
    assert max(map(len, full.splitlines())) <= 160
    assert len(name_in(full)) > 90
    assert "left out" not in full
    assert name_in(render_comparison(of_length(90), format="markdown", width=160)) == "m" * 59 + "…"


def test_changes_are_written_with_their_sign_and_unit() -> None:
    assert change_text(math.log(1.0234)) == "+2.3 %"
    assert change_text(math.log(0.5)) == "-50.0 %"
    assert change_text(math.log(20)) == "+1900.0 %"
    assert change_text(5000.0) == "> +100000 %"
    assert [change_words(math.log(each)) for each in (1.0234, 0.5, 20)] == [
        "2.3 % slower",
        "50.0 % faster",
        "1900.0 % slower",
    ]
    assert change_words(5000.0) == "> 100000 % slower"
    assert [change_words(each) for each in (0.0, 1e-5, -1e-5, 0.0006)] == [
        "unchanged",
        "less than 0.1 % slower",
        "less than 0.1 % faster",
        "0.1 % slower",
    ]
    assert change_interval_text(Interval(low=-0.1, high=0.1, level=0.95)) == "-9.5 % to +10.5 %"
    assert effect_text(0.05) == "5.1 %"
    assert effect_text(math.inf) == effect_text(None) == ""
    assert points_text(-0.00123) == "-0.12"
    assert points_effect_text(0.00123) == "0.12"
    assert points_effect_text(math.inf) == points_effect_text(None) == ""
    assert points_interval_text(Interval(low=-0.001, high=0.002, level=0.95)) == "-0.10 to +0.20"
    assert ratio_text(math.log(1.5)) == "1.500"
    assert ratio_text(math.log(123.4)) == "123"
    assert ratio_text(math.log(0.012)) == "0.012"
    assert ratio_interval_text(Interval(low=-math.inf, high=math.inf, level=0.95)) == "unknown"


def test_tables_align_numbers_right_and_words_left() -> None:
    headers, rows = ["name", "batch size"], [["a", "1"], ["long name", "1024"]]
    table = text_table(headers, rows, [False, True])
    assert text_table_width(headers, list(zip(*rows, strict=True))) == max(map(len, table.splitlines()))
    assert table == "           batch\nname        size\n---------  -----\na              1\nlong name   1024"
    assert markdown_table(["a", "n"], [["x|", "10"]], [False, True]) == "| a   |   n |\n|:----|----:|\n| x\\| |  10 |"


# --- flagged trials


def flagged(run: Run, count: int, warning: TrialWarning = TrialWarning.CONTAMINATION) -> Run:
    """`run` with its last `count` repeats flagged."""
    first = run.header.plan.repeats - count
    return with_records(
        run,
        [
            dataclasses.replace(record, warnings=(warning,)) if record.trial.repeat >= first else record
            for record in run.records
        ],
    )


@pytest.fixture
def disturbed() -> Comparison:
    """One configuration whose slower trials are all flagged, one of equal times with a flagged trial a side."""
    slow = side((6.0, 1.0), run_id="b0b0b0b0")
    calm = side((2.0, 1.0), run_id="b0b0b0b0")
    records = [(slow if record.trial.repeat >= 3 else calm).records[place] for place, record in enumerate(calm.records)]
    return compare(flagged(side((2.0, 1.0)), 1, TrialWarning.STALL), flagged(with_records(calm, records), 5))


def test_flagged_trials_are_counted_and_a_verdict_that_depends_on_them_is_marked(disturbed: Comparison) -> None:
    text = render_comparison(disturbed, width=100)
    first, second = (line for line in text.split("test accuracy")[0].splitlines() if line.startswith("784-128-10 "))
    assert "8/8      1/5 " in first
    assert first.endswith("slower *")
    assert second.endswith("same")
    told = " ".join(text.split())
    assert "flagged: 12 of 32 trials were disturbed during measurement (contamination, stall) * cpu" in told
    assert "* cpu 784-128-10 batch 64: slower, but same without the 6 flagged trials (stall, contamination)" in told
    assert told.count("without the") == 1


def test_a_comparison_without_flagged_trials_has_no_word_of_them(mixed: Comparison) -> None:
    for layout in ("table", "markdown"):
        assert "flagged" not in render_comparison(mixed, format=layout)


def test_flagged_trials_that_change_nothing_are_said_to_change_nothing() -> None:
    text = render_comparison(compare(side(), flagged(side((2.6,), run_id="b0b0b0b0"), 1)))
    assert "flagged: 1 of 16 trials" in text
    assert "without them every verdict would be the same" in " ".join(text.split())
    assert "slower *" not in text


def test_ratio_that_would_change_most_is_named_if_no_verdict_changes() -> None:
    slow = side((2.0, 1.7, 1.5), run_id="b0b0b0b0")
    records = [
        dataclasses.replace(late, warnings=(TrialWarning.STALL,)) if late.trial.repeat == 7 else record
        for record, late in zip(side((2.0, 1.6, 1.5), run_id="b0b0b0b0").records, slow.records, strict=True)
    ]
    told = " ".join(render_comparison(compare(side((1.0, 1.0, 1.0)), with_records(slow, records))).split())
    assert "the ratio of cpu 784-128-10 batch 128 would change most, from 1.612 to 1.600" in told


def test_flagged_trials_that_move_no_ratio_are_counted_and_no_more() -> None:
    run = flagged(side(), 1)
    told = " ".join(render_comparison(compare(run, run)).split())
    assert "flagged: 2 of 16 trials were disturbed during measurement (contamination); without them every" in told
    assert "change most" not in told


def test_where_nothing_would_be_left_without_flagged_trials_it_is_said() -> None:
    text = render_comparison(compare(side(), flagged(side((2.6,), run_id="b0b0b0b0"), 8)))
    assert "slower *" in text
    assert (
        "* cpu 784-128-10 batch 64: slower, but all 8 trials of the candidate are flagged (contamination), so nothing "
        "can be judged without them" in " ".join(text.split())
    )


def test_five_changed_verdicts_are_listed_and_the_others_counted() -> None:
    theirs = flagged(side((2.6,) * 7, run_id="b0b0b0b0"), 8)
    told = " ".join(render_comparison(compare(side((2.0,) * 7), theirs)).split())
    assert told.count("nothing can be judged without them") == 5
    assert "* and 2 more: see time_verdict_without_flagged in --format csv" in told


def test_only_changed_tells_of_hidden_verdicts_that_would_change() -> None:
    theirs = side((6.0, 4.0), run_id="b0b0b0b0")
    second = configurations(2)[1]
    wild = [
        dataclasses.replace(trial(second, each.trial.repeat, seconds=seconds), warnings=(TrialWarning.STALL,))
        if each.trial.configuration == second and (seconds := {0: 400.0, 1: 0.01}.get(each.trial.repeat))
        else each
        for each in theirs.records
    ]
    comparison = compare(side((2.0, 2.0)), with_records(theirs, wild))
    assert [row.time.verdict for row in comparison.rows] == [Verdict.SLOWER, Verdict.INCONCLUSIVE]
    told = " ".join(render_comparison(comparison, only_changed=True).split())
    assert "flagged: 2 of 32 trials" in told
    assert "batch 128: inconclusive, but slower without the 2 flagged trials (stall)" in told


def test_markdown_marks_verdicts_without_making_lists_or_emphasis(disturbed: Comparison) -> None:
    text = render_comparison(disturbed, format="markdown")
    assert "slower \\*" in text
    assert "\n- \\* cpu 784-128-10 batch 64: slower, but same" in text


def test_exports_hold_counts_and_the_verdict_without_flagged_trials(disturbed: Comparison) -> None:
    first, second = json.loads(render_comparison(disturbed, format="json"))["rows"]
    assert (first["baseline_flagged"], first["candidate_flagged"]) == (1, 5)
    assert (first["time_verdict"], first["time_verdict_without_flagged"]) == ("slower", "same")
    assert first["time_ratio"] > 1.5
    assert first["time_ratio_without_flagged"] == pytest.approx(1.0, abs=0.01)
    assert "95 % interval" in first["time_reason_without_flagged"]
    assert (second["time_verdict"], second["time_verdict_without_flagged"]) == ("same", "same")
    (row, _) = csv.DictReader(io.StringIO(render_comparison(disturbed, format="csv")))
    assert row["time_verdict_without_flagged"] == "same"


def test_without_a_flagged_trial_the_verdict_without_them_is_the_verdict(mixed: Comparison) -> None:
    for row in json.loads(render_comparison(mixed, format="json"))["rows"]:
        assert (row["baseline_flagged"], row["candidate_flagged"]) == (0, 0)
        for key in ("time_ratio", "time_verdict", "time_reason"):
            assert row[f"{key}_without_flagged"] == row[key]


# --- cost


SIDES = parse_prices("baseline=3.6,candidate=0.36", has_sides=True)


def costs(comparison: Comparison, prices: Prices = SIDES) -> str:
    """The table of costs and what is below it."""
    return render_comparison(comparison, prices=prices, width=100).split("\ncost of training, baseline / candidate")[1]


def test_cost_has_a_table_of_its_own_with_both_sides_and_the_ratio_of_an_epochs(mixed: Comparison) -> None:
    text = costs(mixed)
    first = next(line for line in text.splitlines() if line.startswith("784-128-10 "))
    assert " ".join(first.split()) == "784-128-10 64 0.00200 / 0.000260 0.130 0.128-0.132 - / - 0/0"
    assert "cost: training time only" in text
    assert "price per hour: baseline 3.6, candidate 0.36" in " ".join(text.split())


def test_the_cost_to_98_percent_is_of_the_trials_that_got_there() -> None:
    comparison = compare(side(correct=9_798), side((1.0,), correct=9_900, run_id="b0b0b0b0"))
    first = next(line for line in costs(comparison).splitlines() if line.startswith("784-128-10 "))
    assert first.split()[-4:] == ["0.00202", "/", "0.000100", "3/8"]
    (row,) = json.loads(render_comparison(comparison, format="json", prices=SIDES))["rows"]
    assert row["baseline_cost_to_98_percent_n"] == 3
    assert row["candidate_cost_to_98_percent_n"] == 8
    assert row["candidate_cost_to_98_percent"] == pytest.approx(0.0001, rel=0.01)


def test_exports_hold_prices_costs_and_their_ratio_only_where_prices_are_given(mixed: Comparison) -> None:
    (row, _) = json.loads(render_comparison(mixed, format="json", prices=SIDES))["rows"]
    assert (row["baseline_price_per_hour"], row["candidate_price_per_hour"]) == (3.6, 0.36)
    assert row["epoch_cost_ratio"] == pytest.approx(row["time_ratio"] / 10)
    assert row["epoch_cost_ratio"] == pytest.approx(row["candidate_cost_per_epoch"] / row["baseline_cost_per_epoch"])
    assert row["epoch_cost_ratio_low"] == pytest.approx(row["time_ratio_low"] / 10)
    assert row["epoch_cost_ratio_high"] == pytest.approx(row["time_ratio_high"] / 10)
    assert row["baseline_cost_per_epoch"] == pytest.approx(row["baseline_seconds"] * 3.6 / 3600)
    assert row["baseline_cost_to_98_percent"] is None
    header = render_comparison(mixed, format="csv").splitlines()[0]
    assert "cost" not in header
    assert "price" not in header
    with_costs = render_comparison(mixed, format="csv", prices=SIDES).splitlines()[0]
    assert with_costs.split(",")[: len(header.split(","))] == header.split(",")


@pytest.mark.parametrize(("device", "prices"), [("cuda", [3, 6]), ("cpu", [1, 1])])
def test_each_accelerator_that_takes_part_is_paid(device: str, prices: list[float]) -> None:
    made = {make_configuration(device=device, world_size=ranks): 2.0 for ranks in (1, 2)}
    found = [side_cost(trials, parse_prices("cuda=3,cpu=1"), "baseline") for trials in make_table(side(made)).trials]
    assert [each.price_per_hour for each in found] == prices
    assert [each.per_epoch for each in found] == pytest.approx([2.0 * price / 3600 for price in prices], rel=0.01)


def test_one_price_for_both_sides_leaves_the_ratio_that_of_time(mixed: Comparison) -> None:
    (row, _) = json.loads(render_comparison(mixed, format="json", prices=parse_prices("7")))["rows"]
    assert row["epoch_cost_ratio"] == row["time_ratio"]


def test_without_a_price_or_a_measurement_a_cost_is_unknown_and_no_crash(mixed: Comparison) -> None:
    for layout in ("table", "markdown", "csv", "json"):
        render_comparison(mixed, format=layout, prices=parse_prices("cuda=1"))
    assert "- / -" in costs(mixed, parse_prices("cuda=1"))
    failed = [make_record(repeat=repeat, outcome=make_failure()) for repeat in range(3)]
    comparison = compare(side(), make_run(records=failed, run_id="b0b0b0b0"))
    (row,) = json.loads(render_comparison(comparison, format="json", prices=SIDES))["rows"]
    assert row["candidate_cost_per_epoch"] is row["epoch_cost_ratio"] is row["epoch_cost_ratio_low"] is None
    assert "/ -" in costs(comparison)
