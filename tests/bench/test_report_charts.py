"""The report's charts: what tells things apart on them, and what is not drawn."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from bench_builders import make_configuration, make_failure, make_run
from stored_runs import side, with_records

from bench.records import Run
from bench.report import Report, Stored, make_report
from bench.report_axes import Axis, make_scale
from bench.report_charts import Chart, Heatmap, Kind, LineChart, RatioChart, draw, ratio_tick
from bench.report_page import render_page
from bench.units import format_percent, format_seconds


def report(*runs: Run) -> Report:
    return make_report([Stored(label="", run=run) for run in runs])


def line_charts(*runs: Run) -> list[LineChart]:
    return [chart for chart in charts(*runs) if isinstance(chart, LineChart)]


def charts(*runs: Run) -> list[Chart]:
    made = report(*runs)
    figures = [figure for run in made.runs for section in run.sections for figure in section.figures]
    figures += [figure for compared in made.comparisons for figure in compared.figures]
    return [chart for figure in figures for chart in figure.charts]


def test_seeds_too_large_for_a_chart_are_told_apart() -> None:
    first = 2**62 - 2
    run = make_run([make_configuration()], 3)
    records = [replace(record, trial=replace(record.trial, seed=first + record.trial.repeat)) for record in run.records]
    run = with_records(run, records)
    (chart,) = [chart for chart in line_charts(run) if chart.kind is Kind.ACCURACY_BY_SEED]
    assert [chart.x.text(point.x) for point in chart.series[0].points] == [str(first + place) for place in range(3)]
    assert "<svg" in render_page(report(run))


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        (Axis(label="ratio", text=ratio_tick, is_log=True), (0.998, 1.001, 1.004)),
        (Axis(label="seconds", text=format_seconds, is_log=None), (99.0, 101.0)),
        (Axis(label="seconds", text=format_seconds, is_log=None), (74.6, 75.4)),
        (Axis(label="accuracy", text=format_percent), (0.9725, 0.9726)),
        (Axis(label="epoch", text=lambda value: f"{value:.0f}", is_whole=True), (1.0, 2.0)),
    ],
)
def test_no_two_ticks_have_one_text(axis: Axis, values: Sequence[float]) -> None:
    texts = [axis.text(tick) for tick in make_scale(axis, values, 0, 300).ticks]
    assert texts
    assert len(set(texts)) == len(texts)


def test_labels_of_ticks_and_lines_do_not_run_into_each_other() -> None:
    seeds = [10**12 + place for place in range(9)]
    axis = Axis(label="seed", text=lambda place: str(seeds[round(place)]), ticks=tuple(map(float, range(9))))
    scale = make_scale(axis, [0.0, 8.0], 0, 400)
    places = [scale(tick) for tick in scale.ticks]
    assert len(places) > 1
    assert min(b - a for a, b in itertools.pairwise(places)) > 6.5 * 13


def test_names_of_deep_models_stay_whole() -> None:
    names = ["784-" + "256-" * depth + "10" for depth in (5, 6, 7)]
    layers = [(784, *[256] * depth, 10) for depth in (5, 6, 7)]
    chosen = [make_configuration(model=name, layers=each) for name, each in zip(names, layers, strict=True)]
    (chart,) = [
        each for each in line_charts(side(dict.fromkeys(chosen, 2.0), repeats=2)) if each.kind is Kind.THROUGHPUT
    ]
    drawn = draw(chart, "key")
    assert all(f">{name}</text>" in drawn for name in names)


def test_ratios_are_named_by_what_tells_them_apart() -> None:
    chosen = [
        make_configuration(engine=engine, threads=threads) for engine in ("eager", "compiled") for threads in (1, 2)
    ]
    one, other = side(dict.fromkeys(chosen, 2.0), repeats=4), side(dict.fromkeys(chosen, 3.0), repeats=4)
    (chart,) = [chart for chart in charts(one, other) if isinstance(chart, RatioChart)]
    names = [ratio.name for ratio in chart.ratios]
    assert len(set(names)) == 4
    assert "784-128-10 batch 64 eager threads 1" in names


def test_a_map_keeps_the_names_of_models_that_differ_in_more_than_width() -> None:
    chosen = [
        make_configuration(model=name, layers=(784, width, 10), batch_size=batch_size)
        for name, width in (("mlp_128", 128), ("speedrun", 160))
        for batch_size in (64, 256)
    ]
    (chart,) = [chart for chart in charts(side(dict.fromkeys(chosen, 2.0))) if isinstance(chart, Heatmap)]
    assert chart.rows == ("mlp_128", "speedrun")
    assert chart.row_label == "model"


def test_a_line_breaks_where_every_trial_failed() -> None:
    chosen = [make_configuration(batch_size=size) for size in (64, 256, 1024, 4096)]
    run = make_run(chosen, 2)
    records = [
        replace(record, outcome=make_failure()) if record.trial.configuration.batch_size == 256 else record
        for record in run.records
    ]
    broken = with_records(run, records)
    (chart,) = [chart for chart in line_charts(broken) if chart.kind is Kind.THROUGHPUT]
    assert [[point.x for point in piece] for piece in chart.series[0].pieces()] == [[64], [1024, 4096]]
    drawn = draw(chart, "key")
    assert drawn.count('class="line s0"') == 1
    assert "the line breaks at batch size 256, where every trial failed" in render_page(report(broken))
