"""What about a trial, and about the repeats of a configuration, deserves a warning, and what each warning means.

Warnings are returned as data; nothing here prints.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from bench.records import Configuration, Measurement, TrialRecord, TrialWarning

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
"""CPU time of everything else on the trial's cores, summed over them, over wall time.

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
"""Why a device's clock was not higher (`bench.worker.conditions.CLOCK_REASONS`) where its surroundings are to blame.

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
