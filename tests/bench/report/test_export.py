"""Pictures of stored runs: those of the report, the same bytes each time, and a reason for what could not be drawn."""

import re
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from bench_builders import make_configuration, make_failure, make_measurement, make_record, make_run
from click.testing import CliRunner, Result
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from stored_runs import configurations, side, store, with_records

from bench.cli import cli
from bench.records import Run
from bench.report.axes import make_scale
from bench.report.charts import Heatmap, Kind, LineChart, RatioChart, places
from bench.report.contents import MAX_RATIOS, Report, Stored, make_report
from bench.report.export import find_pictures, left_out
from bench.report.figures import MAX_CHARTS, NO_MAP
from bench.report.pictures import make_figure
from bench.report.svg import draw
from bench.tables.legend import run_heading

pytestmark = pytest.mark.usefixtures("elsewhere")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="bench")


def report(*runs: Run) -> Report:
    return make_report([Stored(label="", run=run) for run in runs])


def grid() -> Run:
    chosen = [
        make_configuration(model=f"784-{width}-10", layers=(784, width, 10), batch_size=batch_size)
        for width in (128, 512)
        for batch_size in (64, 256)
    ]
    return side({each: 100.0 / each.batch_size + 1 for each in chosen}, repeats=3)


def drawn_points(axes: Axes) -> set[tuple[float, float]]:
    return {(x, y) for line in axes.get_lines() for x, y in np.asarray(line.get_xydata()).tolist()}


def test_every_chart_of_the_report_becomes_an_svg_and_a_png(tmp_path: Path) -> None:
    store(grid(), tmp_path / "run.jsonl")
    result = bench("export", "run.jsonl", "--plots", "new/plots")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    names = {picture.name for picture in find_pictures(report(grid()))}
    assert {"0a1b2c3d-throughput-cpu", "0a1b2c3d-throughput-map-cpu", "0a1b2c3d-memory-cpu"} <= names
    assert "0a1b2c3d-time-to-accuracy-784-512-10-on-cpu" in names
    written = {path.name for path in Path("new/plots").iterdir()}
    assert written == {f"{name}.{ending}" for name in names for ending in ("svg", "png")}
    assert f"{len(names)} charts" in result.stdout
    for path in Path("new/plots").glob("*.svg"):
        assert ET.parse(path).getroot().tag.endswith("svg")  # noqa: S314 - our own file
    for path in Path("new/plots").glob("*.png"):
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert width >= 800
        assert height >= 300


def test_pictures_hold_the_numbers_of_the_report() -> None:
    kinds = set()
    for picture in find_pictures(report(grid(), side((2.0, 3.0), repeats=8))):
        axes = make_figure(picture.chart).axes[0]
        match picture.chart:
            case LineChart(series=series):
                assert {(point.x, point.y) for each in series for point in each.points} <= drawn_points(axes)
                assert {place for each in series for trace in each.traces for place in trace} <= drawn_points(axes)
            case Heatmap(texts=texts):
                assert {text for row in texts for text in row} <= {text.get_text() for text in axes.texts}
            case RatioChart(ratios=ratios):
                assert {each.value for each in ratios} <= {x for x, _ in drawn_points(axes)}
        kinds.add(picture.chart.kind)
    assert len(kinds) == 8


def test_axes_of_pictures_have_the_ticks_of_the_report() -> None:
    drawn = [picture.chart for picture in find_pictures(report(grid())) if isinstance(picture.chart, LineChart)]
    assert drawn
    for chart in drawn:
        axes = make_figure(chart).axes[0]
        assert [text.get_text() for text in axes.get_yticklabels()] == re.findall(
            r'class="tick end">([^<]*)<', draw(chart, "key")
        ), chart.title


def test_the_same_run_gives_the_same_files_whatever_the_users_settings_are(tmp_path: Path) -> None:
    store(side((2.0,), repeats=3), tmp_path / "run.jsonl")
    assert bench("export", "run.jsonl", "--plots", "one").exit_code == 0
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "none"}):
        assert bench("export", str(tmp_path / "run.jsonl"), "--plots", "other").exit_code == 0
        assert mpl.rcParams["font.size"] == 30
    for path in Path("one").iterdir():
        assert path.read_bytes() == (Path("other") / path.name).read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


