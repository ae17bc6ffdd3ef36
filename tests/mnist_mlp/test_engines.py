"""The eager engine against a reference in numpy and float64, and its way back to the beginning."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from workload_builders import bars

from mnist_mlp.engines import EagerEngine, make_optimizer
from mnist_mlp.model import build_model
from mnist_mlp.pipelines import ResidentPipeline
from mnist_mlp.recipes import Recipe

pytestmark = pytest.mark.usefixtures("threads")

Array = NDArray[np.float64]

LOGITS = Recipe(name="test", layers=(784, 12, 8, 10), learning_rate=0.01, weight_decay=0.0)
RECIPES = {
    "adam": LOGITS,
    "adam-decay": replace(LOGITS, weight_decay=0.1),
    "sgd": replace(LOGITS, optimizer="sgd"),
    "sgd-decay": replace(LOGITS, optimizer="sgd", weight_decay=0.1),
    "sgd-momentum": replace(LOGITS, optimizer="sgd", momentum=0.9),
    "sgd-momentum-decay": replace(LOGITS, optimizer="sgd", momentum=0.9, weight_decay=0.1),
    "sgd-softmax": replace(LOGITS, optimizer="sgd", output="softmax", loss="nll_of_log"),
    "adam-log-softmax": replace(LOGITS, output="log_softmax"),
}

recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())


def make_pipeline(recipe: Recipe) -> ResidentPipeline:
    return ResidentPipeline(
        bars(),
        recipe.transform,
        batch_size=recipe.batch_size,
        test_batch_size=recipe.test_batch_size,
        device=torch.device("cpu"),
    )


def make_engine(recipe: Recipe) -> EagerEngine:
    model = build_model(recipe.layers, activation="relu", output=recipe.output, seed=1, device=torch.device("cpu"))
    return EagerEngine(recipe, model, make_pipeline(recipe))


def make_batches(count: int, seed: int = 0, samples: int = 20) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(samples, 784, generator=generator), torch.randint(10, (samples,), generator=generator))
        for _ in range(count)
    ]


@dataclass(kw_only=True)
class Reference:
    """An MLP with ReLU and cross-entropy and its optimizer, straight from the textbooks, in float64."""

    recipe: Recipe
    parameters: list[Array]
    steps: int = 0
    first: list[Array] = field(init=False)
    second: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        self.first = [np.zeros_like(parameter) for parameter in self.parameters]
        self.second = [np.zeros_like(parameter) for parameter in self.parameters]

    def step(self, images: Array, labels: NDArray[np.int64]) -> float:
        """Train on one batch; return the loss before the step."""
        inputs = [images]
        for weights, biases in zip(self.parameters[:-2:2], self.parameters[1:-2:2], strict=True):
            inputs.append(np.maximum(inputs[-1] @ weights.T + biases, 0))
        logits = inputs[-1] @ self.parameters[-2].T + self.parameters[-1]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        wanted = np.eye(10)[labels]
        loss = -float(np.log((probabilities * wanted).sum(axis=1)).mean())

        error = (probabilities - wanted) / len(labels)
        gradients: list[Array] = []
        for layer in range(len(inputs) - 1, -1, -1):
            gradients[:0] = [error.T @ inputs[layer], error.sum(axis=0)]
            error = (error @ self.parameters[2 * layer]) * (inputs[layer] > 0)
        self._update(gradients)
        return loss

    def _update(self, gradients: list[Array]) -> None:
        self.steps += 1
        rate = self.recipe.learning_rate
        for index, parameter in enumerate(self.parameters):
            gradient = gradients[index] + self.recipe.weight_decay * parameter
            if self.recipe.optimizer == "sgd":
                self.first[index] = self.recipe.momentum * self.first[index] + gradient
                self.parameters[index] = parameter - rate * self.first[index]
            else:  # Kingma and Ba 2015, algorithm 1, with their constants
                self.first[index] = 0.9 * self.first[index] + 0.1 * gradient
                self.second[index] = 0.999 * self.second[index] + 0.001 * gradient**2
                mean = self.first[index] / (1 - 0.9**self.steps)
                variance = self.second[index] / (1 - 0.999**self.steps)
                self.parameters[index] = parameter - rate * mean / (np.sqrt(variance) + 1e-8)


@recipes
def test_steps_follow_a_handwritten_float64_reference(recipe: Recipe) -> None:
    engine = make_engine(recipe)
    start = [parameter.detach().double().numpy() for parameter in engine.model.parameters()]
    reference = Reference(recipe=recipe, parameters=start)
    for images, labels in make_batches(3):
        _, loss = engine.step(images, labels)
        assert loss.item() == pytest.approx(reference.step(images.double().numpy(), labels.numpy()), rel=1e-5)
        for parameter, expected in zip(engine.model.parameters(), reference.parameters, strict=True):
            # Adam moves every weight by about the learning rate, 0.01 a step, the more unsteadily the smaller its
            # gradient; SGD moves them by up to 0.003 in all.
            tolerance = 5e-5 if recipe.optimizer == "adam" else 5e-7
            np.testing.assert_allclose(parameter.detach().double().numpy(), expected, rtol=0, atol=tolerance)


@recipes
def test_step_returns_output_and_loss_from_before_it_and_without_graph(recipe: Recipe) -> None:
    engine = make_engine(recipe)
    before = make_engine(recipe).model
    ((images, labels),) = make_batches(1)
    output, loss = engine.step(images, labels)
    assert torch.equal(output, before(images))
    assert output.shape == (20, 10)
    assert loss.shape == ()
    for result in (output, loss):
        assert result.grad_fn is None
        assert not result.requires_grad
    assert not torch.equal(output, engine.model(images))


# So torch says, and computes it otherwise, on ARM processors without bf16's instructions.
@pytest.mark.filterwarnings("ignore:mkldnn_matmul failed, switching to BLAS gemm:UserWarning")
def test_loss_of_a_bf16_step_is_that_of_its_output_in_float32() -> None:
    model = build_model(LOGITS.layers, activation="relu", output="logits", seed=1, device=torch.device("cpu"))
    engine = EagerEngine(LOGITS, model, make_pipeline(LOGITS), precision="bf16")
    (batch,) = make_batches(1)
    output, loss = engine.step(*batch)
    assert torch.equal(output, output.bfloat16().float())  # rounded by the products
    assert (output.dtype, loss.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(output, batch[1]), rtol=1e-6, atol=0)


def test_optimizers_use_the_fused_kernels() -> None:
    for recipe in (RECIPES["adam"], RECIPES["sgd"]):
        optimizer = make_optimizer(recipe, make_engine(recipe).model)
        assert all(group["fused"] for group in optimizer.param_groups)


def train(engine: EagerEngine, batches: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return each step's loss, then the parameters."""
    losses = [engine.step(images, labels)[1] for images, labels in batches]
    return losses + [parameter.detach().clone() for parameter in engine.model.parameters()]


