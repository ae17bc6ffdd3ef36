"""One side of the comparison with other software: trains on request, and times itself.

A peer is a program that calls `serve`. It is told what to train as one line of JSON on standard input, and answers one
line when it is ready; each further line is a number of samples to train on, answered with the seconds that took and the
mean training loss. Nothing here needs more than numpy, so that every peer can run in an environment of its own.
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
"""In the training set."""

MEAN, DEVIATION = 0.1307, 0.3081
"""Of the training images' pixels, as every tutorial has them."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to train: an MLP with ReLU, cross-entropy, Adam without decay; or, for some peers, the recipe of that name.

    `folder` holds MNIST's four decoded files, `device` is ``cpu`` or ``cuda``.
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
"""Trains on that many samples, at most all, drawn anew, in batches (the last may be short); returns the mean loss."""


def training_set(spec: Spec) -> tuple[Floats, Integers]:
    """Return all training images, (60000, 784) and normalised, and their labels."""
    folder = Path(spec.folder)
    pixels = np.fromfile(folder / "train-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 784)
    images = pixels.astype(np.float32) / np.float32(255)
    labels = np.fromfile(folder / "train-labels-idx1-ubyte", np.uint8, offset=8)
    return (images - np.float32(MEAN)) / np.float32(DEVIATION), labels.astype(np.int64)


def initial_weights(spec: Spec) -> list[tuple[Floats, Floats]]:
    """Return weights, (inputs, outputs), and biases of each layer, drawn as torch draws them by default."""
    random = np.random.default_rng(spec.seed)

    def draw(inputs: int, *shape: int) -> Floats:
        return random.uniform(-(inputs**-0.5), inputs**-0.5, shape).astype(np.float32)

    pairs = zip(spec.layers, spec.layers[1:], strict=False)
    return [(draw(inputs, inputs, outputs), draw(inputs, outputs)) for inputs, outputs in pairs]


def serve(make: Callable[[Spec], tuple[Train, str]]) -> None:
    """Answer requests; `make` returns what trains, and the name and version of the software."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer

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
    """Train on any number of samples, in passes over the training set and what is left; return the last mean loss."""
    passes, rest = divmod(samples, SAMPLES)
    for count in [SAMPLES] * passes + [rest] * (rest > 0):
        loss = train(count)
    return loss
