"""When a trial, or the repeats of a configuration, deserve a warning, and what each warning means.

Warnings are returned as data; nothing here prints.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from bench.records import Configuration, Measurement, TrialRecord, TrialWarning

SLOW_FIRST_EPOCH_RATIO: Final = 1.25
"""First epoch over the median of the later ones. Warm-up should make this 1."""

SLOW_FIRST_EPOCH_MIN_LATER: Final = 2

STALL_RATIO: Final = 2.0
"""Slowest epoch over the trial's median epoch. Noise on a shared machine (a spread of 15 %) stays well below this."""

STALL_MIN_EPOCHS: Final = 3
"""With only two epochs it is impossible to say which one is unusual."""

STEAL_SHARE: Final = 0.10
"""Steal, summed over all cores, over wall time.

It is not divided by the number of threads: a trial's threads synchronise at the end of every operation, so a delay of
one delays all, and the sum over cores bounds the share of wall time that the trial can have lost.
"""

OTHER_CPU_SHARE: Final = 0.25
"""CPU time of everything else on the trial's cores, summed over them, over wall time.

Not divided by the threads either, for the same reason. On a machine with idle cores, other programs may have cost
nothing; but they still use cache, memory bandwidth and clock headroom, so this asks for a quieter machine without
proving harm.
"""

WAITED_CPU_SHARE: Final = 0.80
"""Process CPU time over wall time, below which a trial on the CPU was waiting for a core.

With resident tensors there is no input or output: at least one thread computes at any moment, whatever the number of
threads, so the share is at least 1 if nothing interferes. Full use of n threads would be n, but the part of a step that
runs on one thread depends on the model, so nothing above 1 can be required; a starved second thread shows up as other
CPU time or steal instead.
"""

THROTTLED_SHARE: Final = 0.05
"""Time that CPU quotas held the trial back, summed over all cores, over wall time.

Summed for the same reason as steal, with half its limit: steal comes and goes, but a quota that limits training once
does so in every period and every repeat alike, so that no spread shows it. The counter is exact to the microsecond, so
no wall time is too short for it.
"""

SLOWED_CLOCK_REASONS: Final = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake"})
"""Reasons why a device's clock was not higher (`bench.worker.conditions.CLOCK_REASONS`) that its environment causes.

Because of heat or a limited power supply, the device does not perform as it did an hour ago. Its own power limit
(``sw_power_cap``) is different: a device under full load normally runs at it. Idling (``gpu_idle``) and clocks set by
somebody (``applications_clocks``, ``sync_boost``, ``display_clocks``) are part of its configuration. One epoch is
enough: the two samples per epoch are brief, taken just before the load starts and just after it ends.
"""

MIN_TICKED_SECONDS: Final = 0.5
"""Steal and other CPU time advance in ticks of 10 ms: within less wall time, a few ticks would look like load."""

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
        TrialWarning.ON_BATTERY: (
            "the machine ran from its battery, on which processors are slowed down; plug it in and repeat"
        ),
        TrialWarning.SPREAD: (
            "epoch times of the repeats vary by over 10 % (standard deviation over mean); "
            "use a quieter machine or more --repeats before comparing them"
        ),
        TrialWarning.FEW_REPEATS: (
            "fewer than 3 trials were measured, so their spread says little; use --repeats 3 or more, or see why "
            "trials failed"
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
        TrialWarning.ON_BATTERY,
    }
)
"""The warnings that flag a trial: something disturbed its measurement. The others concern the repeats together."""


def is_flagged(record: TrialRecord) -> bool:
    """Return whether a warning says that the measurement of `record` was disturbed."""
    return not DISTURBED.isdisjoint(record.warnings)


def trial_warnings(measurement: Measurement, configuration: Configuration) -> tuple[TrialWarning, ...]:
    """Return the warnings for one trial, in the order of `TrialWarning`; see the thresholds above."""
    seconds = [epoch.train_seconds for epoch in measurement.epochs]
    found = {
        TrialWarning.SLOW_FIRST_EPOCH: _has_slow_first(seconds),
        TrialWarning.STALL: _has_stall(seconds),
        TrialWarning.CONTAMINATION: _is_contaminated(measurement, configuration),
        TrialWarning.EPOCHS_SLOWING_DOWN: _slows_down(seconds),
        TrialWarning.THROTTLED: _is_throttled(measurement),
        TrialWarning.DEVICE_SHARED: _shares_device(measurement),
        TrialWarning.ON_BATTERY: measurement.on_battery is True,
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
    # Pressure stall time is not used: it says that some task waited for a core, not which one. If a trial has as many
    # threads as there are cores, every program that wakes up waits for the trial, which does no harm here. Other CPU
    # time, steal and the trial's own CPU time show whether the trial had to wait.
    epochs = [(epoch.train_seconds, epoch.contention) for epoch in measurement.epochs]
    if _ticked_share((wall, contention.steal_seconds) for wall, contention in epochs) > STEAL_SHARE:
        return True
    # DataLoader workers belong to the trial but count as other CPU time, and waiting for them is not contamination.
    if configuration.pipeline != "resident" or configuration.workers != 0:
        return False
    if _ticked_share((wall, contention.other_cpu_seconds) for wall, contention in epochs) > OTHER_CPU_SHARE:
        return True
    cpu = math.fsum(contention.process_cpu_seconds for _, contention in epochs)
    wall = math.fsum(wall for wall, _ in epochs)
    # Ranks wait for one another, which is not contamination either.
    return configuration.device == "cpu" and configuration.world_size == 1 and cpu < WAITED_CPU_SHARE * wall


def _ticked_share(epochs: Iterable[tuple[float, float | None]]) -> float:
    """Return a tick counter's seconds over wall seconds, where it was read; 0 if the wall time is too short."""
    measured = [(wall, ticked) for wall, ticked in epochs if ticked is not None]
    wall_seconds = math.fsum(wall for wall, _ in measured)
    return math.fsum(ticked for _, ticked in measured) / wall_seconds if wall_seconds >= MIN_TICKED_SECONDS else 0.0
