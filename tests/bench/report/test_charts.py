"""The report's charts: how lines and rows are distinguished, and what is not drawn."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from bench_builders import (
    Change,
    make_configuration,
    make_epoch,
    make_failure,
    make_record,
    make_run,
    make_timed,
)
from stored_runs import side, with_records

from bench.records import Configuration, Run
from bench.report.axes import Axis, make_scale
from bench.report.charts import (
    MAX_SERIES,
    Chart,
    Heatmap,
    Kind,
    LineChart,
    Point,
    Ratio,
    RatioChart,
    Series,
    dodges,
    last_value,
    places,
    ratio_scale,
    ratio_tick,
)
from bench.report.contents import Report, Stored, make_report
from bench.report.figures import MAX_CHARTS
from bench.report.page import render_page
from bench.report.svg import draw
from bench.tables.columns import COLUMNS
from bench.tables.summary import summarise
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


def test_seeds_too_large_for_a_float_are_distinguished() -> None:
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
        (Axis(label="epoch", text=lambda value: f"{value:.0f}"), (1.0, 2.0)),
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


def test_ratios_are_named_by_what_distinguishes_them() -> None:
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
    assert "the line leaves out batch size 256, where every trial failed" in render_page(report(broken))


def test_every_chart_of_a_line_that_failed_trials_end_says_which_line_and_why() -> None:
    chosen = [
        make_configuration(engine=engine, batch_size=64 * 4**place)
        for engine in ("eager", "fused")
        for place in range(3)
    ]
    run = make_run(chosen, 2)
    failing = chosen[-1]
    records = [
        replace(record, outcome=make_failure()) if record.trial.configuration == failing else record
        for record in run.records
    ]
    (made,) = report(with_records(run, records)).runs
    figures = {figure.title: figure for section in made.sections for figure in section.figures}
    note = "cpu, fused, 784-128-10: the line leaves out batch size 1024, where every trial failed"
    for title in ("Throughput side by side", "Throughput: cpu, fused", "Memory: cpu, fused"):
        assert figures[title].charts
        assert figures[title].notes == (note,), title
    assert figures["Memory: cpu, eager"].notes == figures["Throughput: cpu, eager"].notes == ()


def line_chart(*series: Series, guides: tuple[tuple[float, str], ...] = ()) -> LineChart:
    axis = Axis(label="", text=str)
    return LineChart(
        kind=Kind.LOSS,
        subject="",
        title="",
        caption="",
        description="",
        marks=(),
        x=axis,
        y=axis,
        series=series,
        guides=guides,
    )


def ratio_chart(*ratios: tuple[float, float | None, float | None, str]) -> RatioChart:
    made = tuple(
        Ratio(name="row", value=value, low=low, high=high, text=f"{value}", verdict=verdict)
        for value, low, high, verdict in ratios
    )
    return RatioChart(
        kind=Kind.RATIOS,
        subject="",
        title="",
        caption="",
        description="",
        marks=(),
        label="",
        ratios=made,
        among=made,
    )


def test_axes_cover_points_with_their_ranges_and_single_trials() -> None:
    series = Series(name="a", style=0, points=(Point(x=1, y=2, low=1.5, high=3),), traces=(((0.5, 9), (4, 1)),))
    assert sorted(places(line_chart(series))) == [(0.5, 9), (1, 1.5), (1, 2), (1, 3), (4, 1)]


def test_a_guide_is_drawn_within_the_axis_alone_which_it_does_not_stretch() -> None:
    series = Series(name="a", style=0, points=(Point(x=1, y=2), Point(x=2, y=4)))
    drawn = draw(line_chart(series, guides=((1.0, "below"), (3.0, "inside"), (5.0, "above"))), "key")
    assert re.findall(r">(below|inside|above)<", drawn) == ["inside"]
    assert marker_places(drawn, 0) == marker_places(draw(line_chart(series), "key"), 0)


def marker_places(drawn: str, style: int) -> list[tuple[float, float]]:
    """Return where the markers of a style are, the last one beside the line's name."""
    found = re.findall(rf'class="(?:mark|hollow) s{style}" transform="translate\(([0-9.]+) ([0-9.]+)\)"', drawn)
    return [(float(x), float(y)) for x, y in found]


