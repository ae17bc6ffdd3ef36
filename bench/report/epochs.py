"""The figures of a run's epochs: accuracy over training time, accuracy and loss by epoch, and accuracy by seed."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.records import Configuration, EpochRecord, Measurement
from bench.report.axes import Axis
from bench.report.charts import Chart, Kind, LineChart, Point, Series, Trace
from bench.report.figures import MAX_CHARTS, Figure, Group, Trials, parts
from bench.tables.columns import find_columns
from bench.tables.layout import WordTable
from bench.tables.summary import Summary, mean
from bench.units import format_number, format_percent, format_seconds

MAX_RAW_POINTS: Final = 30_000
"""Per run: more would make the page slow and show nothing more."""

MAX_EPOCHS: Final = 30
"""Per line in a chart and its table; of more epochs, this many are shown, evenly spaced."""

_TARGETS: Final = ((0.97, "97 %"), (0.98, "98 %"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Epoch:
    """One epoch of one trial. `seconds` is the training time up to its end."""

    number: int
    seconds: float
    record: EpochRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """The course of one configuration's trials: `rows` has the epochs that are shown, each by trial.

    Every `stride`-th trial is drawn by itself. `is_thinned`: not all epochs are shown.
    """

    name: str
    style: int
    summary: Summary
    is_thinned: bool
    rows: tuple[tuple[_Epoch, ...], ...]
    stride: int

    def means(self, x: Callable[[_Epoch], float], y: Callable[[_Epoch], float | None]) -> tuple[Point, ...]:
        """Return the mean over the trials after each epoch in which every trial has a value."""
        points = []
        for row in self.rows:
            values = [value for each in row if (value := y(each)) is not None]
            if len(values) == len(row):
                points.append(Point(x=mean([x(each) for each in row]), y=mean(values)))
        return tuple(points)

    def traces(self, x: Callable[[_Epoch], float], y: Callable[[_Epoch], float | None]) -> tuple[Trace, ...]:
        """Return every `stride`-th trial by itself."""
        found = []
        for trial in range(0, len(self.rows[0]), self.stride):
            places = [(x(row[trial]), y(row[trial])) for row in self.rows]
            found.append(tuple((a, b) for a, b in places if b is not None))
        return tuple(trace for trace in found if trace)


def epoch_figures(found: Sequence[Group], trials: Mapping[Configuration, Trials]) -> Iterator[Figure]:
    """Yield a figure for every model of every group, at most `MAX_CHARTS` of them."""
    total = sum(len(trial.epochs) for of_one in trials.values() for _, trial in of_one)
    stride = -(-total // MAX_RAW_POINTS)
    lines = [
        (f"{line.name} on {group.name}{part}", summaries)
        for group in found
        for line in group.lines
        for part, summaries in parts(line.summaries)
    ]
    for name, summaries in lines[:MAX_CHARTS]:
        courses = [_course(summary, style, trials, max(1, stride)) for style, summary in enumerate(summaries)]
        yield _figure(name, courses, trials)
    if len(lines) > MAX_CHARTS:
        yield Figure(
            title="Further models",
            charts=(),
            tables=(),
            notes=(
                f"accuracy, loss: drawn for the first {MAX_CHARTS} of {len(lines)}; see show --columns for the others",
            ),
        )


def _course(summary: Summary, style: int, trials: Mapping[Configuration, Trials], stride: int) -> _Course:
    measured = trials[summary.configuration]
    count = min(len(trial.epochs) for _, trial in measured)
    numbers = sorted({round(i * (count - 1) / (MAX_EPOCHS - 1)) for i in range(MAX_EPOCHS)})
    by_trial = [_epochs(trial) for _, trial in measured]
    return _Course(
        name=f"batch {summary.configuration.batch_size}",
        style=style,
        summary=summary,
        is_thinned=count > MAX_EPOCHS,
        rows=tuple(tuple(epochs[number] for epochs in by_trial) for number in numbers),
        stride=stride,
    )


def _epochs(trial: Measurement) -> list[_Epoch]:
    seconds = itertools.accumulate(epoch.train_seconds for epoch in trial.epochs)
    numbered = enumerate(zip(seconds, trial.epochs, strict=True), start=1)
    return [_Epoch(number=number, seconds=elapsed, record=record) for number, (elapsed, record) in numbered]


def _figure(name: str, courses: Sequence[_Course], trials: Mapping[Configuration, Trials]) -> Figure:
    marks = tuple(_marks(courses))
    trained = "hollow markers on dashes: training data, while the weights changed"
    charts: list[Chart] = [_loss(name, courses, (*marks, trained))]
    tables = [_epoch_table(name, courses)]
    has_accuracy = any(course.summary.test_accuracy is not None for course in courses)
    if has_accuracy:
        charts = [
            _time_to_accuracy(name, courses, marks),
            _accuracy(name, courses, (*marks, trained)),
            *charts,
            _by_seed(name, courses, trials),
        ]
        tables += [_target_table(name, courses), _seed_table(name, courses, trials)]
    unmeasured = "no accuracy is drawn, because none was measured; data whose labels are noise has none"
    return Figure(title=name, charts=tuple(charts), tables=tuple(tables), notes=() if has_accuracy else (unmeasured,))


def _marks(courses: Sequence[_Course]) -> Iterator[str]:
    """Explain the marks of charts by epoch, and what is left out if there is very much to draw."""
    yield "markers: mean of the trials after each epoch; thin lines and dots: single trials"
    if courses[0].stride > 1:
        yield f"one in {courses[0].stride} single trials is drawn, because there are very many; means are over all"
    if any(course.is_thinned for course in courses):
        yield f"{MAX_EPOCHS} epochs are shown, evenly spaced, including the first and the last"


_EPOCH_AXIS: Final = Axis(label="epoch", text=lambda value: f"{value:.0f}")


def _accuracy_axis(what: str) -> Axis:
    return Axis(label=what, text=format_percent, most=1.0)


def _time_to_accuracy(name: str, courses: Sequence[_Course], marks: tuple[str, ...]) -> LineChart:
    series = [
        Series(
            name=course.name,
            style=course.style,
            points=course.means(lambda each: each.seconds, lambda each: each.record.test_accuracy),
            traces=course.traces(lambda each: each.seconds, lambda each: each.record.test_accuracy),
        )
        for course in courses
    ]
    return LineChart(
        kind=Kind.TIME_TO_ACCURACY,
        subject=name,
        title=f"Test accuracy over training time: {name}",
        caption="Test accuracy over training time",
        description=f"Mean after each epoch. {_ends(series, format_percent)}",
        marks=marks,
        x=Axis(label="training time", text=format_seconds, is_log=None, has_zero=True),
        y=_accuracy_axis("test accuracy"),
        series=tuple(series),
        guides=_TARGETS,
    )


def _accuracy(name: str, courses: Sequence[_Course], marks: tuple[str, ...]) -> LineChart:
    series = _both(courses, lambda each: each.record.test_accuracy, lambda each: each.record.train_accuracy)
    return LineChart(
        kind=Kind.ACCURACY,
        subject=name,
        title=f"Accuracy by epoch: {name}",
        caption="Accuracy by epoch",
        description=f"Test accuracy; dashed: accuracy on the training data. {_ends(series, format_percent)}",
        marks=marks,
        x=_EPOCH_AXIS,
        y=_accuracy_axis("accuracy"),
        series=tuple(series),
    )


def _loss(name: str, courses: Sequence[_Course], marks: tuple[str, ...]) -> LineChart:
    series = _both(courses, lambda each: each.record.test_loss, lambda each: each.record.train_loss)
    return LineChart(
        kind=Kind.LOSS,
        subject=name,
        title=f"Loss by epoch: {name}",
        caption="Loss by epoch",
        description=f"Test loss; dashed: loss on the training data. {_ends(series, format_number)}",
        marks=marks,
        x=_EPOCH_AXIS,
        y=Axis(label="loss", text=format_number, is_log=None),
        series=tuple(series),
    )


def _both(
    courses: Sequence[_Course], test: Callable[[_Epoch], float | None], train: Callable[[_Epoch], float | None]
) -> list[Series]:
    """Return the training lines first, so that those of the test data are drawn above them."""

    def number(each: _Epoch) -> float:
        return float(each.number)

    trained = [
        Series(name="", style=course.style, points=course.means(number, train), is_dashed=True) for course in courses
    ]
    tested = [
        Series(
            name=course.name,
            style=course.style,
            points=course.means(number, test),
            traces=course.traces(number, test),
        )
        for course in courses
    ]
    return [*trained, *tested]


def _by_seed(name: str, courses: Sequence[_Course], trials: Mapping[Configuration, Trials]) -> LineChart:
    # Seeds are plotted by position: large ones are indistinguishable as floating-point numbers.
    seeds = sorted({seed for course in courses for seed, _ in trials[course.summary.configuration]})
    places = {seed: place for place, seed in enumerate(seeds)}
    series = []
    for course in courses:
        found = course.summary.test_accuracy
        measured = trials[course.summary.configuration]
        points = [
            Point(x=places[seed], y=value) for seed, trial in measured if (value := trial.test_accuracy) is not None
        ]
        level = None if found is None else found.mean
        series.append(Series(name=course.name, style=course.style, points=tuple(points), has_line=False, level=level))
    means = [f"{each.name} {format_percent(each.level)}" for each in series if each.level is not None]
    return LineChart(
        kind=Kind.ACCURACY_BY_SEED,
        subject=name,
        title=f"Final test accuracy by seed: {name}",
        caption="Final test accuracy by seed",
        description=f"One marker per trial; dashes: the mean. Means: {', '.join(means)}.",
        marks=("by seed: one marker per trial; dashes: mean of the trials",),
        x=Axis(label="seed", text=lambda place: str(seeds[round(place)]), ticks=tuple(map(float, places.values()))),
        y=_accuracy_axis("test accuracy"),
        series=tuple(series),
    )


def _ends(series: Iterable[Series], text: Callable[[float], str]) -> str:
    """Say at which values the named lines end."""
    ends = [f"{each.name} {text(each.points[-1].y)}" for each in series if each.name and each.points]
    return f"After the last epoch: {', '.join(ends)}." if ends else "Nothing was measured."


_EPOCH_HEADERS: Final = (
    "batch size",
    "epoch",
    "training time so far",
    "test accuracy",
    "train accuracy",
    "test loss",
    "train loss",
    "n",
)


def _epoch_table(name: str, courses: Sequence[_Course]) -> WordTable:
    def average(row: Sequence[_Epoch], value: Callable[[_Epoch], float | None], text: Callable[[float], str]) -> str:
        values = [found for each in row if (found := value(each)) is not None]
        return text(mean(values)) if len(values) == len(row) else ""

    rows = [
        [
            str(course.summary.configuration.batch_size),
            str(row[0].number),
            average(row, lambda each: each.seconds, format_seconds),
            average(row, lambda each: each.record.test_accuracy, format_percent),
            average(row, lambda each: each.record.train_accuracy, format_percent),
            average(row, lambda each: each.record.test_loss, format_number),
            average(row, lambda each: each.record.train_loss, format_number),
            str(len(row)),
        ]
        for course in courses
        for row in course.rows
    ]
    return WordTable(
        title=f"means after each epoch: {name}", headers=_EPOCH_HEADERS, rows=rows, numeric=[True] * len(_EPOCH_HEADERS)
    )


def _target_table(name: str, courses: Sequence[_Course]) -> WordTable:
    columns = find_columns(
        (
            "batch_size",
            "seconds_to_97_percent",
            "seconds_to_98_percent",
            "n",
        )
    )
    return WordTable(
        title=f"training time to a test accuracy; (k of n): only k of n trials reached it: {name}",
        headers=[column.header for column in columns],
        rows=[[column.text(course.summary) for column in columns] for course in courses],
        numeric=[True] * len(columns),
    )


def _seed_table(name: str, courses: Sequence[_Course], trials: Mapping[Configuration, Trials]) -> WordTable:
    by_course = [
        {seed: trial.test_accuracy for seed, trial in trials[course.summary.configuration]} for course in courses
    ]
    seeds = sorted({seed for accuracies in by_course for seed in accuracies})
    cells = [[accuracies.get(seed) for accuracies in by_course] for seed in seeds]
    return WordTable(
        title=f"final test accuracy by seed: {name}",
        headers=("seed", *(course.name for course in courses)),
        rows=[
            [str(seed), *("" if each is None else format_percent(each) for each in row)]
            for seed, row in zip(seeds, cells, strict=True)
        ],
        numeric=[True] * (1 + len(courses)),
    )
