"""The multi-layer perceptron. What a sample costs is in `mnist_mlp.costs`, named here too."""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_mlp.costs import forward_flops, parameter_count, training_flops

__all__ = ["MLP", "build_model", "forward_flops", "loss_function", "parameter_count", "training_flops"]

_ACTIVATIONS: Final[Mapping[str, type[nn.Module]]] = MappingProxyType({"relu": nn.ReLU})

_OUTPUTS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {
        "logits": lambda logits: logits,
        "log_softmax": lambda logits: functional.log_softmax(logits, dim=1),
        "softmax": lambda logits: functional.softmax(logits, dim=1),
    }
)

_LOSSES: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = MappingProxyType(
    {
        "cross_entropy": functional.cross_entropy,
        "nll": functional.nll_loss,
        # As documented by its tutorial. A probability that underflows to 0 gives an infinite loss, which is reported.
        "nll_of_log": lambda probabilities, labels: functional.nll_loss(probabilities.log(), labels),
    }
)


class MLP(nn.Module):
    """Fully connected layers with an activation between them.

    Weights and biases start as torch's `nn.Linear` does, from the global random state.

    Args:
        layers: widths from input to output, such as ``(784, 128, 10)``.
        activation: applied after every layer but the last.
        output: ``logits``, ``log_softmax`` or ``softmax``: what `forward` returns.
    """

    def __init__(self, layers: tuple[int, ...], *, activation: str = "relu", output: str = "logits") -> None:
        """Build the layers on the CPU, in float32."""
        super().__init__()
        self.output = output
        self._finish = _OUTPUTS[output]
        modules: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(layers):
            modules += [nn.Linear(inputs, outputs), _ACTIVATIONS[activation]()]
        self.network = nn.Sequential(*modules[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (batch, 784) or (batch, 1, 28, 28) float32, to the output, (batch, classes) float32."""
        logits: Tensor = self.network(images.flatten(1))
        return self._finish(logits)


def loss_function(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss called `name`: (output, labels) → the batch's mean, a scalar in nats."""
    return _LOSSES[name]


def build_model(layers: tuple[int, ...], *, activation: str, output: str, seed: int, device: torch.device) -> MLP:
    """Return an `MLP` on `device` whose initial weights depend on `seed` alone: they are drawn on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MLP(layers, activation=activation, output=output)
    return model.to(device)
