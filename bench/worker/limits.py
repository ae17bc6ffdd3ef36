"""How many cores and how much memory this process may use: its affinity and its cgroups' limits. Worker only."""

import contextlib
import math
import os
from pathlib import Path
from typing import Final

import psutil

CGROUP: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def usable_cores(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> float:
    """Return how many logical cores this process may use at once: its affinity, or its cgroups' quota if less."""
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS, Windows
        cores = float(os.cpu_count() or 1)
    return min([cores, *(_quota(folder) for folder in own_cgroups(cgroup, membership, "cpu"))])


def usable_memory_bytes(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Return the host's memory, or the cgroups' limit if less."""
    try:
        limits = [psutil.virtual_memory().total]
    except OSError:  # Linux without /proc
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in own_cgroups(cgroup, membership, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # absent, or "max"
                limits.append(int((folder / name).read_text()))
    return min(limits)


def own_cgroups(cgroup: Path, membership: Path, controller: str) -> list[Path]:
    """Return the folders of this process's cgroup for `controller` and of all its ancestors, for both cgroup versions.

    The limit of any ancestor applies. A line of /proc/self/cgroup is ``id:controllers:path`` (man 7 cgroups).
    """
    roots = (cgroup, cgroup / controller)  # version 2 and version 1
    paths = {Path()}
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", maxsplit=2)
            if not controllers or controller in controllers.split(","):
                own = Path(path.lstrip("/"))
                paths |= {own, *own.parents}
    return [root / path for root in roots for path in paths]


def _quota(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # version 2
    except (OSError, ValueError):
        try:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return math.inf
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no quota
        return math.inf
    return cores if cores > 0 else math.inf
