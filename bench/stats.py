"""Statistics of trials: the repeats of a configuration summed up, and what about them deserves a warning.

The unit is the trial, never the epoch. Warnings are returned as data; nothing here prints.
"""

import functools
import itertools
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from bench.machines import by_machine
from bench.records import (
    Configuration,
    Failure,
    Measurement,
    Peak,
    Run,
    Sample,
    Summary,
    TrialRecord,
    TrialWarning,
)
from mnist_mlp.costs import memory_floor, training_bytes, training_flops

SLOW_FIRST_EPOCH_RATIO: Final = 1.25
"""First epoch over the median of the later ones. Warm-up is there to make this 1."""

SLOW_FIRST_EPOCH_MIN_LATER: Final = 2

STALL_RATIO: Final = 2.0
"""Slowest epoch over the trial's median epoch. Noise on a shared machine stays well below (spread of 15 %)."""

STALL_MIN_EPOCHS: Final = 3
"""With two epochs nobody can tell which one is the odd one."""

STEAL_SHARE: Final = 0.10
"""Steal, summed over all cores, over wall time.

It is not divided by the number of threads: the threads of a trial meet at the end of every operation, so one of them
held up holds up all, and the sum over cores bounds the share of wall time that the trial can have lost.
"""

OTHER_CPU_SHARE: Final = 0.25
"""CPU time of everything else on the machine, summed over all cores, over wall time.

Not divided by the threads either, for the same reason. On a machine with idle cores the others may have cost nothing;
they still take cache, memory bandwidth and clock, so this asks for a quieter machine rather than proves harm.
"""

WAITED_CPU_SHARE: Final = 0.80
"""Process CPU time over wall time, below which a trial on the CPU was waiting for a core.

With tensors resident there is no input or output: at any moment at least one thread computes, whatever the number of
threads, so the share is at least 1 when nothing interferes. Full use of n threads would be n, but the part of a step
that runs on one thread depends on the model, so nothing above 1 can be demanded; a starved second thread shows as other
CPU time or steal instead.
"""

THROTTLED_SHARE: Final = 0.05
"""Time that CPU quotas held the trial back, summed over all cores, over wall time.

Summed for the same reason as steal, of which it allows half: steal comes and goes, but a quota that training runs into
once is run into in every period and by every repeat alike, so that no spread shows it. The counter is exact to the
microsecond, so that no wall time is too short for it.
"""

SLOWED_CLOCK_REASONS: Final = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake"})
"""Why a device's clock was not higher (`bench.conditions.CLOCK_REASONS`) where that is a fault of its surroundings.

Heat, and a power supply that asks for less, make the device another one than it was an hour ago. Its own power limit
(``sw_power_cap``) does not: to run at that limit is how a device works under full load, as idling (``gpu_idle``) and
clocks set by somebody (``applications_clocks``, ``sync_boost``, ``display_clocks``) are how it was set up. One epoch is
enough: the two samples beside each are moments, taken when the load has just ended or not yet begun.
"""

MIN_TICKED_SECONDS: Final = 0.5
"""Steal and other CPU time advance in ticks of 10 ms: in less wall time than this a few ticks would pass for load."""

SLOWING_DOWN_RATIO: Final = 1.15
"""Each of the last two epochs over the median of the first half."""

SLOWING_DOWN_MIN_EPOCHS: Final = 4

SPREAD_RATIO: Final = 0.10
"""Standard deviation over mean of the repeats' epoch times."""

MIN_REPEATS: Final = 3