def test_higher_values_are_drawn_higher_and_names_apart_in_the_order_of_their_lines() -> None:
    ends = (1.02, 4.0, 1.0, 1.01)
    series = [
        Series(name=f"to {end}", style=style, points=(Point(x=1, y=1), Point(x=2, y=end)))
        for style, end in enumerate(ends)
    ]
    drawn = draw(line_chart(*series), "key")
    first, last, _ = marker_places(drawn, 1)
    assert first[0] < last[0]
    assert first[1] > last[1]
    labels = [(name, float(y)) for y, name in re.findall(r'y="([0-9.]+)" class="label">([^<]*)<', drawn)]
    assert [name for name, _ in labels] == ["to 4.0", "to 1.02", "to 1.01", "to 1.0"]
    assert min(below - above for (_, above), (_, below) in itertools.pairwise(labels)) >= 13
    assert labels[-1][1] < 265  # above the numbers of the x axis


def test_marks_and_words_of_a_drawing_tell_what_kind_a_line_and_an_axis_are() -> None:
    points = (Point(x=1, y=2), Point(x=2, y=4))
    dashed, unjoined = (
        Series(name="a", style=0, points=points, is_dashed=True),
        Series(name="b", style=1, points=points, has_line=False),
    )
    drawn = draw(line_chart(dashed, unjoined), "key")
    assert re.findall(r'class="(line|dash|hollow|mark) s0"', drawn) == ["dash", *["hollow"] * 3]
    assert re.findall(r'class="(line|dash|hollow|mark) s1"', drawn) == ["mark"] * 3
    assert "log scale" not in drawn
    chart = line_chart(dashed)
    logs = [replace(chart.x, label=label, is_log=True) for label in ("across", "up")]
    drawn = draw(replace(chart, x=logs[0], y=logs[1]), "key")
    assert re.findall(r">(\w*, log scale)<", drawn) == ["across, log scale", "up, log scale"]
    assert ">, log scale<" in draw(ratio_chart((2.0, None, None, "slower")), "key")


def test_a_line_is_named_at_its_level_or_its_end() -> None:
    points, traces = (Point(x=1, y=2), Point(x=2, y=4)), (((1.0, 5.0), (2.0, 6.0)), ((1.0, 7.0), (2.0, 8.0)))
    assert last_value(Series(name="a", style=0, points=points, traces=traces, level=3)) == 3
    assert last_value(Series(name="a", style=0, points=points, traces=traces)) == 4
    assert last_value(Series(name="a", style=0, points=(), traces=traces)) == 8


def test_markers_of_ratios_are_those_that_the_marks_explain() -> None:
    verdicts = ("slower", "faster", "same", "inconclusive")
    drawn = draw(ratio_chart(*((1.0, None, None, verdict) for verdict in verdicts)), "key")
    shapes = re.findall(r'class="mark s0" transform="[^"]*" d="([^"]*)"', drawn)
    up, down, square, circle = (
        "M0-4.5L4.5 3.5H-4.5z",
        "M0 4.5L4.5-3.5H-4.5z",
        "M-3.5-3.5h7v7h-7z",
        "M-4 0a4 4 0 1 0 8 0",
    )
    assert all(shape.startswith(each) for shape, each in zip(shapes, (up, down, square, circle), strict=True))


def test_the_scale_of_ratios_covers_their_intervals_and_one_by_logarithms() -> None:
    scale = ratio_scale(ratio_chart((2.0, 1.25, 4.0, "slower"), (2.5, None, None, "slower")), 0, 100)
    assert scale.low < 0.8
    assert scale.high > 4
    assert scale(2) == pytest.approx((scale(1) + scale(4)) / 2)
    assert 1.0 in scale.ticks
    assert ratio_tick(1.0234) == "1.023"