def rewind(engine: EagerEngine, start: dict[str, Tensor]) -> None:
    engine.model.load_state_dict(start)
    engine.reset_optimizer()


@recipes
@pytest.mark.parametrize("poison", [1.0, float("nan")], ids=["finite", "nan"])
def test_training_after_a_reset_is_bit_identical_to_training_from_new(recipe: Recipe, poison: float) -> None:
    fresh, used = make_engine(recipe), make_engine(recipe)
    start = {name: value.clone() for name, value in used.model.state_dict().items()}
    train(used, [(poison * images, labels) for images, labels in make_batches(3, seed=9)])
    rewind(used, start)
    batches = make_batches(4)
    for expected, value in zip(train(fresh, batches), train(used, batches), strict=True):
        assert torch.equal(value.view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("name", ["adam", "sgd-momentum"])
def test_reset_matters_because_the_optimizer_remembers(name: str) -> None:
    fresh, used = make_engine(RECIPES[name]), make_engine(RECIPES[name])
    start = {key: value.clone() for key, value in used.model.state_dict().items()}
    train(used, make_batches(3, seed=9))
    used.model.load_state_dict(start)
    batches = make_batches(2)
    assert not torch.equal(train(fresh, batches)[-1], train(used, batches)[-1])


@pytest.mark.parametrize("name", ["adam", "sgd-momentum"])
def test_reset_keeps_the_optimizers_buffers_where_they_are(name: str) -> None:
    engine = make_engine(RECIPES[name])

    def buffers() -> list[Tensor]:
        states = engine.optimizer.state.values()
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]

    train(engine, make_batches(1))
    addresses = [buffer.data_ptr() for buffer in buffers()]
    assert addresses
    engine.reset_optimizer()
    assert [buffer.data_ptr() for buffer in buffers()] == addresses
    assert not any(buffer.any() for buffer in buffers())


def test_reset_of_an_unused_optimizer_does_nothing() -> None:
    engine = make_engine(LOGITS)
    engine.reset_optimizer()
    assert not engine.optimizer.state
