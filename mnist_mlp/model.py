"""The multi-layer perceptron and its losses; the costs of a sample are re-exported from `mnist_mlp.costs`."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_mlp.checks import check_choice
from mnist_mlp.costs import forward_flops, parameter_count, training_flops
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import ACTIVATIONS, OUTPUTS, check_widths

__all__ = [
    "MLP",
    "build_model",
    "forward_flops",
    "loss_function",
    "output_function",
    "parameter_count",
    "training_flops",
]


class _Softmax(nn.Softmax):
    """torch's softmax, computed in float32 for bfloat16 logits too."""

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits, (batch, classes), to probabilities."""
        return super().forward(_as_float32(logits))


class _LogSoftmax(nn.LogSoftmax):
    """torch's log-softmax, computed in float32 for bfloat16 logits too."""

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits, (batch, classes), to log-probabilities."""
        return super().forward(_as_float32(logits))


def _as_float32(logits: Tensor) -> Tensor:
    """Return bfloat16 logits as float32; autocast does this before a softmax on CUDA, but not on the CPU."""
    return logits.float() if logits.dtype == torch.bfloat16 else logits


_ACTIVATIONS: Final[Mapping[str, type[nn.Module]]] = MappingProxyType({"relu": nn.ReLU})

_OUTPUTS: Final[Mapping[str, Callable[[], tuple[nn.Module, ...]]]] = MappingProxyType(
    {
        "logits": lambda: (),
        "log_softmax": lambda: (_LogSoftmax(dim=1),),
        "softmax": lambda: (_Softmax(dim=1),),
    }
)

_BATCH_OF_ROWS: Final = 2
"""Dimensions of a batch that is already flat: (batch, 784)."""


def _nll_of_log(probabilities: Tensor, labels: Tensor) -> Tensor:
    """As its tutorial documents it. A probability that underflows to 0 makes the loss infinite, which is reported."""
    return functional.nll_loss(probabilities.log(), labels)


_LOSSES: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = MappingProxyType(
    {
        "cross_entropy": functional.cross_entropy,
        "nll": functional.nll_loss,
        "nll_of_log": _nll_of_log,
    }
)


class MLP(nn.Sequential):
    """Fully connected layers with an activation after each but the last.

    Weights and biases are initialised as `nn.Linear` does, from the global random state.

    Args:
        layers: widths from input to output, such as ``(784, 128, 10)``.
        activation: one of `mnist_mlp.recipes.ACTIVATIONS`.
        output: ``logits``, ``log_softmax`` or ``softmax``: what `forward` returns.

    Raises:
        InvalidValueError: there is no such activation or output, fewer than two widths, or a width out of range.
    """

    def __init__(self, layers: tuple[int, ...], *, activation: str = "relu", output: str = "logits") -> None:
        """Build the layers in float32, on torch's default device: the CPU unless changed."""
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("output", output, OUTPUTS)
        widths = check_widths(layers)
        if len(widths) < 2:  # noqa: PLR2004 - an input and an output
            raise InvalidValueError(f"layers {layers!r} are too few: give at least input and output, like (784, 10)")
        modules: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            modules += [nn.Linear(inputs, outputs, dtype=torch.float32), _ACTIVATIONS[activation]()]
        super().__init__(*modules[:-1], *_OUTPUTS[output]())

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (batch, 784) or (batch, 1, 28, 28) float32, to the output, (batch, classes) float32."""
        # Inlined, because a small model's whole step takes only a few hundred microseconds: each call would show.
        values = images if images.dim() == _BATCH_OF_ROWS else images.flatten(1)
        for module in cast("Iterable[nn.Module]", self._modules.values()):
            values = module(values)
        return values


def loss_function(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss called `name`: output (batch, classes), labels (batch,) → the mean loss in nats, a scalar."""
    return _LOSSES[name]


def output_function(name: str) -> nn.Module:
    """Return the module that turns logits, (batch, classes), into the output called `name`."""
    return nn.Sequential(*_OUTPUTS[name]())


def build_model(layers: tuple[int, ...], *, activation: str, output: str, seed: int, device: torch.device) -> MLP:
    """Return an `MLP` on `device` whose initial weights depend only on `seed`.

    They are those of an `MLP` made after ``torch.manual_seed(seed)`` on the CPU. But they are drawn from a generator of
    their own, because other threads may use torch's global one at the same time.
    """
    with torch.device("meta"):
        model = MLP(layers, activation=activation, output=output)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for layer in model:
        if isinstance(layer, nn.Linear):  # as its own reset_parameters, which takes no generator
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return model.to(device)