def test_intervals_of_ratios_are_drawn_from_end_to_end() -> None:
    chart = ratio_chart((2.0, 1.0, 4.0, "slower"), (2.0, None, None, "slower"))
    drawn = draw(chart, "key")
    (low, high), *others = re.findall(r'class="bar s0" d="M([0-9.]+) [^H]*H([0-9.]+)m', drawn)
    assert not others
    marks = [float(x) for x in re.findall(r'class="mark s0" transform="translate\(([0-9.]+) ', drawn)]
    (one,) = re.findall(r'class="guide" d="M([0-9.]+) ', drawn)
    assert float(low) == float(one)
    assert marks == [pytest.approx((float(low) + float(high)) / 2, abs=0.1)] * 2


def found(kind: Kind, *runs: Run) -> list[Chart]:
    return [chart for chart in charts(*runs) if chart.kind is kind]


def widths_and_sizes(**changes: Change) -> list[Configuration]:
    return [
        make_configuration(model=f"784-{width}-10", layers=(784, width, 10), batch_size=size, **changes)
        for width in (128, 512)
        for size in (64, 256)
    ]


def test_training_time_begins_at_zero() -> None:
    for chart in found(Kind.TIME_TO_ACCURACY, side(dict.fromkeys(widths_and_sizes(), 2.0), repeats=2)):
        assert isinstance(chart, LineChart)
        scale = make_scale(chart.x, [x for x, _ in places(chart)], 0, 300)
        assert scale.low == 0


def test_accuracy_does_not_go_beyond_all() -> None:
    run = side({make_configuration(): 2.0}, correct=9_990, repeats=1)
    for kind in (Kind.TIME_TO_ACCURACY, Kind.ACCURACY, Kind.ACCURACY_BY_SEED):
        (chart,) = found(kind, run)
        assert isinstance(chart, LineChart)
        scale = make_scale(chart.y, [y for _, y in places(chart)], 300, 0)
        assert scale.high <= 1


def test_single_trials_are_drawn_where_they_belong_and_beside_a_bar_only() -> None:
    (over_time,) = found(Kind.TIME_TO_ACCURACY, side({make_configuration(): 2.0}, repeats=1))
    (throughput,) = found(Kind.THROUGHPUT, side({make_configuration(): 2.0}, repeats=2))
    for chart, aside in ((over_time, 0), (throughput, 7)):
        drawn = draw(chart, "key")
        (dot, *_) = re.findall(r'class="dots s0" d="M([0-9.]+) ', drawn)
        (marker, *_) = re.findall(r'class="mark s0" transform="translate\(([0-9.]+) ', drawn)
        assert float(dot) == pytest.approx(float(marker) + aside)


def barred(*ranges: tuple[float, float]) -> list[Series]:
    """A series for each range, all at the same place."""
    return [
        Series(name=str(style), style=style, points=(Point(x=64, y=low, low=low, high=high),))
        for style, (low, high) in enumerate(ranges)
    ]


def test_bars_that_would_hide_one_another_stand_side_by_side() -> None:
    assert dodges(barred((1, 2), (3, 4))) == [(0, 7), (0, 7)]
    assert dodges(barred((3, 4), (1, 3), (5, 6))) == [(-6, -3), (0, 3), (6, 9)]
    assert dodges([*barred((1, 3), (2, 4)), Series(name="", style=2, points=())]) == [(-3.5, 0), (3.5, 7), (0, 0)]
    many = dodges(barred(*[(1, 2)] * MAX_SERIES))
    assert many[-1][0] - many[0][0] < 18
    assert len({each for pair in many for each in pair}) == 2 * MAX_SERIES


