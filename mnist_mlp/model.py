"""The multi-layer perceptron, and what one sample costs to push through it."""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

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


def parameter_count(layers: tuple[int, ...]) -> int:
    """Return the number of weights and biases."""
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(layers))


def forward_flops(layers: tuple[int, ...]) -> int:
    """Return floating-point operations of one sample's forward pass, matrix products only.

    A layer multiplies one row of n inputs with an n by m matrix: n·m multiplications and as many additions, 2·n·m.
    Bias, activation, softmax and loss are left out, as is usual: they are m to a few m operations a layer.
    """
    return sum(2 * inputs * outputs for inputs, outputs in itertools.pairwise(layers))


def training_flops(layers: tuple[int, ...]) -> int:
    """Return floating-point operations of one sample's training step, matrix products only.

    Beside the forward pass, each layer needs its weights' gradient (input transposed times output gradient, 2·n·m) and,
    but for the first layer, its input's gradient (output gradient times weights transposed, 2·n·m). So a step is three
    forward passes less the first layer's 2·n·m. The optimizer's work is a few operations a parameter and *step*, not
    sample, and is left out.
    """
    return 3 * forward_flops(layers) - 2 * layers[0] * layers[1]


def build_model(layers: tuple[int, ...], *, activation: str, output: str, seed: int, device: torch.device) -> MLP:
    """Return an `MLP` on `device` whose initial weights depend on `seed` alone: they are drawn on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MLP(layers, activation=activation, output=output)
    return model.to(device)
