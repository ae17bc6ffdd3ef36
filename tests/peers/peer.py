"""The common part of all peers: programs that train on request and time themselves.

A peer is a program that calls `serve`. It reads what to train as one line of JSON from standard input and answers with
one line when it is ready. Each further line is a number of samples to train on, answered with the seconds that this
took and the mean training loss. Only numpy is needed here, so that every peer can have its own environment.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]

SAMPLES = 60_000
"""Number of samples in the training set."""

MEAN, DEVIATION = 0.1307, 0.3081
"""Mean and standard deviation of the training images' pixels, as in every tutorial."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to train: an MLP with ReLU, cross-entropy and Adam without weight decay, or the recipe called `recipe`.

    `folder` contains MNIST's four decoded files; `device` is ``cpu`` or ``cuda``.
    """

    layers: list[int]
    batch_size: int
    learning_rate: float
    seed: int
    threads: int
    folder: str
    recipe: str | None = None
    device: str = "cpu"


Train: TypeAlias = Callable[[int], float]
"""Trains on that many samples, drawn anew, in batches (the last may be short); returns their mean loss."""


def training_set(spec: Spec) -> tuple[Floats, Integers]:
    """Return all training images, (60000, 784) float32, normalised, and their labels, (60000,) int64."""
    folder = Path(spec.folder)
    pixels = np.fromfile(folder / "train-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 784)
    images = pixels.astype(np.float32) / np.float32(255)
    labels = np.fromfile(folder / "train-labels-idx1-ubyte", np.uint8, offset=8)
    return (images - np.float32(MEAN)) / np.float32(DEVIATION), labels.astype(np.int64)


def initial_weights(spec: Spec) -> list[tuple[Floats, Floats]]:
    """Return each layer's weights, (inputs, outputs), and biases, from torch's default distributions."""
    random = np.random.default_rng(spec.seed)

    def draw(inputs: int, *shape: int) -> Floats:
        return random.uniform(-(inputs**-0.5), inputs**-0.5, shape).astype(np.float32)

    pairs = zip(spec.layers, spec.layers[1:], strict=False)
    return [(draw(inputs, inputs, outputs), draw(inputs, outputs)) for inputs, outputs in pairs]


def serve(make: Callable[[Spec], tuple[Train, str]]) -> None:
    """Answer requests; `make` returns the training function, and name and version of the software."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # so that output of libraries does not mix with the answers

    def answer(**members: Any) -> None:  # noqa: ANN401 - JSON values
        print(json.dumps(members), file=answers, flush=True)

    spec = Spec(**json.loads(sys.stdin.readline()))
    train, software = make(spec)
    answer(software=software)
    for line in sys.stdin:
        start = time.perf_counter()
        loss = train_on(train, int(line))
        answer(seconds=time.perf_counter() - start, loss=loss)


def train_on(train: Train, samples: int) -> float:
    """Train on any number of samples, in whole passes and a rest; return the mean loss of the last part."""
    passes, rest = divmod(samples, SAMPLES)
    for count in [SAMPLES] * passes + [rest] * (rest > 0):
        loss = train(count)
    return loss
