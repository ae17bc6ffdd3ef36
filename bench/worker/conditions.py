"""Conditions of processor and device around an epoch: clocks, heat, throttling, other processes. Worker only.

Samples are taken right before and right after an epoch, outside its timing. What the system does not report is None.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

import torch

from bench.records import Contention, DeviceConditions
from bench.worker.energy import Nvml, UnmeasurableError, open_nvml
from bench.worker.limits import CGROUP, MEMBERSHIP, own_cgroups
from bench.worker.meters import machine_cpu_seconds

_T = TypeVar("_T", int, float)

_PRESSURE: Final = Path("/proc/pressure/cpu")
_PROCESSORS: Final = Path("/sys/devices/system/cpu")

MAX_CLOCK_SAMPLE_SECONDS: Final = 0.001
"""If the first sample of the cores' clocks takes longer, no more are taken: some kernels wait milliseconds a core."""

_HERTZ_PER_KILOHERTZ: Final = 1e3
_HERTZ_PER_MEGAHERTZ: Final = 1e6
_NVML_SM_CLOCK: Final = 1
_NVML_GPU_TEMPERATURE: Final = 0

_GPU_IDLE: Final = 0x1

CLOCK_REASONS: Final = MappingProxyType(
    {
        _GPU_IDLE: "gpu_idle",
        0x2: "applications_clocks",
        0x4: "sw_power_cap",
        0x8: "hw_slowdown",
        0x10: "sync_boost",
        0x20: "sw_thermal_slowdown",
        0x40: "hw_thermal_slowdown",
        0x80: "hw_power_brake",
        0x100: "display_clocks",
    }
)
"""NVML's bits for why a device's clocks are not higher (nvml.h, nvmlClocksEventReasons) → short names."""


class HostPressure:
    """Adds to a stretch's `Contention` how long tasks waited for a core and how long CPU quotas stopped this process.

    Waiting is Linux's pressure stall information ("some": at least one task of the whole machine waited). Throttling is
    summed over this process's cgroup and its ancestors, each of which counts its own quota.
    """

    def __init__(self, pressure: Path = _PRESSURE, cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> None:
        """Find which of the files exist."""
        self._pressure = pressure
        # The same folder may be found in several ways, and a version 1 hierarchy under two names.
        folders = {folder.resolve() for folder in own_cgroups(cgroup, membership, "cpu")}
        candidates = [folder / "cpu.stat" for folder in sorted(folders)]
        self._quotas = [file for file in candidates if _throttled_seconds(file) is not None]
        self._before = _HostCounts(None, None, None)

    def start(self) -> None:
        """Begin a stretch."""
        self._before = self._read()

    def stop(self, contention: Contention) -> Contention:
        """Return `contention` with what was counted since `start`, and the load average at `start`."""
        after = self._read()
        return dataclasses.replace(
            contention,
            pressure_stall_seconds=_difference(self._before.stall_seconds, after.stall_seconds),
            throttled_seconds=_difference(self._before.throttled_seconds, after.throttled_seconds),
            load_average=self._before.load_average,
        )

    def _read(self) -> "_HostCounts":
        throttled = [_throttled_seconds(file) for file in self._quotas]
        known = [seconds for seconds in throttled if seconds is not None]
        return _HostCounts(
            stall_seconds=_stall_seconds(self._pressure),
            throttled_seconds=sum(known) if known and len(known) == len(throttled) else None,
            load_average=_load_average(),
        )


class _HostCounts(NamedTuple):
    stall_seconds: float | None
    throttled_seconds: float | None
    load_average: float | None


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, after - before)


def _stall_seconds(file: Path) -> float | None:
    """Return the total of the line ``some avg10=… avg60=… avg300=… total=MICROSECONDS``."""
    with contextlib.suppress(OSError, ValueError):  # absent, or disabled at boot
        for line in file.read_text().splitlines():
            if line.startswith("some "):
                return int(line.rpartition("total=")[2]) / 1e6
    return None


def _throttled_seconds(file: Path) -> float | None:
    """Return the throttled time of a ``cpu.stat``: microseconds in version 2, nanoseconds in 1; None if it has none."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "throttled_usec":
                return int(count) / 1e6
            if name == "throttled_time":
                return int(count) / 1e9
    return None


def _load_average() -> float | None:
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows; a system without a load average
        return None
    # A sandbox that counts no CPU time also shows a load of zero; elsewhere zero is a valid load.
    return None if load == 0 and machine_cpu_seconds() is None else load


class DeviceWatch:
    """Samples the device's conditions at `start` and `stop`."""

    def __init__(self, sample: Callable[[], DeviceConditions | None]) -> None:
        """Watch by calling `sample`, which may return None."""
        self._sample = sample
        self._before: DeviceConditions | None = None

    def start(self) -> None:
        """Take the sample before an epoch."""
        self._before = self._sample()

    def stop(self) -> DeviceConditions | None:
        """Take the sample after the epoch; return the worse of both values of each field, None if all are unknown."""
        return worst((self._before, self._sample()))


