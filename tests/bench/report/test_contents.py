"""The report as a page: its numbers are `show`'s and `compare`'s, its texts are harmless, and it asks for nothing."""

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bench_builders import (
    Change,
    make_configuration,
    make_division,
    make_epoch,
    make_epochs,
    make_failure,
    make_footer,
    make_header,
    make_machine,
    make_measurement,
    make_record,
    make_run,
    make_software,
)
from checkout import ROOT
from click.testing import CliRunner, Result
from stored_runs import side, store, with_records

from bench.analysis.scaling_models import label_runs, make_models
from bench.analysis.scaling_view import scaling_tables
from bench.analysis.taxes import make_accounts, tax_table
from bench.cli import cli
from bench.compare.compare_runs import compare_runs
from bench.compare.comparison import Source
from bench.compare.export import raw_row
from bench.compare.trials import make_table
from bench.records import FailureKind, Run, TrialWarning
from bench.report.charts import Heatmap, RatioChart
from bench.report.contents import MAX_OPEN_ACCOUNTS, MAX_RATIOS, Report, Stored, make_report, report_columns
from bench.report.epochs import MAX_EPOCHS
from bench.report.figures import MAX_CHARTS
from bench.report.page import render_page
from bench.tables.columns import COLUMNS, default_columns
from bench.tables.layout import text_table
from bench.tables.show import render_run
from bench.tables.summary import summarise

VOID = frozenset({"meta", "input", "link", "br", "img"})


