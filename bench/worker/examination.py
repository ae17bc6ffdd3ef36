"""What the self-test's examinations share: the parts under test, real trials to ask, and findings. Worker only.

An examination compares what trials are measured with against results known in advance. It takes every part from
`Parts`, so that tests can substitute a faulty one and see the check fail.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import torch
from torch import Tensor

from bench.coding import from_json, to_json
from bench.protocol.messages import Prepared, Stretched
from bench.protocol.soundness import Outcome
from bench.records import Configuration, Settings, Trial
from bench.worker.devices import CPU, Device
from bench.worker.meters import ContentionMeter, HostMemory, Products
from bench.worker.settings import apply_precision, check_products
from bench.worker.timer import Timer
from mnist_mlp.data import Dataset
from mnist_mlp.recipes import CLASSES, HYPERPARAMETERS, INPUT_FEATURES, Recipe
from mnist_mlp.train import Training

T = TypeVar("T")

SEED: Final = 0
"""Of every trial and training here; any other would do."""


class Conversation(Protocol):
    """The worker's side of a trial, asked directly: `bench.worker.session.Session`."""

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what `request` asks and return the answer as JSON values."""


def apply_fp32(threads: int, device: torch.device) -> Settings:
    """Set this process to plain float32, as trials of precision ``fp32`` do."""
    settings = apply_precision("fp32", threads)
    check_products("fp32", device)
    return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is checked. The defaults are what trials are measured with."""

    device: Device
    threads: int
    dataset: Dataset
    root: Path | None
    make_session: Callable[[], Conversation]
    clock: Callable[[], float] = time.perf_counter
    other_clock: Callable[[], float] = time.time
    make_work: Callable[[torch.device, int], Callable[[int], None]] = Products
    host_memory: Callable[[], HostMemory] = HostMemory
    contention: Callable[[], ContentionMeter] = ContentionMeter
    apply_settings: Callable[[int, torch.device], Settings] = apply_fp32
    multiply: Callable[[Tensor, Tensor], Tensor] = torch.mm
    make_training: Callable[..., Training] = Training

    @property
    def on_host(self) -> bool:
        """Whether the device is the CPU, on which a call returns only once its work is done."""
        return self.device.torch_device.type == CPU

    @property
    def timer(self) -> Timer:
        """What trials are timed with, reading the clock under test."""
        return Timer(self.device.synchronise, self.clock)


@dataclass(frozen=True, slots=True)
class Finding:
    """What an examination found: its outcome, and the measured values or the reason in words."""

    outcome: Outcome
    measured: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """A check to be made, up to `attempts` times until it passes, because machines are noisy."""

    name: str
    rule: str
    examine: Callable[[Parts], Finding]
    attempts: int = 1


class ExaminationError(Exception):
    """An examination could not be completed."""


def passed_if(measured: str, *, sound: bool) -> Finding:
    """Return the finding that passes if what was examined is `sound`."""
    return Finding(Outcome.PASS if sound else Outcome.FAIL, measured)


def not_applicable(reason: str) -> Finding:
    """Return the finding that there is nothing to check, for this `reason`."""
    return Finding(Outcome.NOT_APPLICABLE, reason)


def small_recipe(**changes: Any) -> Recipe:  # noqa: ANN401 - a recipe checks its own fields
    """Return the recipe of 784-128-10 with `changes`."""
    return Recipe(**{"name": "784-128-10", "layers": (INPUT_FEATURES, 128, CLASSES), **changes})


def _configuration(parts: Parts, recipe: Recipe, engine: str, threads: int) -> Configuration:
    return Configuration(
        device=parts.device.name,
        model=recipe.name,
        dataset=parts.dataset.name,
        precision="fp32",
        engine=engine,
        pipeline="resident",
        workers=0,
        threads=threads,
        **{name: getattr(recipe, name) for name in HYPERPARAMETERS},
    )


def prepared_trial(parts: Parts, recipe: Recipe, *, engine: str = "eager", threads: int | None = None) -> Conversation:
    """Return a real trial of `recipe`, warmed up and ready for its first epoch; by default with all threads.

    Raises:
        ExaminationError: it could not be prepared.
    """
    session = parts.make_session()
    configuration = _configuration(parts, recipe, engine, threads or parts.threads)
    trial = Trial(configuration=configuration, seed=SEED, repeat=0)
    root = None if parts.root is None else str(parts.root)
    _ask(session, Prepared, {"do": "prepare", "trial": to_json(trial), "root": root})
    return session


def stretch(session: Conversation, begin: int, end: int) -> Stretched:
    """Have the trial train the batches `begin` to `end` of its first epoch; return what it reports.

    Raises:
        ExaminationError: the trial failed.
    """
    return _ask(session, Stretched, {"do": "stretch", "epoch": 0, "begin": begin, "end": end})


def _ask(session: Conversation, answer_type: type[T], request: Mapping[str, Any]) -> T:
    message = session.answer(request)
    if "answer" not in message:
        raise ExaminationError(f"the trial answered {request['do']!r} with {message}")
    return from_json(answer_type, message["answer"])
