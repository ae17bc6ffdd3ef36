"""The report as HTML: harmless texts, a policy that allows nothing from outside, links, and size."""

import base64
import hashlib
import re
from dataclasses import replace

import pytest
from bench_builders import (
    make_configuration,
    make_epoch,
    make_failure,
    make_header,
    make_machine,
    make_measurement,
    make_record,
    make_run,
    make_settings,
    make_software,
)
from checkout import ROOT
from markupsafe import escape
from report_pages import Page, page, report, varied
from stored_runs import side

from bench.report.contents import Stored, make_report
from bench.report.page import render_page


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


def test_page_loads_nothing_and_its_policy_allows_only_its_own_style_and_script() -> None:
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
    assert policy.endswith("base-uri 'none'; form-action 'none'")
    assert "unsafe" not in policy


def test_a_fact_with_several_values_is_named_once() -> None:
    chosen = [make_configuration(threads=threads) for threads in (1, 2)]
    records = [
        make_record(each, outcome=make_measurement(settings=make_settings(threads=each.threads))) for each in chosen
    ]
    html = render_page(report(make_run(chosen, 1, records=records)))
    (facts,) = re.findall(r"<dl>.*?</dl>", html, re.DOTALL)
    names = re.findall(r"<dt>(.*?)</dt>", facts)
    assert len(names) == len(set(names)) == len(Page(facts).find("div"))
    assert facts.count("<dd>") == len(names) + 1


def test_landmarks_have_names_of_their_own() -> None:
    found = page(varied(), replace(varied(), header=make_header(run_id="ffff0000", plan=varied().header.plan)))
    regions = [each for _, each in found.elements if each.get("role") == "region"] + found.find("nav")
    names = [each["aria-label"] for each in regions]
    assert len(names) == len(set(names)) == 5  # two runs' tables and contents, and the page's contents


def test_sortable_headers_are_underlined_in_webkit_too() -> None:
    # WebKit drops `text-decoration` if it says more than the line.
    style = (ROOT / "bench" / "report" / "templates" / "report.css").read_text()
    assert "text-decoration-style: dotted" in style
    assert "text-decoration:" not in style


def test_script_is_short_and_colours_follow_the_reader() -> None:
    templates = ROOT / "bench" / "report" / "templates"
    assert len((templates / "report.js").read_text().splitlines()) < 150
    style = (templates / "report.css").read_text()
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    assert ":focus-visible" in style


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


def test_a_run_without_trials_has_a_page() -> None:
    run = make_run(records=[])
    assert any("No trial has been stored yet." in text for text in page(run).text)


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


def test_every_text_of_the_report_is_on_the_page() -> None:
    run = side(
        {make_configuration(batch_size=size, engine=engine): 2.0 for size in (16, 64) for engine in ("eager", "fused")}
    )
    other = replace(run, header=replace(run.header, run_id="bbbb0000", machine=make_machine(cpu_model="Another CPU")))
    unlike = make_run([make_configuration(epochs=9)], run_id="cccc0000")
    made = report(run, other, unlike)
    assert [bool(each.failure) for each in made.comparisons] == [False, True]
    html = render_page(made)
    shown = set(Page(html).text)
    for one in made.comparisons:
        wanted = {*one.heading, *one.notes, *([f"Not compared: {one.failure}"] if one.failure else []), one.name}
        assert wanted <= shown
    for each in made.runs:
        assert {*each.heading, *each.notes, *(value for _, value in each.facts)} <= shown
        assert {section.title for section in each.sections} <= shown
        (contents,) = re.findall(rf'aria-label="Contents of run {each.name}">(.*?)</nav>', html, re.DOTALL)
        linked = re.findall(r'<a href="#run-\d+-\w+">(.*?)</a>', contents)
        assert linked == ["Configurations", *(escape(section.title) for section in each.sections), "Provenance"]
    sections = [section for each in made.runs for section in each.sections]
    figures = [figure for section in sections for figure in section.figures]
    tables = [table for section in sections for table in section.tables]
    for one in made.comparisons:
        figures += one.figures
        tables += one.tables
    tables += [table for figure in figures for table in figure.tables]
    assert {chart.caption for figure in figures for chart in figure.charts} <= shown
    assert {text for figure in figures for text in (figure.title, *figure.legend)} <= shown
    assert all(len(set(figure.legend)) == len(figure.legend) for figure in figures)
    assert {text for table in tables for text in (table.title, *table.notes)} <= shown


def test_results_come_before_provenance() -> None:
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


def test_controls_are_hidden_without_script() -> None:
    found = page(varied())
    assert not found.find("button")
    (filtering,) = (each for each in found.find("div") if each.get("class") == "filter")
    assert "hidden" in filtering