def test_series_differ_by_marker_and_not_by_colour_alone() -> None:
    chart = next(each.chart for each in find_pictures(report(grid())) if each.chart.kind == "throughput")
    figure = make_figure(chart)
    shown = [(line.get_color(), line.get_marker()) for line in figure.legends[0].get_lines()]
    assert len({marker for _, marker in shown}) == len({colour for colour, _ in shown}) == 2


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """WCAG 2's ratio of two colours, red, green and blue from 0 to 1."""
    luminances = []
    for colour in (one, other):
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
        luminances.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def test_numbers_of_a_map_stand_out_from_their_cells() -> None:
    chosen = [
        make_configuration(model=f"784-{width}-10", layers=(784, width, 10), batch_size=size)
        for width in range(1, 11)
        for size in (16, 32, 64, 128, 256)
    ]
    run = side({each: 1.2**place for place, each in enumerate(chosen)}, repeats=1)
    chart = next(each.chart for each in find_pictures(report(run)) if each.chart.kind == "throughput-map")
    axes = make_figure(chart).axes[0]
    (image,) = axes.images
    shades = image.to_rgba(np.asarray(image.get_array()))
    ratios = []
    for text in axes.texts:
        column, row = text.get_position()
        ratios.append(contrast(shades[int(row)][int(column)], to_rgb(text.get_color())))
    assert len(ratios) == 50
    assert min(ratios) >= 4.5


def test_single_trials_of_one_epoch_are_drawn_at_their_own_time() -> None:
    chart = next(each.chart for each in find_pictures(report(side((2.0,)))) if each.chart.kind == "time-to-accuracy")
    axes = make_figure(chart).axes[0]
    (dots,) = (line for line in axes.get_lines() if line.get_marker() == ".")
    places = dots.get_transform().transform(dots.get_xydata())
    assert places == pytest.approx(axes.transData.transform(dots.get_xydata()))


def picture_of(kind: Kind, run: Run) -> tuple[LineChart, Figure]:
    (chart,) = (each.chart for each in find_pictures(report(run)) if each.chart.kind is kind)
    assert isinstance(chart, LineChart)
    return chart, make_figure(chart)


def test_a_picture_has_the_scales_gaps_and_hollow_markers_of_the_report() -> None:
    run = make_run([make_configuration(batch_size=size) for size in (64, 256, 1024)], 2)
    failed = [
        replace(each, outcome=make_failure()) if each.trial.configuration.batch_size == 256 else each
        for each in run.records
    ]
    run = with_records(run, failed)
    chart, figure = picture_of(Kind.THROUGHPUT, run)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "batch size, log scale")
    assert (axes.get_yscale(), axes.get_ylabel()) == ("linear", chart.y.label)
    scale = make_scale(chart.y, [y for _, y in places(chart)], 0, 200)
    assert axes.get_ylim() == (scale.low, scale.high)
    dots, *lines = axes.get_lines()
    assert [np.asarray(line.get_xdata()).tolist() for line in lines] == [[64], [1024]]
    shifts = dots.get_transform().transform(dots.get_xydata()) - axes.transData.transform(dots.get_xydata())
    assert (shifts[:, 0] > 0).all()  # beside the bars, which would hide them
    assert shifts[:, 1] == pytest.approx(0)
    hidden = replace(chart, series=(chart.series[0], replace(chart.series[0], style=1)))
    (beside,) = make_figure(hidden).axes
    lefts = [
        line.get_transform().transform(line.get_xydata())[0, 0]
        for line in beside.get_lines()
        if line.get_marker() != "."
    ]
    assert len(set(lefts[::2])) == 2  # two bars at one place are drawn side by side
    _, figure = picture_of(Kind.MEMORY, run)
    assert {(line.get_linestyle(), line.get_markerfacecolor() == "white") for line in figure.axes[0].get_lines()} == {
        ("--", True),
        ("-", False),
    }
    _, figure = picture_of(Kind.ACCURACY_BY_SEED, side(repeats=3))
    (mean, seeds) = figure.axes[0].get_lines()
    assert (mean.get_linestyle(), seeds.get_linestyle()) == ("--", "None")  # no line joins seeds


