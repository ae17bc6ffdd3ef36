"""What share of a fused step's time do its matrix products need, each computed by the library that is faster for it?

Training with engine `fused` and the same number of runs of the step's products alternate in one process, in ABBA order.
The products have the shapes of the step's (outputs, gradients of weights, errors of inputs), but their own operands in
the best layout, and no ReLU, bias or copy. Each round gives one ratio of medians; the result is their geometric mean
with a 95 % interval over rounds.

    python tests/microbench/step_products.py [784-1024-1024-10] [--batch-size 1024] [--rounds 8] [--threads 2]
"""

import argparse
import dataclasses
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from bench.stats.inference import interval, paired_estimate
from mnist_mlp.data import load
from mnist_mlp.engines.layers import mkl_is_held_back, onednn_linear
from mnist_mlp.recipes import find_recipe
from mnist_mlp.train import Training

PAIRS = 8
"""Stretches of each kind in a round."""

TRIES = 20
"""Runs of each product with each library, to find the faster one."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The share of a fused step that its products take alone.")
    parser.add_argument("model", nargs="?", default="784-1024-1024-10")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="of a stretch")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = dataclasses.replace(find_recipe(options.model), batch_size=options.batch_size)
    training = Training(recipe, load("mnist"), device=torch.device("cpu"), seed=0, engine="fused")
    samples = options.steps * options.batch_size
    order = training.order(0)[:samples]
    products = [fastest(*shape) for shape in shapes(recipe.layers, options.batch_size)]

    def train() -> None:
        training.train(order)

    def multiply() -> None:
        for _ in range(options.steps):
            for product in products:
                product()

    rounds = [measure_round((train, multiply)) for _ in range(options.rounds + 1)][1:]
    estimate = paired_estimate([math.log(alone / whole) for whole, alone in rounds])
    bounds = interval(estimate)
    whole, alone = (1e3 * statistics.median(values) / options.steps for values in zip(*rounds, strict=True))
    flops = sum(2 * math.prod(shape) for shape in shapes(recipe.layers, options.batch_size))
    share, low, high = map(math.exp, (estimate.value, bounds.low, bounds.high))
    print(  # noqa: T201 - the result
        f"{recipe.name} batch {recipe.batch_size}, {options.threads} threads: products are {share:.1%} of the step, "
        f"95 % interval {low:.1%} to {high:.1%} ({len(rounds)} rounds); {alone:.2f} of {whole:.2f} ms, at "
        f"{flops / alone / 1e6:.0f} GFLOP/s alone"
    )


def shapes(layers: tuple[int, ...], size: int) -> list[tuple[int, int, int]]:
    """Return (n, k, m) of each product of (n, k) with (k, m) in a step."""
    products = []
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(layers)):
        products += [(size, inputs, outputs), (outputs, size, inputs)]
        if layer:
            products.append((size, outputs, inputs))
    return products


def fastest(n: int, k: int, m: int) -> Callable[[], object]:
    """Return a product of these shapes, computed by the library that is faster for it."""
    left, right, out = torch.randn(n, k), torch.randn(m, k), torch.empty(n, m)
    ways: list[Callable[[], object]] = [partial(torch.mm, left, right.t(), out=out)]
    if mkl_is_held_back():
        ways.append(partial(onednn_linear(), left, right, None, "none", [], ""))
    return min(ways, key=lambda way: min(seconds(way) for _ in range(TRIES)))


def measure_round(arms: tuple[Callable[[], None], Callable[[], None]]) -> tuple[float, float]:
    """Return the median seconds of each arm's stretches."""
    taken: tuple[list[float], list[float]] = ([], [])
    for pair in range(PAIRS):
        for arm in (0, 1) if pair % 2 else (1, 0):
            taken[arm].append(seconds(arms[arm]))
    return statistics.median(taken[0]), statistics.median(taken[1])


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
