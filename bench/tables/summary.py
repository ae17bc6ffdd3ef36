"""Summaries: each quantity's spread over the repeats of a configuration. The unit is the trial, never the epoch."""

import functools
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from bench.records import Configuration, Failure, Header, Measurement, Peak, Run, TrialRecord, TrialWarning
from bench.tables.machines import by_machine
from bench.tables.ordering import configuration_key, natural_key
from bench.warning_rules import MIN_REPEATS, SPREAD_RATIO, is_flagged
from mnist_mlp.costs import memory_floor, training_bytes, training_flops

PeakRate: TypeAlias = Callable[[Configuration], float | None]
"""The highest FLOP/s that was measured with a configuration's device, precision and threads; None if unknown."""

PeakRates: TypeAlias = Callable[[Header], PeakRate]
"""The peak rates of the machine and software of a header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Summary of one quantity over the repeats of a configuration, one value per trial. At least one value.

    `standard_deviation` is the sample's (n - 1), None for a single value.
    """

    n: int
    median: float
    low: float
    high: float
    mean: float
    standard_deviation: float | None


def sample(values: Sequence[float]) -> Sample | None:
    """Summarise finite `values`, one per trial; None without values.

    The median of an even number is the midpoint; the standard deviation is the sample's, with n - 1.
    """
    if not values:
        return None
    if len(values) == 1:
        (value,) = map(float, values)
        return Sample(n=1, median=value, low=value, high=value, mean=value, standard_deviation=None)
    n, low, high = len(values), float(min(values)), float(max(values))
    middle = mean(values)
    return Sample(
        n=n,
        median=float(statistics.median(values)),
        low=low,
        high=high,
        mean=middle,
        standard_deviation=math.dist(values, [middle] * n) / math.sqrt(n - 1),
    )


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one finite value."""
    n, low, high = len(values), float(min(values)), float(max(values))
    # `statistics` uses exact fractions, which take twenty times as long. The sum of undivided values could overflow.
    # Rounding could push the mean of equal values beyond them, hence the bounds.
    return min(max(math.fsum(value / n for value in values), low), high)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The repeats of one configuration on one machine. A quantity that no trial measured is None.

    A quantity is computed when it is first asked for: a table can show a few quantities of very many configurations.
    """

    configuration: Configuration
    machine_id: str
    records: tuple[TrialRecord, ...]
    """All trials of the configuration, including failed ones, by repeat."""
    peak_rate: float | None = None
    """The highest FLOP/s measured on the device at this precision and number of threads."""
    alone: Mapping[int, Sequence[TrialRecord]] = field(default_factory=dict)
    """For several ranks: the trials of one process, by the batch sizes that their throughput is compared with."""

    @functools.cached_property
    def measured(self) -> list[Measurement]:
        """What was measured, by repeat."""
        return [record.outcome for record in self.records if isinstance(record.outcome, Measurement)]

    @property
    def n(self) -> int:
        """How many trials were measured."""
        return len(self.measured)

    @property
    def flagged(self) -> int:
        """How many measured trials have a warning of `bench.warning_rules.DISTURBED`."""
        return self.n - len(self._unflagged)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The failures of the failed trials."""
        return tuple(record.outcome for record in self.records if isinstance(record.outcome, Failure))

    @functools.cached_property
    def warnings(self) -> tuple[TrialWarning, ...]:
        """The warnings of the trials, and of their epoch times together."""
        found = {warning for record in self.records for warning in record.warnings}
        found.update(_repeat_warnings(self.epoch_seconds, self.n))
        return tuple(warning for warning in TrialWarning if warning in found)

    @functools.cached_property
    def epoch_seconds(self) -> Sample | None:
        """Each trial's median epoch time."""
        return self._over_trials(lambda trial: trial.epoch_seconds)

    @property
    def unflagged_epoch_seconds(self) -> float | None:
        """The median epoch time of the trials that are not flagged; None if all are."""
        return statistics.median(trial.epoch_seconds for trial in self._unflagged) if self._unflagged else None

    @functools.cached_property
    def training_seconds(self) -> Sample | None:
        """The sum of a trial's train seconds over its epochs."""
        return self._over_trials(lambda trial: math.fsum(epoch.train_seconds for epoch in trial.epochs))

    @functools.cached_property
    def throughput_per_second(self) -> Sample | None:
        """Training samples per second at the median epoch time."""
        return self._over_trials(lambda trial: trial.throughput_per_second)

    @functools.cached_property
    def training_flops_per_second(self) -> Sample | None:
        """FLOPs of the matrix products that the model needs (`mnist_mlp.costs`), per second."""
        return self._over_trials(_flops_per_second)

    @functools.cached_property
    def flops_utilisation(self) -> Sample | None:
        """The share of `peak_rate`, multiplied by the number of ranks; None if that is unknown."""
        if not self.peak_rate:
            return None
        peak_rate = self.peak_rate * self.configuration.world_size
        return self._over_trials(lambda trial: _flops_per_second(trial) / peak_rate)

    @property
    def flops_per_byte(self) -> float:
        """A step's FLOPs over the least bytes that it must move, per rank: computed from the model, not measured."""
        c = self.configuration
        batch_size = c.batch_size // c.world_size
        moved = training_bytes(
            c.layers,
            batch_size,
            optimizer=c.optimizer,
            momentum=c.momentum != 0,
            activation_bytes=_activation_bytes(c),
        )
        return batch_size * training_flops(c.layers) / moved

    @functools.cached_property
    def cold_start_seconds(self) -> Sample | None:
        """A trial's first training step."""
        return self._over_trials(lambda trial: trial.cold_start_seconds)

    @property
    def memory_floor_bytes(self) -> int | None:
        """The least memory that a training step needs, of all ranks on the CPU, else of one: computed, not measured.

        None if no trial was measured, because the number of samples is then unknown.
        """
        return _memory_floor(self.configuration, self.measured[0]) if self.measured else None

    @functools.cached_property
    def host_peak_bytes(self) -> Sample | None:
        """See `Measurement.host_peak`."""
        return self._over_trials(lambda trial: _bytes(trial.host_peak))

    @functools.cached_property
    def device_allocated_peak_bytes(self) -> Sample | None:
        """See `Measurement.device_allocated_peak`."""
        return self._over_trials(lambda trial: _bytes(trial.device_allocated_peak))

    @functools.cached_property
    def device_reserved_peak_bytes(self) -> Sample | None:
        """See `Measurement.device_reserved_peak`."""
        return self._over_trials(lambda trial: _bytes(trial.device_reserved_peak))

    @functools.cached_property
    def joules_per_epoch(self) -> Sample | None:
        """See `Measurement.joules_per_epoch`."""
        return self._over_trials(lambda trial: trial.joules_per_epoch)

    @functools.cached_property
    def samples_per_joule(self) -> Sample | None:
        """See `Measurement.samples_per_joule`."""
        return self._over_trials(lambda trial: trial.samples_per_joule)

    @functools.cached_property
    def train_loss(self) -> Sample | None:
        """The mean of the final epoch."""
        return self._over_trials(lambda trial: trial.epochs[-1].train_loss)

    @functools.cached_property
    def train_accuracy(self) -> Sample | None:
        """Of the final epoch, as a fraction, while the weights change."""
        return self._over_trials(lambda trial: trial.epochs[-1].train_accuracy)

    @functools.cached_property
    def test_accuracy(self) -> Sample | None:
        """After the final epoch, as a fraction."""
        return self._over_trials(lambda trial: trial.test_accuracy)

    @functools.cached_property
    def test_loss(self) -> Sample | None:
        """After the final epoch."""
        return self._over_trials(lambda trial: trial.epochs[-1].test_loss)

    @functools.cached_property
    def seconds_to_97_percent(self) -> Sample | None:
        """Training time to 97 % test accuracy, of the trials that reached it: `n` says how many did."""
        return self._over_trials(lambda trial: trial.seconds_to_accuracy(0.97))

    @functools.cached_property
    def seconds_to_98_percent(self) -> Sample | None:
        """Training time to 98 % test accuracy, likewise."""
        return self._over_trials(lambda trial: trial.seconds_to_accuracy(0.98))

    @functools.cached_property
    def strong_efficiency(self) -> Sample | None:
        """Throughput of N ranks over N times the throughput of one process with the same batch size.

        Trials with the same seed are compared: they ran in the same round, so machine drift affects both.
        """
        return self._efficiency(self.configuration.batch_size)

    @functools.cached_property
    def weak_efficiency(self) -> Sample | None:
        """Throughput of N ranks over N times the throughput of one process with the batch size of each rank."""
        return self._efficiency(self.configuration.batch_size // self.configuration.world_size)

    @functools.cached_property
    def exchange_share(self) -> Sample | None:
        """See `bench.records.Exchange.share`."""
        return self._over_trials(lambda trial: None if trial.exchange is None else trial.exchange.share)

    @functools.cached_property
    def _unflagged(self) -> list[Measurement]:
        return [
            record.outcome
            for record in self.records
            if isinstance(record.outcome, Measurement) and not is_flagged(record)
        ]

    def _over_trials(self, value: Callable[[Measurement], float | None]) -> Sample | None:
        return sample([each for each in map(value, self.measured) if each is not None and math.isfinite(each)])

    def _efficiency(self, batch_size: int) -> Sample | None:
        ranks = self.configuration.world_size
        ideal = {seed: ranks * throughput for seed, throughput in _throughputs(self.alone.get(batch_size, ()))}
        return sample([throughput / ideal[seed] for seed, throughput in _throughputs(self.records) if seed in ideal])


def summarise(
    records: Iterable[TrialRecord], peak_rate: PeakRate = lambda _: None, machine_id: str = ""
) -> tuple[Summary, ...]:
    """Summarise the repeats of each configuration, sorted by device, model, layers, batch size and then the rest.

    `records` were all measured on the machine `machine_id`; their order does not matter.
    """
    groups: dict[Configuration, list[TrialRecord]] = defaultdict(list)
    for record in records:
        groups[record.trial.configuration].append(record)
    return tuple(
        Summary(
            configuration=configuration,
            machine_id=machine_id,
            records=tuple(sorted(groups[configuration], key=_order)),
            peak_rate=peak_rate(configuration),
            alone=_alone(configuration, groups),
        )
        for configuration in sorted(groups, key=configuration_key)
    )


def summarise_run(run: Run, peak_rates: PeakRates = lambda _: lambda _: None) -> tuple[Summary, ...]:
    """Summarise the repeats of each configuration on each machine of `run`, sorted like `summarise`, then machine."""
    runs = sorted(by_machine(run).items())
    summaries = [summarise(each.records, peak_rates(each.header), machine_id) for machine_id, each in runs]
    if len(summaries) == 1:
        return summaries[0]
    return tuple(sorted(itertools.chain(*summaries), key=lambda summary: configuration_key(summary.configuration)))


def unmeasured_energy(records: Iterable[TrialRecord]) -> tuple[str, ...]:
    """Return why energy was not measured: each reason once, with the devices it applies to."""
    devices: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if isinstance(record.outcome, Measurement) and record.outcome.energy_reason:
            devices[record.outcome.energy_reason].add(record.trial.configuration.device)
    return tuple(f"{', '.join(sorted(found, key=natural_key))}: {reason}" for reason, found in devices.items())


def _order(record: TrialRecord) -> tuple[Any, ...]:
    """Return a sort key of the trials of a configuration, whatever order they were stored in."""
    outcome = record.outcome
    why = (outcome.kind, outcome.message) if isinstance(outcome, Failure) else ()
    return record.trial.repeat, record.trial.seed, record.started_at, why


def _alone(
    configuration: Configuration, groups: Mapping[Configuration, Sequence[TrialRecord]]
) -> dict[int, Sequence[TrialRecord]]:
    """Return the trials of one process that those of several ranks are compared with, by batch size."""
    if configuration.world_size == 1:
        return {}
    sizes = {configuration.batch_size, configuration.batch_size // configuration.world_size}
    return {size: groups.get(replace(configuration, world_size=1, batch_size=size), ()) for size in sizes}


def _throughputs(records: Iterable[TrialRecord]) -> Iterator[tuple[int, float]]:
    for record in records:
        if isinstance(record.outcome, Measurement):
            yield record.trial.seed, record.outcome.throughput_per_second


def _repeat_warnings(epoch_seconds: Sample | None, n: int) -> Iterator[TrialWarning]:
    if 0 < n < MIN_REPEATS:
        yield TrialWarning.FEW_REPEATS
    if epoch_seconds is None or epoch_seconds.standard_deviation is None:
        return
    if epoch_seconds.standard_deviation > SPREAD_RATIO * epoch_seconds.mean:
        yield TrialWarning.SPREAD


def _flops_per_second(measurement: Measurement) -> float:
    return measurement.training_flops_per_sample * measurement.throughput_per_second


def _activation_bytes(configuration: Configuration) -> int:
    return 2 if configuration.precision == "bf16" else 4


def _memory_floor(configuration: Configuration, measurement: Measurement) -> int:
    c, epoch = configuration, measurement.epochs[0]
    # On an accelerator a DataLoader leaves the images on the host; on the CPU torchvision keeps them in memory.
    is_kept = c.device == "cpu" or c.pipeline == "resident"
    of_a_rank = memory_floor(
        c.layers,
        c.batch_size // c.world_size,
        samples=epoch.train_samples + epoch.test_samples if is_kept else 0,
        optimizer=c.optimizer,
        momentum=c.momentum != 0,
        activation_bytes=_activation_bytes(c),
    )
    return of_a_rank * c.world_size if c.device == "cpu" else of_a_rank


def _bytes(peak: Peak | None) -> int | None:
    return None if peak is None else peak.bytes
