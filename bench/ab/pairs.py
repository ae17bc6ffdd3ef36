"""One process pair of a live comparison: two trials of one configuration, alternating on one machine.

Both processes are fresh and train the same batches from the same weights. They take turns of a fraction of a second in
ABBA blocks, one computing while the other waits, so that whatever else the machine does affects both alike.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from bench.errors import BadInputError
from bench.execution.conversation import TrialFailedError, Worker, prepare_request, storable
from bench.execution.launcher import Launcher
from bench.protocol.messages import Prepared, Stretched
from bench.records import Configuration, Failure, FailureKind, Settings, Trial
from bench.stats.inference import trimmed_mean

T = TypeVar("T")

BLOCKS: Final = 6
"""ABBA blocks a pair. More blocks reduce the noise within a pair, but not the differences between processes."""

TURN_SECONDS: Final = 0.1
"""Length of a turn. Shorter turns cancel drift better, but also measure the switch itself (cold caches)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One ABBA block: two turns of each arm over the same batches. `samples` is how many each arm trained on."""

    samples: int
    baseline_seconds: float
    candidate_seconds: float

    @property
    def log_ratio(self) -> float:
        """ln(candidate time / baseline time): above 0 the candidate is slower."""
        return math.log(self.candidate_seconds / self.baseline_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRecord:
    """What one arm of a pair reported beside its times. `first_loss` is its mean loss over the first turn's batches."""

    settings: Settings
    dataset_sha256: str
    first_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRecord:
    """A measured pair; raw values only. `turn_batches` is the length of a full turn in batches."""

    seed: int
    turn_batches: int
    baseline: ArmRecord
    candidate: ArmRecord
    blocks: tuple[Block, ...]

    @property
    def log_ratio(self) -> float:
        """The pair's one value: the trimmed mean of its blocks' log ratios, which a stalled block does not affect."""
        return trimmed_mean([block.log_ratio for block in self.blocks])


class ArmFailedError(Exception):
    """A trial of one arm ended without a measurement."""

    def __init__(self, arm: str, failure: Failure) -> None:
        """Name the `arm`: ``baseline`` or ``candidate``."""
        super().__init__(f"the {arm}'s trial failed: {failure.kind}: {failure.message}")


class _Arm:
    """One of the two live trials, and how far it has come."""

    prepared: Prepared
    first_loss: float

    def __init__(self, name: str, launcher: Launcher, timeout_seconds: float, root: Path | None) -> None:
        self.name = name
        self._root = root
        self._worker = Worker(launcher.start(), timeout_seconds=timeout_seconds)
        self._epoch = 0
        self._batch = 0

    def prepare(self, trial: Trial) -> None:
        self.prepared = self._ask(Prepared, prepare_request(trial, self._root))

    def turn(self, batches: int, epoch_batches: int) -> Stretched:
        """Train the next `batches`, or what is left of the epoch."""
        end = min(self._batch + batches, epoch_batches)
        request = {"do": "stretch", "epoch": self._epoch, "begin": self._batch, "end": end}
        stretch = self._ask(Stretched, request)
        if self._epoch == self._batch == 0:
            self.first_loss = stretch.train_loss
        self._epoch, self._batch = (self._epoch, end) if end < epoch_batches else (self._epoch + 1, 0)
        return stretch

    def record(self) -> ArmRecord:
        return ArmRecord(
            settings=self.prepared.settings,
            dataset_sha256=self.prepared.dataset_sha256,
            first_loss=self.first_loss,
        )

    def end(self) -> None:
        self._worker.end()

    def _ask(self, answer_type: type[T], request: Mapping[str, Any]) -> T:
        try:
            return self._worker.ask(answer_type, request)
        except TrialFailedError as error:
            raise ArmFailedError(self.name, storable(error.failure, self._root)) from error
        except BadInputError as error:
            failure = Failure(kind=FailureKind.UNSUPPORTED, message=str(error))
            raise ArmFailedError(self.name, storable(failure, self._root)) from error


def measure_pair(  # noqa: PLR0913 - what a pair is made of
    baseline: Launcher,
    candidate: Launcher,
    configuration: Configuration,
    *,
    seed: int,
    root: Path | None,
    timeout_seconds: float,
    blocks: int = BLOCKS,
    turn_seconds: float = TURN_SECONDS,
) -> PairRecord:
    """Train `configuration` in a fresh process of each launcher, in turns; return what was measured.

    Which arm starts first, and begins the first block, depends on whether `seed` is even. A turn takes about
    `turn_seconds`, but with a DataLoader's worker processes a whole epoch.

    Raises:
        ArmFailedError: one of the two trials ended without a measurement.
        WorkerError: no process could be started.
    """
    launchers = {"baseline": baseline, "candidate": candidate}
    with contextlib.ExitStack() as stack:
        arms: list[_Arm] = []
        for name in ("baseline", "candidate") if seed % 2 == 0 else ("candidate", "baseline"):
            arms.append(_Arm(name, launchers[name], timeout_seconds, root))
            stack.callback(arms[-1].end)
        for arm in arms:
            arm.prepare(Trial(configuration=configuration, seed=seed, repeat=0))
        epoch_batches = _epoch_batches(arms, configuration)
        turn_batches = _turn_batches(arms, turn_seconds, epoch_batches)
        if configuration.workers:  # they are started anew for every turn: in a short one, that would be most of it
            turn_batches = epoch_batches
        measured = tuple(
            _measure_block(arms if number % 2 == 0 else arms[::-1], turn_batches, epoch_batches)
            for number in range(blocks)
        )
    records = {arm.name: arm.record() for arm in arms}
    return PairRecord(
        seed=seed,
        turn_batches=turn_batches,
        baseline=records["baseline"],
        candidate=records["candidate"],
        blocks=measured,
    )


def _epoch_batches(arms: Sequence[_Arm], configuration: Configuration) -> int:
    samples = {arm.prepared.train_samples for arm in arms}
    if len(samples) > 1:
        message = f"the arms train on different numbers of samples: {sorted(samples)}"
        raise ArmFailedError("candidate", Failure(kind=FailureKind.UNSUPPORTED, message=message))
    return -(-samples.pop() // configuration.batch_size)


def _turn_batches(arms: Sequence[_Arm], turn_seconds: float, epoch_batches: int) -> int:
    """Return how many batches take about `turn_seconds`: at least one, at most an epoch's."""
    step_seconds = sum(arm.prepared.step_seconds for arm in arms) / len(arms)
    return min(epoch_batches, max(1, round(turn_seconds / step_seconds)))


def _measure_block(arms: Sequence[_Arm], turn_batches: int, epoch_batches: int) -> Block:
    """Take the turns first, second, second, first."""
    first, second = arms
    seconds = {"baseline": 0.0, "candidate": 0.0}
    samples = 0
    for arm in (first, second, second, first):
        stretch = arm.turn(turn_batches, epoch_batches)
        seconds[arm.name] += stretch.train_seconds
        samples += stretch.train_samples
    return Block(samples=samples // 2, baseline_seconds=seconds["baseline"], candidate_seconds=seconds["candidate"])
