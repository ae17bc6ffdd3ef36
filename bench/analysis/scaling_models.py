"""Models of step times for what stored runs measured, each with a unique name, and the crossovers between them.

`bench.analysis.scaling` fits them, `bench.analysis.scaling_view` shows them.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from bench.analysis.crossover import Crossover, crossover, is_worth_comparing
from bench.analysis.scaling import Fit, fit
from bench.analysis.size_series import Measured, size_series
from bench.compare.comparison import Comparison, Source
from bench.compare.trials import Trials, gather
from bench.errors import BadInputError
from bench.planning.dimensions import dimension_words
from bench.records import Configuration, Header, Run
from bench.tables.columns import harmless
from mnist_mlp.recipes import layers_text, scale_layers

Layers: TypeAlias = tuple[int, ...]

_LONGEST: Final = 40
"""Characters of a label or of a member of a configuration in a name; longer ones are cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one stored run measured, and its label, empty if it is the only run."""

    label: str
    header: Header
    measured: Sequence[Measured]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A fit with a name that says everything in which it differs from the other models."""

    name: str
    header: Header
    fit: Fit


def label_runs(runs: Sequence[Run], labels: Sequence[str | None]) -> list[Side]:
    """Return `runs` with their labels, by default their machines' ids, or run ids if those are not unique.

    A single run has no label. Parts of one run, by machine, have both ids. Long labels are cut if they still differ.
    """
    named = [label or run.header.machine.id for label, run in zip(labels, runs, strict=True)]
    if len(runs) == 1:
        named = [""]
    uses, parts = Counter(named), Counter(run.header.run_id for run in runs)
    is_clear = len(uses) == len(runs)
    for place, (label, run) in enumerate(zip(labels, runs, strict=True)):
        if uses[named[place]] > 1 or (label is None and not is_clear):
            run_id = run.header.run_id
            named[place] = f"{run_id} {run.header.machine.id}" if parts[run_id] > 1 else run_id
    return [side_of_trials(label, run.header, gather(run)) for label, run in zip(_cut(named), runs, strict=True)]


def _cut(labels: Sequence[str]) -> list[str]:
    """Return `labels` cut to `_LONGEST` characters, or in full if two of them would then be the same."""
    cut = [harmless(label, _LONGEST) for label in labels]
    return cut if len(set(cut)) == len(cut) else [harmless(label, len(label)) for label in labels]


def side_of_trials(label: str, header: Header, trials: Iterable[Trials]) -> Side:
    """Return the side that measured `trials`."""
    measured = [
        Measured(
            configuration=each.subject,
            train_samples=min(each.train_samples),
            log_seconds=each.log_seconds,
            unflagged_log_seconds=each.unflagged_log_seconds,
            warnings=each.flagged.warnings,
        )
        for each in trials
        if isinstance(each.subject, Configuration) and each.n
    ]
    return Side(label=label, header=header, measured=measured)


def make_models(sides: Sequence[Side]) -> tuple[Model, ...]:
    """Return a model of every series of `sides` that has enough sizes."""
    return _named(_fits(sides))


def _fits(sides: Sequence[Side]) -> list[tuple[Side, Fit]]:
    found = [(side, fit(series)) for side in sides for series in size_series(side.measured)]
    return [(side, each) for side, each in found if each is not None]


def _named(fits: Sequence[tuple[Side, Fit]]) -> tuple[Model, ...]:
    varying = _varying([each.series.configuration for _, each in fits])
    return tuple(
        Model(name=_name(side.label, each.series.configuration, varying), header=side.header, fit=each)
        for side, each in fits
    )


def left_out(sides: Sequence[Side], models: Iterable[Model]) -> tuple[str, ...]:
    """Return, in words, what has too few sizes for one of the `models` of `sides`."""
    found = [(side, each) for side in sides for each in size_series(side.measured)]
    varying = _varying([each.configuration for _, each in found])
    fitted = [model.fit.series for model in models]
    few = [(side, each) for side, each in found if each not in fitted]
    unmeasured = (f"{side.label} (nothing was measured)" for side in sides if not side.measured)
    return (
        *(f"{_name(side.label, each.configuration, varying)} ({len(each.observations)})" for side, each in few),
        *unmeasured,
    )


def models_of_comparison(comparison: Comparison) -> tuple[Model, ...]:
    """Return the models of both sides; none if a side has too few sizes, or several machines: a model is about one."""
    sources = [each for each in (comparison.baseline, comparison.candidate) if isinstance(each, Source)]
    machines = [{trials.machine_id for trials in source.table.trials} for source in sources]
    if any(len(each) > 1 for each in machines):
        return ()
    # Devices of the same machine are distinguished by their own names.
    has_labels = len(set().union(*machines)) > 1
    sides = [
        side_of_trials(source.label if has_labels else "", source.table.header, source.table.trials)
        for source in sources
    ]
    fits = _fits(sides)
    return _named(fits) if all(any(side is fitted for fitted, _ in fits) for side in sides) else ()


