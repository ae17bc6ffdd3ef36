"""Meters of the trial's own process: host memory, CPU time and its disturbances, and the yardstick. Worker only."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import psutil
import torch

from bench.records import Contention, Peak
from bench.worker.timer import Timer

if sys.platform != "win32":
    import resource

_KIBIBYTE: Final = 1024
_ONLINE: Final = Path("/sys/devices/system/cpu/online")


class HostMemory:
    """Resident memory of this process: its size now, and its highest size since the last reset.

    On Linux the peak is VmHWM, which unlike ``ru_maxrss`` starts anew in a forked process and can be reset; on macOS it
    is ``ru_maxrss`` (bytes there), elsewhere psutil's ``peak_wset``. `baseline_bytes` is the size when this object was
    created, which should be after the imports and before any data; `peak` is measured above it.

    Where Linux counts pages of files separately (RssFile, since 4.5), they are excluded from both: they are library
    code that is paged in when first executed, up to 100 MiB, and the page cache's layout decides how much is mapped
    with each page (docs/measuring.md). RssFile is read together with the peak, so the peak comes out too low by
    whatever code was paged in after it.
    """

    def __init__(self, status: Path = Path("/proc/self/status"), clear: Path = Path("/proc/self/clear_refs")) -> None:
        """Read the baseline. `status` and `clear` are Linux's files, elsewhere absent."""
        self._status = status
        self._clear = clear
        self._was_reset = False
        self.baseline_bytes: int | None = _without_files(self._read_sizes(), "VmRSS") or _memory_info("rss")

    def reset_peak(self) -> None:
        """Reset the peak to the current size, where the system can."""
        # "5" resets VmHWM to the current resident size (man 5 proc, clear_refs); some sandboxes forbid it.
        with contextlib.suppress(OSError):
            self._clear.write_text("5")
            self._was_reset = True

    def peak(self) -> Peak | None:
        """Return the peak above the baseline; None where this system does not report it."""
        sizes = self._read_sizes()
        highest, method = _without_files(sizes, "VmHWM"), "VmHWM without files" if "RssFile" in sizes else "VmHWM"
        if highest is None:
            highest, method = self._peak_elsewhere()
        if highest is None or self.baseline_bytes is None:
            return None
        scope = "since warm-up" if self._was_reset else "since process start"
        return Peak(bytes=max(0, highest - self.baseline_bytes), method=f"{method} {scope} above baseline")

    def _peak_elsewhere(self) -> tuple[int | None, str]:
        if sys.platform == "darwin":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "ru_maxrss"
        return _memory_info("peak_wset"), "peak_wset"

    def _read_sizes(self) -> dict[str, int]:
        """Return every size in Linux's file, in bytes; none where there is no such file."""
        try:
            lines = re.findall(r"^(\w+):\s+(\d+) kB$", self._status.read_text(), re.MULTILINE)
        except OSError:
            return {}
        return {name: int(size) * _KIBIBYTE for name, size in lines}


def _without_files(sizes: Mapping[str, int], name: str) -> int | None:
    return sizes[name] - sizes.get("RssFile", 0) if name in sizes else None


def _memory_info(name: str) -> int | None:
    """Return a field of psutil's memory info of this process; None where it has none, as on Linux without ``/proc``."""
    try:
        return getattr(psutil.Process().memory_info(), name, None)
    except (OSError, psutil.Error):
        return None


