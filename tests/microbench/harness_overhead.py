"""Does the harness measure the same epoch time as a bare training loop takes?

Two live processes train the same configuration on the same data with the same number of threads: a trial of the
harness, driven as by `bench run`, and a plain PyTorch loop that uses nothing of this project but the arrays. Both are
forked from this process, and each shifts its memory by a different amount, because the memory layout alone makes
processes differ by several percent (docs/measuring.md); over many pairs this averages out. They alternate epochs in
ABBA blocks, one working while the other waits. The result is the geometric mean of the blocks' ratios (harness over
bare loop) with a 95 % interval over fresh process pairs; each pair is one observation.

The harness reports each epoch's training loss and accuracy, the bare loop neither. `--against reporting` compares it
with a loop that adds up both step by step, as tutorials do. Comparisons of two plain loops show how to interpret the
result: `--arm bare` compares the plain loop with itself, `--arm keeping` a loop that keeps the outputs and labels of
its steps until the end of the epoch with one that does not.

    python tests/microbench/harness_overhead.py [--arm harness] [--against bare] [--pairs 24] [--blocks 4]
        [--layers 784-128-10]
"""

import argparse
import dataclasses
import functools
import gc
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch._dynamo  # as a worker host: the first optimizer would import it
from scipy import stats
from torch import nn

from bench.coding import from_json, to_json
from bench.planning.plan import Request, make_plan
from bench.protocol.messages import Trained
from bench.records import Configuration, Trial
from bench.worker.session import Session, displace
from mnist_mlp.data import load

Epoch = Callable[[], float]
"""Trains one epoch and returns its seconds."""


def harness_epochs(configuration: Configuration, seed: int) -> Epoch:
    """Return a function that makes a trial of the harness train an epoch."""
    session = Session()
    trial = Trial(configuration=configuration, seed=seed, repeat=0)
    session.answer({"do": "prepare", "trial": to_json(trial), "root": None})
    return lambda: from_json(Trained, session.answer({"do": "train", "epoch": 0})["answer"]).train_seconds


def bare_epochs(configuration: Configuration, seed: int, *, keeping: bool = False, reporting: bool = False) -> Epoch:
    """Return a function that trains an epoch in a plain loop.

    With `keeping`, the loop keeps the outputs and labels of all steps; with `reporting`, it adds up the training loss
    and the number of correct answers.
    """
    displacement = displace(seed)
    torch.set_num_threads(configuration.threads)
    dataset = load("mnist")
    images, labels = dataset.train_images.flatten(1), dataset.train_labels
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(configuration.layers):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*parts[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    criterion = nn.CrossEntropyLoss()

    def train(samples: int, batch_size: int = configuration.batch_size) -> float:
        start = time.perf_counter()
        order = torch.randperm(len(labels))[:samples]
        kept, loss_sum, correct = [], 0.0, 0
        for begin in range(0, samples, batch_size):
            chosen = order[begin : begin + batch_size]
            batch = images.index_select(0, chosen).float().div_(255).sub_(0.1307).div_(0.3081)
            targets = labels.index_select(0, chosen)
            output = model(batch)
            loss = criterion(output, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if keeping:
                kept.append((output.detach(), targets))
            if reporting:
                loss_sum += loss.item() * len(targets)
                correct += (output.argmax(1) == targets).sum().item()
        seconds = time.perf_counter() - start
        del displacement[:0]  # keeps it alive as long as the loop
        return seconds

    train(20 * configuration.batch_size)
    return lambda: train(len(labels))


ARMS: dict[str, Callable[[Configuration, int], Epoch]] = {
    "harness": harness_epochs,
    "keeping": functools.partial(bare_epochs, keeping=True),
    "reporting": functools.partial(bare_epochs, reporting=True),
    "bare": bare_epochs,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Harness epoch time over bare loop epoch time, with its interval.")
    parser.add_argument("--arm", choices=ARMS, default="harness", help="the loop to measure")
    parser.add_argument("--against", choices=ARMS, default="bare", help="the loop to compare it with")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--layers", default="784-128-10")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    request = Request(models=(options.layers,), batch_sizes=(options.batch_size,), repeats=1)
    cores = len(os.sched_getaffinity(0))
    (configuration,) = make_plan(request, devices=("cpu",), cores=cores, default_threads=cores).configurations
    configuration = dataclasses.replace(configuration, epochs=2 * options.blocks)
    gc.freeze()  # as a worker host does before it forks
    pairs = [
        measure_pair((options.arm, options.against), configuration, seed, options.blocks)
        for seed in range(options.pairs)
    ]
    report(options, configuration, pairs)


def measure_pair(arms: tuple[str, str], configuration: Configuration, seed: int, blocks: int) -> float:
    """Return the mean log-ratio of one fresh pair of processes over its ABBA blocks: the first arm over the second."""
    fork = multiprocessing.get_context("fork")
    ends, processes = {}, []
    # Different shifts make their memory layouts independent; they alternate in which is forked first.
    for place, (name, shift) in sorted(enumerate(zip(arms, (seed, -1 - seed), strict=True)), reverse=seed % 2 == 1):
        ends[place], theirs = fork.Pipe()
        processes.append(fork.Process(target=serve, args=(name, configuration, shift, theirs)))
        processes[-1].start()
        ends[place].recv()  # ready: one prepares at a time
    logs = []
    for block in range(blocks):
        seconds = [0.0, 0.0]
        for place in (0, 1, 1, 0) if block % 2 else (1, 0, 0, 1):
            ends[place].send("train")
            seconds[place] += ends[place].recv()
        logs.append(math.log(seconds[0] / seconds[1]))
    for end in ends.values():
        end.send("end")
    for process in processes:
        process.join()
    return statistics.fmean(logs)


def serve(arm: str, configuration: Configuration, seed: int, end: Connection) -> None:
    """Train an epoch of `arm` at each request."""
    train = ARMS[arm](configuration, seed)
    end.send("ready")
    while end.recv() == "train":
        end.send(train())


def report(options: argparse.Namespace, configuration: Configuration, pairs: list[float]) -> None:
    """Print the estimate and, if asked, write it as JSON."""
    mean, error = statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))
    half = float(stats.t.ppf(0.975, len(pairs) - 1)) * error
    ratio, low, high = math.exp(mean), math.exp(mean - half), math.exp(mean + half)
    print(  # noqa: T201 - the result
        f"{configuration.model} batch {configuration.batch_size}, {configuration.threads} threads: {options.arm} "
        f"/ {options.against} loop {ratio:.4f}, 95 % interval {low:.4f} to {high:.4f} ({len(pairs)} process pairs of "
        f"{options.blocks} ABBA blocks)"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({"ratio": ratio, "low": low, "high": high, "pair_log_ratios": pairs}))


if __name__ == "__main__":
    main()
