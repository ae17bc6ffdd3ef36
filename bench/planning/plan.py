"""From a request to a plan: which configurations, how often, in which order. Pure functions; nothing is started."""

import itertools
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

from bench.errors import BadInputError
from bench.records import Configuration, DeviceStatus, Plan, Trial, TrialRecord, kind_of
from mnist_mlp.checks import check_choice
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import (
    DATASETS,
    ENGINES,
    HYPERPARAMETERS,
    PIPELINES,
    PRECISIONS,
    TORCHVISION_DATASETS,
    TUTORIALS,
    Recipe,
    find_recipe,
    scale_width,
)
from mnist_mlp.spelling import did_you_mean
from mnist_mlp.support import check_supported

T = TypeVar("T")

AUTO: Final = "auto"
"""The device request that stands for every available device."""

_OTHER_KINDS: Final = ("xpu", "hpu", "mtia", "xla")
"""Device types of torch whose names resemble another's without being misspellings of it."""

_GPUS: Final = " (did you mean 'cuda', or on a Mac 'mps'?)"

MAX_CONFIGURATIONS: Final = 100_000
MAX_REPEATS: Final = 10_000
MAX_TRIALS: Final = 1_000_000
"""Of a plan: ten times what was tried (docs/clusters.md). In trials of a second these are twelve days."""
MAX_BATCH_SIZE: Final = 70_000
"""MNIST has 60 000 training images; a batch of that size is an epoch in one step, so a larger number is a mistake."""
MAX_EPOCHS: Final = 100_000
MAX_SEED: Final = 2**62
MAX_WORKERS: Final = 256
MAX_THREADS: Final = 4096
MAX_WORLD_SIZE: Final = 1024

