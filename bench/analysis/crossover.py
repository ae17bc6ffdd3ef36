"""At which width one device, engine or setting overtakes another, by their fitted models of a step's time."""

import math
from dataclasses import dataclass

from bench.analysis.scaling import Fit
from bench.records import Configuration
from mnist_mlp.recipes import scale_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """At which width, at one batch size, `second` overtakes `first`.

    `width` is the first at which the second is predicted to be faster, None if there is none between `narrowest` and
    `widest`. From `low` to `high` neither is known to be faster (95 %); a bound is None if that continues beyond the
    examined widths, and `is_open` says that it holds for all of them. `log_ratios` are ln(second / first) at the
    narrowest and the widest, `is_known` whether they are known to differ from 0.
    """

    first: Fit
    second: Fit
    batch_size: int
    narrowest: int
    widest: int
    width: int | None
    low: int | None
    high: int | None
    is_open: bool
    log_ratios: tuple[float, float]
    is_known: tuple[bool, bool]


def crossover(first: Fit, second: Fit, layers: tuple[int, ...], batch_size: int, widths: tuple[int, int]) -> Crossover:
    """Return where the one that is slower at the narrowest width overtakes, for `layers` scaled between `widths`.

    A width counts as decided if |ln ratio of the predictions| exceeds Student's t times its standard error, which
    covers the coefficients and both models' misfit.
    """
    scaled = [(width, scale_layers(layers, width)) for width in _between(*widths)]
    ratios = {width: _log_ratio(first, second, each, batch_size) for width, each in scaled}
    if ratios[scaled[0][0]][0] < 0:
        first, second = second, first
        ratios = {width: (-value, half) for width, (value, half) in ratios.items()}
    ordered = sorted(ratios)
    width = next((each for each in ordered if ratios[each][0] < 0), None)
    undecided = [each for each in ordered if abs(ratios[each][0]) <= ratios[each][1]]
    narrowest, widest = ordered[0], ordered[-1]
    return Crossover(
        first=first,
        second=second,
        batch_size=batch_size,
        narrowest=narrowest,
        widest=widest,
        width=width,
        low=None if not undecided or undecided[0] == narrowest else undecided[0],
        high=None if not undecided or undecided[-1] == widest else undecided[-1],
        is_open=undecided == ordered,
        log_ratios=(ratios[narrowest][0], ratios[widest][0]),
        is_known=(abs(ratios[narrowest][0]) > ratios[narrowest][1], abs(ratios[widest][0]) > ratios[widest][1]),
    )


def is_worth_comparing(first: Fit, second: Fit) -> bool:
    """Return whether the two differ only in device and threads, or only in one other member."""
    a, b = first.series.configuration, second.series.configuration
    differing = {name for name in Configuration.__slots__ if getattr(a, name) != getattr(b, name)}
    return differing <= {"device", "threads"} or len(differing) == 1


def _log_ratio(first: Fit, second: Fit, layers: tuple[int, ...], batch_size: int) -> tuple[float, float]:
    """Return ln(second / first) of the predicted times per sample, and the half-width of its interval."""
    sizes = [each.series.step_samples(batch_size) for each in (first, second)]
    ours, theirs = (each.predict(layers, size) for each, size in zip((first, second), sizes, strict=True))
    ratio = (theirs.step_seconds / sizes[1]) / (ours.step_seconds / sizes[0])
    return math.log(ratio), math.hypot(ours.half, theirs.half)


def _between(narrowest: int, widest: int) -> list[int]:
    """Return widths from `narrowest` to `widest`, about 1 % apart, and every one where they are small."""
    widths, width = [narrowest], float(narrowest)
    while widths[-1] < widest:
        width = max(width * 1.01, widths[-1] + 1)
        widths.append(min(widest, round(width)))
    return widths