ADVICE: Final[Mapping[TrialWarning, str]] = MappingProxyType(
    {
        TrialWarning.SLOW_FIRST_EPOCH: (
            "the first epoch took over 25 % longer than the later ones, so warm-up did not cover all of it; "
            "train more epochs, so that their median is not moved"
        ),
        TrialWarning.STALL: (
            "an epoch took over twice the trial's median; something held the machine up: "
            "close other programs and repeat, or train more epochs"
        ),
        TrialWarning.CONTAMINATION: (
            "other programs or virtual machines used the processor during the trial; "
            "repeat on a quiet machine, and do not quote these times"
        ),
        TrialWarning.EPOCHS_SLOWING_DOWN: (
            "the last epochs took over 15 % longer than the first half; look for throttling (heat, power limit, "
            "CPU quota) or denormal numbers as weights shrink"
        ),
        TrialWarning.THROTTLED: (
            "the device was slowed down by heat or its power supply, or a CPU quota held the trial back for over "
            "5 % of its time; cool the machine, or use fewer --threads or a larger quota, and repeat"
        ),
        TrialWarning.DEVICE_SHARED: (
            "another program had the device open to compute on it, so it may have taken part of its time and memory; "
            "end it and repeat"
        ),
        TrialWarning.SPREAD: (
            "epoch times of the repeats vary by over 10 % (standard deviation over mean); "
            "use a quieter machine or more --repeats before comparing them"
        ),
        TrialWarning.FEW_REPEATS: (
            "fewer than 3 trials were measured, so their spread says little; use --repeats 3 or more"
        ),
    }
)
"""What each warning means and what to do about it."""

DISTURBED: Final = frozenset(
    {
        TrialWarning.SLOW_FIRST_EPOCH,
        TrialWarning.STALL,
        TrialWarning.CONTAMINATION,
        TrialWarning.EPOCHS_SLOWING_DOWN,
        TrialWarning.THROTTLED,
        TrialWarning.DEVICE_SHARED,
    }
)
"""The warnings that flag a trial: something disturbed its measurement. The others are of the repeats together."""


def is_flagged(record: TrialRecord) -> bool:
    """Return whether a warning says that the measurement of `record` was disturbed."""
    return not DISTURBED.isdisjoint(record.warnings)


def sample(values: Sequence[float]) -> Sample | None:
    """Summarise finite `values`, one a trial; None for no values.

    The median of an even number is the midpoint; the standard deviation is the sample's, with n - 1.
    """
    if not values:
        return None
    if len(values) == 1:
        (value,) = map(float, values)
        return Sample(n=1, median=value, low=value, high=value, mean=value, standard_deviation=None)
    n, low, high = len(values), float(min(values)), float(max(values))
    # `statistics` adds up fractions, twenty times as long. Rounding may leave the mean of equal values beside them.
    mean = min(max(math.fsum(value / n for value in values), low), high)
    return Sample(
        n=n,
        median=float(statistics.median(values)),
        low=low,
        high=high,
        mean=mean,
        standard_deviation=math.dist(values, [mean] * n) / math.sqrt(n - 1),
    )


