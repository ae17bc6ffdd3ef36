"""Which library trains a layer faster at which sizes: MKL, through torch's ordinary products, or oneDNN?

One layer's whole computation in a training step, by `mnist_mlp.engines.layers.Layer` and by `OneDnnLayer`, alternating
in one process. The table has the median of each and their ratio, one row per size; the threshold in
`mnist_mlp.engines.layers` was chosen from it.

    python tests/microbench/layer_libraries.py [--threads 2]
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from tabulate import tabulate
from torch import Tensor

from mnist_mlp.engines.layers import Layer, LayerParameters, OneDnnLayer

LAYERS = ((784, 128), (784, 1024), (128, 128), (256, 256), (1024, 1024))
SIZES = (16, 64, 256, 1024)
ROUNDS = 15
TURN_SECONDS = 0.02


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A layer's step by oneDNN over the same by MKL.")
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    rows = []
    for (inputs, outputs), size in itertools.product(LAYERS, SIZES):
        mkl, onednn = measure(inputs, outputs, size)
        work = f"{size * inputs * outputs / 1e6:.1f}"
        rows.append(
            [f"{inputs} to {outputs}", size, work, f"{1e6 * mkl:.0f}", f"{1e6 * onednn:.0f}", f"{onednn / mkl:.2f}"]
        )
    headers = ["layer", "samples", "million products", "MKL, µs", "oneDNN, µs", "oneDNN / MKL"]
    print(tabulate(rows, headers, "pipe", disable_numparse=True))  # noqa: T201 - the result


def measure(inputs: int, outputs: int, size: int) -> tuple[float, float]:
    """Return the median seconds of a hidden layer's step with each library."""
    weights, biases = torch.randn(outputs, inputs), torch.randn(outputs)
    given, error = torch.randn(size, inputs), torch.randn(size, outputs)

    def layer(kind: type[Layer]) -> Layer:
        return kind(LayerParameters(weights, biases, torch.empty_like(weights), torch.empty_like(biases)), size)

    arms = (layer(Layer), layer(OneDnnLayer))
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS):
        for arm in (0, 1) if number % 2 else (1, 0):
            taken[arm].append(step_seconds(arms[arm], given, error))
    return statistics.median(taken[0]), statistics.median(taken[1])


def step_seconds(layer: Layer, inputs: Tensor, error: Tensor) -> float:
    """Return the mean seconds of a step over one turn."""
    steps = 0
    start = time.perf_counter()
    while steps < 2 or time.perf_counter() - start < TURN_SECONDS:
        outputs = layer.hidden(inputs)
        before = layer.before_relu(error, outputs)
        layer.gradients(layer.transposed(before), inputs)
        layer.input_error(before)
        steps += 1
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main()