def worst(samples: Iterable[DeviceConditions | None]) -> DeviceConditions | None:
    """Return the worst value of `samples` for each field; None if all are unknown."""
    known = [sample for sample in samples if sample is not None]
    reasons = [sample.clock_reasons for sample in known if sample.clock_reasons is not None]
    present = {name for names in reasons for name in names}
    found = DeviceConditions(
        clock_hertz=_extreme(min, (sample.clock_hertz for sample in known)),
        max_clock_hertz=_extreme(max, (sample.max_clock_hertz for sample in known)),
        temperature_celsius=_extreme(max, (sample.temperature_celsius for sample in known)),
        clock_reasons=tuple(name for name in CLOCK_REASONS.values() if name in present) if reasons else None,
        other_processes=_extreme(max, (sample.other_processes for sample in known)),
    )
    return None if found == _NOTHING else found


_NOTHING: Final = DeviceConditions(
    clock_hertz=None, max_clock_hertz=None, temperature_celsius=None, clock_reasons=None, other_processes=None
)


def _extreme(choose: Callable[[list[_T]], _T], values: Iterable[_T | None]) -> _T | None:
    known = [value for value in values if value is not None]
    return choose(known) if known else None


def make_device_watch(
    device: torch.device,
    *,
    nvml: Callable[[torch.device], Nvml] = open_nvml,
    processors: Path = _PROCESSORS,
    clock: Callable[[], float] = time.perf_counter,
) -> DeviceWatch:
    """Return the watch of `device`: by NVML for cuda, by the cores' clocks for cpu; for others it samples nothing."""
    if device.type == "cuda":
        with contextlib.suppress(UnmeasurableError):
            known = nvml(device)
            return DeviceWatch(lambda: _cuda_conditions(known))
    if device.type == "cpu":
        files = _clock_files(processors)
        start = clock()
        _cpu_conditions(files)
        if clock() - start <= MAX_CLOCK_SAMPLE_SECONDS:
            return DeviceWatch(lambda: _cpu_conditions(files))
    return DeviceWatch(lambda: None)


def _cuda_conditions(nvml: Nvml) -> DeviceConditions:
    reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:  # drivers before 535 have it under its old name
        reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons")
    # An idle device lowers its clock, which says nothing about the epoch before or after.
    idle = reasons is not None and bool(reasons & _GPU_IDLE)
    clock = None if idle else _ask(nvml, "nvmlDeviceGetClockInfo", _NVML_SM_CLOCK)
    return DeviceConditions(
        clock_hertz=_scaled(clock, _HERTZ_PER_MEGAHERTZ),
        max_clock_hertz=_scaled(_ask(nvml, "nvmlDeviceGetMaxClockInfo", _NVML_SM_CLOCK), _HERTZ_PER_MEGAHERTZ),
        temperature_celsius=_scaled(_ask(nvml, "nvmlDeviceGetTemperature", _NVML_GPU_TEMPERATURE), 1.0),
        clock_reasons=None if reasons is None else tuple(name for bit, name in CLOCK_REASONS.items() if reasons & bit),
        other_processes=_other_processes(_ask(nvml, "nvmlDeviceGetComputeRunningProcesses")),
    )


def _ask(nvml: Nvml, function: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever NVML returns
    try:
        return nvml.ask(function, *arguments)
    except UnmeasurableError:
        return None


def _other_processes(processes: Iterable[Any] | None) -> int | None:
    """Return how many of `processes` are not this one; None if this one is missing.

    This process does compute on the device, so if it is missing, a container hides processes or renumbers them.
    """
    ids = [process.pid for process in processes or ()]
    return len(set(ids)) - 1 if os.getpid() in ids else None


def _clock_files(processors: Path) -> tuple[tuple[Path, Path], ...]:
    """Return the files with the current and the highest clock of each core that this process may use."""
    try:
        cores = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return ()
    folders = (processors / f"cpu{core}" / "cpufreq" for core in cores)
    pairs = ((folder / "scaling_cur_freq", folder / "cpuinfo_max_freq") for folder in folders)
    return tuple(pair for pair in pairs if pair[0].exists())


def _cpu_conditions(files: Collection[tuple[Path, Path]]) -> DeviceConditions:
    """Return the highest clock among the cores: that of one that has just been computing, not of the idle ones."""
    return dataclasses.replace(
        _NOTHING,
        clock_hertz=_extreme(max, (_clock_hertz(now) for now, _ in files)),
        max_clock_hertz=_extreme(max, (_clock_hertz(highest) for _, highest in files)),
    )


def _clock_hertz(file: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text()) * _HERTZ_PER_KILOHERTZ
    return None


def _scaled(count: float | None, scale: float) -> float | None:
    return None if count is None else count * scale
