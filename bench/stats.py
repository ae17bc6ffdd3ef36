"""Statistics of trials: the repeats of a configuration summed up, and what about them deserves a warning.

The unit is the trial, never the epoch. Warnings are returned as data; nothing here prints.
"""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from types import MappingProxyType
from typing import Any, Final

from bench.records import (
    Configuration,
    Failure,
    Measurement,
    Peak,
    Sample,
    Summary,
    TrialRecord,
    TrialWarning,
)

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


def sample(values: Sequence[float]) -> Sample | None:
    """Summarise finite `values`, one a trial; None for no values.

    The median of an even number is the midpoint; the standard deviation is the sample's, with n - 1.
    """
    if not values:
        return None
    return Sample(
        n=len(values),
        median=float(statistics.median(values)),
        low=float(min(values)),
        high=float(max(values)),
        mean=float(statistics.mean(values)),
        standard_deviation=float(statistics.stdev(values)) if len(values) > 1 else None,
    )


def natural_key(text: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key that orders the numbers inside a text by size: ``784-128-10`` before ``784-1024-10``."""
    parts = re.split(r"([0-9]+)", text)
    # Odd places hold the digits; by length and then by text they order as numbers of any size.
    return tuple((len(digits := part.lstrip("0")), digits) if i % 2 else (0, part) for i, part in enumerate(parts))


def summarise(records: Iterable[TrialRecord]) -> tuple[Summary, ...]:
    """Sum up the repeats of each configuration, sorted by device, model, layers, batch size and then the rest.

    The order of `records` does not matter.
    """
    groups: dict[Configuration, list[TrialRecord]] = defaultdict(list)
    for record in records:
        groups[record.trial.key].append(record)
    return tuple(_summarise_repeats(chosen, groups[chosen]) for chosen in sorted(groups, key=_configuration_key))


def trial_warnings(measurement: Measurement, configuration: Configuration) -> tuple[TrialWarning, ...]:
    """Return what one trial is to be warned about, in the order of `TrialWarning`; see the thresholds above."""
    seconds = [epoch.train_seconds for epoch in measurement.epochs]
    found = {
        TrialWarning.SLOW_FIRST_EPOCH: _has_slow_first(seconds),
        TrialWarning.STALL: _has_stall(seconds),
        TrialWarning.CONTAMINATION: _is_contaminated(measurement, configuration),
        TrialWarning.EPOCHS_SLOWING_DOWN: _slows_down(seconds),
    }
    return tuple(warning for warning, present in found.items() if present)


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


def _is_contaminated(measurement: Measurement, configuration: Configuration) -> bool:
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
    return configuration.device == "cpu" and cpu < WAITED_CPU_SHARE * wall


def _ticked_share(epochs: Iterable[tuple[float, float | None]]) -> float:
    """Return a tick counter's seconds over wall seconds where it was read; 0 for less wall time than ticks resolve."""
    measured = [(wall, ticked) for wall, ticked in epochs if ticked is not None]
    wall_seconds = math.fsum(wall for wall, _ in measured)
    return math.fsum(ticked for _, ticked in measured) / wall_seconds if wall_seconds >= MIN_TICKED_SECONDS else 0.0


def _configuration_key(configuration: Configuration) -> tuple[Any, ...]:
    return (
        natural_key(configuration.device),
        natural_key(configuration.model),
        configuration.layers,
        configuration.batch_size,
        astuple(configuration),
    )


def _summarise_repeats(configuration: Configuration, records: Sequence[TrialRecord]) -> Summary:
    measured = [record.outcome for record in records if isinstance(record.outcome, Measurement)]

    def over_trials(value: Callable[[Measurement], float | None]) -> Sample | None:
        return sample([each for each in map(value, measured) if each is not None and math.isfinite(each)])

    epoch_seconds = over_trials(lambda trial: trial.epoch_seconds)
    warnings = {warning for record in records for warning in record.warnings}
    warnings.update(_repeat_warnings(epoch_seconds, len(measured)))
    return Summary(
        configuration=configuration,
        n=len(measured),
        failures=_failures(records),
        epoch_seconds=epoch_seconds,
        training_seconds=over_trials(lambda trial: math.fsum(epoch.train_seconds for epoch in trial.epochs)),
        throughput_per_second=over_trials(lambda trial: trial.throughput_per_second),
        cold_start_seconds=over_trials(lambda trial: trial.cold_start_seconds),
        host_peak_bytes=over_trials(lambda trial: _bytes(trial.host_peak)),
        device_allocated_peak_bytes=over_trials(lambda trial: _bytes(trial.device_allocated_peak)),
        device_reserved_peak_bytes=over_trials(lambda trial: _bytes(trial.device_reserved_peak)),
        train_loss=over_trials(lambda trial: trial.epochs[-1].train_loss),
        train_accuracy=over_trials(_train_accuracy),
        test_accuracy=over_trials(lambda trial: trial.test_accuracy),
        test_loss=over_trials(lambda trial: trial.epochs[-1].test_loss),
        seconds_to_97_percent=over_trials(lambda trial: trial.seconds_to_accuracy(0.97)),
        seconds_to_98_percent=over_trials(lambda trial: trial.seconds_to_accuracy(0.98)),
        warnings=tuple(warning for warning in TrialWarning if warning in warnings),
    )


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


def _bytes(peak: Peak | None) -> int | None:
    return None if peak is None else peak.bytes


def _train_accuracy(measurement: Measurement) -> float | None:
    last = measurement.epochs[-1]
    return None if last.train_correct is None else last.train_correct / last.train_samples
