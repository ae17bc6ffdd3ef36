"""Bugs that an accuracy gate must catch, planted in the workload's own training; the gate itself is never touched.

Each takes what it spoils and gives it back spoilt: the recipe, the dataset or the built model.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from bench_builders import make_configuration, make_epoch, make_measurement, make_record, make_run

from bench.compare.check import check_runs
from bench.compare.check_report import Limits
from bench.compare.comparison import Source
from bench.compare.trials import make_table
from bench.records import Configuration, Failure, FailureKind, Measurement
from bench.stats.judgement import Verdict
from mnist_mlp.data import Dataset
from mnist_mlp.model import MLP
from mnist_mlp.recipes import HYPERPARAMETERS, RECIPES, Recipe
from mnist_mlp.train import Training

CPU = torch.device("cpu")

SHUFFLED_SHARE = 0.05
"""Of the training images, how many get one another's labels."""

ADAM, SGD = RECIPES["canary_adam"], RECIPES["canary_sgd"]

Outcomes: TypeAlias = Mapping[Recipe, Sequence[Measurement | Failure]]
"""Of each recipe, one outcome a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """What is done to the recipe, the dataset and the model before training. By default nothing."""

    name: str
    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    dataset: Callable[[Dataset], Dataset] = lambda dataset: dataset
    model: Callable[[MLP], None] = lambda _model: None


def drop_activation(model: MLP) -> None:
    """Take the first ReLU out: the layers beside it become one linear map."""
    name = next(name for name, module in model.named_children() if isinstance(module, torch.nn.ReLU))
    setattr(model, name, torch.nn.Identity())


def shuffle_labels(dataset: Dataset) -> Dataset:
    """Permute the labels of 5 % of the training images among themselves."""
    generator = torch.Generator().manual_seed(5)
    samples = len(dataset.train_labels)
    chosen = torch.randperm(samples, generator=generator)[: round(SHUFFLED_SHARE * samples)]
    labels = dataset.train_labels.clone()
    labels[chosen] = labels[chosen[torch.randperm(len(chosen), generator=generator)]]
    return replace(dataset, train_labels=labels)


def evaluate_on_training_images(dataset: Dataset) -> Dataset:
    """Put training images, as many as there are test images, in the place of the test images."""
    count = len(dataset.test_labels)
    return replace(dataset, test_images=dataset.train_images[:count], test_labels=dataset.train_labels[:count])


def scale_learning_rate(factor: float) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, learning_rate=recipe.learning_rate * factor)


NONE = Bug(name="none")
BUGS = (
    Bug(name="learning rate x 10", recipe=scale_learning_rate(10)),
    Bug(name="learning rate / 10", recipe=scale_learning_rate(0.1)),
    Bug(name="dropped ReLU", model=drop_activation),
    Bug(name="5 % of the training labels shuffled", dataset=shuffle_labels),
    Bug(name="evaluation on training images", dataset=evaluate_on_training_images),
)


def train(recipe: Recipe, dataset: Dataset, bug: Bug, seed: int) -> Measurement | Failure:
    """Train with `bug` planted, in any thread; return what a trial would record, its times fictional."""
    training = Training(bug.recipe(recipe), bug.dataset(dataset), device=CPU, seed=seed)
    bug.model(training.model)
    epochs = []
    for epoch in range(recipe.epochs):
        trained, tested = training.train(training.order(epoch)).read(), training.evaluate().read()
        if not math.isfinite(trained.loss + tested.loss):
            return Failure(kind=FailureKind.NON_FINITE_LOSS, message=f"loss became {trained.loss} in epoch {epoch + 1}")
        epochs.append(
            make_epoch(
                train_samples=trained.samples,
                train_loss=trained.loss,
                train_correct=trained.correct,
                test_samples=tested.samples,
                test_loss=tested.loss,
                test_correct=tested.correct,
            )
        )
    return make_measurement(epochs=tuple(epochs), dataset_sha256=dataset.sha256)


def configure(recipe: Recipe) -> Configuration:
    """Return the configuration that a run of `recipe` records, whatever its code really does."""
    return make_configuration(model=recipe.name, threads=1, **{name: getattr(recipe, name) for name in HYPERPARAMETERS})


def gate(baseline: Outcomes, candidate: Outcomes) -> Verdict:
    """Return what `check` says of accuracy, at its default allowance, of stored runs with these outcomes."""
    return check_runs(_store("baseline", baseline), _store("candidate", candidate), Limits(gate="accuracy")).verdict


def _store(label: str, outcomes: Outcomes) -> Source:
    (repeats,) = {len(each) for each in outcomes.values()}
    records = [
        make_record(configure(recipe), repeat, outcome=outcome)
        for recipe, each in outcomes.items()
        for repeat, outcome in enumerate(each)
    ]
    run = make_run([configure(recipe) for recipe in outcomes], repeats, records=records, run_id=label)
    return Source(label=label, table=make_table(run))
