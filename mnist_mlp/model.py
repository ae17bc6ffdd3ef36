"""The multi-layer perceptron. What a sample costs is in `mnist_mlp.costs`, named here too."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_mlp.costs import forward_flops, parameter_count, training_flops
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import ACTIVATIONS, OUTPUTS, check_choice

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
    """torch's, of bfloat16 logits in float32."""

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits, (batch, classes), to probabilities."""
        return super().forward(_widened(logits))


class _LogSoftmax(nn.LogSoftmax):
    """Likewise."""

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits, (batch, classes), to log-probabilities."""
        return super().forward(_widened(logits))


def _widened(logits: Tensor) -> Tensor:
    """Return bfloat16 logits as float32, as autocast does before a softmax on CUDA, but not on the CPU."""
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
"""Dimensions of (batch, 784), which needs no flattening."""

_LOSSES: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = MappingProxyType(
    {
        "cross_entropy": functional.cross_entropy,
        "nll": functional.nll_loss,
        # As documented by its tutorial. A probability that underflows to 0 gives an infinite loss, which is reported.
        "nll_of_log": lambda probabilities, labels: functional.nll_loss(probabilities.log(), labels),
    }
)


class MLP(nn.Module):
    """Fully connected layers with an activation between them, its modules named as in an `nn.Sequential` of them.

    Weights and biases start as torch's `nn.Linear` does, from the global random state.

    Args:
        layers: widths from input to output, such as ``(784, 128, 10)``.
        activation: applied after every layer but the last.
        output: ``logits``, ``log_softmax`` or ``softmax``: what `forward` returns.

    Raises:
        InvalidValueError: an activation or output has another name, or there are fewer than two widths.
    """

    def __init__(self, layers: tuple[int, ...], *, activation: str = "relu", output: str = "logits") -> None:
        """Build the layers on the CPU, in float32."""
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("output", output, OUTPUTS)
        if len(layers) < 2:  # noqa: PLR2004 - an input and an output
            raise InvalidValueError(f"layers {layers!r} are too few: give at least input and output, like (784, 10)")
        modules: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(layers):
            modules += [nn.Linear(inputs, outputs), _ACTIVATIONS[activation]()]
        for number, module in enumerate((*modules[:-1], *_OUTPUTS[output]())):
            self.add_module(str(number), module)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (batch, 784) or (batch, 1, 28, 28) float32, to the output, (batch, classes) float32."""
        # Plain and flat, for each call more is paid in every step: a small model's takes a few hundred microseconds.
        values = images if images.dim() == _BATCH_OF_ROWS else images.flatten(1)
        for module in cast("Iterable[nn.Module]", self._modules.values()):
            values = module(values)
        return values


def loss_function(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss called `name`: (output, labels) → the batch's mean, a scalar in nats."""
    return _LOSSES[name]


def output_function(name: str) -> nn.Module:
    """Return what the output called `name` applies to the logits, (batch, classes)."""
    return nn.Sequential(*_OUTPUTS[name]())


def build_model(layers: tuple[int, ...], *, activation: str, output: str, seed: int, device: torch.device) -> MLP:
    """Return an `MLP` on `device` whose initial weights depend on `seed` alone: they are drawn on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MLP(layers, activation=activation, output=output)
    return model.to(device)
