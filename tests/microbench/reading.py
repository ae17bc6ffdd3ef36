"""How long does it take to read a stored run of 100 000 trials?

Writes a synthetic run, reads it in fresh processes, and prints the least CPU seconds of reading it (without imports),
the microseconds per trial, and the peak resident memory of a process that holds all the files.

    python tests/microbench/reading.py [--configurations 1000] [--repeats 100] [--epochs 2] [--files 2] [--rounds 5]
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

if __name__ == "__main__":  # the checkout need not be installed, nor the builders of records
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from bench_builders import (
    make_configuration,
    make_contention,
    make_epoch,
    make_footer,
    make_header,
    make_measurement,
    make_plan,
    make_record,
)

from bench import coding
from bench.records import EpochRecord, Footer, Header, Peak, TrialRecord
from bench.storage.store import read_run

MEBIBYTE: Final = 2**20
READ: Final = "--read"


def main() -> None:
    """Write the runs, have them read, and print."""
    parser = argparse.ArgumentParser(description="CPU seconds and resident memory of reading stored runs.")
    parser.add_argument("--configurations", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    trials = options.configurations * options.repeats
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.jsonl" for index in range(options.files)]
        for seed, path in enumerate(paths):
            write(path, options.configurations, options.repeats, options.epochs, seed)
        rounds = [read_in_fresh_process(paths) for _ in range(options.rounds)]
        size_bytes = paths[0].stat().st_size
    seconds = min(seconds for each, _ in rounds for seconds in each)
    peak_bytes = max(peak for _, peak in rounds)
    print(  # noqa: T201 - the result
        f"{options.configurations} configurations x {options.repeats} repeats, {options.epochs} epochs, "
        f"{size_bytes / MEBIBYTE:.0f} MiB: {seconds:.2f} s CPU a file, {1e6 * seconds / trials:.1f} us a trial, "
        f"peak RSS {peak_bytes / MEBIBYTE:.0f} MiB with {options.files} files held"
    )


def write(path: Path, configurations: int, repeats: int, epochs: int, seed: int) -> None:
    """Write a complete run whose figures all differ, like measured ones."""
    with path.open("w") as file:
        for kind, item in items(configurations, repeats, epochs, random.Random(seed)):  # noqa: S311 - no secrets
            file.write(coding.dumps({kind: coding.to_json(item)}) + "\n")


def items(
    configurations: int, repeats: int, epochs: int, draw: random.Random
) -> Iterator[tuple[str, Header | TrialRecord | Footer]]:
    """Yield the content of the run's lines in order, each with its kind."""
    chosen = [make_configuration(batch_size=1 + index, epochs=epochs) for index in range(configurations)]
    yield "header", make_header(plan=make_plan(chosen, repeats))
    for repeat in range(repeats):
        for configuration in chosen:
            outcome = make_measurement(
                epochs=tuple(random_epoch(draw) for _ in range(epochs)),
                preparation_seconds=draw.random(),
                cold_start_seconds=draw.random(),
                warm_up_seconds=draw.random(),
                host_baseline_bytes=draw.randrange(2**28, 2**29),
                host_peak=Peak(bytes=draw.randrange(2**28), method="VmHWM since warm-up above baseline"),
            )
            yield "trial", make_record(configuration, repeat, outcome=outcome, wall_seconds=draw.random())
    yield "footer", make_footer(measured=configurations * repeats)


def random_epoch(draw: random.Random) -> EpochRecord:
    """Return an epoch with random figures."""
    return make_epoch(
        train_seconds=draw.random() + 1,
        train_loss=draw.random(),
        train_correct=draw.randrange(60_000),
        test_loss=draw.random(),
        test_correct=draw.randrange(10_000),
        evaluation_seconds=draw.random(),
        yardstick_seconds=draw.random(),
        contention=make_contention(
            process_cpu_seconds=draw.random(), other_cpu_seconds=draw.random(), involuntary_switches=draw.randrange(99)
        ),
    )


def read_in_fresh_process(paths: list[Path]) -> tuple[list[float], int]:
    """Return the CPU seconds for each file, and the peak resident bytes of a process that holds them all."""
    command = [sys.executable, __file__, READ, *map(str, paths)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603 - our own words
    seconds, peak_bytes = json.loads(output)
    return seconds, peak_bytes


def read(paths: list[str]) -> None:
    """Read `paths` one after the other, keep them all, and print what `read_in_fresh_process` returns."""
    runs, seconds = [], []
    for path in paths:
        started = time.process_time()
        runs.append(read_run(Path(path)))
        seconds.append(time.process_time() - started)
    # Not ru_maxrss, which starts with the peak of the parent process.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(json.dumps([seconds, int(peak.split()[1]) * 1024]))  # noqa: T201 - the result


if __name__ == "__main__":
    if sys.argv[1:2] == [READ]:
        read(sys.argv[2:])
    else:
        main()
