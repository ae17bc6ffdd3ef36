"""Has one run train thousands of short trials, and watches what grows: memory, descriptors, processes, files, time.

    python tests/faults/soak.py --trials 2000              with a stand-in for torch: a quarter of a second a trial
    python tests/faults/soak.py --trials 2000 --real       with torch, on scikit-learn's digits: likewise

The command and its worker host are looked at after every few trials. The last line of output is a JSON object: for each
process and figure the least within the first, the second and the last quarter of the trials; then the same of a trial's
time. A figure that may not grow and did, or trials that came to cost more processor time, are a broken promise.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Final

if __name__ == "__main__":  # the checkout need not be installed
    HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import click
import psutil
from sandbox import HANG_SECONDS, Sandbox, host_and_trials, told
from scipy.stats import theilslopes

from bench.records import Measurement
from bench.storage.store import read_run

GRID: Final = ("--models", "784-8-10", "--batch-sizes", "512", "--epochs", "1", "--threads", "1", "--dataset", "digits")

COUNTS: Final = ("descriptors", "threads", "children", "files")
"""What may never be more at the end than it ever was at the beginning."""

FIGURES: Final = ("resident_bytes", "unshared_bytes", *COUNTS)

ROOM_BYTES: Final = 2**20
"""Memory moves by this much from one look to another, whatever the number of trials."""

ROOM_BYTES_PER_TRIAL: Final = {"command": 4096, "host": 512}
"""The command keeps each trial's record for the end; the host has nothing to keep."""

ROOM_CPU_RATIO: Final = 1.5
"""A trial's processor time in command and host, last quarter over second: flat, whatever else the machine does."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a process had after so many trials."""

    trials: int
    figures: Mapping[str, float]


def look(process: psutil.Process, temporary: Path) -> dict[str, float]:
    """Return the present figures of `process`; `files` are those in its place for temporary files."""
    with process.oneshot():
        memory, cpu = process.memory_full_info(), process.cpu_times()
        return {
            "resident_bytes": memory.rss,
            "unshared_bytes": memory.uss,
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "children": len(process.children()),
            "files": sum(1 for _ in temporary.rglob("*")),
            "cpu_seconds": cpu.user + cpu.system,
        }


def soak(sandbox: Sandbox, trials: int, every: int) -> tuple[dict[str, list[Sample]], list[float]]:
    """Run `trials` trials; return the samples of command and host, and when each trial was told as finished.

    Raises:
        RuntimeError: the run did not measure all of them, or left something behind.
    """
    samples: dict[str, list[Sample]] = {"command": [], "host": []}
    moments: list[float] = []
    with sandbox.start("run", *GRID, "--repeats", str(trials), "--output", "runs/run.jsonl") as process:
        for line in process.stderr or ():
            if not told(line):
                continue
            moments.append(time.perf_counter())
            if (
                len(moments) % every == 0 and len(moments) < trials
            ):  # after the last one the run ends, and takes its leave
                _sample(process, sandbox, len(moments), samples)
        process.communicate(timeout=HANG_SECONDS)
    if process.returncode != 0:
        raise RuntimeError(f"the run ended with {process.returncode}")
    measured = [isinstance(record.outcome, Measurement) for record in read_run(sandbox.stored()[0]).records]
    if measured != [True] * trials or len(moments) != trials:
        raise RuntimeError(f"{sum(measured)} of {trials} trials were measured, {len(moments)} were told")
    if sandbox.survivors() or sandbox.leftovers():
        raise RuntimeError(f"left behind: {sandbox.survivors()} {sandbox.leftovers()}")
    return samples, moments


def _sample(process: subprocess.Popen[str], sandbox: Sandbox, trials: int, samples: dict[str, list[Sample]]) -> None:
    hosts, _ = host_and_trials(process)
    for name, each in (("command", psutil.Process(process.pid)), ("host", hosts[0])):
        samples[name].append(Sample(trials=trials, figures=look(each, sandbox.temporary)))


def quarters(values: Sequence[float], summary: Callable[[Sequence[float]], float]) -> tuple[float, float, float]:
    """Return the summary of the first, the second and the last quarter of `values`."""
    size = max(1, len(values) // 4)
    return summary(values[:size]), summary(values[size : 2 * size]), summary(values[-size:])


def assess(samples: Mapping[str, Sequence[Sample]], moments: Sequence[float]) -> tuple[dict[str, object], list[str]]:
    """Return what to tell, and what grew that may not."""
    figures: dict[str, object] = {}
    grown = []
    cpu = [0.0, 0.0, 0.0]
    for name, each in samples.items():
        values = {figure: [sample.figures[figure] for sample in each] for figure in FIGURES}
        least = {figure: quarters(values[figure], min) for figure in FIGURES}
        figures[name] = least
        for figure in COUNTS:  # a trial that lives at the moment has its own
            most = quarters(values[figure], max)[0]
            if least[figure][2] > most:
                grown.append(f"{name}: {figure} were up to {most:.0f}, are {least[figure][2]:.0f} and more")
        # From the second quarter on: in the first, caches fill and free lists reach their size.
        _, settled, last = least["resident_bytes"]
        if last - settled > ROOM_BYTES + ROOM_BYTES_PER_TRIAL[name] * len(moments) / 2:
            grown.append(f"{name}: memory from {settled:.0f} to {last:.0f} bytes")
        spent = [
            (later.figures["cpu_seconds"] - sooner.figures["cpu_seconds"]) / (later.trials - sooner.trials)
            for sooner, later in itertools.pairwise(each)
        ]
        cpu = [total + share for total, share in zip(cpu, quarters(spent, fmean), strict=True)]
    if cpu[2] > ROOM_CPU_RATIO * cpu[1]:
        grown.append(f"processor time of a trial in command and host: {cpu[1]:.4f} s, then {cpu[2]:.4f} s")
    durations = [later - sooner for sooner, later in itertools.pairwise(moments)]
    figures["milliseconds_per_trial"] = [round(1e3 * each, 1) for each in quarters(durations, median)]
    slope = float(theilslopes(durations, range(len(durations))).slope)
    figures["microseconds_more_per_trial"] = round(1e6 * slope, 2)
    figures["cpu_milliseconds_per_trial"] = [round(1e3 * each, 2) for each in cpu]
    return figures, grown


def main() -> None:
    """Run a soak; end with 1 if something grew that may not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--every", type=int, default=10, help="trials between two looks")
    parser.add_argument("--real", action="store_true", help="with torch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
        samples, moments = soak(Sandbox(Path(folder), real=options.real), options.trials, options.every)
    figures, grown = assess(samples, moments)
    for each in grown:
        click.echo(f"grown: {each}")
    seconds = round(moments[-1] - moments[0])
    click.echo(
        json.dumps({"trials": len(moments), "real": options.real, **figures, "grown": grown, "seconds": seconds})
    )
    sys.exit(bool(grown))


if __name__ == "__main__":
    main()