class Page(HTMLParser):
    """What the tests ask of a page: its elements in order, its tables' cells, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[tuple[str, dict[str, str]]]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag == "path" or tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append(("", attributes))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            text, attributes = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (text + data, attributes)

    def find(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def words(self, table: int) -> list[list[str]]:
        return [[text for text, _ in row] for row in self.tables[table]]

    def has_table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
        wanted = [list(headers), *map(list, rows)]
        return any(self.words(place) == wanted for place in range(len(self.tables)))


def report(*runs: Run) -> Report:
    return make_report([Stored(label="", run=run) for run in runs])


def page(*runs: Run) -> Page:
    html = render_page(report(*runs))
    found = Page(html)
    assert found.open == []  # every element is closed
    return found


def varied(batch_sizes: Sequence[int] = (64, 256), widths: Sequence[int] = (128, 512), **changes: Change) -> Run:
    chosen = [
        make_configuration(model=f"784-{width}-10", layers=(784, width, 10), batch_size=batch_size, **changes)
        for width in widths
        for batch_size in batch_sizes
    ]
    return side({each: 100.0 / each.batch_size + 1 for each in chosen}, repeats=3)


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


def test_every_chart_is_named_and_has_its_data_in_a_table() -> None:
    html = render_page(report(varied()))
    found = Page(html)
    charts = found.find("svg")
    assert len(charts) == len(found.find("desc")) == html.count("<desc id=")
    assert len(charts) >= 10
    titles = {each["id"] for each in found.find("title") + found.find("desc") if "id" in each}
    for chart in charts:
        assert chart["role"] == "img"
        assert set(chart["aria-labelledby"].split()) <= titles
    for figure in re.findall(r"<figure>.*?</figure>", html, re.DOTALL):
        assert ("<svg" not in figure) or ("<details>" in figure and "<table" in figure)


def test_ids_are_unique_and_links_lead_somewhere() -> None:
    found = page(varied(), replace(varied(), header=make_header(run_id="ffff0000", plan=varied().header.plan)))
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {each["href"].removeprefix("#") for each in found.find("a")} <= set(ids)


def test_page_asks_for_nothing_and_its_policy_allows_just_its_own_style_and_script() -> None:
    html = render_page(report(varied()))
    found = Page(html)
    assert not [each for _, each in found.elements if {"src", "style", "onclick"} & each.keys()]
    assert all(each["href"].startswith("#") for each in found.find("a"))
    assert not found.find("link")
    assert "http:" not in html
    assert "https:" not in html
    (policy,) = (each["content"] for each in found.find("meta") if each.get("http-equiv") == "Content-Security-Policy")
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_script_is_short_and_colours_follow_the_reader() -> None:
    templates = ROOT / "bench" / "report" / "templates"
    assert len((templates / "report.js").read_text().splitlines()) < 150
    style = (templates / "report.css").read_text()
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    assert ":focus-visible" in style


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


def test_provenance_tells_machine_software_command_data_and_state() -> None:
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


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></svg></style>{{ 7 * 7 }}",
    "\x1b[31mred\x00\u202etxt",
    "lone \ud800 surrogate",
    "' onmouseover='alert(1)",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_shown_as_harmless_text(text: str) -> None:
    chosen = make_configuration(model=text, device=text, dataset=text, precision=text)
    records = [
        make_record(chosen, 0, outcome=make_measurement(dataset_sha256=text)),
        make_record(chosen, 1, outcome=make_failure(message=text)),
    ]
    run = make_run(
        [chosen, replace(chosen, batch_size=256)],
        2,
        records=records,
        run_id=text,
        name=text,
        command=("run", text),
        machine=make_machine(cpu_model=text, operating_system=text),
        software=make_software(torch=text, git_commit=text),
    )
    run = replace(run, warnings=(text,))
    html = render_page(make_report([Stored(label=text, run=run), Stored(label="", run=run)]))
    found = Page(html)
    assert found.open == []
    assert len(found.find("script")) == 1
    assert not found.find("img")
    assert not [each for _, each in found.elements if any(name.startswith("on") for name in each)]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e\ud800-\udfff]", html)
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", html)[0]
    html.encode()


def test_very_long_texts_are_cut() -> None:
    run = varied()
    run = replace(run, header=replace(run.header, command=("run", "x" * 1_000_000)), warnings=("y" * 1_000_000,))
    assert len(render_page(report(run))) < 2_000_000


def test_unicode_is_kept() -> None:
    run = replace(varied(), warnings=("größer, 速い, µs, 🙂",))
    assert any("größer, 速い, µs, 🙂" in text for text in page(run).text)


def test_a_failed_trial_is_told_beside_the_measured_ones() -> None:
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
    assert "incomplete: it did not stop in good order, or is still running" in text
    assert "run incomplete: 7 of 12 trials missing" in text


def test_a_shard_that_is_whole_is_not_called_incomplete() -> None:
    run = varied()
    division = make_division([len(run.header.plan.configurations)], of=3)
    run = replace(run, header=replace(run.header, division=division))
    assert "shard 1 of 3, complete in itself: 12 trials measured" in "\n".join(page(run).text)


def test_a_run_without_trials_has_a_page() -> None:
    run = make_run(records=[])
    assert any("No trial is stored yet." in text for text in page(run).text)


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
    assert drawn.verdict == row.time.verdict
    table = one.tables[0]
    assert found.has_table(table.headers, table.rows)
    assert f"{ratio:.3f}" in table.rows[0]
    assert row.time.verdict.value in table.rows[0]


def test_runs_of_two_machines_are_a_hardware_comparison() -> None:
    run = varied()
    machine = make_machine(cpu_model="Another CPU")
    found = page(run, replace(run, header=replace(run.header, run_id="ffff0000", machine=machine)))
    assert any("hardware comparison: ffff0000 against the baseline 0a1b2c3d" in text for text in found.text)


def test_runs_that_share_nothing_are_told_so() -> None:
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


def test_columns_that_show_does_not_have_are_explained() -> None:
    run = varied()
    half = with_records(run, [*run.records[:-1], replace(run.records[-1], warnings=(TrialWarning.STALL,))])
    (made,) = report(half).runs
    usual = {column.key for column in default_columns(summarise(half.records))}
    explained = [note.split(":")[0].split(", ") for note in made.notes]
    headers = {header for each in explained for header in each}
    extra = [column for column in made.columns if column.key not in usual]
    assert {"memory floor", "time to 97 %"} <= {column.header for column in extra}
    assert {column.header for column in extra} - headers == {"warnings"}


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
    assert "of the single trials one in 2 is drawn" in text
    assert f"of the epochs {MAX_EPOCHS} are shown" in text
    assert f"drawn for the first {MAX_CHARTS} of {len(chosen)}" in text
    assert len(found.tables[0]) == len(chosen) + 1


def test_more_ratios_than_can_be_drawn_stand_in_the_table() -> None:
    chosen = [make_configuration(batch_size=i + 1) for i in range(MAX_RATIOS + 5)]
    first = side(dict.fromkeys(chosen, 2.0), repeats=2)
    (one,) = report(first, side(dict.fromkeys(chosen, 3.0), repeats=2, run_id="ffff0000")).comparisons
    (chart,) = one.figures[0].charts
    assert isinstance(chart, RatioChart)
    assert len(chart.ratios) == MAX_RATIOS
    assert len(one.tables[0].rows) == len(chosen)
    assert any(f"the first {MAX_RATIOS} of {len(chosen)}" in note for note in one.figures[0].notes)


def test_a_thousand_trials_make_less_than_five_mebibytes() -> None:
    chosen = [
        make_configuration(
            model=f"784-{width}-10", layers=(784, width, 10), batch_size=2**power, engine=engine, epochs=5
        )
        for engine in ("eager", "fused")
        for width in range(64, 84)
        for power in range(4, 9)
    ]
    epochs = tuple(make_epoch(test_correct=9_000 + 10 * i, train_seconds=2.0 + i / 7) for i in range(5))
    records = [
        make_record(each, repeat, outcome=make_measurement(epochs=epochs)) for repeat in range(5) for each in chosen
    ]
    assert len(records) == 1_000
    run = make_run(chosen, 5, records=records)
    assert len(render_page(report(run)).encode()) < 5 * 2**20


# The command


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder, with locks of its own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.chdir(tmp_path):
        yield tmp_path


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["report", *arguments], prog_name="bench")


def test_command_writes_the_page_and_says_how_large_it_is(elsewhere: Path) -> None:
    store(varied(), elsewhere / "a.jsonl")
    result = bench("laptop=a.jsonl", "--output", "page.html")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("page.html: 1 run, ")
    assert "<h1>Benchmark report: laptop</h1>" in (elsewhere / "page.html").read_text()


def test_command_refuses_an_output_that_cannot_be_written_before_it_reads(elsewhere: Path) -> None:
    result = bench("missing.jsonl", "--output", "no/such/page.html")
    assert result.exit_code == 2
    assert "no/such/page.html cannot be written" in result.stderr
    assert list(elsewhere.iterdir()) == []


def test_command_never_replaces_a_run_by_its_report(elsewhere: Path) -> None:
    path = store(varied(), elsewhere / "a.jsonl")
    (elsewhere / "a.csv").write_text("its trials")
    before = path.read_bytes()
    for output in ("a.jsonl", "a.csv"):
        result = bench("a.jsonl", "--output", output)
        assert result.exit_code == 2
        assert "name another file" in result.stderr
    assert (path.read_bytes(), (elsewhere / "a.csv").read_text()) == (before, "its trials")


def test_command_needs_a_run_and_names_what_it_cannot_find(elsewhere: Path) -> None:
    assert bench().exit_code == 2
    result = bench("missing.jsonl")
    assert result.exit_code == 2
    assert "missing.jsonl" in result.stderr
    assert not (elsewhere / "report.html").exists()


def test_command_tells_what_was_wrong_with_a_file(elsewhere: Path) -> None:
    path = store(varied(), elsewhere / "a.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    result = bench("a.jsonl")
    assert result.exit_code == 0, result.output
    assert "was cut off" in result.stderr
    assert "was cut off" in (elsewhere / "report.html").read_text()


def test_results_come_before_where_they_are_from() -> None:
    run = varied()
    other = replace(run, header=replace(run.header, run_id="ffff0000"))
    sections = [each["id"] for each in page(run, other).find("section")]
    assert sections == ["comparison-1", "run-1", "run-2"]
    headings = [each["id"] for each in page(run).find("h3")]
    assert headings[0] == "run-1-configurations"
    assert headings[-1] == "run-1-provenance"


def test_contents_are_listed_where_there_are_several() -> None:
    run = varied()
    other = replace(run, header=replace(run.header, run_id="ffff0000"))
    assert "Contents" not in [each["aria-label"] for each in page(run).find("nav")]
    assert "Contents" in [each["aria-label"] for each in page(run, other).find("nav")]


def test_nothing_looks_as_if_it_did_something_where_script_is_off() -> None:
    found = page(varied())
    assert not found.find("button")
    (filtering,) = (each for each in found.find("div") if each.get("class") == "filter")
    assert "hidden" in filtering


def test_provenance_counts_one_and_says_yes_and_no() -> None:
    text = "\n".join(page(side({make_configuration(): 2.0}, repeats=1)).text)
    assert "1 trial measured and 0 failed" in text
    assert "1 configuration, 1 repeat, seed 42" in text
    assert "tf32 matmul no" in text


def test_a_part_of_a_run_tells_what_is_missing_of_the_whole() -> None:
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


def test_time_to_an_accuracy_says_how_many_trials_got_there() -> None:
    slow = make_measurement(epochs=make_epochs((2.0, 2.0), (9_000, 9_100)))
    fast = make_measurement(epochs=make_epochs((2.0, 2.0), (9_600, 9_750)))
    chosen = make_configuration()
    run = make_run([chosen], 3)
    outcomes = (fast, slow, slow)
    records = [replace(record, outcome=outcome) for record, outcome in zip(run.records, outcomes, strict=True)]
    (row,) = report(with_records(run, records)).runs[0].rows
    cells = [cell.text for cell in row]
    assert any(text.endswith("(1 of 3)") for text in cells), cells
