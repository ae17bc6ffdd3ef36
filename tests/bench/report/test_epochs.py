"""The figures of a run's epochs: every mean, trial and name where it belongs."""

from collections.abc import Sequence

from bench_builders import make_configuration, make_epoch, make_epochs, make_measurement, make_record, make_run
from report_pages import report

from bench.records import EpochRecord, Run
from bench.report.charts import MAX_SERIES, Kind, LineChart
from bench.report.epochs import MAX_EPOCHS
from bench.report.figures import Figure

TRAINED = "hollow markers on dashes: training data, while the weights changed"


def measured(*trials: Sequence[EpochRecord]) -> Run:
    """A run of one configuration whose trials have these epochs."""
    outcomes = [make_measurement(epochs=tuple(epochs)) for epochs in trials]
    records = [make_record(repeat=repeat, outcome=outcome) for repeat, outcome in enumerate(outcomes)]
    return make_run([make_configuration()], len(trials), records=records)


def figures(run: Run) -> Sequence[Figure]:
    (section,) = (each for each in report(run).runs[0].sections if each.title == "Accuracy and loss")
    return section.figures


def chart(kind: Kind, run: Run) -> LineChart:
    (found,) = (each for figure in figures(run) for each in figure.charts if each.kind is kind)
    assert isinstance(found, LineChart)
    return found


def points(found: LineChart) -> list[list[tuple[float, float]]]:
    return [[(point.x, point.y) for point in series.points] for series in found.series]


def test_a_point_is_the_mean_of_all_trials_after_its_epoch() -> None:
    run = measured(make_epochs((1.0, 2.0), (9_000, 9_600)), make_epochs((3.0, 4.0), (9_200, 9_800)))
    over_time = chart(Kind.TIME_TO_ACCURACY, run)
    assert points(over_time) == [[(2.0, 0.91), (5.0, 0.97)]]
    assert over_time.series[0].traces == (((1.0, 0.90), (3.0, 0.96)), ((3.0, 0.92), (7.0, 0.98)))
    by_epoch = chart(Kind.ACCURACY, run)
    assert points(by_epoch) == [[(1, 0.96), (2, 0.96)], [(1, 0.91), (2, 0.97)]]
    assert by_epoch.series[1].traces == (((1, 0.90), (2, 0.96)), ((1, 0.92), (2, 0.98)))
    assert "After the last epoch: batch 64 97.00 %." in by_epoch.description
    assert points(chart(Kind.LOSS, run)) == [[(1, 0.125), (2, 0.125)], [(1, 0.0875), (2, 0.0875)]]
    table = figures(run)[0].tables[0]
    assert table.rows == [
        ["64", "1", "2.00 s", "91.00 %", "96.00 %", "0.0875", "0.125", "2"],
        ["64", "2", "5.00 s", "97.00 %", "96.00 %", "0.0875", "0.125", "2"],
    ]


def test_lines_of_the_training_data_are_dashed_and_explained() -> None:
    run = measured(make_epochs())
    for kind in (Kind.ACCURACY, Kind.LOSS):
        found = chart(kind, run)
        assert [(each.is_dashed, each.name) for each in found.series] == [(True, ""), (False, "batch 64")]
        assert TRAINED in found.marks
    assert [label for _, label in chart(Kind.TIME_TO_ACCURACY, run).guides] == ["97 %", "98 %"]


def test_an_epoch_that_not_every_trial_has_or_evaluated_has_no_mean() -> None:
    unevaluated = make_epochs((1.0, 1.0, 1.0), (9_000, None, 9_800))
    run = measured(unevaluated, make_epochs((1.0, 1.0, 1.0, 1.0), (9_200, 9_300, 9_400, 9_500)))
    assert points(chart(Kind.TIME_TO_ACCURACY, run)) == [[(1.0, 0.91), (3.0, 0.96)]]
    assert [(*row[1:4], row[-1]) for row in figures(run)[0].tables[0].rows] == [
        ("1", "1.00 s", "91.00 %", "2"),
        ("2", "2.00 s", "", "2"),
        ("3", "3.00 s", "96.00 %", "2"),
    ]


def test_of_very_many_epochs_the_first_and_the_last_are_drawn_and_so_are_some_trials() -> None:
    trials, epochs = 4, 10_000
    run = measured(*[[make_epoch()] * epochs] * trials)
    found = chart(Kind.LOSS, run)
    places = [point.x for point in found.series[1].points]
    assert (len(places), places[0], places[-1]) == (MAX_EPOCHS, 1, epochs)
    assert len(found.series[1].traces) == trials / 2
    assert any(mark.startswith("one in 2 single trials is drawn") for mark in found.marks)


def test_each_seed_has_its_accuracy_and_the_dashes_are_their_mean() -> None:
    run = measured(*(make_epochs((1.0,), (correct,)) for correct in (9_000, 9_100, 9_700)))
    found = chart(Kind.ACCURACY_BY_SEED, run)
    (series,) = found.series
    assert {found.x.text(point.x): point.y for point in series.points} == {"42": 0.90, "43": 0.91, "44": 0.97}
    assert series.level is not None
    assert f"{series.level:.4f}" == "0.9267"
    assert not series.has_line
    assert "batch 64 92.67 %" in found.description


def test_more_batch_sizes_than_colours_are_divided_under_names_of_their_own() -> None:
    chosen = [make_configuration(batch_size=size) for size in range(1, MAX_SERIES + 2)]
    titles = [figure.title for figure in figures(make_run(chosen, 1))]
    assert titles == [f"784-128-10 on cpu, part {part} of 2" for part in (1, 2)]
