"""The accuracy gate on real trainings with a real bug planted in them, and without."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from planted_bugs import ADAM, BUGS, NONE, SGD, Bug, Outcomes, gate, train

from bench.records import Failure, Measurement
from bench.stats.judgement import Verdict
from mnist_mlp.data import Dataset, load
from mnist_mlp.data.sources import CarrierSource, RootSource
from mnist_mlp.errors import DatasetUnavailableError
from mnist_mlp.recipes import Recipe

pytestmark = [pytest.mark.mnist, pytest.mark.slow]

SEEDS = 8

RECIPES = tuple(replace(recipe, epochs=2) for recipe in (ADAM, SGD))

CAUGHT = {
    "learning rate x 10": {Verdict.REGRESSION, Verdict.FAILED},
    "learning rate / 10": {Verdict.REGRESSION},
    "dropped ReLU": {Verdict.REGRESSION},
    "5 % of the training labels shuffled": {Verdict.REGRESSION},
    "evaluation on training images": {Verdict.INCOMPARABLE},
}
"""What each is caught as. At ten times the learning rate the loss may also cease to be finite."""

SEEDS_ENOUGH = {
    "learning rate x 10": 3,
    "learning rate / 10": 3,
    "dropped ReLU": 3,
    "evaluation on training images": 4,
}
"""All but the shuffled labels move accuracy by far more than seeds do, and need fewer of them."""

Train = Callable[[Bug, range], Outcomes]


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    try:
        return load("mnist", sources=(RootSource(), CarrierSource()))
    except DatasetUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def train_all(mnist: Dataset) -> Iterator[Train]:
    """Trains every recipe with a bug at each seed, on one thread each: then the outcomes are the same on each try."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def train_recipe(recipe: Recipe, bug: Bug, seeds: range) -> list[Measurement | Failure]:
            return list(pool.map(lambda seed: train(recipe, mnist, bug, seed), seeds))

        yield lambda bug, seeds: {recipe: train_recipe(recipe, bug, seeds) for recipe in RECIPES}
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def baseline(train_all: Train) -> Outcomes:
    return train_all(NONE, range(SEEDS))


def test_same_code_with_other_seeds_passes(baseline: Outcomes, train_all: Train) -> None:
    assert gate(baseline, train_all(NONE, range(SEEDS, 2 * SEEDS))) is Verdict.PASS


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bug_is_caught(baseline: Outcomes, train_all: Train, bug: Bug) -> None:
    seeds = SEEDS_ENOUGH.get(bug.name, SEEDS)
    buggy = train_all(bug, range(seeds))
    assert gate({recipe: each[:seeds] for recipe, each in baseline.items()}, buggy) in CAUGHT[bug.name]
