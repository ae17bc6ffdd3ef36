"""Does a step of the measured training cost more than a bare loop's? Finer than harness_overhead.py, in one process.

Steps of `mnist_mlp.train.Training`, taken as `Training.train` takes them, and steps of a plain PyTorch loop alternate
in one process, each on a model of its own, so that the machine's drift and whatever differs between two processes
touch both alike. Each epoch's means, without its slowest twentieth (interrupts), give one ratio; printed is their
geometric mean with a 95 % interval over epochs.

    python tests/microbench/step_overhead.py [--epochs 20] [--width 128] [--batch-size 64] [--threads 2]
"""

import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from mnist_mlp.data import Dataset, load
from mnist_mlp.engines import EagerEngine
from mnist_mlp.recipes import find_recipe, scale_width
from mnist_mlp.train import Tally, Training

Step = Callable[[], object]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A measured training's step over a bare loop's, with its interval.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = dataclasses.replace(scale_width(find_recipe("784-128-10"), options.width), batch_size=options.batch_size)
    dataset = load("mnist")
    measured = Training(recipe, dataset, device=torch.device("cpu"), seed=0)
    measured.model.train()
    bare = bare_loop(dataset, options.width, options.batch_size)
    steps = len(dataset.train_labels) // options.batch_size
    logs = []
    for epoch in range(options.epochs + 1):
        arms = (next(bare), training_steps(measured, epoch))
        seconds = alternate(arms, steps)
        if epoch:  # the first one warms up
            logs.append(math.log(trimmed_mean(seconds[1]) / trimmed_mean(seconds[0])))
    mean = statistics.fmean(logs)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    print(  # noqa: T201 - the result
        f"{recipe.name} batch {recipe.batch_size}, {options.threads} threads: step of the training / of a bare loop "
        f"{math.exp(mean):.4f}, 95 % interval {math.exp(mean - half):.4f} to {math.exp(mean + half):.4f} "
        f"({len(logs)} epochs of {steps} alternating steps)"
    )


def alternate(arms: tuple[Step, Step], steps: int) -> tuple[list[float], list[float]]:
    """Take `steps` steps of each arm in ABBA order; return their seconds."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for step in range(steps):
        for arm in (0, 1) if step % 2 else (1, 0):
            start = time.perf_counter()
            arms[arm]()
            seconds[arm].append(time.perf_counter() - start)
    return seconds


def trimmed_mean(seconds: list[float]) -> float:
    """Return the mean without the slowest twentieth."""
    return statistics.fmean(sorted(seconds)[: len(seconds) * 19 // 20])


def training_steps(training: Training, epoch: int) -> Step:
    """Return a function that takes the next step of `epoch`, as `Training.train` does."""
    batches = training._pipeline.train_batches(training.order(epoch))  # noqa: SLF001 - one step at a time
    engine = training._engine  # noqa: SLF001 - one step at a time
    tally = Tally.for_batches(
        training.train_samples, training.recipe.batch_size, torch.device("cpu"), functional.cross_entropy
    )
    if not isinstance(engine, EagerEngine):
        raise TypeError(engine)

    def step() -> None:
        images, labels = next(batches)
        tally.add(engine.step(images, labels)[0], labels)

    return step


def bare_loop(dataset: Dataset, width: int, batch_size: int) -> Iterator[Step]:
    """Yield, for each epoch, a function that takes the next step of a plain PyTorch loop."""
    torch.manual_seed(0)
    images, labels = dataset.train_images.flatten(1), dataset.train_labels
    model = nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    while True:
        order = torch.randperm(len(labels))
        starts = iter(range(0, len(labels), batch_size))

        def step(order: torch.Tensor = order, starts: Iterator[int] = starts) -> None:
            start = next(starts)
            chosen = order[start : start + batch_size]
            batch = images.index_select(0, chosen).float().div_(255).sub_(0.1307).div_(0.3081)
            loss = functional.cross_entropy(model(batch), labels.index_select(0, chosen))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        yield step


if __name__ == "__main__":
    main()