SCALINGS: Final = ("strong", "weak")
"""What a batch size means with several ranks: ``strong`` shares it among them, ``weak`` gives it to each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asks to run. An empty tuple or None means the value of each model's recipe.

    Unsupported combinations of device, engine, precision, pipeline and world size are refused, or left out if
    `skip_unsupported` is set. `scaling` is one of `SCALINGS`.
    """

    models: tuple[str, ...]
    repeats: int
    devices: tuple[str, ...] = (AUTO,)
    widths: tuple[int, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    engines: tuple[str, ...] = ("eager",)
    pipelines: tuple[str, ...] = ("resident",)
    threads: tuple[int, ...] = ()
    dataset: str = "mnist"
    epochs: int | None = None
    workers: int = 0
    seed: int = 0
    skip_unsupported: bool = False
    world_sizes: tuple[int, ...] = (1,)
    scaling: str = "strong"


PRESETS: Final[Mapping[str, Request]] = MappingProxyType(
    {
        "quick": Request(models=("784-128-10",), widths=(128, 512), batch_sizes=(64, 256, 1024), repeats=5),
        "standard": Request(
            models=("784-256-10", "784-256-128-10"),
            widths=(64, 256, 1024),
            batch_sizes=(16, 64, 256, 1024, 4096),
            repeats=5,
        ),
        "recipes": Request(models=TUTORIALS, repeats=5),
        "taxes": Request(
            models=("mlp_512_256",),
            pipelines=("dataloader", "resident"),
            engines=("eager", "fused", "graph"),
            epochs=2,
            repeats=5,
            skip_unsupported=True,
        ),
        "scaling": Request(
            models=("784-128-10",),
            widths=(64, 128, 256, 512, 1024, 2048),
            batch_sizes=(16, 64, 256, 1024, 4096),
            epochs=2,
            repeats=3,
        ),
        "speedrun": Request(models=("speedrun",), engines=("fused",), repeats=40),
        "accuracy": Request(models=("canary_adam", "canary_sgd"), repeats=15),
    }
)
"""Starting points of a request; further options replace parts of the preset."""


def check_request(request: Request) -> None:
    """Check what can be checked on any machine, before anything is started.

    Raises:
        BadInputError: a value breaks its rule; the message names the option.
    """
    _check_ranges(request)
    _check_names(request)
    if "dataloader" in request.pipelines and request.dataset not in TORCHVISION_DATASETS:
        raise BadInputError(
            f"--pipelines dataloader cannot read --dataset {request.dataset}: torchvision has no reader for it; "
            f"use the resident pipeline, or one of {', '.join(TORCHVISION_DATASETS)}"
        )
    if request.workers and "dataloader" not in request.pipelines:
        raise BadInputError("--workers is the number of DataLoader's processes: it needs --pipelines dataloader")
    if request.scaling == "weak" and max(request.world_sizes) == 1:
        raise BadInputError("--scaling weak applies the batch size to each rank: it needs --world-size above 1")
    _check_size(request)
    _models(request)


def _check_ranges(request: Request) -> None:
    epochs = () if request.epochs is None else (request.epochs,)
    for option, values, lowest, highest in (
        ("--repeats", (request.repeats,), 1, MAX_REPEATS),
        ("--seed", (request.seed,), 0, MAX_SEED),
        ("--workers", (request.workers,), 0, MAX_WORKERS),
        ("--batch-sizes", request.batch_sizes, 1, MAX_BATCH_SIZE),
        ("--threads", request.threads, 1, MAX_THREADS),
        ("--world-size", request.world_sizes, 1, MAX_WORLD_SIZE),
        ("--epochs", epochs, 1, MAX_EPOCHS),
    ):
        for value in values:
            if not lowest <= value <= highest:
                raise BadInputError(f"{option} {value} is out of range: use a whole number from {lowest} to {highest}")


def _check_names(request: Request) -> None:
    for option, names in (("--models", request.models), ("--devices", request.devices)):
        if not names:
            raise BadInputError(f"{option} is empty: name at least one, separated by commas")
    for device in request.devices:
        if re.fullmatch(r"auto|[a-z]+(:[0-9]{1,3})?", device) is None:
            raise BadInputError(f"--devices {device!r} is not a device name: use auto, cpu, cuda, cuda:1 or mps")
    for option, names, choices in (
        ("--precisions", request.precisions, PRECISIONS),
        ("--engines", request.engines, ENGINES),
        ("--pipelines", request.pipelines, PIPELINES),
        ("--dataset", (request.dataset,), DATASETS),
        ("--scaling", (request.scaling,), SCALINGS),
    ):
        if not names:
            raise BadInputError(f"{option} is empty: use one or more of {', '.join(choices)}")
        try:
            for name in names:
                check_choice(option, name, choices)
        except InvalidValueError as error:
            raise BadInputError(str(error)) from error


def _check_size(request: Request) -> None:
    """Check how many configurations and trials the request has at most, before any is made."""
    dimensions: tuple[tuple[object, ...], ...] = (
        request.models,
        request.widths,
        request.threads,
        request.devices,
        request.batch_sizes,
        request.precisions,
        request.engines,
        request.pipelines,
        request.world_sizes,
    )
    _check_count(math.prod(max(1, len(values)) for values in dimensions), request.repeats)


def _check_count(configurations: int, repeats: int) -> None:
    if configurations > MAX_CONFIGURATIONS:
        raise BadInputError(
            f"{configurations} configurations are more than the {MAX_CONFIGURATIONS} allowed: ask for fewer"
        )
    if configurations * repeats > MAX_TRIALS:
        raise BadInputError(
            f"{configurations} configurations x {repeats} repeats = {configurations * repeats} trials are more than "
            f"the {MAX_TRIALS} allowed: ask for fewer configurations or --repeats"
        )


def _models(request: Request) -> list[Recipe]:
    try:
        recipes = [find_recipe(model) for model in request.models]
    except InvalidValueError as error:
        raise BadInputError(f"--models: {error}") from error
    if not request.widths:
        return recipes
    try:
        return [scale_width(recipe, width) for recipe in recipes for width in request.widths]
    except InvalidValueError as error:
        raise BadInputError(f"--widths: {error}") from error


def choose_devices(requested: Sequence[str], statuses: Iterable[DeviceStatus]) -> tuple[str, ...]:
    """Return the requested devices by their full names: ``auto`` is every available device, ``cuda`` the first GPU.

    Raises:
        BadInputError: one is not available; the message says why, and which ones are.
    """
    statuses = tuple(statuses)
    available = [status.device for status in statuses if status.available]
    chosen: list[str] = []
    for name in requested:
        if name == AUTO:
            chosen += available
            continue
        same = [device for device in _names(name) if device in available]
        if not same:
            why = _why_missing(name, statuses)
            raise BadInputError(f"device {name!r} is not available: {why}. Available here: {', '.join(available)}")
        chosen.append(same[0])
    return tuple(dict.fromkeys(chosen))


def _names(device: str) -> tuple[str, ...]:
    """Return the names of the same device: the first of a kind needs no index, and cpu and mps have none."""
    return device, f"{device}:0", device.removesuffix(":0")


def _why_missing(device: str, statuses: Sequence[DeviceStatus]) -> str:
    """Return why `device` is not available: because it is broken, because of its whole kind, or for no known reason."""
    kind = kind_of(device)
    reasons = [status.reason for status in statuses if status.device in {*_names(device), kind} and status.reason]
    if reasons:
        return reasons[0]
    known = [AUTO, *(kind_of(status.device) for status in statuses)]
    hint = _GPUS if kind == "gpu" else "" if kind in {*known, *_OTHER_KINDS} else did_you_mean(kind, known)
    return f"there is no such device here{hint}"


def make_plan(
    request: Request,
    *,
    devices: Sequence[str],
    cores: int,
    default_threads: int,
    ranks_here: int = MAX_WORLD_SIZE,
) -> Plan:
    """Return the plan for a checked request on these devices.

    Without ``--threads`` a configuration uses the default. With several ranks, each uses an equal share of it at the
    largest world size, and at least one thread, so that a rank has the same threads whatever their number.

    Args:
        request: what the user asks for.
        devices: the available devices to use.
        cores: how many logical cores this machine has for the run (`Machine.whole_cores`).
        default_threads: how many threads torch takes on this machine unless told otherwise.
        ranks_here: the largest number of ranks that share this machine's cores; by default all of them do.

    Raises:
        BadInputError: there are more threads than cores, a combination of device, engine, precision, pipeline
            and world size is not supported, ranks cannot share a batch size equally, or there are too many trials.
    """
    most_ranks = min(max(request.world_sizes), ranks_here)
    threads_of_each = request.threads or (max(1, default_threads // most_ranks),)
    for threads in threads_of_each:
        if threads > cores:
            raise BadInputError(f"--threads {threads} is more than the {cores} cores usable here: use 1 to {cores}")
    supported = _supported(request, devices)
    batch_sizes = request.batch_sizes or (None,)
    models = _models(request)
    _check_count(len(models) * len(supported) * len(threads_of_each) * len(batch_sizes), request.repeats)
    configurations = tuple(
        _configuration(recipe, request, combination, threads, batch_size)
        for recipe, combination, threads, batch_size in itertools.product(
            models, supported, threads_of_each, batch_sizes
        )
    )

    def check(configuration: Configuration) -> None:
        _check_ranks(configuration, cores, min(configuration.world_size, ranks_here))

    configurations = _possible(configurations, check, skip=request.skip_unsupported)
    # Two requested models can be the same (a width that a recipe has already); it is measured once.
    return Plan(configurations=tuple(dict.fromkeys(configurations)), repeats=request.repeats, seed=request.seed)


def check_rank_devices(
    plan: Plan, statuses: Iterable[DeviceStatus], ranks_here: int = MAX_WORLD_SIZE, *, skip: bool = False
) -> Plan:
    """Refuse, or leave out, configurations whose ranks need more accelerators than this machine has, one each.

    Args:
        plan: the plan.
        statuses: the devices of this machine.
        ranks_here: the largest number of ranks on this machine; by default all of them are.
        skip: whether to leave such configurations out.

    Raises:
        BadInputError: there are too few accelerators, or no configuration is left.
    """
    available = [kind_of(status.device) for status in statuses if status.available]

    def check(configuration: Configuration) -> None:
        kind, needed = kind_of(configuration.device), min(configuration.world_size, ranks_here)
        if kind != "cpu" and needed > available.count(kind):
            raise BadInputError(
                f"{needed} ranks need {needed} {kind} devices, but this machine has {available.count(kind)}: "
                "use a smaller --world-size, or more machines (torchrun)"
            )

    return replace(plan, configurations=_possible(plan.configurations, check, skip=skip))


def _possible(items: Iterable[T], check: Callable[[T], None], *, skip: bool) -> tuple[T, ...]:
    """Return the items that `check` accepts.

    Raises:
        BadInputError: `check` refused one and `skip` is False, or it refused all.
    """
    possible, problem = list[T](), None
    for item in items:
        try:
            check(item)
        except (BadInputError, InvalidValueError) as error:
            problem = problem or error
        else:
            possible.append(item)
    if problem is not None and not (skip and possible):
        raise BadInputError(f"{problem}; --skip-unsupported leaves it out" if possible else str(problem)) from problem
    return tuple(possible)


def _check_ranks(configuration: Configuration, cores: int, ranks_here: int) -> None:
    threads, world_size, batch_size = configuration.threads, configuration.world_size, configuration.batch_size
    if configuration.device == "cpu" and threads * ranks_here > cores:
        raise BadInputError(
            f"{ranks_here} ranks of {threads} threads are more than the {cores} cores usable here: use fewer of either "
            "(--world-size, --threads), or more machines (torchrun)"
        )
    if batch_size % world_size:
        raise BadInputError(
            f"batch size {batch_size} cannot be shared equally by {world_size} ranks: use a multiple of "
            f"{world_size}, or give each rank its own batch with --scaling weak"
        )


class _Combination(NamedTuple):
    device: str
    precision: str
    engine: str
    pipeline: str
    world_size: int


def _supported(request: Request, devices: Sequence[str]) -> tuple[_Combination, ...]:
    """Return the supported combinations."""
    combinations = []
    for combination in itertools.starmap(
        _Combination,
        itertools.product(devices, request.precisions, request.engines, request.pipelines, request.world_sizes),
    ):
        kind, _, index = combination.device.partition(":")
        if combination.world_size == 1 or index in {"", "0"}:
            combinations.append(combination)
        elif AUTO not in request.devices:  # otherwise the ranks that start at the first device use it anyway
            raise BadInputError(
                f"device {combination.device!r} cannot be the first of {combination.world_size} ranks, which use "
                f"devices from {kind}:0 on: use {kind}:0"
            )
    return _possible(combinations, lambda each: check_supported(**each._asdict()), skip=request.skip_unsupported)


def _configuration(
    recipe: Recipe, request: Request, combination: _Combination, threads: int, batch_size: int | None
) -> Configuration:
    scale = combination.world_size if request.scaling == "weak" else 1
    members = {name: getattr(recipe, name) for name in HYPERPARAMETERS}
    members |= {
        "batch_size": (batch_size or recipe.batch_size) * scale,
        "epochs": request.epochs or recipe.epochs,
    }
    return Configuration(
        model=recipe.name,
        dataset=request.dataset,
        workers=request.workers if combination.pipeline == "dataloader" else 0,
        threads=threads,
        **combination._asdict(),
        **members,
    )


def order_trials(plan: Plan) -> tuple[Trial, ...]:
    """Return every trial of `plan`: all first repeats, then all second ones, …, each round in its own random order.

    So slow drift of the machine affects all configurations alike, and an interrupted run has balanced repeats. The
    order depends only on the plan's configurations and seed.
    """
    shuffler = random.Random(plan.seed)  # noqa: S311 - no secret
    trials: list[Trial] = []
    for repeat in range(plan.repeats):
        trials += (
            Trial(configuration=configuration, seed=plan.seed + repeat, repeat=repeat)
            for configuration in shuffler.sample(plan.configurations, len(plan.configurations))
        )
    return tuple(trials)


def missing_trials(plan: Plan, records: Iterable[TrialRecord]) -> tuple[Trial, ...]:
    """Return the plan's trials that have no record, in the plan's order. A failed trial has one.

    Raises:
        BadInputError: the plan, which may come from a file, has too many trials.
    """
    _check_count(len(plan.configurations), plan.repeats)
    done = {record.trial for record in records}
    return tuple(trial for trial in order_trials(plan) if trial not in done)