def test_names_in_a_picture_are_in_the_order_in_which_the_lines_end() -> None:
    seconds = {"784-1-10": 3.0, "784-2-10": 1.0, "784-3-10": 2.0}
    chosen = {make_configuration(model=name, layers=(784, int(name[4]), 10)): each for name, each in seconds.items()}
    _, figure = picture_of(Kind.THROUGHPUT, side(chosen, repeats=1))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["784-2-10", "784-3-10", "784-1-10"]


def test_a_picture_of_ratios_has_their_whole_intervals_and_the_markers_of_their_verdicts() -> None:
    two = report(side((2.0, 1.0)), side((6.0, 0.25), run_id="b0b0b0b0"))
    (chart,) = (each.chart for each in find_pictures(two) if isinstance(each.chart, RatioChart))
    (axes,) = make_figure(chart).axes
    intervals = [each.get_segments()[0][:, 0].tolist() for each in axes.collections if isinstance(each, LineCollection)]
    assert intervals == [[each.low, each.high] for each in chart.ratios]
    one, *marks = axes.get_lines()
    assert np.asarray(one.get_xdata()).tolist() == [1, 1]
    assert [(each.verdict, mark.get_marker()) for each, mark in zip(chart.ratios, marks, strict=True)] == [
        ("slower", "^"),
        ("faster", "v"),
    ]


def test_names_of_files_begin_with_the_label_and_hold_nothing_odd(tmp_path: Path) -> None:
    hostile = ("$\\frac{", "../\x1b[31m<b>", "模型" * 300)
    chosen = [make_configuration(model=name) for name in hostile]
    store(side(dict.fromkeys(chosen, 2.0), repeats=2), tmp_path / "run.jsonl")
    result = bench("export", "paper fig=run.jsonl", "--plots", "plots")
    assert result.exit_code == 0, result.output
    names = [path.name for path in Path("plots").iterdir()]
    assert all(re.fullmatch(r"paper-fig-[A-Za-z0-9.-]{1,115}\.(svg|png)", name) for name in names), names
    assert len(names) == 2 * len(find_pictures(report(side(dict.fromkeys(chosen, 2.0), repeats=2))))


def test_charts_without_measurements_are_left_out_with_the_reason(tmp_path: Path) -> None:
    one, other = configurations(2)
    run = make_run([one, other], 1)
    failed = make_record(other, outcome=make_failure())
    bare = make_record(one, outcome=make_measurement(host_peak=None))
    epochs = tuple(replace(each, test_correct=None, train_correct=None) for each in make_measurement().epochs)
    noise = replace(bare, outcome=make_measurement(host_peak=None, epochs=epochs))
    store(with_records(run, [noise, failed]), tmp_path / "run.jsonl")
    result = bench("export", "run.jsonl", "--plots", "plots")
    assert result.exit_code == 0, result.output
    kinds = {re.sub(r"^0a1b2c3d-([a-z-]+?)-(cpu|784).*", r"\1", path.name) for path in Path("plots").iterdir()}
    assert kinds == {"throughput", "loss"}
    lines = result.stderr.splitlines()
    assert len(lines) == 5
    for words in (
        "1 of 2 configurations: no trial was measured",
        "cpu, 784-128-10: the line leaves out batch size 128, where every trial failed",
        "no accuracy is drawn",
        "no memory chart for cpu",
        "map of throughput: it needs",
    ):
        assert any(line.startswith("left out: 0a1b2c3d: ") and words in line for line in lines), words


def test_a_run_without_measurements_gives_no_picture_and_says_so(tmp_path: Path) -> None:
    store(make_run(records=[]), tmp_path / "run.jsonl")
    result = bench("export", "run.jsonl", "--plots", "plots")
    assert result.exit_code == 0, result.output
    assert "nothing was drawn, because no trial was measured" in result.stderr
    assert list(Path("plots").iterdir()) == []


