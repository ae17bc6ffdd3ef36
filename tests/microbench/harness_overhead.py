"""Does the harness's epoch time equal a bare training loop's?

Two live processes train the same configuration on the same data with the same seed and threads: a trial of the
harness, driven over its protocol as `bench run` drives it, and a plain PyTorch loop that knows nothing of this
project but the arrays. They alternate epochs in ABBA blocks, one working while the other waits. Printed is the
geometric mean of the blocks' ratios (harness over bare loop) with a 95 % interval over fresh process pairs; each pair
is one observation.

    python tests/microbench/harness_overhead.py [--pairs 8] [--blocks 6] [--layers 784-128-10] [--batch-size 64]
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scipy import stats

from bench.coding import to_json
from bench.launcher import Worker
from bench.messages import Prepared, Trained
from bench.plan import Request, make_plan
from bench.processes import Launcher, make_launcher, worker_environment
from bench.records import Configuration, Trial

BARE_LOOP = """
import sys, time
import torch
from torch import nn
from mnist_mlp.data import load

layers, batch_size, threads, seed = eval(sys.argv[1])
torch.set_num_threads(threads)
dataset = load("mnist")
images, labels = dataset.train_images.flatten(1), dataset.train_labels
torch.manual_seed(seed)
parts = []
for inputs, outputs in zip(layers, layers[1:]):
    parts += [nn.Linear(inputs, outputs), nn.ReLU()]
model = nn.Sequential(*parts[:-1])
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
criterion = nn.CrossEntropyLoss()

def epoch(count):
    order = torch.randperm(len(labels))[:count]
    for start in range(0, count, batch_size):
        chosen = order[start : start + batch_size]
        batch = images.index_select(0, chosen).float().div_(255).sub_(0.1307).div_(0.3081)
        loss = criterion(model(batch), labels.index_select(0, chosen))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

epoch(20 * batch_size)
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    epoch(len(labels))
    print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Harness epoch time over bare loop epoch time, with its interval.")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--layers", default="784-128-10")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    request = Request(models=(options.layers,), batch_sizes=(options.batch_size,), repeats=1)
    (configuration,) = make_plan(request, devices=("cpu",), cores_usable=len(os.sched_getaffinity(0))).configurations
    configuration = dataclasses.replace(configuration, epochs=2 * options.blocks)
    with contextlib.closing(make_launcher()) as launcher:
        pairs = [measure_pair(launcher, configuration, seed, options.blocks) for seed in range(options.pairs)]
    report(configuration, pairs, options.blocks, options.json)


def measure_pair(launcher: Launcher, configuration: Configuration, seed: int, blocks: int) -> float:
    """Return the mean log-ratio of one fresh pair of processes over its ABBA blocks."""
    arguments = repr((configuration.layers, configuration.batch_size, configuration.threads, seed))
    worker = Worker(launcher.start(), timeout_seconds=3600)
    with subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-c", BARE_LOOP, arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=worker_environment(),
    ) as bare:
        if bare.stdin is None or bare.stdout is None:
            raise RuntimeError("the bare loop has no standard streams")
        trial = Trial(configuration=configuration, seed=seed, repeat=0)
        worker.ask(Prepared, {"do": "prepare", "trial": to_json(trial), "root": None})
        bare.stdout.readline()
        logs = []
        for block in range(blocks):
            seconds: dict[str, float] = {"harness": 0.0, "bare": 0.0}
            order = ("harness", "bare", "bare", "harness") if block % 2 else ("bare", "harness", "harness", "bare")
            for arm in order:
                if arm == "bare":
                    bare.stdin.write("go\n")
                    seconds[arm] += float(bare.stdout.readline())
                else:
                    seconds[arm] += worker.ask(Trained, {"do": "train", "epoch": block}).train_seconds
            logs.append(math.log(seconds["harness"] / seconds["bare"]))
        bare.stdin.close()
    worker.end()
    return statistics.fmean(logs)


def report(configuration: Configuration, pairs: list[float], blocks: int, path: Path | None) -> None:
    """Print the estimate and, if asked, write it as JSON."""
    mean, error = statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))
    half = float(stats.t.ppf(0.975, len(pairs) - 1)) * error
    ratio, low, high = math.exp(mean), math.exp(mean - half), math.exp(mean + half)
    print(  # noqa: T201 - the result
        f"{configuration.model} batch {configuration.batch_size}, {configuration.threads} threads: harness / bare loop "
        f"{ratio:.4f}, 95 % interval {low:.4f} to {high:.4f} ({len(pairs)} process pairs of {blocks} ABBA blocks)"
    )
    if path is not None:
        path.write_text(json.dumps({"ratio": ratio, "low": low, "high": high, "pair_log_ratios": pairs}))


if __name__ == "__main__":
    main()