def test_lines_move_with_their_bars_and_away_from_each_other() -> None:
    (chart,) = found(Kind.THROUGHPUT, side({make_configuration(): 2.0}))
    assert isinstance(chart, LineChart)
    drawn = draw(replace(chart, series=tuple(barred((1, 3), (2, 4)))), "key")
    bars = [float(x) for x in re.findall(r'class="bar s\d" d="M([0-9.]+) [0-9.]+h6', drawn)]
    markers = [float(x) for x in re.findall(r'class="mark s\d" transform="translate\(([0-9.]+) ', drawn)]
    assert markers[:2] == pytest.approx([bar + 3 for bar in bars])
    assert markers[1] - markers[0] == pytest.approx(7)


@pytest.mark.parametrize(("second", "shades"), [(100.0, {4}), (104.0, {4}), (200.0, {0, 8}), (1e4, {0, 8})])
def test_shades_tell_large_differences_from_small_ones(second: float, shades: set[int]) -> None:
    run = side({each: 100.0 if each.batch_size == 64 else second for each in widths_and_sizes()}, repeats=1)
    (chart,) = found(Kind.THROUGHPUT_MAP, run)
    assert {int(shade) for shade in re.findall(r'class="cell h(\d)"', draw(chart, "key"))} == shades


def test_a_map_says_what_it_shows() -> None:
    run = side({each: 100.0 / each.batch_size for each in widths_and_sizes()}, repeats=1)
    (chart,) = found(Kind.THROUGHPUT_MAP, run)
    assert isinstance(chart, Heatmap)
    low, high = chart.texts[0][0], chart.texts[0][1]
    assert re.findall(r'class="tick (?:end|mid)">([^<]*)<', draw(chart, "key")) == ["128", "512", "64", "256"]
    assert f"From {low} (784-128-10, batch 64) to {high} (784-128-10, batch 256)" in chart.description


def test_models_that_share_no_batch_size_make_no_map() -> None:
    chosen = [make_configuration(model=f"m{size}", batch_size=size) for size in (16, 64, 256)]
    assert found(Kind.THROUGHPUT_MAP, side(dict.fromkeys(chosen, 2.0))) == []


def test_models_at_a_single_batch_size_make_no_map() -> None:
    chosen = [each for each in widths_and_sizes() if each.batch_size == 64]
    assert found(Kind.THROUGHPUT_MAP, side(dict.fromkeys(chosen, 2.0))) == []


def test_a_map_with_a_deep_model_has_no_widths() -> None:
    chosen = [*layered((784, 128, 10)), *layered((784, 256, 64, 10))]
    (chart,) = found(Kind.THROUGHPUT_MAP, side(dict.fromkeys(chosen, 2.0), repeats=1))
    assert isinstance(chart, Heatmap)
    assert (chart.rows, chart.row_label) == (("784-128-10", "784-256-64-10"), "model")


def test_throughput_is_drawn_from_zero_by_batch_size_as_the_median_between_the_lowest_and_the_highest_trial() -> None:
    seconds = {256: (1.0, 2.0, 8.0), 64: (2.0, 4.0, 16.0)}  # planned in an order of its own
    chosen = [make_configuration(batch_size=size) for size in seconds]
    records = [
        make_record(each, repeat, outcome=make_timed([epoch]))
        for each in chosen
        for repeat, epoch in enumerate(seconds[each.batch_size])
    ]
    (chart,) = found(Kind.THROUGHPUT, make_run(chosen, 3, records=records))
    assert isinstance(chart, LineChart)
    samples = make_epoch().train_samples
    assert chart.series[0].points == (
        Point(x=64, y=samples / 4, low=samples / 16, high=samples / 2),
        Point(x=256, y=samples / 2, low=samples / 8, high=samples),
    )
    assert chart.y.has_zero
    assert chart.x.is_log
    (chart,) = found(Kind.THROUGHPUT, side(repeats=1))
    assert chart.marks == ("markers: the only trial",)


