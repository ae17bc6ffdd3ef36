"""Models of step times for what stored runs measured, each by a name of its own, and what they say of any size.

`bench.analysis.scaling` fits them, `bench.analysis.scaling_view` shows them.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from bench.analysis.crossover import Crossover, crossover, is_worth_comparing
from bench.analysis.scaling import Fit, Measured, Prediction, contenders, fit
from bench.compare.trials import Trials, gather
from bench.errors import BadInputError
from bench.records import Configuration, Header, Run
from bench.tables.columns import harmless
from mnist_mlp.recipes import scale_layers

Layers: TypeAlias = tuple[int, ...]

_COUNTED: Final = {"threads": "thread", "workers": "worker", "world_size": "rank"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one stored run measured, and its label beside others, empty where it is alone."""

    label: str
    header: Header
    measured: Sequence[Measured]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A fit with the name it goes by beside the others, which says all in which they differ."""

    name: str
    header: Header
    fit: Fit


def label_runs(runs: Sequence[Run], labels: Sequence[str | None]) -> list[Side]:
    """Return `runs` with their labels, or else their machines' ids; one alone has none, alike ones their run ids.

    Parts of one run, by machine, have both ids.
    """
    named = [label or run.header.machine.id for label, run in zip(labels, runs, strict=True)]
    if len(runs) == 1:
        named = [""]
    elif len(set(named)) < len(named):
        ids = [run.header.run_id for run in runs]
        of_several = {run_id for run_id, count in Counter(ids).items() if count > 1}
        named = [
            f"{run_id} {run.header.machine.id}" if run_id in of_several else run_id
            for run_id, run in zip(ids, runs, strict=True)
        ]
    return [
        side_of_trials(harmless(label, 40), run.header, gather(run)) for label, run in zip(named, runs, strict=True)
    ]


def side_of_trials(label: str, header: Header, trials: Iterable[Trials]) -> Side:
    """Return the side that measured `trials`."""
    measured = [
        Measured(
            configuration=each.subject,
            train_samples=min(each.train_samples),
            log_seconds=each.log_seconds,
            unflagged_log_seconds=each.unflagged_log_seconds,
            warnings=() if each.flagged is None else each.flagged.warnings,
        )
        for each in trials
        if isinstance(each.subject, Configuration) and each.n
    ]
    return Side(label=label, header=header, measured=measured)


def make_models(sides: Sequence[Side]) -> tuple[Model, ...]:
    """Return a model of every contender of `sides` that has enough sizes."""
    found = [(side, fit(contender)) for side in sides for contender in contenders(side.measured)]
    fits = [(side, each) for side, each in found if each is not None]
    varying = _varying([each.contender.configuration for _, each in fits])
    return tuple(
        Model(name=_name(side.label, each.contender.configuration, varying), header=side.header, fit=each)
        for side, each in fits
    )


def left_out(sides: Sequence[Side], models: Iterable[Model]) -> tuple[str, ...]:
    """Return, in words, what has too few sizes to be among the `models` of `sides`."""
    found = [(side, each) for side in sides for each in contenders(side.measured)]
    varying = _varying([each.configuration for _, each in found])
    fitted = [model.fit.contender for model in models]
    few = [(side, each) for side, each in found if each not in fitted]
    unmeasured = (f"{side.label} (nothing was measured)" for side in sides if not side.measured)
    return (
        *(f"{_name(side.label, each.configuration, varying)} ({len(each.observations)})" for side, each in few),
        *unmeasured,
    )


def models_of_all(sides: Sequence[Side]) -> tuple[Model, ...]:
    """Return the models of `sides`, none where any of them has too few sizes for one: there is nothing to compare."""
    return make_models(sides) if all(make_models([side]) for side in sides) else ()


def require_models(sides: Sequence[Side]) -> tuple[Model, ...]:
    """Return the models of `sides`.

    Raises:
        BadInputError: there are too few sizes of anything to fit.
    """
    models = make_models(sides)
    if not models:
        ids = ", ".join(harmless(side.header.run_id, 40) for side in sides)
        raise BadInputError(
            f"run {ids} has too few sizes of anything to fit step times to: it takes 4 configurations that differ only "
            "in layers and batch size, such as python -m bench run --widths 64,256,1024 --batch-sizes 16,256,4096 gives"
        )
    return models


def _varying(configurations: Sequence[Configuration]) -> tuple[str, ...]:
    """Return the members that a name must tell beside the device: threads only where one device has several counts."""
    names = (name for name in Configuration.__slots__ if name not in {"device", "threads"})
    found = tuple(name for name in names if len({getattr(each, name) for each in configurations}) > 1)
    counts = {(each.device, each.threads) for each in configurations}
    return (*found, "threads") if len(counts) > len({device for device, _ in counts}) else found


def _name(label: str, configuration: Configuration, varying: Iterable[str]) -> str:
    told = (_told(name, getattr(configuration, name)) for name in varying)
    return harmless(" ".join(filter(None, (label, configuration.device, *told))), 60)


def _told(name: str, value: str | float) -> str:
    """Return a member of a configuration as words, of a number with what it counts: ``2 ranks``, ``momentum 0.9``."""
    if name in _COUNTED:
        return f"{value} {_COUNTED[name]}{'s' * (value != 1)}"
    return value if isinstance(value, str) else f"{name} {value}"


def crossovers(models: Sequence[Model]) -> tuple[tuple[Model, Model, Layers, Crossover], ...]:
    """Return the crossovers of all pairs worth comparing, for each shape and batch size that both measured.

    Each comes with its two models, the one that is ahead at the narrowest width first, and the narrowest layers. Widths
    are those between which both were measured.
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
    """Return, in words, the pairs worth comparing and their shapes for which there is no crossover to be told."""
    return tuple(
        f"{shared.first.name} and {shared.second.name} of {'-'.join(map(str, shared.widest_layers))}"
        for shared in _all_shared(models)
        if not shared.is_enough
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """The sizes of one shape that two models have in common; `widest_layers` were measured by one of them at least."""

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
            [o.configuration for o in each.fit.contender.observations if o.configuration.width]
            for each in (first, second)
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
    """Return `measured` by shape, the widest layers of each first: layers of one shape are scaled to each other."""
    found: list[list[Layers]] = []
    for layers in sorted(measured, key=lambda each: (len(each), [-width for width in each])):
        shape = next((each for each in found if _is_scaled(each[0], layers)), None)
        if shape is None:
            found.append([layers])
        else:
            shape.append(layers)
    return sorted(found, key=lambda each: (len(each[0]), each[-1]))


def _is_scaled(widest: Layers, layers: Layers) -> bool:
    """Return whether `layers` are `widest` scaled down, give or take the unit by which either may be rounded."""
    scaled = scale_layers(widest, layers[1])
    return len(layers) == len(scaled) and all(abs(a - b) <= 1 for a, b in zip(layers, scaled, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One model's prediction of one size: seconds a step with its interval, and an epoch of the run's dataset.

    A batch size beyond the dataset's training samples makes one step of all of them, and that is the step told.
    `step_seconds_without_flagged` is by a model of the trials that were not disturbed, None with too few sizes for it.
    """

    model: str
    layers: tuple[int, ...]
    batch_size: int
    step_seconds: float
    step_seconds_low: float
    step_seconds_high: float
    epoch_seconds: float
    throughput_per_second: float
    times_fastest: float
    is_extrapolated: bool
    step_seconds_without_flagged: float | None


def predict(models: Sequence[Model], layers: tuple[int, ...], batch_size: int) -> tuple[Answer, ...]:
    """Return each model's prediction for `layers` at `batch_size`, the fastest first."""
    found = [(model, model.fit.predict(layers, min(batch_size, _train_samples(model)))) for model in models]
    fastest = min(each.step_seconds for _, each in found)
    answers = (_answer(model, each, layers, batch_size, fastest) for model, each in found)
    return tuple(sorted(answers, key=lambda answer: answer.step_seconds))


def _answer(model: Model, each: Prediction, layers: tuple[int, ...], batch_size: int, fastest: float) -> Answer:
    samples = _train_samples(model)
    steps = -(-samples // batch_size)  # the last of them may be short, as in the epochs that were measured
    epoch_seconds = steps * model.fit.predict(layers, samples / steps).step_seconds
    contender = model.fit.contender
    depths = {len(o.configuration.layers) for o in contender.observations}
    calm = fit(contender.without_flagged()) if contender.flagged else model.fit
    is_inside = model.fit.predict(layers, batch_size).is_inside  # of what was asked for, as batch sizes are recorded
    return Answer(
        model=model.name,
        layers=layers,
        batch_size=batch_size,
        step_seconds=each.step_seconds,
        step_seconds_low=each.low,
        step_seconds_high=each.high,
        epoch_seconds=epoch_seconds,
        throughput_per_second=samples / epoch_seconds,
        times_fastest=each.step_seconds / fastest,
        is_extrapolated=not is_inside or len(layers) not in depths,
        step_seconds_without_flagged=(
            None if calm is None else calm.predict(layers, min(batch_size, samples)).step_seconds
        ),
    )


def _train_samples(model: Model) -> int:
    return model.fit.contender.observations[0].train_samples
