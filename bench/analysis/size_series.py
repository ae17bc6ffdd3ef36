"""What step times are fitted to: the configurations of a run that differ in size alone, grouped.

One observation is a configuration, by the geometric mean of its trials.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.records import Configuration, TrialWarning


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One configuration: `step_seconds` is the geometric mean over its `trials`.

    `flagged` counts the trials that were disturbed, `warnings` say by what; `unflagged_step_seconds` is the mean over
    the others, None if there are none.
    """

    configuration: Configuration
    train_samples: int
    trials: int
    step_seconds: float
    flagged: int
    warnings: tuple[TrialWarning, ...]
    unflagged_step_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeSeries:
    """A device, engine and settings, measured at several sizes. `configuration` has the sizes blanked."""

    configuration: Configuration
    observations: tuple[Observation, ...]

    @property
    def flagged(self) -> int:
        """How many trials are flagged."""
        return sum(observation.flagged for observation in self.observations)

    @property
    def train_samples(self) -> int:
        """How many training samples an epoch has."""
        return self.observations[0].train_samples

    def step_samples(self, batch_size: int) -> int:
        """Return how many samples a full step has: a batch that exceeds the training set is all of it."""
        return min(batch_size, self.train_samples)

    def without_flagged(self) -> "SizeSeries":
        """Return the series with only the trials that are not flagged."""
        return replace(
            self,
            observations=tuple(
                replace(each, step_seconds=each.unflagged_step_seconds)
                for each in self.observations
                if each.unflagged_step_seconds is not None
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All trials of a configuration: the natural logarithms of their median epoch times.

    `unflagged_log_seconds` are those of trials that nothing disturbed; `warnings` say what disturbed the others.
    """

    configuration: Configuration
    train_samples: int
    log_seconds: Sequence[float]
    unflagged_log_seconds: Sequence[float]
    warnings: tuple[TrialWarning, ...]


def size_series(measured: Iterable[Measured]) -> tuple[SizeSeries, ...]:
    """Group what was `measured` by everything but size, sorted by device, pipeline, engine and so on."""
    groups: dict[Configuration, list[Observation]] = defaultdict(list)
    for each in measured:
        unflagged = each.unflagged_log_seconds
        groups[blanked(each.configuration)].append(
            Observation(
                configuration=each.configuration,
                train_samples=each.train_samples,
                trials=len(each.log_seconds),
                step_seconds=_step_seconds(each, each.log_seconds),
                flagged=len(each.log_seconds) - len(unflagged),
                warnings=each.warnings,
                unflagged_step_seconds=_step_seconds(each, unflagged) if unflagged else None,
            )
        )
    return tuple(
        SizeSeries(configuration=group, observations=tuple(sorted(found, key=_size)))
        for group, found in sorted(groups.items(), key=lambda each: _name_key(each[0]))
    )


def _step_seconds(measured: Measured, log_seconds: Iterable[float]) -> float:
    steps = -(-measured.train_samples // measured.configuration.batch_size)
    return math.exp(statistics.fmean(log_seconds)) / steps


def blanked(configuration: Configuration) -> Configuration:
    """Return `configuration` without its sizes and without what does not affect a step's time."""
    return replace(
        configuration,
        model="",
        layers=(),
        batch_size=0,
        test_batch_size=0,
        epochs=0,
        learning_rate=0.0,
        schedule="constant",
        weight_decay=0.0,
        shuffle=True,
    )


def _size(observation: Observation) -> tuple[tuple[int, ...], int, str]:
    configuration = observation.configuration
    return configuration.layers, configuration.batch_size, configuration.id


def _name_key(configuration: Configuration) -> tuple[str, str, int, str, str, int, int, str]:
    c = configuration
    return c.device, c.pipeline, c.workers, c.engine, c.precision, c.world_size, c.threads, c.id