def test_memory_is_drawn_beside_the_dashed_floor_and_interrupted_where_every_trial_failed() -> None:
    sizes = (64, 256, 1024)
    run = make_run([make_configuration(batch_size=size) for size in sizes], 1)
    failed = [
        replace(each, outcome=make_failure()) if each.trial.configuration.batch_size == 256 else each
        for each in run.records
    ]
    (chart,) = found(Kind.MEMORY, with_records(run, failed))
    assert isinstance(chart, LineChart)
    floor, peak = chart.series
    assert [each.is_dashed for each in (floor, peak)] == [True, False]
    assert [point.y for point in peak.points] == [400_000_000] * 2
    assert [point.y for point in floor.points] == [
        each.memory_floor_bytes for each in summarise(run.records) if each.configuration.batch_size != 256
    ]
    assert [[point.x for point in piece] for piece in peak.pieces()] == [[64], [1024]]
    assert "From 381 MiB (784-128-10, batch 64) to 381 MiB" in chart.description
    scale = make_scale(chart.y, [y for _, y in places(chart)], 300, 0)
    assert [chart.y.text(tick) for tick in scale.ticks] == ["0 B", "100 MiB", "200 MiB", "300 MiB"]


def test_ways_to_train_stand_side_by_side_for_each_model_they_share() -> None:
    chosen = [each for device in ("cpu", "cuda:0") for each in widths_and_sizes(device=device)]
    alone = make_configuration(device="cpu", model="alone")
    run = side({each: 3.0 if each.device == "cpu" else 2.0 for each in [*chosen, alone]}, repeats=3)
    beside = found(Kind.SIDE_BY_SIDE, run)
    assert [chart.caption for chart in beside] == ["784-128-10", "784-512-10"]
    for chart in beside:
        assert isinstance(chart, LineChart)
        assert [each.name for each in chart.series] == ["cpu", "cuda:0"]
        assert {each.style for each in chart.series} == {0, 1}
    (figure, *_) = report(run).runs[0].sections[0].figures
    (table,) = figure.tables
    assert [chart.title for chart in figure.charts] == [chart.title for chart in beside]
    assert [row[:3] for row in table.rows] == [
        [f"784-{width}-10", size, device]
        for width in (128, 512)
        for size in ("64", "256")
        for device in ("cpu", "cuda:0")
    ]
    rate = COLUMNS["throughput_per_second"]
    texts = {
        (each.configuration.device, each.configuration.model, str(each.configuration.batch_size)): rate.text(each)
        for each in summarise(run.records)
    }
    assert all(row[3] == texts[row[2], row[0], row[1]] for row in table.rows)


def test_of_very_many_models_side_by_side_only_the_first_are_drawn_and_a_note_counts_them() -> None:
    for count in (MAX_CHARTS, MAX_CHARTS + 1):
        chosen = [
            make_configuration(model=f"784-{width}-10", layers=(784, width, 10), engine=engine)
            for width in range(1, count + 1)
            for engine in ("eager", "fused")
        ]
        (figure, *_) = report(side(dict.fromkeys(chosen, 2.0), repeats=1)).runs[0].sections[0].figures
        assert len(figure.charts) == MAX_CHARTS
        note = f"side by side: drawn for the first {MAX_CHARTS} of {count}; the table has them all"
        assert figure.notes == ((note,) if count > MAX_CHARTS else ())


def test_more_ways_than_colours_are_divided() -> None:
    chosen = [make_configuration(threads=threads) for threads in range(1, MAX_SERIES + 3)]
    first, second = found(Kind.SIDE_BY_SIDE, side(dict.fromkeys(chosen, 2.0), repeats=2))
    assert isinstance(first, LineChart)
    assert isinstance(second, LineChart)
    assert len(first.series) == MAX_SERIES
    assert len(second.series) == 2
    assert first.caption != second.caption


def test_group_of_a_single_point_is_drawn_side_by_side_only() -> None:
    chosen = [make_configuration(engine=engine) for engine in ("eager", "fused")]
    run = side(dict.fromkeys(chosen, 2.0), repeats=3)
    assert len(found(Kind.SIDE_BY_SIDE, run)) == 1
    assert found(Kind.THROUGHPUT, run) == []
    assert len(found(Kind.THROUGHPUT, side({chosen[0]: 2.0}, repeats=3))) == 1


