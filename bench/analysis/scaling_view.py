"""Fitted step times as text: the models, and the crossovers between them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from bench.analysis.crossover import Crossover
from bench.analysis.scaling import Coefficient, Fit
from bench.analysis.scaling_models import Model, Side, crossovers, uncrossed
from bench.coding import finite
from bench.compare.flagged import flagged_note
from bench.stats.student import LEVEL
from bench.storage.table import Value
from bench.tables.columns import MAX_CELL_CHARACTERS, short_layers
from bench.tables.layout import WordTable, csv_text, draw_heading, draw_notes, draw_table, json_text
from bench.tables.legend import heading
from bench.units import format_bytes, format_flops, format_seconds, format_spread
from mnist_mlp.recipes import layers_text

_LEVEL: Final = f"{100 * LEVEL:.0f} %"

NO_LIMIT: Final = "no limit"
"""Shown for an infinite value."""

_UNKNOWN: Final = "unknown"

_LISTED: Final = 5
"""Pairs without a crossover that are listed; further ones are counted."""


POOR_ERROR: Final = 0.2
"""Median error of left-out sizes above which a model is called poor: the reference runs' models have 3 to 8 %."""


def render_scaling(sides: Sequence[Side], models: Sequence[Model], layout: str, width: int) -> str:
    """Return the `models` of `sides` and their crossovers as ``table``, ``markdown``, ``csv`` or ``json``.

    CSV holds only the models, one per row; CSV and JSON are unrounded, and an infinite value is empty there.
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
        return json_text(document)
    return "\n\n".join((*headings(sides, layout, width), *scaling_sections(models, layout, width)))


def scaling_sections(models: Sequence[Model], layout: str, width: int) -> Iterator[str]:
    """Yield the parts of the text about `models`: their coefficients and crossovers."""
    for table in scaling_tables(models):
        yield draw_table(table.headers, table.rows, table.numeric, layout, width)
        yield draw_notes(table.notes, layout, width)


def scaling_tables(models: Sequence[Model]) -> Iterator[WordTable]:
    """Yield the tables about `models`: their coefficients, and their crossovers if there are any."""
    rows = [_model_words(model) for model in models]
    undetected = (_UNDETECTED_LEGEND,) if any(cell[:1] in {"<", ">"} for row in rows for cell in row[1:]) else ()
    crossed, missing = crossovers(models), _uncrossed_notes(models)
    yield WordTable(
        title="models of a step's time",
        headers=_MODEL_HEADERS,
        rows=rows,
        numeric=_MODEL_NUMERIC,
        notes=(
            *_MODEL_LEGEND,
            *undetected,
            *_overlap_notes(models),
            *map(_details, models),
            *_poor_fit_notes(models),
            *flagged_notes(models),
            *(() if crossed else missing),
        ),
    )
    if crossed:
        several = len({layers for _, _, layers, _ in crossed}) > 1
        headers = ("narrowest", *_CROSSOVER_HEADERS) if several else _CROSSOVER_HEADERS
        yield WordTable(
            title="crossovers",
            headers=headers,
            rows=[_crossover_words(*each)[-len(headers) :] for each in crossed],
            numeric=(False,) * (len(headers) - 3) + (True,) * 3,
            notes=(*((_NARROWEST_LEGEND,) if several else ()), *_CROSSOVER_LEGEND, *missing),
        )


def _overlap_notes(models: Sequence[Model]) -> Iterator[str]:
    """Yield the notes on models whose terms do not all add up."""
    for model in models:
        if model.fit.is_overlapped:
            loads = model.fit.series.configuration.pipeline == "dataloader"
            host = "overhead and its samples' time" if loads else "overhead"
            yield f"{model.name}: the host's {host} and the device's work overlap; the longer one decides"


def _poor_fit_notes(models: Sequence[Model]) -> Iterator[str]:
    """Yield the notes on models that should not be relied on."""
    for model in models:
        error = model.fit.leave_one_out.median
        if error > POOR_ERROR:
            yield (
                f"{model.name}: do not rely on this model, which misses half of the left-out sizes by over "
                f"{percent(error)}; measure again on a quieter machine, with more repeats or sizes"
            )


def flagged_notes(models: Sequence[Model]) -> tuple[str, ...]:
    """Return the note on flagged trials, which are included in the models; nothing if there are none."""
    observations = [each for model in models for each in model.fit.series.observations]
    count = sum(each.flagged for each in observations)
    if not count:
        return ()
    warnings = [warning for each in observations for warning in each.warnings]
    return (flagged_note(count, sum(each.trials for each in observations), warnings),)


def _uncrossed_notes(models: Sequence[Model]) -> tuple[str, ...]:
    """Return the note on pairs for which no crossover can be computed; nothing if there are none."""
    found = uncrossed(models)
    if not found:
        return ()
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    needed = "that takes a batch size and a range of widths that both measured"
    return (f"no crossover can be computed for {', '.join(found[:_LISTED])}{more}: {needed}",)


def headings(sides: Sequence[Side], layout: str, width: int) -> Iterator[str]:
    """Yield the heading of each side."""
    for side in sides:
        lines = [f"{side.label}: {line}" if side.label else line for line in heading(side.header)]
        yield draw_heading(lines, layout, width)


_MODEL_HEADERS: Final = ("model", "overhead per step", "rate", "bandwidth", "per sample", "error")
_MODEL_NUMERIC: Final = (False, True, True, True, True, True)

_MODEL_LEGEND: Final = (
    "seconds per step = overhead + FLOPs / rate + parameter bytes moved / bandwidth + samples x seconds per sample",
    f"±: distance to the farther end of the {_LEVEL} interval; no limit: the data show none",
    "error: median error of the times when each size is predicted from all others",
)

_UNDETECTED_LEGEND: Final = f"<, >: not detected; the number is the end of the {_LEVEL} interval"

_CROSSOVER_HEADERS: Final = ("faster when narrow", "overtaken by", "batch", "from width", "undecided between")
_NARROWEST_LEGEND: Final = "narrowest: the narrowest layers; wider ones have all hidden layers widened in proportion"

_CROSSOVER_LEGEND: Final = (
    "from width: width of the first hidden layer, as predicted by the models",
    f"undecided between: at these widths neither is known to be faster ({_LEVEL}, with misfit); <, >: and beyond",
)


def _model_words(model: Model) -> Sequence[str]:
    one = model.fit
    return (
        model.name,
        _cell(one, "overhead", one.overhead, format_seconds),
        _cell(one, "arithmetic", one.rate, lambda value: f"{format_flops(value)}/s", absent=NO_LIMIT),
        _cell(one, "traffic", one.bandwidth, lambda value: f"{format_bytes(value)}/s", absent=NO_LIMIT),
        _cell(one, "input", one.sample_seconds, format_seconds),
        percent(one.leave_one_out.median),
    )


def _cell(one: Fit, term: str, found: Coefficient | None, text: Callable[[float], str], *, absent: str = "") -> str:
    """Return an estimate and the distance to the farther end of its interval, or to the nearer end if that is infinite.

    For a value that was not detected, return the end of the interval that is known.
    """
    if term not in one.separable:
        return _UNKNOWN
    if found is None:
        return absent
    if found.value == 0:
        return f"<{text(found.high)}"
    if math.isinf(found.value):
        return f">{text(found.low)}"
    far = found.high - found.value if math.isfinite(found.high) else found.value - found.low
    return f"{text(found.value)} {format_spread(far / found.value)}"


def layers_words(layers: Sequence[int]) -> str:
    """Return layers as `bench show` does, with the repeated ones of many counted: ``784-20x128-10``."""
    return short_layers(layers_text(layers), MAX_CELL_CHARACTERS)


def percent(fraction: float) -> str:
    """Return an error as ``3.2 %``."""
    return f"{100 * fraction:.1f} %"


def _details(model: Model) -> str:
    one, observations = model.fit, model.fit.series.observations
    worst = one.leave_one_out.worst
    return (
        f"{model.name}: {len(observations)} sizes, R² of log times {one.r_squared:.3f}, largest left-out error "
        f"{percent(one.leave_one_out.largest)} ({layers_words(worst.layers)} batch {worst.batch_size}); "
        f"{'; '.join(_half_performance(one))}"
    )


def _half_performance(one: Fit) -> Iterator[str]:
    configurations = [o.configuration for o in one.series.observations]
    layers = min(each.layers for each in configurations)
    flops, batch = one.half_performance_flops, one.half_performance_batch(layers)
    if flops is not None:
        yield f"half-performance size {format_flops(flops)} per step"
    elif one.overhead is None or one.rate is None:
        sizes = "these sizes"
        if len({each.batch_size for each in configurations}) == 1:
            sizes = "a single batch size"
        elif len({each.layers for each in configurations}) == 1:
            sizes = "a single width"
        yield f"{_UNKNOWN}: {sizes} cannot separate the terms; run several widths at several batch sizes each"
    else:
        missing = "limit to the rate" if math.isinf(one.rate.value) else "overhead"
        yield f"half-performance size: none, the data show no {missing}"
    if batch is not None and batch <= one.series.train_samples:
        yield f"{layers_words(layers)} reaches half its highest throughput at batch {_three_digits(batch)}"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - a hundred has three digits


def _crossover_words(first: Model, second: Model, layers: tuple[int, ...], crossed: Crossover) -> Sequence[str]:
    return (
        layers_words(layers),
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
    if crossed.low is None and crossed.high is None:  # except at the ends themselves
        return "" if all(crossed.is_known) else f"near {crossed.narrowest}, near {crossed.widest}"
    low = f"<{crossed.narrowest}" if crossed.low is None else str(crossed.low)
    high = f">{crossed.widest}" if crossed.high is None else str(crossed.high)
    return f"{low} and {high}"


_RAW_MEMBERS: Final = (
    *("device", "world_size", "engine", "precision", "pipeline", "workers", "threads"),
    *("dataset", "transform", "activation", "output", "loss", "optimizer", "momentum"),
)
"""The members in which the configurations of two models can differ."""


def _raw_model(model: Model) -> dict[str, Value]:
    one, configuration = model.fit, model.fit.series.configuration
    half = one.half_performance_flops
    return {
        "model": model.name,
        "run_id": model.header.run_id,
        "machine_id": model.header.machine.id,
        **{name: getattr(configuration, name) for name in _RAW_MEMBERS},
        "sizes": len(one.series.observations),
        "trials": sum(each.trials for each in one.series.observations),
        "flagged": one.series.flagged,
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
    return dict(zip((name, f"{name}_low", f"{name}_high"), map(finite, values), strict=True))


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