class ContentionMeter:
    """Measures a stretch of work from `start` to `stop` as a `Contention`.

    Time stolen by the hypervisor and time used by other processes come from the machine's counters, which advance in
    hundredths of a second; both are None where the system has no such counters or shows only zeros. Where Linux reports
    which cores this process is bound to, only those count: work on other cores takes none from it.
    """

    def __init__(self, *, whole_machine: bool = False, online: Path = _ONLINE) -> None:
        """Count on the `whole_machine` if other processes, perhaps on other cores, take part in the work."""
        self._online = online
        self._cores = () if whole_machine else _bound_cores(online)

    def start(self) -> None:
        """Begin a stretch."""
        self._before = self._read()

    def stop(self) -> Contention:
        """Return what was counted since `start`."""
        own, busy, steal, switches = (
            None if before is None or after is None else after - before
            for before, after in zip(self._before, self._read(), strict=True)
        )
        own = own or 0.0
        if self._cores and _bound_cores(self._online) != self._cores:  # a core went offline: indices have moved
            busy = steal = None
        return Contention(
            process_cpu_seconds=own,
            other_cpu_seconds=None if busy is None else max(0.0, busy - own),
            steal_seconds=None if steal is None else max(0.0, steal),  # it may run backwards when a machine migrates
            involuntary_switches=None if switches is None else int(switches),
        )

    def _read(self) -> tuple[float | None, float | None, float | None, float | None]:
        times, busy, steal = machine_cpu_seconds(self._cores), None, None
        if times is not None:
            # Guest time is part of user time already, and so are Windows' interrupts of system time.
            left_out = ("idle", "iowait", "steal", "guest", "guest_nice", "interrupt", "dpc")
            busy = sum(seconds for name, seconds in times.items() if name not in left_out)
            steal = times.get("steal")
        return time.process_time(), busy, steal, _involuntary_switches()


def machine_cpu_seconds(cores: Collection[int] = ()) -> dict[str, float] | None:
    """Return the CPU seconds of these `cores`, by default of the whole machine, by kind, idle time included.

    None where they are not counted. Some sandboxes (gVisor) have the counters but leave them all at zero.
    """
    try:
        if cores:
            each = psutil.cpu_times(percpu=True)
            chosen = [each[core]._asdict() for core in cores]
        else:
            chosen = [psutil.cpu_times()._asdict()]
    except (OSError, RuntimeError, IndexError):
        return None
    times = {name: sum(core[name] for core in chosen) for name in chosen[0]}
    return times if any(times.values()) else None


def _bound_cores(online: Path) -> tuple[int, ...]:
    """Return the cores this process is bound to, as indices into psutil's list; () if it may use all or unknown.

    The list omits cores that are offline, and in a container it shows only its own: it is used only if complete.
    """
    try:
        bound = os.sched_getaffinity(0)
        listed = len(psutil.cpu_times(percpu=True))
        first_and_last = online.read_text().strip()
    except (AttributeError, OSError, RuntimeError):  # macOS, Windows; a sandbox without these files
        return ()
    is_complete = first_and_last == f"0-{listed - 1}"
    return tuple(sorted(bound)) if is_complete and len(bound) < listed and max(bound) < listed else ()


def _involuntary_switches() -> int | None:
    if sys.platform == "win32":
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class Products:
    """Known work: float32 products of two `size` by `size` matrices of random numbers, the same every time."""

    def __init__(self, device: torch.device, size: int) -> None:
        """Make the matrices and multiply them once, so that all lazy initialisation is done."""
        generator = torch.Generator().manual_seed(0)
        self._left, self._right = (torch.rand(size, size, generator=generator).to(device) for _ in range(2))
        self._product = torch.empty_like(self._left)
        self(1)

    def __call__(self, count: int) -> None:
        """Launch `count` products; on an accelerator this returns before they are done."""
        for _ in range(count):
            torch.mm(self._left, self._right, out=self._product)


class Yardstick:
    """A fixed matrix product: the same work on every machine, timed beside each epoch on the same device and threads.

    One measurement is `REPEATS` float32 products of two 512 by 512 matrices, 0.27 GFLOP each. It shows whether the
    machine itself has become slower or faster.
    """

    SIZE: Final = 512
    REPEATS: Final = 8

    def __init__(self, device: torch.device, timer: Timer) -> None:
        """Make the matrices on `device` and measure once."""
        self._multiply = Products(device, self.SIZE)
        self._timer = timer
        self.seconds()

    def seconds(self) -> float:
        """Return the wall time of one measurement."""
        return self._timer.seconds(lambda: self._multiply(self.REPEATS))
