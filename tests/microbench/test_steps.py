"""The parts of a training step, each timed on its own by pytest-benchmark, for every device and model.

    pytest tests/microbench --benchmark-only --benchmark-save-data --benchmark-autosave \
        --benchmark-storage=file://results/microbench

There are no thresholds: `python -m bench compare` compares two stored files. Each round ends when the device has
finished. A round is one part of one step, with two exceptions: batch assembly takes `BATCHES` batches, because the
order is moved to the device once per epoch and not once per batch, and evaluation takes the whole test set.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.worker.devices import Device
from mnist_mlp.data import Dataset
from mnist_mlp.engines import make_optimizer
from mnist_mlp.model import MLP, build_model, loss_function
from mnist_mlp.pipelines import ResidentPipeline
from mnist_mlp.recipes import Recipe, custom_recipe, parse_layers
from mnist_mlp.train import Training, seeded_generator

BATCHES = 32

BACKWARD_ROUNDS = 300
"""A fixed number, because each round needs its own graph, which is built outside the timed region."""


def make_recipe(layers: str, batch_size: int) -> Recipe:
    return replace(custom_recipe(parse_layers(layers)), batch_size=batch_size)


RECIPES = {
    f"{layers}-batch{batch_size}": make_recipe(layers, batch_size)
    for layers, batch_size in (("784-128-10", 64), ("784-512-256-10", 256), ("784-1024-10", 1024))
}


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


class Step:
    """A model on a device, one batch, and the parts of the eager engine's step on it."""

    def __init__(self, recipe: Recipe, dataset: Dataset, device: Device) -> None:
        self.device = device
        self.model: MLP = build_model(
            recipe.layers,
            activation=recipe.activation,
            output=recipe.output,
            seed=0,
            device=device.torch_device,
        )
        self.optimizer = make_optimizer(recipe, self.model)
        self.pipeline = ResidentPipeline(
            dataset,
            recipe.transform,
            batch_size=recipe.batch_size,
            test_batch_size=recipe.test_batch_size,
            device=device.torch_device,
        )
        self.order = torch.randperm(len(dataset.train_labels), generator=seeded_generator(0))
        self.images, self.labels = next(self.pipeline.train_batches(self.order))
        self._loss = loss_function(recipe.loss)

    def forward(self) -> Tensor:
        return self._loss(self.model(self.images), self.labels)


@pytest.fixture
def step(recipe: Recipe, noise: Dataset, device: Device) -> Step:
    return Step(recipe, noise, device)


def time_rounds(benchmark: BenchmarkFixture, device: Device, work: Callable[[], object]) -> None:
    """Time `work` in rounds, each until the device has finished, after an untimed warm-up round."""

    def one_round() -> None:
        work()
        device.synchronise()

    one_round()
    benchmark(one_round)


def test_forward(benchmark: BenchmarkFixture, step: Step) -> None:
    time_rounds(benchmark, step.device, step.forward)
    assert step.forward().isfinite()


def test_backward(benchmark: BenchmarkFixture, step: Step) -> None:
    def build_graph() -> tuple[tuple[Tensor], dict[str, object]]:
        step.optimizer.zero_grad()
        loss = step.forward()
        step.device.synchronise()
        return (loss,), {}

    def backward(loss: Tensor) -> None:
        loss.backward()
        step.device.synchronise()

    benchmark.pedantic(backward, setup=build_graph, rounds=BACKWARD_ROUNDS, warmup_rounds=3)  # type: ignore[no-untyped-call]  # the plugin has no types
    gradients = [parameter.grad for parameter in step.model.parameters()]
    assert all(gradient is not None and gradient.count_nonzero() > 0 for gradient in gradients)


def test_optimizer_step(benchmark: BenchmarkFixture, step: Step) -> None:
    step.forward().backward()
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    time_rounds(benchmark, step.device, step.optimizer.step)
    assert all(not old.equal(new) for old, new in zip(before, step.model.parameters(), strict=True))


def test_batch_assembly(benchmark: BenchmarkFixture, step: Step, recipe: Recipe) -> None:
    order = step.order[: BATCHES * recipe.batch_size]
    batches: list[tuple[Tensor, Tensor]] = []

    def assemble() -> None:
        batches.clear()
        batches.extend(step.pipeline.train_batches(order))

    time_rounds(benchmark, step.device, assemble)
    assert [len(images) for images, _ in batches] == [recipe.batch_size] * BATCHES


def test_evaluation(benchmark: BenchmarkFixture, recipe: Recipe, noise: Dataset, device: Device) -> None:
    training = Training(recipe, noise, device=device.torch_device, seed=0)
    time_rounds(benchmark, device, lambda: training.evaluate().read())
    assert training.evaluate().read().samples == len(noise.test_labels)