def test_two_runs_give_their_ratios_or_why_there_are_none(tmp_path: Path) -> None:
    store(side(run_id="aaaa1111"), tmp_path / "a.jsonl")
    store(side(run_id="bbbb2222"), tmp_path / "b.jsonl")
    odd = {make_configuration(batch_size=7): 2.0}
    store(side(odd, run_id="cccc3333"), tmp_path / "c.jsonl")
    result = bench("export", "old=a.jsonl", "new=b.jsonl", "c.jsonl", "--plots", "plots")
    assert result.exit_code == 0, result.output
    assert Path("plots/new-against-old-ratios-epoch-time.svg").is_file()
    assert "cccc3333 against old: no ratios:" in result.stderr


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_drawn(tmp_path: Path, folder: str) -> None:
    store(side((2.0,), repeats=2), tmp_path / "run.jsonl")
    Path("file").write_text("no folder")
    result = bench("export", "run.jsonl", "--plots", folder)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert f"{folder} is not a writable folder" in result.stderr
    assert result.stdout == ""


def test_missing_map_of_very_many_models_is_explained() -> None:
    chosen = [
        make_configuration(model=f"784-{width}-10", layers=(784, width, 10), batch_size=batch_size)
        for width in range(1, MAX_CHARTS + 2)
        for batch_size in (64, 256)
    ]
    run = side(dict.fromkeys(chosen, 2.0), repeats=1)
    lines = list(left_out(report(run), [Stored(label="", run=run)]))
    assert [line for line in lines if NO_MAP in line] == [
        f"0a1b2c3d: {NO_MAP} for cpu: at most {MAX_CHARTS} models are drawn, but it has {MAX_CHARTS + 1}"
    ]


def test_configurations_that_no_machine_started_are_reported_as_left_out() -> None:
    chosen = configurations(3)
    whole = make_run(chosen, 1, records=[make_record(chosen[0]), make_record(chosen[1])])
    plan = replace(whole.header.plan, configurations=tuple(chosen[:1]))
    part = replace(whole, header=replace(whole.header, plan=plan), records=whole.records[:1])
    stored = Stored(label="here", run=part, whole=whole)
    lines = list(left_out(make_report([stored]), [stored]))
    assert "here: 1 of the whole run's configurations: none was started" in lines
    begun = replace(stored, whole=replace(whole, records=tuple(map(make_record, chosen))))
    assert not [line for line in left_out(make_report([begun]), [begun]) if "started" in line]


def test_ratios_that_are_not_drawn_are_counted() -> None:
    chosen = [make_configuration(batch_size=size + 1) for size in range(MAX_RATIOS + 1)]
    run = side(dict.fromkeys(chosen, 2.0), repeats=2)
    stored = [Stored(label=label, run=run) for label in ("one", "two")]
    lines = list(left_out(make_report(stored), stored))
    assert f"two against one: ratios: drawn for the first 60 of {MAX_RATIOS + 1} rows; the table has them all" in lines


def test_configurations_without_a_measurement_are_counted() -> None:
    chosen = configurations(3)
    stored = Stored(label="here", run=make_run(chosen, 1, records=list(map(make_record, chosen[:2]))))
    assert "here: 1 of 3 configurations: no trial was measured" in left_out(make_report([stored]), [stored])


def test_a_run_without_measurements_has_nothing_else_left_out() -> None:
    stored = Stored(label="here", run=make_run(records=[]))
    assert list(left_out(make_report([stored]), [stored])) == ["here: nothing was drawn, because no trial was measured"]


def test_names_of_files_differ_in_more_than_case() -> None:
    one, other = (make_run([make_configuration()], 1, run_id=name) for name in ("aaaa1111", "bbbb2222"))
    stored = [Stored(label="Laptop", run=one), Stored(label="laptop", run=other)]
    pictures = find_pictures(make_report(stored))
    assert len({picture.name.casefold() for picture in pictures}) == len(pictures)
    assert {"Laptop-throughput-cpu", "laptop-throughput-cpu-2"} <= {picture.name for picture in pictures}


def test_names_of_files_are_neither_hidden_nor_taken_for_options() -> None:
    for label in (".hidden", "-option"):
        stored = Stored(label=label, run=make_run())
        assert all(picture.name[0].isalpha() for picture in find_pictures(make_report([stored])))


def test_names_of_files_are_short_enough_for_every_system() -> None:
    stored = Stored(label="x" * 60, run=make_run([make_configuration(model="y" * 60)]))
    assert max(len(picture.name) for picture in find_pictures(make_report([stored]))) == 120


def test_a_picture_says_which_run_and_machine_its_numbers_are_from() -> None:
    run = make_run()
    sources = {picture.source for picture in find_pictures(report(run))}
    assert sources == {"; ".join(run_heading(run))}