def test_recipes_of_different_lengths_share_a_chart() -> None:
    chosen = [make_configuration(model=f"m{epochs}", epochs=epochs) for epochs in (5, 10)]
    (chart,) = found(Kind.THROUGHPUT, side(dict.fromkeys(chosen, 2.0), repeats=3))
    assert isinstance(chart, LineChart)
    assert [each.name for each in chart.series] == ["m5, epochs 5", "m10, epochs 10"]


def test_ratio_chart_says_what_it_shows_and_which_side_is_slower() -> None:
    one, other = side({make_configuration(): 2.0}), side({make_configuration(): 3.0})
    made = make_report([Stored(label="laptop", run=one), Stored(label="server", run=other)])
    (chart,) = made.comparisons[0].figures[0].charts
    assert chart.title.endswith(": server against laptop")
    assert isinstance(chart, RatioChart)
    assert [ratio.name for ratio in chart.ratios] == ["784-128-10 batch 64"]
    assert chart.description.endswith(f" 1 {chart.ratios[0].verdict}")
    assert any("right of the dotted line (above 1) the candidate takes longer" in mark for mark in chart.marks)


def layered(layers: tuple[int, ...], **changes: Change) -> list[Configuration]:
    model = "-".join(map(str, layers))
    return [make_configuration(model=model, layers=layers, batch_size=size, **changes) for size in (64, 256)]


def deep(depth: int, **changes: Change) -> list[Configuration]:
    return layered((784, *[128] * depth, 10), **changes)


def test_models_too_deep_for_a_cell_remain_models_of_their_own() -> None:
    chosen = [each for depth in (9, 12, 14) for each in deep(depth)]
    names = ("784-9x128-10", "784-12x128-10", "784-14x128-10")
    run = side({each: 0.01 * len(each.layers) * 64 / each.batch_size for each in chosen}, repeats=2)
    found = charts(run)
    (heatmap,) = (chart for chart in found if isinstance(chart, Heatmap))
    assert heatmap.rows == names
    rate = COLUMNS["throughput_per_second_median"]
    assert [text for row in heatmap.texts for text in row] == [rate.text(each) for each in summarise(run.records)]
    for chart in found:
        if isinstance(chart, LineChart):
            expected = names if chart.kind in {Kind.THROUGHPUT, Kind.MEMORY} else ("batch 64", "batch 256")
            assert tuple(each.name for each in chart.series if each.name) == expected, chart.title
            for each in chart.series:
                assert len({point.x for point in each.points}) == len(each.points), chart.title
    assert [chart.subject for chart in found if chart.kind is Kind.LOSS] == [f"{name} on cpu" for name in names]


def test_models_whose_texts_are_equal_are_numbered_alike_in_every_group() -> None:
    first, second = ((*range(784, 770, -1), classes) for classes in (10, 11))
    chosen = [*layered(first), *layered(second), *layered(second, engine="graph")]
    run = side(dict.fromkeys(chosen, 2.0), repeats=2)
    cut = COLUMNS["model"].text(summarise(run.records)[0])
    found = charts(run)
    (heatmap,) = (chart for chart in found if isinstance(chart, Heatmap))
    assert heatmap.rows == (cut, f"{cut} (2)")
    (beside,) = (chart for chart in found if chart.kind is Kind.SIDE_BY_SIDE)
    assert beside.subject == f"{cut} (2)"
    # Only the table has room for them as a whole.
    assert {row[1].text for row in report(run).runs[0].rows} == {"-".join(map(str, each)) for each in (first, second)}


def test_ways_to_train_whose_texts_are_equal_remain_apart() -> None:
    rates = (0.1, 0.1000001)
    chosen = [each for rate in rates for each in layered((784, 128, 10), learning_rate=rate)]
    (beside,) = (chart for chart in line_charts(side(dict.fromkeys(chosen, 2.0))) if chart.kind is Kind.SIDE_BY_SIDE)
    assert [each.name for each in beside.series] == ["cpu, learning rate 0.1", "cpu, learning rate 0.1 (2)"]
