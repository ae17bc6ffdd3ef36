"""How long does a step take with one engine, relative to another one? Both alternate in one process.

Two trainings of one recipe process the same samples in ABBA order, through `Training.train`, so that the machine's
drift affects both equally. Every stretch includes an epoch's bookkeeping (moving the order to the device, the tally).
Each round gives one ratio of medians; the result is their geometric mean with a 95 % interval over rounds.

    python tests/microbench/engine_steps.py [784-128-10] [--batch-size 64] [--engines eager,fused] [--rounds 8]
"""

import argparse
import dataclasses
import math
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from scipy import stats

from mnist_mlp.data import load
from mnist_mlp.devices import choose_device
from mnist_mlp.recipes import find_recipe
from mnist_mlp.train import Training

PAIRS = 8
"""Stretches of each engine in a round."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A step with the second engine over one with the first.")
    parser.add_argument("model", nargs="?", default="784-128-10")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--engines", default="eager,fused")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8192, help="of a stretch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = dataclasses.replace(find_recipe(options.model), batch_size=options.batch_size)
    dataset, device = load("mnist"), choose_device(options.device)
    engines = options.engines.split(",")
    arms = [Training(recipe, dataset, device=device, seed=0, engine=engine) for engine in engines]
    steps = -(-options.samples // options.batch_size)
    rounds = [measure_round(arms, options.samples, index) for index in range(options.rounds + 1)][1:]
    logs = [math.log(second / first) for first, second in rounds]
    mean = statistics.fmean(logs)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    per_step = [1e6 * statistics.median(values) / steps for values in zip(*rounds, strict=True)]
    print(  # noqa: T201 - the result
        f"{recipe.name} batch {recipe.batch_size}, {options.threads} threads: {engines[1]} / {engines[0]} "
        f"{math.exp(mean):.3f}, 95 % interval {math.exp(mean - half):.3f} to {math.exp(mean + half):.3f} "
        f"({len(logs)} rounds); a step takes {per_step[0]:.0f} and {per_step[1]:.0f} µs"
    )


def measure_round(arms: list[Training], samples: int, index: int) -> tuple[float, float]:
    """Return the median seconds of each arm's stretches."""
    order = arms[0].order(index)
    seconds: tuple[list[float], list[float]] = ([], [])
    for pair in range(PAIRS):
        begin = pair * samples % (len(order) - samples + 1)
        for arm in (0, 1) if pair % 2 else (1, 0):
            start = time.perf_counter()
            arms[arm].train(order[begin : begin + samples])
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            seconds[arm].append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    main()