@functools.lru_cache(maxsize=4096)
def natural_key(text: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key that orders the numbers inside a text by size: ``784-128-10`` before ``784-1024-10``."""
    parts = re.split(r"([0-9]+)", text)
    # Odd places hold the digits; by length and then by text they order as numbers of any size.
    return tuple((len(digits := part.lstrip("0")), digits) if i % 2 else (0, part) for i, part in enumerate(parts))


PeakRate: TypeAlias = Callable[[Configuration], float | None]
"""The highest FLOP/s that was measured where a configuration runs; None where none was."""


def summarise(
    records: Iterable[TrialRecord], peak_rate: PeakRate = lambda _: None, machine_id: str = ""
) -> tuple[Summary, ...]:
    """Sum up the repeats of each configuration, sorted by device, model, layers, batch size and then the rest.

    The order of `records`, which were all measured on the machine `machine_id`, does not matter.
    """
    groups: dict[Configuration, list[TrialRecord]] = defaultdict(list)
    for record in records:
        groups[record.trial.key].append(record)
    ordered = sorted(groups, key=_configuration_key)
    return tuple(_summarise_repeats(chosen, groups, peak_rate(chosen), machine_id) for chosen in ordered)


def summarise_run(run: Run, peak_rates: Callable[[str], PeakRate] = lambda _: lambda _: None) -> tuple[Summary, ...]:
    """Sum up the repeats of each configuration on each machine of `run`, sorted as `summarise` does, then by machine.

    `peak_rates` gives the rates of a machine by its id.
    """
    runs = sorted(by_machine(run).items())
    summaries = [summarise(each.records, peak_rates(machine_id), machine_id) for machine_id, each in runs]
    if len(summaries) == 1:
        return summaries[0]
    return tuple(sorted(itertools.chain(*summaries), key=lambda summary: _configuration_key(summary.configuration)))


def trial_warnings(measurement: Measurement, configuration: Configuration) -> tuple[TrialWarning, ...]:
    """Return what one trial is to be warned about, in the order of `TrialWarning`; see the thresholds above."""
    seconds = [epoch.train_seconds for epoch in measurement.epochs]
    found = {
        TrialWarning.SLOW_FIRST_EPOCH: _has_slow_first(seconds),
        TrialWarning.STALL: _has_stall(seconds),
        TrialWarning.CONTAMINATION: _is_contaminated(measurement, configuration),
        TrialWarning.EPOCHS_SLOWING_DOWN: _slows_down(seconds),
        TrialWarning.THROTTLED: _is_throttled(measurement),
        TrialWarning.DEVICE_SHARED: _shares_device(measurement),
    }
    return tuple(warning for warning, present in found.items() if present)


def unmeasured_energy(records: Iterable[TrialRecord]) -> tuple[str, ...]:
    """Return why energy was not measured, each reason once, with the devices that it holds for."""
    devices: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if isinstance(record.outcome, Measurement) and record.outcome.energy_reason:
            devices[record.outcome.energy_reason].add(record.trial.configuration.device)
    return tuple(f"{', '.join(sorted(found, key=natural_key))}: {reason}" for reason, found in devices.items())


def _has_slow_first(seconds: Sequence[float]) -> bool:
    later = seconds[1:]
    if len(later) < SLOW_FIRST_EPOCH_MIN_LATER:
        return False
    return seconds[0] > SLOW_FIRST_EPOCH_RATIO * statistics.median(later)


def _has_stall(seconds: Sequence[float]) -> bool:
    return len(seconds) >= STALL_MIN_EPOCHS and max(seconds) > STALL_RATIO * statistics.median(seconds)


def _slows_down(seconds: Sequence[float]) -> bool:
    if len(seconds) < SLOWING_DOWN_MIN_EPOCHS:
        return False
    return min(seconds[-2:]) > SLOWING_DOWN_RATIO * statistics.median(seconds[: len(seconds) // 2])


def _is_throttled(measurement: Measurement) -> bool:
    quotas = [(epoch.train_seconds, epoch.contention.throttled_seconds) for epoch in measurement.epochs]
    held_back = [(wall, throttled) for wall, throttled in quotas if throttled is not None]
    if math.fsum(throttled for _, throttled in held_back) > THROTTLED_SHARE * math.fsum(wall for wall, _ in held_back):
        return True
    conditions = [epoch.device_conditions for epoch in measurement.epochs]
    return any(not SLOWED_CLOCK_REASONS.isdisjoint(each.clock_reasons or ()) for each in conditions if each is not None)


def _shares_device(measurement: Measurement) -> bool:
    conditions = [epoch.device_conditions for epoch in measurement.epochs]
    return any(each.other_processes for each in conditions if each is not None)


def _is_contaminated(measurement: Measurement, configuration: Configuration) -> bool:
    # Pressure stall time takes no part: it tells that somebody waited for a core, not who. Where a trial has as many
    # threads as there are cores, every program that wakes up waits for the trial, which harms nobody here; that the
    # trial waited in its turn is what other CPU time, steal and its own CPU time tell.
    epochs = [(epoch.train_seconds, epoch.contention) for epoch in measurement.epochs]
    if _ticked_share((wall, contention.steal_seconds) for wall, contention in epochs) > STEAL_SHARE:
        return True
    # DataLoader workers are the trial's own, yet count as other CPU time, and to wait for them is no contamination.
    if configuration.pipeline != "resident" or configuration.workers != 0:
        return False
    if _ticked_share((wall, contention.other_cpu_seconds) for wall, contention in epochs) > OTHER_CPU_SHARE:
        return True
    cpu = math.fsum(contention.process_cpu_seconds for _, contention in epochs)
    wall = math.fsum(wall for wall, _ in epochs)
    # Ranks wait for one another, which is no contamination either.
    return configuration.device == "cpu" and configuration.world_size == 1 and cpu < WAITED_CPU_SHARE * wall


def _ticked_share(epochs: Iterable[tuple[float, float | None]]) -> float:
    """Return a tick counter's seconds over wall seconds where it was read; 0 for less wall time than ticks resolve."""
    measured = [(wall, ticked) for wall, ticked in epochs if ticked is not None]
    wall_seconds = math.fsum(wall for wall, _ in measured)
    return math.fsum(ticked for _, ticked in measured) / wall_seconds if wall_seconds >= MIN_TICKED_SECONDS else 0.0


_MEMBERS: Final = attrgetter(*(member.name for member in fields(Configuration)))


def _configuration_key(configuration: Configuration) -> tuple[Any, ...]:
    return (
        natural_key(configuration.device),
        natural_key(configuration.model),
        configuration.layers,
        configuration.batch_size,
        _MEMBERS(configuration),
    )


def _summarise_repeats(
    configuration: Configuration,
    groups: Mapping[Configuration, Sequence[TrialRecord]],
    peak_rate: float | None,
    machine_id: str,
) -> Summary:
    records = groups[configuration]
    measured = [record.outcome for record in records if isinstance(record.outcome, Measurement)]

    def over_trials(value: Callable[[Measurement], float | None]) -> Sample | None:
        return sample([each for each in map(value, measured) if each is not None and math.isfinite(each)])

    epoch_seconds = over_trials(lambda trial: trial.epoch_seconds)
    warnings = {warning for record in records for warning in record.warnings}
    unflagged = [
        record.outcome.epoch_seconds
        for record in records
        if isinstance(record.outcome, Measurement) and not is_flagged(record)
    ]
    warnings.update(_repeat_warnings(epoch_seconds, len(measured)))
    return Summary(
        configuration=configuration,
        machine_id=machine_id,
        n=len(measured),
        flagged=len(measured) - len(unflagged),
        failures=_failures(records),
        epoch_seconds=epoch_seconds,
        unflagged_epoch_seconds=statistics.median(unflagged) if unflagged else None,
        training_seconds=over_trials(lambda trial: math.fsum(epoch.train_seconds for epoch in trial.epochs)),
        throughput_per_second=over_trials(lambda trial: trial.throughput_per_second),
        training_flops_per_second=over_trials(_flops_per_second),
        flops_utilisation=over_trials(
            lambda trial: _flops_per_second(trial) / peak_rate / configuration.world_size if peak_rate else None
        ),
        flops_per_byte=_flops_per_byte(configuration),
        cold_start_seconds=over_trials(lambda trial: trial.cold_start_seconds),
        memory_floor_bytes=_memory_floor(configuration, measured[0]) if measured else None,
        host_peak_bytes=over_trials(lambda trial: _bytes(trial.host_peak)),
        device_allocated_peak_bytes=over_trials(lambda trial: _bytes(trial.device_allocated_peak)),
        device_reserved_peak_bytes=over_trials(lambda trial: _bytes(trial.device_reserved_peak)),
        joules_per_epoch=over_trials(lambda trial: trial.joules_per_epoch),
        samples_per_joule=over_trials(lambda trial: trial.samples_per_joule),
        train_loss=over_trials(lambda trial: trial.epochs[-1].train_loss),
        train_accuracy=over_trials(_train_accuracy),
        test_accuracy=over_trials(lambda trial: trial.test_accuracy),
        test_loss=over_trials(lambda trial: trial.epochs[-1].test_loss),
        seconds_to_97_percent=over_trials(lambda trial: trial.seconds_to_accuracy(0.97)),
        seconds_to_98_percent=over_trials(lambda trial: trial.seconds_to_accuracy(0.98)),
        strong_efficiency=_efficiency(records, groups, configuration.batch_size),
        weak_efficiency=_efficiency(records, groups, configuration.batch_size // configuration.world_size),
        exchange_share=over_trials(lambda trial: None if trial.exchange is None else trial.exchange.share),
        warnings=tuple(warning for warning in TrialWarning if warning in warnings),
    )


def _efficiency(
    records: Sequence[TrialRecord], groups: Mapping[Configuration, Sequence[TrialRecord]], batch_size: int
) -> Sample | None:
    """Return what share of their ideal throughput ranks reach: as many times that of one process at `batch_size`.

    Trials are compared with those of the same seed, which ran in the same round: the machine's drift touches both.
    """
    configuration = records[0].trial.configuration
    if configuration.world_size == 1:
        return None
    alone = replace(configuration, world_size=1, batch_size=batch_size)
    ideal = {seed: configuration.world_size * throughput for seed, throughput in _throughputs(groups.get(alone, ()))}
    return sample([throughput / ideal[seed] for seed, throughput in _throughputs(records) if seed in ideal])


def _throughputs(records: Iterable[TrialRecord]) -> Iterator[tuple[int, float]]:
    for record in records:
        if isinstance(record.outcome, Measurement):
            yield record.trial.seed, record.outcome.throughput_per_second


def _repeat_warnings(epoch_seconds: Sample | None, n: int) -> Iterator[TrialWarning]:
    if n < MIN_REPEATS:
        yield TrialWarning.FEW_REPEATS
    if epoch_seconds is None or epoch_seconds.standard_deviation is None:
        return
    if epoch_seconds.standard_deviation > SPREAD_RATIO * epoch_seconds.mean:
        yield TrialWarning.SPREAD


def _failures(records: Iterable[TrialRecord]) -> tuple[Failure, ...]:
    failed = [(record, record.outcome) for record in records if isinstance(record.outcome, Failure)]
    failed.sort(
        key=lambda pair: (pair[0].trial.repeat, pair[0].trial.seed, pair[0].started_at, pair[1].kind, pair[1].message)
    )
    return tuple(failure for _, failure in failed)


def _flops_per_second(measurement: Measurement) -> float:
    return measurement.training_flops_per_sample * measurement.throughput_per_second


def _flops_per_byte(configuration: Configuration) -> float:
    c = configuration
    batch_size = c.batch_size // c.world_size
    moved = training_bytes(c.layers, batch_size, optimizer=c.optimizer, momentum=c.momentum != 0)
    return batch_size * training_flops(c.layers) / moved


def _memory_floor(configuration: Configuration, measurement: Measurement) -> int:
    c, epoch = configuration, measurement.epochs[0]
    # Off the host a DataLoader leaves the images there; on it torchvision keeps them as the resident pipeline does.
    is_kept = c.device == "cpu" or c.pipeline == "resident"
    of_a_rank = memory_floor(
        c.layers,
        c.batch_size // c.world_size,
        samples=epoch.train_samples + epoch.test_samples if is_kept else 0,
        optimizer=c.optimizer,
        momentum=c.momentum != 0,
        activation_bytes=2 if c.precision == "bf16" else 4,
    )
    return of_a_rank * c.world_size if c.device == "cpu" else of_a_rank


def _bytes(peak: Peak | None) -> int | None:
    return None if peak is None else peak.bytes


def _train_accuracy(measurement: Measurement) -> float | None:
    last = measurement.epochs[-1]
    return None if last.train_correct is None else last.train_correct / last.train_samples
