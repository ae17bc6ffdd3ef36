"""What the fitted models predict for one size, as values and as text."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from bench.analysis.scaling import Prediction, fit
from bench.analysis.scaling_models import Layers, Model, Side
from bench.analysis.scaling_view import NO_LIMIT, flagged_notes, headings, layers_words, percent
from bench.coding import finite
from bench.tables.layout import csv_text, draw_notes, draw_table, json_text, range_text
from bench.units import format_rate, format_seconds
from mnist_mlp.recipes import layers_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One model's prediction for one size: seconds per step with their interval, and an epoch of the run's dataset.

    A batch larger than the dataset is one step with all training samples, and that step of `step_samples` is predicted.
    `step_seconds_high` is None if there is no limit. `times_fastest` compares the step's time per sample with that of
    the fastest model, because models of different datasets may have steps of different numbers of samples.
    `step_seconds_without_flagged` comes from a model of the trials that are not flagged, None if it has too few sizes.
    """

    model: str
    layers: Layers
    batch_size: int
    step_samples: int
    step_seconds: float
    step_seconds_low: float
    step_seconds_high: float | None
    epoch_seconds: float
    throughput_per_second: float
    times_fastest: float
    is_extrapolated: bool
    step_seconds_without_flagged: float | None


def predict(models: Sequence[Model], layers: Layers, batch_size: int) -> tuple[Answer, ...]:
    """Return each model's prediction for `layers` at `batch_size`, the fastest first: the least time per sample."""
    found = [(model, model.fit.predict(layers, model.fit.series.step_samples(batch_size))) for model in models]
    fastest = min(each.step_seconds / model.fit.series.step_samples(batch_size) for model, each in found)
    answers = (_answer(model, each, layers, batch_size, fastest) for model, each in found)
    return tuple(sorted(answers, key=lambda answer: answer.times_fastest))


def _answer(model: Model, each: Prediction, layers: Layers, batch_size: int, fastest: float) -> Answer:
    series = model.fit.series
    samples, step_samples = series.train_samples, series.step_samples(batch_size)
    steps = -(-samples // batch_size)  # the last one may be short, as in the measured epochs
    epoch_seconds = steps * model.fit.predict(layers, samples / steps).step_seconds
    depths = {len(o.configuration.layers) for o in series.observations}
    unflagged = fit(series.without_flagged()) if series.flagged else model.fit
    is_inside = model.fit.is_inside(layers, batch_size)  # the batch size as it was asked for
    return Answer(
        model=model.name,
        layers=layers,
        batch_size=batch_size,
        step_samples=step_samples,
        step_seconds=each.step_seconds,
        step_seconds_low=each.low,
        step_seconds_high=finite(each.high),
        epoch_seconds=epoch_seconds,
        throughput_per_second=samples / epoch_seconds,
        times_fastest=each.step_seconds / step_samples / fastest,
        is_extrapolated=not is_inside or len(layers) not in depths,
        step_seconds_without_flagged=(
            None if unflagged is None else unflagged.predict(layers, step_samples).step_seconds
        ),
    )


def render_prediction(
    sides: Sequence[Side], models: Sequence[Model], size: tuple[Layers, int], layout: str, width: int
) -> str:
    """Return what `models` predict for one `size`, layers and batch size, in the layouts of `render_scaling`."""
    layers, batch_size = size
    answers = predict(models, layers, batch_size)
    if layout == "json":
        return json_text([asdict(answer) for answer in answers])
    if layout == "csv":
        rows = [{**asdict(answer), "layers": layers_text(answer.layers)} for answer in answers]
        return csv_text(rows[0], rows)
    rows_of_words = [_answer_words(answer) for answer in answers]
    notes = [
        f"{layers_words(layers)}, batch {batch_size}: predicted from the sizes that were measured",
        *_legend(answers),
        *(f"{each.name}: median error of left-out sizes {percent(each.fit.leave_one_out.median)}" for each in models),
    ]
    notes += [f"{note}; {_without_flagged(answers)}" for note in flagged_notes(models)]
    outside = [answer.model for answer in answers if answer.is_extrapolated]
    if outside:
        notes.append(f"extrapolated, so no more than a guess: {', '.join(outside)}; measure sizes around this one")
    table = draw_table(_ANSWER_HEADERS, rows_of_words, _ANSWER_NUMERIC, layout, width)
    return "\n\n".join((*headings(sides, layout, width), table, draw_notes(notes, layout, width)))


def _legend(answers: Sequence[Answer]) -> Iterator[str]:
    """Yield what the columns mean, as far as these answers need it."""
    yield "95 % interval: where a measurement of this size would fall"
    if any(each.step_seconds_high is None for each in answers):
        yield f"{NO_LIMIT}: the data show none"
    if len(answers) > 1:
        yield "times fastest: time per sample of the step, divided by that of the fastest model"
    smaller = [f"{each.model} ({each.step_samples})" for each in answers if each.step_samples < each.batch_size]
    if smaller:
        yield f"a step is all training samples, which are fewer than the batch size: {', '.join(smaller)}"


def _without_flagged(answers: Sequence[Answer]) -> str:
    """Say what would be predicted without flagged trials."""
    found = [(each.model, each.step_seconds, each.step_seconds_without_flagged) for each in answers]
    few = [model for model, _, without in found if without is None]
    if few:
        return f"without them there are too few sizes for a model of {', '.join(few)}"
    changed = [
        f"{model} {format_seconds(without)}"
        for model, seconds, without in found
        if without is not None and format_seconds(without) != format_seconds(seconds)
    ]
    return f"step without them: {', '.join(changed)}" if changed else "every prediction is the same without them"


_ANSWER_HEADERS: Final = ("model", "step", "95 % interval", "epoch", "train samples", "times fastest")
_ANSWER_NUMERIC: Final = (False, True, True, True, True, True)


def _answer_words(answer: Answer) -> Sequence[str]:
    return (
        answer.model,
        format_seconds(answer.step_seconds),
        _interval_text(answer.step_seconds_low, answer.step_seconds_high),
        format_seconds(answer.epoch_seconds),
        format_rate(answer.throughput_per_second),
        f"{answer.times_fastest:.2f}",
    )


def _interval_text(low: float, high: float | None) -> str:
    return f"{format_seconds(low)} to {NO_LIMIT}" if high is None else range_text(low, high, format_seconds)
