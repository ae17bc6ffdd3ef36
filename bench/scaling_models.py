"""Models of step times for what stored runs measured, each by a name of its own, and what they say of any size.

`bench.scaling` fits them, `bench.scaling_view` shows them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.columns import harmless
from bench.errors import BadInputError
from bench.matching import Trials, gather
from bench.records import Configuration, Header, Run
from bench.scaling import Crossover, Fit, Measured, Prediction, contenders, crossover, fit, pairs


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
        Measured(configuration=each.subject, train_samples=min(each.train_samples), log_seconds=each.log_seconds)
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


def left_out(sides: Sequence[Side]) -> tuple[str, ...]:
    """Return, in words, what has too few sizes for a model, where others may have enough."""
    found = [(side, each) for side in sides for each in contenders(side.measured)]
    varying = _varying([each.configuration for _, each in found])
    few = [(side, each) for side, each in found if fit(each) is None]
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
    values = ((name, getattr(configuration, name)) for name in varying)
    told = (f"{value} thread{'s' * (value != 1)}" if name == "threads" else str(value) for name, value in values)
    return harmless(" ".join(filter(None, (label, configuration.device, *told))), 60)


def crossovers(models: Sequence[Model]) -> tuple[tuple[Model, Model, tuple[int, ...], Crossover], ...]:
    """Return the crossovers of all pairs worth comparing at each batch size and depth that both measured.

    Each comes with its two models, the one that is ahead at the narrowest width first, and the narrowest layers.
    """
    by_fit = {id(model.fit): model for model in models}
    found = []
    for first, second in pairs([model.fit for model in models]):
        for depth, batch_size in sorted(_measured(first) & _measured(second)):
            layers = [
                o.configuration.layers
                for each in (first, second)
                for o in each.contender.observations
                if len(o.configuration.layers) == depth
            ]
            widths = (min(each[1] for each in layers), max(each[1] for each in layers))
            base = min(layers)
            crossed = crossover(first, second, base, batch_size, widths)
            found.append((by_fit[id(crossed.first)], by_fit[id(crossed.second)], base, crossed))
    return tuple(found)


def _measured(one: Fit) -> set[tuple[int, int]]:
    """Return depth and batch size of all that has a hidden layer."""
    configurations = [o.configuration for o in one.contender.observations]
    return {(len(c.layers), c.batch_size) for c in configurations if len(c.layers) > 2}  # noqa: PLR2004 - see there


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One model's prediction of one size: seconds a step with its interval, and an epoch of the run's dataset.

    A batch size beyond the dataset's training samples makes one step of all of them, and that is the step told.
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
    depths = {len(o.configuration.layers) for o in model.fit.contender.observations}
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
    )


def _train_samples(model: Model) -> int:
    return model.fit.contender.observations[0].train_samples
