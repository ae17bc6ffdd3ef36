"""What plans of 100 000 trials cost: time and peak memory of planning, merging and showing, each in its own process.

Run as ``PYTHONPATH=.:tests python -m tests.studies.large_plans``; docs/clusters.md has its table.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from stored_runs import write_shards

SHARDS: Final = 10
SHAPES: Final = ((20_000, 5), (100_000, 1))
"""Configurations and repeats: many of the one or of the other."""


def measured(*arguments: str | Path) -> tuple[float, float, int]:
    """Return wall and CPU seconds and the peak resident bytes of a command that must succeed."""
    start = time.perf_counter()
    null = os.open(os.devnull, os.O_WRONLY)
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    _, status, usage = os.wait4(pid, 0)
    os.close(null)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{' '.join(command[2:5])} … ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def measure(configurations: int, repeats: int, folder: Path) -> None:
    """Print a row of the table for each command."""
    widths = ",".join(str(8 + place) for place in range(configurations // 50))
    batch_sizes = ",".join(str(64 + place) for place in range(50))
    shards = write_shards(folder, configurations, repeats, SHARDS)
    merged = folder / "merged.jsonl"
    grid = ("--models", "784-128-10", "--widths", widths, "--batch-sizes", batch_sizes, "--repeats", str(repeats))
    commands: tuple[tuple[str, tuple[str | Path, ...]], ...] = (
        ("plan", ("plan", *grid, "--devices", "cpu", "--shards", str(SHARDS), "--no-estimate")),
        ("merge", ("merge", *shards, "--output", merged)),
        ("merge, again", ("merge", *shards, "--output", merged)),
        ("show", ("show", merged)),
    )
    for name, arguments in commands:
        wall, cpu, peak = measured(*arguments)
        row = (name, f"{configurations} x {repeats}", f"{wall:.1f} s", f"{cpu:.1f} s", f"{peak / 2**20:.0f} MiB")
        sys.stdout.write(f"| {' | '.join(row)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as name:
            measure(*shape, Path(name))
