"""How much slower is the measured training's code than a bare loop, if everything else is the same?

In one process, with one model and one optimizer, `Training.train` and a plain PyTorch loop alternate in random order,
so that data, model and the machine's drift affect both equally; two processes cannot achieve this
(harness_overhead.py). The place of temporary tensors in memory still favours one of them by a percent or two, depending
on the process. So each process, forked from this one with its memory shifted by a different amount, is one observation.
The result is their geometric mean with a 95 % interval.

    python tests/microbench/step_overhead.py [--processes 24] [--rounds 60] [--width 128] [--batch-size 64]
"""

import argparse
import dataclasses
import gc
import math
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch._dynamo  # as a worker host: the first optimizer would import it
from scipy import stats
from torch import Tensor, nn

from bench.worker.session import displace
from mnist_mlp.data import Dataset, load
from mnist_mlp.engines import EagerEngine
from mnist_mlp.recipes import Recipe, find_recipe, scale_width
from mnist_mlp.train import Training

STEPS = 50
"""Steps of a stretch."""

Loop = Callable[[Tensor], object]
"""Trains on the samples at an order, (n,) int64."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A measured training's steps over a bare loop's, with the interval.")
    parser.add_argument("--processes", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    recipe = dataclasses.replace(scale_width(find_recipe("784-128-10"), options.width), batch_size=options.batch_size)
    gc.collect()
    gc.freeze()  # as a worker host does before it forks
    fork = multiprocessing.get_context("fork")
    logs = []
    for seed in range(options.processes):
        with fork.Pool(1) as pool:
            logs.append(pool.apply(measure, (recipe, options.threads, options.rounds, seed)))
    mean = statistics.fmean(logs)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    print(  # noqa: T201 - the result
        f"{recipe.name} batch {recipe.batch_size}, {options.threads} threads: the training / a bare loop "
        f"{math.exp(mean):.4f}, 95 % interval {math.exp(mean - half):.4f} to {math.exp(mean + half):.4f}; single "
        f"processes {math.exp(min(logs)):.4f} to {math.exp(max(logs)):.4f} ({len(logs)} of {options.rounds} rounds "
        f"of {STEPS} steps)"
    )


def measure(recipe: Recipe, threads: int, rounds: int, seed: int) -> float:
    """Return this process's log ratio: the mean of the middle 80 % of its rounds, to leave out interrupts."""
    displacement = displace(seed)
    torch.set_num_threads(threads)
    dataset = load("mnist")
    training = Training(recipe, dataset, device=torch.device("cpu"), seed=seed)
    bare = bare_loop(dataset, training)
    order = training.order(0)
    training.train(order)  # warms up
    samples = STEPS * recipe.batch_size
    logs = []
    for _ in range(rounds):
        begin = random.randrange(len(order) - samples)  # noqa: S311 - no secret
        seconds = stretch(training.train, bare, order[begin : begin + samples], recipe.batch_size)
        logs.append(math.log(seconds[0] / seconds[1]))
    del displacement  # kept alive as long as the steps
    return statistics.fmean(sorted(logs)[rounds // 10 : rounds - rounds // 10])


def stretch(measured: Loop, bare: Loop, order: Tensor, batch_size: int) -> list[float]:
    """Let both train on `order`, in random order; return the seconds of each."""
    seconds = [0.0, 0.0]
    arms = (measured, bare)
    for place in random.sample((0, 1), 2):
        bare(order[: 4 * batch_size])  # so that both find the caches in the same state
        start = time.perf_counter()
        arms[place](order)
        seconds[place] = time.perf_counter() - start
    return seconds


def bare_loop(dataset: Dataset, training: Training) -> Loop:
    """Return a plain PyTorch loop over the same model and optimizer."""
    engine = training._engine  # noqa: SLF001 - its optimizer, to share it
    if not isinstance(engine, EagerEngine):
        raise TypeError(engine)
    model, optimizer, batch_size = training.model, engine.optimizer, training.recipe.batch_size
    images, labels = dataset.train_images.flatten(1), dataset.train_labels
    criterion = nn.CrossEntropyLoss()

    def train(order: Tensor) -> None:
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            batch = images.index_select(0, chosen).float().div_(255).sub_(0.1307).div_(0.3081)
            targets = labels.index_select(0, chosen)
            output = model(batch)
            loss = criterion(output, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return train


if __name__ == "__main__":
    main()
