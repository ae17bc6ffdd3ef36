"""The first training steps of a multi-layer perceptron, computed in float64 with NumPy alone.

Every device's losses are compared with these: the implementation shares nothing with torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ADAM_BETAS: Final = (0.9, 0.999)
ADAM_EPSILON: Final = 1e-8
"""The defaults of Kingma and Ba, Adam: A method for stochastic optimization (2015), algorithm 1, and of torch."""


class Optimizer(Protocol):
    """Turns gradients into what is added to the parameters, both in the order of the parameters."""

    def updates(self, gradients: Sequence[Array]) -> list[Array]:
        """Return the updates of one step."""


class Sgd:
    """Stochastic gradient descent with momentum: v ← μ v + g, θ ← θ - η v, v starting at 0 (as torch has it)."""

    def __init__(self, learning_rate: float, momentum: float) -> None:
        """Start with no velocity."""
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._velocities: list[Array] = []

    def updates(self, gradients: Sequence[Array]) -> list[Array]:
        """See `Optimizer.updates`."""
        before = self._velocities or [np.zeros_like(gradient) for gradient in gradients]
        self._velocities = [self._momentum * v + g for v, g in zip(before, gradients, strict=True)]
        return [-self._learning_rate * velocity for velocity in self._velocities]


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) with its default constants and no weight decay."""

    def __init__(self, learning_rate: float) -> None:
        """Start with moments of zero."""
        self._learning_rate = learning_rate
        self._steps = 0
        self._first: list[Array] = []
        self._second: list[Array] = []

    def updates(self, gradients: Sequence[Array]) -> list[Array]:
        """See `Optimizer.updates`."""
        beta1, beta2 = ADAM_BETAS
        zeros = [np.zeros_like(gradient) for gradient in gradients]
        self._steps += 1
        self._first = [beta1 * m + (1 - beta1) * g for m, g in zip(self._first or zeros, gradients, strict=True)]
        self._second = [beta2 * v + (1 - beta2) * g**2 for v, g in zip(self._second or zeros, gradients, strict=True)]
        return [
            -self._learning_rate
            * (m / (1 - beta1**self._steps))
            / (np.sqrt(v / (1 - beta2**self._steps)) + ADAM_EPSILON)
            for m, v in zip(self._first, self._second, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A fully connected layer: `weight` (outputs, inputs), `bias` (outputs,)."""

    weight: Array
    bias: Array


def first_losses(
    layers: Sequence[Layer], batches: Iterable[tuple[Array, NDArray[np.int64]]], optimizer: Optimizer
) -> list[float]:
    """Train on `batches`, one step each; return each batch's mean cross-entropy, in nats, from before its step.

    Args:
        layers: initial parameters; ReLU stands between layers, and the last one gives logits.
        batches: images, (batch, inputs), already normalised, and labels, (batch,).
        optimizer: turns gradients into updates.
    """
    parameters = [array for layer in layers for array in (layer.weight, layer.bias)]
    losses = []
    for images, labels in batches:
        loss, gradients = loss_and_gradients(parameters, images, labels)
        losses.append(loss)
        parameters = [p + update for p, update in zip(parameters, optimizer.updates(gradients), strict=True)]
    return losses


def loss_and_gradients(
    parameters: Sequence[Array], images: Array, labels: NDArray[np.int64]
) -> tuple[float, list[Array]]:
    """Return the batch's mean cross-entropy and its gradient by each of `parameters` (weight, bias, weight, bias, …).

    With probabilities p, one-hot labels y and n samples, the gradient by the logits is (p - y) / n; it goes back
    through a layer a → a Wᵀ + b as δᵀ a, Σ δ and δ W, and through ReLU where its output is above 0.
    """
    pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
    activations = [images]
    for number, (weight, bias) in enumerate(pairs):
        values = activations[-1] @ weight.T + bias
        activations.append(values if number == len(pairs) - 1 else np.maximum(values, 0.0))
    logits = activations.pop()
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    delta = np.exp(log_probabilities)
    delta[rows, labels] -= 1.0
    delta /= len(labels)
    gradients: list[Array] = []
    for (weight, _), values in zip(reversed(pairs), reversed(activations), strict=True):
        gradients[:0] = [delta.T @ values, delta.sum(axis=0)]
        delta = (delta @ weight) * (values > 0)  # computed for the images too, but not used
    return float(-log_probabilities[rows, labels].mean()), gradients
