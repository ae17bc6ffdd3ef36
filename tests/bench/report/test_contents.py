"""What a report contains: its numbers are those of `show`, `compare` and `predict`."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from bench_builders import (
    make_configuration,
    make_division,
    make_energy,
    make_epoch,
    make_epochs,
    make_failure,
    make_footer,
    make_machine,
    make_measurement,
    make_record,
    make_run,
)
from report_pages import Page, page, report, varied
from stored_runs import Quiet, side, with_records

from bench.analysis.rank_scaling import fit_ranks
from bench.analysis.ranks_view import ranks_table
from bench.analysis.scaling_models import label_runs, make_models
from bench.analysis.scaling_view import scaling_tables
from bench.analysis.taxes import make_accounts, tax_table
from bench.compare.compare_runs import compare_runs
from bench.compare.comparison import Source
from bench.compare.export import raw_row
from bench.compare.trials import make_table
from bench.records import FailureKind, TrialWarning
from bench.report.charts import Heatmap, RatioChart, ratio_scale
from bench.report.contents import MAX_OPEN_ACCOUNTS, MAX_RATIOS, Stored, make_report, report_columns
from bench.report.epochs import MAX_EPOCHS
from bench.report.figures import MAX_CHARTS
from bench.report.page import render_page
from bench.report.provenance import provenance
from bench.tables.columns import COLUMNS, default_columns
from bench.tables.layout import text_table
from bench.tables.show import render_run
from bench.tables.summary import summarise

if TYPE_CHECKING:
    from bench.calibration.profiles import MachineProfile


def test_table_holds_the_cells_and_raw_values_of_show() -> None:
    run = varied()
    found = page(run)
    headers, *rows = found.tables[0]
    shown = json.loads(render_run(run, format="json"))["rows"]
    summaries = summarise(run.records)
    keys = [attributes["data-key"] for _, attributes in headers]
    assert {"epoch_seconds", "test_accuracy", "peak_memory_bytes", "memory_floor_bytes"} <= set(keys)
    assert len(rows) == len(shown) == len(summaries)
    for row, values, summary in zip(rows, shown, summaries, strict=True):
        for key, (text, attributes) in zip(keys, row, strict=True):
            column = COLUMNS[key]
            assert text == column.text(summary)
            if "data-v" in attributes:
                assert json.loads(attributes["data-v"]) == values[column.fields[0].key]
            else:
                assert values[column.fields[0].key] is None or not column.fields[0].numeric


def test_throughput_figures_hold_the_cells_of_show() -> None:
    run = varied()
    found = page(run)
    columns = [
        COLUMNS[key] for key in ("batch_size", "throughput_per_second", "throughput_per_second_n", "epoch_seconds")
    ]
    rows = [
        [summary.configuration.model, *(column.text(summary) for column in columns)]
        for summary in summarise(run.records)
    ]
    assert found.has_table(["model", *(column.header for column in columns)], rows)
    rate = COLUMNS["throughput_per_second_median"]
    (heatmap,) = (
        chart
        for section in report(run).runs[0].sections
        for figure in section.figures
        for chart in figure.charts
        if isinstance(chart, Heatmap)
    )
    assert [text for row in heatmap.texts for text in row] == [rate.text(each) for each in summarise(run.records)]
    assert heatmap.columns == ("64", "256")
    assert heatmap.rows == ("128", "512")


def test_provenance_gives_machine_software_command_data_and_state() -> None:
    text = "\n".join(page(varied()).text)
    for words in (
        "python -m bench run --preset quick",
        "Fictional CPU 9000, 4 of 8 logical cores",
        "Fictional GPU F1, 24.0 GiB",
        "0123456789abcdef0123456789abcdef01234567",
        f"mnist, SHA-256 {'0123456789abcdef' * 4}",
        "complete: 12 trials measured and 0 failed in 1 min 54 s, 0 missing",
        "seeds 42 to 44",
    ):
        assert words in text


def test_failed_trial_is_counted_beside_the_measured_ones() -> None:
    run = varied()
    failed = replace(run.records[0], outcome=make_failure(FailureKind.CRASH, "signal 9"))
    found = page(with_records(run, [failed, *run.records[1:]]))
    assert any("failed: 1 trial with crash; first message: signal 9" in text for text in found.text)
    assert "2+1 failed" in [text for row in found.words(0) for text in row]


def test_a_configuration_that_failed_throughout_leaves_its_cells_empty() -> None:
    run = varied(batch_sizes=(64,), widths=(128,))
    found = page(with_records(run, [replace(each, outcome=make_failure()) for each in run.records]))
    assert "0+3 failed" in found.words(0)[1]
    assert not found.find("svg")


def test_an_incomplete_run_says_what_is_missing() -> None:
    run = varied()
    run = replace(run, records=run.records[:5], footer=None)
    text = "\n".join(page(run).text)
    assert "incomplete: it was killed, or is still running" in text
    assert "run incomplete: 7 of 12 trials missing" in text


def test_a_shard_that_is_whole_is_not_called_incomplete() -> None:
    run = varied()
    division = make_division([len(run.header.plan.configurations)], of=3)
    run = replace(run, header=replace(run.header, division=division))
    assert "shard 1 of 3, complete in itself: 12 trials measured" in "\n".join(page(run).text)


def test_labels_that_are_noise_have_no_accuracy() -> None:
    chosen = make_configuration(dataset="synthetic")
    run = side({chosen: 2.0}, correct=None)
    found = page(run)
    titles = [text for text in found.text if text.startswith("Test accuracy over training time")]
    assert not titles
    assert any("no accuracy is drawn" in text for text in found.text)


def test_one_trial_has_values_without_ranges() -> None:
    run = side({make_configuration(): 2.0}, repeats=1)
    found = page(run)
    assert "2.00 s" in found.words(0)[1]
    assert found.find("svg")


def test_two_runs_are_compared_as_compare_has_it() -> None:
    baseline = side({make_configuration(): 2.0}, repeats=8)
    candidate = side({make_configuration(): 3.0}, repeats=8, run_id="ffff0000")
    found = page(baseline, candidate)
    sides = [Source(label=each.header.run_id, table=make_table(each)) for each in (baseline, candidate)]
    comparison = compare_runs(sides[0], sides[1])
    (row,) = comparison.rows
    (one,) = report(baseline, candidate).comparisons
    ratio = raw_row(row)["time_ratio"]
    assert isinstance(ratio, float)
    (figure,) = one.figures
    (chart,) = figure.charts
    assert isinstance(chart, RatioChart)
    (drawn,) = chart.ratios
    assert drawn.value == ratio
    assert (drawn.low, drawn.high) == (raw_row(row)["time_ratio_low"], raw_row(row)["time_ratio_high"])
    assert drawn.verdict == row.time.verdict
    table = one.tables[0]
    assert found.has_table(table.headers, table.rows)
    assert f"{ratio:.3f}" in table.rows[0]
    assert row.time.verdict.value in table.rows[0]


def test_every_later_run_is_compared_with_the_first() -> None:
    runs = [side({make_configuration(): 2.0}, run_id=run_id) for run_id in ("aaaa0000", "bbbb0000", "cccc0000")]
    assert [each.name for each in report(*runs).comparisons] == [
        "bbbb0000 against aaaa0000",
        "cccc0000 against aaaa0000",
    ]


class Calibrated(Quiet):
    """A profile that knows a peak as well."""

    def peak_flops_per_second(self, *_: object) -> float:
        return 1e12


def test_a_machines_profile_gives_peak_and_drift() -> None:
    runs = [side({make_configuration(): 2.0}, repeats=8, run_id=run_id) for run_id in ("aaaa0000", "bbbb0000")]
    with_it, without = (
        make_report([Stored(label="", run=run, profile=profile) for run in runs])
        for profile in (cast("MachineProfile", Calibrated()), None)
    )
    assert any(column.key == "flops_utilisation" for column in with_it.runs[0].columns)
    assert not any(column.key == "flops_utilisation" for column in without.runs[0].columns)
    assert any("a drift from table to table of 0.5 %" in note for note in with_it.comparisons[0].notes)
    assert any("a drift from table to table of 10 %" in note for note in without.comparisons[0].notes)


def test_runs_of_two_machines_are_a_hardware_comparison() -> None:
    run = varied()
    machine = make_machine(cpu_model="Another CPU")
    found = page(run, replace(run, header=replace(run.header, run_id="ffff0000", machine=machine)))
    assert any("hardware comparison: ffff0000 against the baseline 0a1b2c3d" in text for text in found.text)


def test_runs_without_common_configurations_are_not_compared() -> None:
    found = page(varied(widths=(128,)), varied(widths=(64,)))
    assert any(text.startswith("Not compared:") and "none of them in both" in text for text in found.text)


def test_models_and_crossovers_are_those_of_predict() -> None:
    run = side(
        {
            make_configuration(model=f"784-{width}-10", layers=(784, width, 10), batch_size=size, engine=engine): factor
            * (60_000 / size * 1e-4 + width * 1e-3)
            for engine, factor in (("eager", 1.0), ("fused", 0.5))
            for width in (64, 256, 1024)
            for size in (16, 256, 4096)
        },
        repeats=2,
    )
    found = page(run)
    tables = list(scaling_tables(make_models(label_runs([run], [None]))))
    assert len(tables) == 2
    for table in tables:
        assert found.has_table(table.headers, table.rows)
        assert text_table(table.headers, table.rows, table.numeric)


def test_step_times_of_two_machines_overtake_each_other_and_those_of_one_do_not() -> None:
    run = varied(batch_sizes=(16, 256, 4096), widths=(64, 256, 1024))
    machine = make_machine(cpu_model="Another CPU")
    for there, title in ((machine, 1), (run.header.machine, 0)):
        other = replace(run, header=replace(run.header, run_id="ffff0000", machine=there))
        (one,) = report(run, other).comparisons
        assert [table.title for table in one.tables].count("models of a step's time") == title


def test_the_fit_of_ranks_is_that_of_show() -> None:
    alone, together = make_configuration(world_size=1), make_configuration(world_size=2)
    run = side({alone: 2.0, together: 1.5}, repeats=3)
    (section,) = (each for each in report(run).runs[0].sections if each.title == "More ranks")
    assert section.tables == tuple(map(ranks_table, fit_ranks(run.records)))
    assert [row[0] for row in section.tables[0].rows][:2] == ["1", "2"]
    (without,) = report(side({alone: 2.0})).runs
    assert "More ranks" not in [each.title for each in without.sections]


def test_the_account_of_taxes_is_that_of_show() -> None:
    run = side(
        {
            make_configuration(pipeline=pipeline, engine=engine): seconds
            for pipeline, engine, seconds in (
                ("dataloader", "eager", 9.0),
                ("resident", "eager", 2.0),
                ("resident", "fused", 1.0),
            )
        },
        repeats=3,
    )
    (account,) = make_accounts(run, None)
    table = tax_table(account)
    assert page(run).has_table(table.headers, table.rows)


def test_extra_columns_are_explained() -> None:
    run = varied()
    half = with_records(run, [*run.records[:-1], replace(run.records[-1], warnings=(TrialWarning.STALL,))])
    (made,) = report(half).runs
    usual = {column.key for column in default_columns(summarise(half.records))}
    explained = [note.split(":")[0].split(", ") for note in made.notes]
    headers = {header for each in explained for header in each}
    extra = [column for column in made.columns if column.key not in usual]
    assert {"memory floor", "time to 97 %"} <= {column.header for column in extra}
    assert {column.header for column in extra} - headers == {"warnings"}


def test_everything_measured_is_a_column_with_its_meaning() -> None:
    measured = replace(make_measurement(epochs=make_epochs([1.0, 1.0], [9_750, 9_850])), energy=make_energy())
    records = [
        make_record(outcome=measured),
        make_record(repeat=1, outcome=measured, warnings=(TrialWarning.STALL,)),
        make_record(repeat=2, outcome=make_failure()),
    ]
    run = with_records(make_run(repeats=3), records)
    (made,) = report(run).runs
    assert [column.key for column in made.columns][-9:] == [
        "memory_floor_bytes",
        "cold_start_seconds",
        "seconds_to_97_percent",
        "seconds_to_98_percent",
        "joules_per_epoch",
        "samples_per_joule",
        "flagged",
        "failure_kinds",
        "warnings",
    ]
    explained = "\n".join(made.notes)
    assert "time to 97 %, time to 98 %: training time until" in explained
    assert "failure kinds: why trials failed" in explained


def test_many_accounts_of_taxes_share_a_table() -> None:
    run = side(
        {
            make_configuration(batch_size=batch_size, engine=engine): seconds
            for batch_size in (1024, 64, 256, 4096)
            for engine, seconds in (("eager", 2.0), ("fused", 100.0 / batch_size))
        },
        repeats=3,
    )
    accounts = [tax_table(account) for account in make_accounts(run, None)]
    assert len(accounts) > MAX_OPEN_ACCOUNTS
    (section,) = (each for each in report(run).runs[0].sections if each.title == "Where an epoch's time goes")
    (table,) = section.tables
    assert table.headers == ("trained", "epoch", *(row[0] for row in accounts[0].rows))
    shares = {": ".join(row[:2]): list(row[2:]) for row in table.rows}
    assert shares == {account.title: [row[3] for row in account.rows] for account in accounts}
    assert [row[0].split(", ")[1] for row in table.rows] == [f"batch size {size}" for size in (64, 256, 1024, 4096)]
    (folded,) = section.figures
    assert folded.tables == tuple(accounts)


def test_columns_with_nothing_to_see_are_left_out() -> None:
    keys = {column.key for column in report_columns(summarise(varied().records))}
    assert "joules_per_epoch" not in keys
    assert "flagged" not in keys
    run = varied()
    flagged = with_records(run, [replace(each, warnings=(TrialWarning.STALL,)) for each in run.records])
    assert "flagged" in {column.key for column in report_columns(summarise(flagged.records))}


def test_many_models_batch_sizes_and_epochs_are_thinned_out_with_a_note() -> None:
    epochs = tuple(make_epoch(test_correct=9_000 + i) for i in range(40))
    chosen = [
        make_configuration(model=f"784-{width}-10", layers=(784, width, 10), batch_size=64, epochs=40)
        for width in range(1, MAX_CHARTS + 10)
    ]
    records = [
        make_record(each, repeat, outcome=make_measurement(epochs=epochs)) for each in chosen for repeat in range(20)
    ]
    found = page(make_run(chosen, 20, records=records))
    text = "\n".join(found.text)
    assert "one in 2 single trials is drawn" in text
    assert f"{MAX_EPOCHS} epochs are shown" in text
    assert f"drawn for the first {MAX_CHARTS} of {len(chosen)}" in text
    assert len(found.tables[0]) == len(chosen) + 1


def test_more_figures_than_anyone_looks_at_are_left_out_with_a_note() -> None:
    for extra in (1, 2):
        chosen = [make_configuration(threads=threads + 1) for threads in range(MAX_CHARTS + extra)]
        sections = report(side(dict.fromkeys(chosen, 2.0), repeats=1)).runs[0].sections
        (memory,) = (section for section in sections if section.title == "Memory")
        assert len(memory.figures) == MAX_CHARTS + 1
        assert (f"memory: drawn for the first {MAX_CHARTS} of" in str(memory.figures[-1].notes)) is (extra == 2)


def test_more_ratios_than_can_be_drawn_stand_in_the_table() -> None:
    chosen = [make_configuration(batch_size=i + 1) for i in range(MAX_RATIOS + 5)]
    first = side(dict.fromkeys(chosen, 2.0), repeats=2)
    (one,) = report(first, side(dict.fromkeys(chosen, 3.0), repeats=2, run_id="ffff0000")).comparisons
    charts = [chart for chart in one.figures[0].charts if isinstance(chart, RatioChart)]
    assert sum(len(chart.ratios) for chart in charts) == MAX_RATIOS
    assert len(one.tables[0].rows) == len(chosen)
    assert any(f"the first {MAX_RATIOS} of {len(chosen)}" in note for note in one.figures[0].notes)
    exactly = side(dict.fromkeys(chosen[:MAX_RATIOS], 2.0), repeats=2)
    assert report(exactly, exactly).comparisons[0].figures[0].notes == ()


def test_many_ratios_are_divided_among_charts_with_one_scale() -> None:
    chosen = [make_configuration(batch_size=i + 1) for i in range(40)]
    first = side(dict.fromkeys(chosen, 2.0), repeats=2)
    charts = (
        report(first, side({each: float(each.batch_size) for each in chosen}, repeats=2))
        .comparisons[0]
        .figures[0]
        .charts
    )
    divided = [chart for chart in charts if isinstance(chart, RatioChart)]
    assert [len(chart.ratios) for chart in divided] == [20, 20]
    assert [chart.caption.rpartition(", ")[2] for chart in divided] == ["part 1 of 2", "part 2 of 2"]
    assert ratio_scale(divided[0], 0, 100) == ratio_scale(divided[1], 0, 100)


def test_provenance_counts_one_and_says_yes_and_no() -> None:
    text = "\n".join(page(side({make_configuration(): 2.0}, repeats=1)).text)
    assert "1 trial measured and 0 failed" in text
    assert "1 configuration, 1 repeat, seed 42" in text
    assert "tf32 matmul no" in text


def test_provenance_says_what_a_file_lost_and_what_was_wrong() -> None:
    run = make_run([make_configuration()], 4, command=("run", "--name", "two words"))
    failed = replace(run.records[1], outcome=make_failure())
    stalled = replace(run.records[2], warnings=(TrialWarning.STALL,))
    kept = replace(with_records(run, [run.records[0], failed, stalled]), warnings=("line 3 is not JSON",))
    rows = dict(provenance(kept, None))
    assert rows["command"] == "python -m bench run --name 'two words'"
    assert rows["state"].startswith("incomplete (lines of its file are missing): 2 trials measured and 1 failed in")
    assert rows["state"].endswith(", 1 missing")
    assert rows["trials with warnings"] == "stall 1"
    assert rows["file"] == "line 3 is not JSON"


def test_provenance_of_an_interrupted_shard_does_not_call_it_complete() -> None:
    run = make_run([make_configuration()], 3, division=make_division([1], of=3))
    footer = make_footer(complete=False, reason="interrupted", measured=1, missing=2)
    state = dict(provenance(with_records(run, run.records[:1], footer), None))["state"]
    assert state.startswith("incomplete (interrupted): 1 trial measured")
    assert state.endswith(", 2 missing")


def test_provenance_gives_each_dataset_its_own_data_and_equal_settings_once() -> None:
    chosen = [make_configuration(dataset=name) for name in ("mnist", "fashion-mnist")]
    hashes = {"mnist": "a" * 64, "fashion-mnist": "b" * 64}
    records = [make_record(each, outcome=make_measurement(dataset_sha256=hashes[each.dataset])) for each in chosen]
    rows = list(provenance(make_run(chosen, 1, records=records), None))
    assert dict(rows)["data"] == f"mnist, SHA-256 {'a' * 64}; fashion-mnist, SHA-256 {'b' * 64}"
    assert [name for name, _ in rows].count("settings read back") == 1


def test_part_of_a_run_reports_what_is_missing_from_the_whole() -> None:
    chosen = [make_configuration(batch_size=size) for size in (64, 256, 1024)]
    whole = make_run(chosen, 3)
    records = whole.records[:4]
    footer = make_footer(complete=False, reason="interrupted", measured=4, failed=0, missing=5)
    whole = replace(whole, records=records, footer=footer)
    part = replace(
        whole,
        records=records[:2],
        footer=replace(footer, measured=2),
        header=replace(whole.header, plan=replace(whole.header.plan, configurations=tuple(chosen[:2]))),
    )
    text = "\n".join(Page(render_page(make_report([Stored(label="here", run=part, whole=whole)]))).text)
    assert "run incomplete: 5 of 9 trials missing" in text
    assert "4 trials measured and 0 failed in 38.0 s, 5 missing" in text
    assert "2 configurations, 2 trials measured and 0 failed in 19.0 s" in text
    assert "3 configurations, 3 repeats" in text


def test_time_to_an_accuracy_says_how_many_trials_reached_it() -> None:
    slow = make_measurement(epochs=make_epochs((2.0, 2.0), (9_000, 9_100)))
    fast = make_measurement(epochs=make_epochs((2.0, 2.0), (9_600, 9_750)))
    chosen = make_configuration()
    run = make_run([chosen], 3)
    outcomes = (fast, slow, slow)
    records = [replace(record, outcome=outcome) for record, outcome in zip(run.records, outcomes, strict=True)]
    (row,) = report(with_records(run, records)).runs[0].rows
    cells = [cell.text for cell in row]
    assert any(text.endswith("(1 of 3)") for text in cells), cells
