"""Fitted step times as text: the models, the crossovers between them, and predictions of single sizes."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Final

from bench.analysis.crossover import Crossover
from bench.analysis.scaling import Coefficient, Fit
from bench.analysis.scaling_models import Answer, Model, Side, crossovers, predict, uncrossed
from bench.compare.flagged import flagged_note
from bench.stats.student import LEVEL
from bench.tables.fields import Value
from bench.tables.layout import WordTable, csv_text, draw_heading, draw_notes, draw_table
from bench.tables.legend import heading
from bench.units import format_bytes, format_flops, format_rate, format_seconds, format_spread

_INFINITE: Final = "no limit"

_UNKNOWN: Final = "unknown"

_LISTED: Final = 5
"""Pairs without a crossover that are named; the others are counted."""


def render_scaling(sides: Sequence[Side], models: Sequence[Model], layout: str, width: int) -> str:
    """Return the `models` of `sides` and their crossovers as ``table``, ``markdown``, ``csv`` or ``json``.

    CSV holds the models alone, one a row; CSV and JSON are unrounded, and what is unlimited is empty there.
    """
    if layout == "csv":
        rows = [_raw_model(model) for model in models]
        return csv_text(rows[0], rows)
    crossed = crossovers(models)
    if layout == "json":
        document = {
            "models": [_raw_model(model) for model in models],
            "crossovers": [_raw_crossover(*each) for each in crossed],
            "uncrossed": list(uncrossed(models)),
        }
        return json.dumps(document, allow_nan=False, indent=2)
    return "\n\n".join((*_headings(sides, layout, width), *scaling_sections(models, layout, width)))


def scaling_sections(models: Sequence[Model], layout: str, width: int) -> Iterator[str]:
    """Yield the parts of the text about `models`: their coefficients, and who overtakes whom."""
    for table in scaling_tables(models):
        yield draw_table(table.headers, table.rows, table.numeric, layout, width)
        yield draw_notes(table.notes, layout, width)


def scaling_tables(models: Sequence[Model]) -> Iterator[WordTable]:
    """Yield the tables about `models`: their coefficients, and who overtakes whom where that can be told."""
    rows = [_model_words(model) for model in models]
    unseen = (_UNSEEN_LEGEND,) if any(cell[:1] in {"<", ">"} for row in rows for cell in row[1:]) else ()
    crossed, missing = crossovers(models), _uncrossed(models)
    yield WordTable(
        title="models of a step's time",
        headers=_MODEL_HEADERS,
        rows=rows,
        numeric=_MODEL_NUMERIC,
        notes=(
            *_MODEL_LEGEND,
            *unseen,
            *_overlaps(models),
            *map(_details, models),
            *_flagged(models),
            *(() if crossed else missing),
        ),
    )
    if crossed:
        several = len({layers for _, _, layers, _ in crossed}) > 1
        headers = ("narrowest", *_CROSSOVER_HEADERS) if several else _CROSSOVER_HEADERS
        yield WordTable(
            title="who overtakes whom",
            headers=headers,
            rows=[_crossover_words(*each)[-len(headers) :] for each in crossed],
            numeric=(False,) * (len(headers) - 3) + (True,) * 3,
            notes=(*((_NARROWEST_LEGEND,) if several else ()), *_CROSSOVER_LEGEND, *missing),
        )


def _overlaps(models: Sequence[Model]) -> Iterator[str]:
    """Yield the notes on models whose terms do not all add up."""
    for model in models:
        if model.fit.is_overlapped:
            loads = model.fit.contender.configuration.pipeline == "dataloader"
            host = "overhead and its samples' time" if loads else "overhead"
            yield f"{model.name}: the host's {host} and the device's work go on at the same time; the longer one counts"


def _flagged(models: Sequence[Model]) -> tuple[str, ...]:
    """Return the note on trials that were disturbed and are in the models nevertheless; nothing without any."""
    observations = [each for model in models for each in model.fit.contender.observations]
    count = sum(each.flagged for each in observations)
    if not count:
        return ()
    warnings = [warning for each in observations for warning in each.warnings]
    return (flagged_note(count, sum(each.trials for each in observations), warnings),)


def _uncrossed(models: Sequence[Model]) -> tuple[str, ...]:
    """Return the note on pairs of which it is not told who overtakes whom; nothing where it is of all."""
    found = uncrossed(models)
    if not found:
        return ()
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    needed = "it takes a batch size and a range of widths that both measured"
    return (f"not told who overtakes whom: {', '.join(found[:_LISTED])}{more}: {needed}",)


def _headings(sides: Sequence[Side], layout: str, width: int) -> Iterator[str]:
    for side in sides:
        lines = [f"{side.label}: {line}" if side.label else line for line in heading(side.header)]
        yield draw_heading(lines, layout, width)


_MODEL_HEADERS: Final = ("model", "overhead a step", "rate", "bandwidth", "a sample", "left out")
_MODEL_NUMERIC: Final = (False, True, True, True, True, True)

_MODEL_LEGEND: Final = (
    "seconds a step = overhead + FLOPs / rate + bytes of the parameters' sweeps / bandwidth + samples x time a sample",
    f"±: to the farther end of the {LEVEL:.0%} interval; no limit: the data show none",
    "left out: median error of each size's time, predicted from all others",
)

_UNSEEN_LEGEND: Final = f"<, >: not seen; the end of the {LEVEL:.0%} interval"

_CROSSOVER_HEADERS: Final = ("ahead when narrow", "overtaken by", "batch", "from width", "undecided between")
_NARROWEST_LEGEND: Final = "narrowest: the layers from which on they are widened, all hidden ones in proportion"

_CROSSOVER_LEGEND: Final = (
    "from width: of the first hidden layer, by the models' predictions",
    f"undecided between: neither is known to be faster ({LEVEL:.0%}, coefficients and misfit); <, >: and beyond",
)


def _model_words(model: Model) -> Sequence[str]:
    one = model.fit
    return (
        model.name,
        _cell(one, "overhead", one.overhead, format_seconds),
        _cell(one, "arithmetic", one.rate, lambda value: f"{format_flops(value)}/s", absent=_INFINITE),
        _cell(one, "traffic", one.bandwidth, lambda value: f"{format_bytes(value)}/s", absent=_INFINITE),
        _cell(one, "input", one.sample_seconds, format_seconds),
        _percent(one.leave_one_out.median),
    )


def _cell(one: Fit, term: str, found: Coefficient | None, text: Callable[[float], str], *, absent: str = "") -> str:
    """Return an estimate and the distance to its interval's farther end, the nearer one where the farther is infinite.

    Of what was not seen, the one end that is known.
    """
    if term not in one.told:
        return _UNKNOWN
    if found is None:
        return absent
    if found.value == 0:
        return f"<{text(found.high)}"
    if math.isinf(found.value):
        return f">{text(found.low)}"
    far = found.high - found.value if math.isfinite(found.high) else found.value - found.low
    return f"{text(found.value)} {format_spread(far / found.value)}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _details(model: Model) -> str:
    one, observations = model.fit, model.fit.contender.observations
    worst = one.leave_one_out.worst
    return (
        f"{model.name}: {len(observations)} sizes, R² of log times {one.r_squared:.3f}, largest left-out error "
        f"{_percent(one.leave_one_out.largest)} ({_layers(worst.layers)} batch {worst.batch_size}); "
        f"{'; '.join(_half_performance(one))}"
    )


def _half_performance(one: Fit) -> Iterator[str]:
    configurations = [o.configuration for o in one.contender.observations]
    layers = min(each.layers for each in configurations)
    flops, batch = one.half_performance_flops, one.half_performance_batch(layers)
    if flops is not None:
        yield f"half-performance size {format_flops(flops)} a step"
    elif one.overhead is None or one.rate is None:
        sizes = "these sizes"
        if len({each.batch_size for each in configurations}) == 1:
            sizes = "one batch size alone"
        elif len({each.layers for each in configurations}) == 1:
            sizes = "one width alone"
        yield f"{_UNKNOWN}: {sizes} cannot tell it from other terms, run several widths at several batch sizes each"
    else:
        missing = "limit to the rate" if math.isinf(one.rate.value) else "overhead"
        yield f"half-performance size: none, the data show no {missing}"
    if batch is not None:
        yield f"{_layers(layers)} reaches half its highest throughput at batch {_three_digits(batch)}"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - a hundred has three digits


def _crossover_words(first: Model, second: Model, layers: tuple[int, ...], crossed: Crossover) -> Sequence[str]:
    return (
        _layers(layers),
        first.name,
        second.name,
        str(crossed.batch_size),
        _from_width(crossed),
        _undecided(crossed),
    )


def _from_width(crossed: Crossover) -> str:
    return f"not up to {crossed.widest}" if crossed.width is None else str(crossed.width)


def _undecided(crossed: Crossover) -> str:
    if crossed.is_open:
        return "everywhere"
    if crossed.low is None and crossed.high is None:  # but for the ends themselves
        return "" if all(crossed.is_known) else f"near {crossed.narrowest}, near {crossed.widest}"
    low = f"<{crossed.narrowest}" if crossed.low is None else str(crossed.low)
    high = f">{crossed.widest}" if crossed.high is None else str(crossed.high)
    return f"{low} and {high}"


def _raw_model(model: Model) -> dict[str, Value]:
    one, configuration = model.fit, model.fit.contender.configuration
    half = one.half_performance_flops
    return {
        "model": model.name,
        "run_id": model.header.run_id,
        "machine_id": model.header.machine.id,
        "device": configuration.device,
        "engine": configuration.engine,
        "precision": configuration.precision,
        "pipeline": configuration.pipeline,
        "threads": configuration.threads,
        "sizes": len(one.contender.observations),
        "trials": sum(each.trials for each in one.contender.observations),
        "flagged": one.contender.flagged,
        **_raw_coefficient("overhead_seconds", one.overhead),
        **_raw_coefficient("rate_flops_per_second", one.rate),
        **_raw_coefficient("bandwidth_bytes_per_second", one.bandwidth),
        **_raw_coefficient("sample_seconds", one.sample_seconds),
        "relative_deviation": one.deviation,
        "r_squared": one.r_squared,
        "left_out_median": one.leave_one_out.median,
        "left_out_largest": one.leave_one_out.largest,
        "half_performance_flops": half,
        "is_overlapped": one.is_overlapped,
    }


def _raw_coefficient(name: str, coefficient: Coefficient | None) -> dict[str, Value]:
    values = (None, None, None) if coefficient is None else (coefficient.value, coefficient.low, coefficient.high)
    finite = (value if value is not None and math.isfinite(value) else None for value in values)
    return dict(zip((name, f"{name}_low", f"{name}_high"), finite, strict=True))


def _raw_crossover(first: Model, second: Model, layers: tuple[int, ...], crossed: Crossover) -> dict[str, object]:
    return {
        "ahead_when_narrow": first.name,
        "overtaken_by": second.name,
        "narrowest_layers": list(layers),
        "batch_size": crossed.batch_size,
        "width": crossed.width,
        "undecided_from": crossed.low,
        "undecided_to": crossed.high,
        "narrowest": crossed.narrowest,
        "widest": crossed.widest,
        "log_ratios": list(crossed.log_ratios),
        "is_known": list(crossed.is_known),
    }


def _layers(layers: Iterable[int]) -> str:
    return "-".join(map(str, layers))


# Predictions


def render_prediction(
    sides: Sequence[Side], models: Sequence[Model], size: tuple[tuple[int, ...], int], layout: str, width: int
) -> str:
    """Return what `models` predict for one `size`, layers and batch size, in the layouts of `render_scaling`."""
    layers, batch_size = size
    answers = predict(models, layers, batch_size)
    if layout == "json":
        return json.dumps([asdict(answer) for answer in answers], allow_nan=False, indent=2)
    if layout == "csv":
        rows = [{**asdict(answer), "layers": _layers(answer.layers)} for answer in answers]
        return csv_text(rows[0], rows)
    rows_of_words = [_answer_words(answer) for answer in answers]
    notes = [
        f"{_layers(layers)}, batch {batch_size}: predicted from the sizes that were run",
        "95 % interval: where another configuration of this size would be measured",
        *(f"{each.name}: median error of left-out sizes {_percent(each.fit.leave_one_out.median)}" for each in models),
    ]
    notes += [f"{note}; {_without_flagged(answers)}" for note in _flagged(models)]
    outside = [answer.model for answer in answers if answer.is_extrapolated]
    if outside:
        notes.append(f"extrapolated, which is no more than a guess: {', '.join(outside)}: run sizes around this one")
    table = draw_table(_ANSWER_HEADERS, rows_of_words, _ANSWER_NUMERIC, layout, width)
    return "\n\n".join((*_headings(sides, layout, width), table, draw_notes(notes, layout, width)))


def _without_flagged(answers: Sequence[Answer]) -> str:
    """Say what becomes of the predictions without flagged trials."""
    told = [(each.model, each.step_seconds, each.step_seconds_without_flagged) for each in answers]
    few = [model for model, _, calm in told if calm is None]
    if few:
        return f"without them there are too few sizes for a model of {', '.join(few)}"
    calm_words = [
        f"{model} {format_seconds(calm)}"
        for model, seconds, calm in told
        if calm is not None and format_seconds(calm) != format_seconds(seconds)
    ]
    return f"step without them: {', '.join(calm_words)}" if calm_words else "every prediction is the same without them"


_ANSWER_HEADERS: Final = ("model", "step", "95 % interval", "epoch", "train samples", "times fastest")
_ANSWER_NUMERIC: Final = (False, True, True, True, True, True)


def _answer_words(answer: Answer) -> Sequence[str]:
    return (
        answer.model,
        format_seconds(answer.step_seconds),
        f"{format_seconds(answer.step_seconds_low)} to {format_seconds(answer.step_seconds_high)}",
        format_seconds(answer.epoch_seconds),
        format_rate(answer.throughput_per_second),
        f"{answer.times_fastest:.2f}",
    )