def require_models(sides: Sequence[Side]) -> tuple[Model, ...]:
    """Return the models of `sides`.

    Raises:
        BadInputError: there are too few sizes for any model.
    """
    models = make_models(sides)
    if not models:
        ids = dict.fromkeys(harmless(side.header.run_id, 40) for side in sides)  # several machines are several sides
        raise BadInputError(
            f"too few sizes to fit a model of step times (run {', '.join(ids)}): it takes 4 configurations that differ "
            "only in layers and batch size; run python -m bench run --widths 64,256,1024 --batch-sizes 16,256,4096"
        )
    return models


def _varying(configurations: Sequence[Configuration]) -> tuple[str, ...]:
    """Return the members that a name must contain beside the device: threads only if one device has several counts."""
    names = (name for name in Configuration.__slots__ if name not in {"device", "threads"})
    found = tuple(name for name in names if len({getattr(each, name) for each in configurations}) > 1)
    counts = {(each.device, each.threads) for each in configurations}
    return (*found, "threads") if len(counts) > len({device for device, _ in counts}) else found


def _name(label: str, configuration: Configuration, varying: Iterable[str]) -> str:
    """Return the name of a model. It is not cut as a whole, because its end may be all that tells it from another."""
    members = (dimension_words(name, getattr(configuration, name)) for name in varying)
    texts = (harmless(text, _LONGEST) for text in (configuration.device, *members))
    return " ".join(filter(None, (label, *texts)))


def crossovers(models: Sequence[Model]) -> tuple[tuple[Model, Model, Layers, Crossover], ...]:
    """Return the crossovers of all pairs worth comparing, for each shape and batch size that both measured.

    Each comes with its two models, the faster one at the narrowest width first, and the narrowest layers. The widths
    are within the range that both measured.
    """
    found = []
    for shared in _all_shared(models):
        first, second = shared.first, shared.second
        for batch_size in shared.batch_sizes if shared.is_enough else ():
            crossed = crossover(first.fit, second.fit, shared.widest_layers, batch_size, shared.widths)
            narrow = scale_layers(shared.widest_layers, crossed.narrowest)
            ahead, behind = (first, second) if crossed.first is first.fit else (second, first)
            found.append((ahead, behind, narrow, crossed))
    return tuple(found)


def uncrossed(models: Sequence[Model]) -> tuple[str, ...]:
    """Return, in words, the pairs worth comparing and their shapes for which no crossover can be computed."""
    return tuple(
        f"{shared.first.name} and {shared.second.name} of {layers_text(shared.widest_layers)}"
        for shared in _all_shared(models)
        if not shared.is_enough
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """The sizes of one shape that two models share; `widest_layers` were measured by at least one of them."""

    first: Model
    second: Model
    widest_layers: Layers
    batch_sizes: Sequence[int]
    widths: tuple[int, int]

    @property
    def is_enough(self) -> bool:
        return bool(self.batch_sizes) and self.widths[0] < self.widths[1]


def _all_shared(models: Sequence[Model]) -> Iterator[_Shared]:
    for first, second in itertools.combinations(models, 2):
        if not is_worth_comparing(first.fit, second.fit):
            continue
        sides = [
            [o.configuration for o in each.fit.series.observations if o.configuration.width] for each in (first, second)
        ]
        for shape in _shapes({each.layers for side in sides for each in side}):
            ours, theirs = ([each for each in side if each.layers in shape] for side in sides)
            widths = [[each.layers[1] for each in side] for side in (ours, theirs)]
            yield _Shared(
                first=first,
                second=second,
                widest_layers=shape[0],
                batch_sizes=sorted({each.batch_size for each in ours} & {each.batch_size for each in theirs}),
                widths=(max(min(each, default=0) for each in widths), min(max(each, default=0) for each in widths)),
            )


def _shapes(measured: Iterable[Layers]) -> Sequence[Sequence[Layers]]:
    """Group `measured` by shape, the widest layers of each first; layers of one shape are scaled copies."""
    found: list[list[Layers]] = []
    for layers in sorted(measured, key=lambda each: (len(each), [-width for width in each])):
        shape = next((each for each in found if _is_scaled(each[0], layers)), None)
        if shape is None:
            found.append([layers])
        else:
            shape.append(layers)
    return sorted(found, key=lambda each: (len(each[0]), each[-1]))


def _is_scaled(widest: Layers, layers: Layers) -> bool:
    """Return whether `layers` are `widest` scaled down, allowing for rounding by one unit."""
    scaled = scale_layers(widest, layers[1])
    return len(layers) == len(scaled) and all(abs(a - b) <= 1 for a, b in zip(layers, scaled, strict=True))
