"""Comparisons as text: what each format says, that it fits, and that no name can do harm."""

import csv
import io
import json
import math

import pytest
from bench_builders import (
    make_configuration,
    make_failure,
    make_machine,
    make_record,
    make_run,
    make_software,
)
from stored_runs import Quiet, side, with_records

from bench.compare import Comparison, Source, compare_runs
from bench.comparison_view import Format, render_comparison
from bench.inference import Interval
from bench.judgement_text import (
    change_interval_text,
    change_text,
    effect_text,
    points_interval_text,
    points_text,
    ratio_interval_text,
    ratio_text,
)
from bench.layout import markdown_table, text_table, text_table_width
from bench.matching import make_table
from bench.records import Run


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
            batch                95 %               least
model        size  ratio     interval  normed    n  found  verdict
----------  -----  -----  -----------  ------  ---  -----  -------
784-128-10     64  1.300  1.278-1.322   1.300  8/8  3.5 %  slower
784-128-10    128  1.000  0.983-1.017   1.000  8/8  3.5 %  same

test accuracy, candidate - baseline in percentage points
            batch                                         least
model        size  baseline  change   95 % interval    n  found  verdict
----------  -----  --------  ------  --------------  ---  -----  -------
784-128-10     64   97.25 %   +0.00  -0.03 to +0.03  8/8   0.06  same
784-128-10    128   97.25 %   +0.00  -0.03 to +0.03  8/8   0.06  same

geometric mean of 2 ratios: 1.140 (95 % interval 1.123-1.158)
only in the baseline: 1: cpu 784-128-10 batch 256
"""
    )
    assert "every row: device cpu, dataset mnist, pipeline resident" in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_nothing_is_wider_than_the_terminal_but_a_table_that_cannot_be_narrower(width: int) -> None:
    chosen = [make_configuration(device=device, batch_size=size) for device in ("cpu", "cuda:1") for size in (8, 4096)]
    text = render_comparison(compare(make_run(chosen), make_run(chosen, run_id="b0b0b0b0")), width=width)
    assert max(map(len, text.splitlines())) <= max(width, 68)
    assert ("left out for want of room" in text) == (width < 80)


def test_columns_are_left_out_in_order_and_named(mixed: Comparison) -> None:
    narrow = render_comparison(mixed, width=60)
    assert "normed: the same of epoch times" in narrow
    assert "left out for want of room: least found" in " ".join(narrow.split())
    assert "verdict" in narrow


def test_only_changed_leaves_out_what_is_the_same_and_counts_it(mixed: Comparison) -> None:
    text = render_comparison(mixed, only_changed=True)
    assert "slower" in text
    assert "   128  " not in text
    assert "not shown: 1 of 2 rows" in text
    assert "geometric mean of 2 ratios" in text


def test_only_changed_of_what_is_all_the_same_shows_no_table() -> None:
    run = side()
    for layout in ("table", "markdown"):
        text = render_comparison(compare(run, run), only_changed=True, format=layout)
        assert "verdict" not in text
        assert "not shown: 1 of 1 rows" in text
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
    assert "differs in torch: 2.11.0 against 2.12.0" in render_comparison(compare(side(), theirs))


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
def test_unknown_intervals_and_impossible_ratios_are_no_crash(layout: Format) -> None:
    comparison = compare(side((1e-300,), repeats=1), side((1e300,), repeats=1, run_id="b0b0b0b0"))
    text = render_comparison(comparison, format=layout)
    assert "nan" not in text.lower()
    if layout == "json":
        assert json.loads(text)["rows"][0]["time_ratio"] is None
        assert json.loads(text)["rows"][0]["time_ratio_high"] is None


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


def test_changes_are_written_with_their_sign_and_unit() -> None:
    assert change_text(math.log(1.0234)) == "+2.3 %"
    assert change_text(math.log(0.5)) == "-50.0 %"
    assert change_text(5000.0) == "> +900 %"
    assert change_interval_text(Interval(low=-0.1, high=0.1, level=0.95)) == "-9.5 % to +10.5 %"
    assert effect_text(0.05) == "5.1 %"
    assert effect_text(math.inf) == effect_text(None) == ""
    assert points_text(-0.00123) == "-0.12"
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
