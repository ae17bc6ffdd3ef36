"""One fully connected layer's computation, written out: outputs, gradients, and the error of its inputs.

torch's ordinary products call MKL, which withholds from AMD's processors the wide vectors (AVX-512) that it uses on
Intel's. torch also carries oneDNN, which withholds them from nobody, behind an operator that torch.compile uses: a
linear layer with its ReLU. So each layer has the library that is faster at it.
"""

import functools
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

_WORTH_ONEDNN: Final = 2_500_000
"""Multiplications of a batch with a layer's weights from which oneDNN trained the layer faster, on two cores of an AMD
EPYC: a call of it costs some 20 µs more, large products half the time."""

_CPUINFO: Final = Path("/proc/cpuinfo")

_GAP: Final = 16
"""Unused columns beside an error's own: torch transposes a matrix with such a gap on all threads, others on one."""


@dataclass(frozen=True, slots=True)
class LayerParameters:
    """A layer's weights, (outputs, inputs), and biases, (outputs,), and the gradients of the mean loss to both."""

    weights: Tensor
    biases: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor


class Layer:
    """A layer's computation for batches of one size, by torch's ordinary products; a hidden layer has a ReLU.

    It allocates nothing after it is made.

    Attributes:
        outputs: buffer for its outputs, (size, outputs).
        error: buffer for the gradient of the mean loss to its outputs before the ReLU, (size, outputs).
    """

    def __init__(self, parameters: LayerParameters, size: int, *, is_hidden: bool) -> None:
        """Allocate what batches of `size` samples need."""
        outputs, inputs = parameters.weights.shape
        self._parameters = parameters
        self._weights_t = parameters.weights.t()
        self._is_hidden = is_hidden
        self._device = parameters.weights.device
        self.outputs = torch.empty(size, outputs, device=self._device)
        self._set_error(torch.empty(size, outputs, device=self._device))
        self._input_error = torch.empty(size, inputs, device=self._device)

    def _set_error(self, error: Tensor) -> None:
        self.error, self._error_t = error, error.t()

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return the outputs for `inputs`, (size, inputs), in the buffer `outputs` or, of a hidden layer, elsewhere."""
        torch.addmm(self._parameters.biases, inputs, self._weights_t, out=outputs)
        return torch.relu_(outputs) if self._is_hidden else outputs

    def gradients(self, inputs: Tensor) -> None:
        """Write the gradients of weights and biases, from `error` and the `inputs` that `forward` had."""
        torch.mm(self._error_t, inputs, out=self._parameters.weight_gradient)
        torch.sum(self.error, 0, out=self._parameters.bias_gradient)

    def input_error(self) -> Tensor:
        """Return the gradient of the mean loss to the inputs, (size, inputs), from `error`."""
        return torch.mm(self.error, self._parameters.weights, out=self._input_error)


class OneDnnLayer(Layer):
    """Likewise by oneDNN, whose results torch allocates anew."""

    def __init__(self, parameters: LayerParameters, size: int, *, is_hidden: bool) -> None:
        """See `Layer`."""
        super().__init__(parameters, size, is_hidden=is_hidden)
        outputs = len(parameters.biases)
        self._set_error(torch.empty(size, outputs + _GAP, device=self._device)[:, :outputs])
        self._error_by_output = torch.empty(outputs, size, device=self._device)
        self._linear = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001 - it has no other name
        self._activation = "relu" if is_hidden else "none"

    def _product(self, left: Tensor, right: Tensor, biases: Tensor | None = None, activation: str = "none") -> Tensor:
        """Return the rows of `left`, (n, k), times those of `right`, (m, k), as (n, m)."""
        product: Tensor = self._linear(left, right, biases, activation, [], "")
        return product

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """See `Layer.forward`."""
        result = self._product(inputs, self._parameters.weights, self._parameters.biases, self._activation)
        return result if self._is_hidden else outputs.copy_(result)

    def gradients(self, inputs: Tensor) -> None:
        """See `Layer.gradients`."""
        self._error_by_output.copy_(self._error_t)
        self._parameters.weight_gradient.copy_(self._product(self._error_by_output, inputs.t()))
        torch.sum(self._error_by_output, 1, out=self._parameters.bias_gradient)

    def input_error(self) -> Tensor:
        """See `Layer.input_error`."""
        return self._product(self.error, self._weights_t)


def make_layer(parameters: LayerParameters, size: int, *, is_hidden: bool) -> Layer:
    """Return the computation that suits this layer, these batches and this machine."""
    weights = parameters.weights
    is_onednn = weights.device.type == "cpu" and size * weights.numel() >= _WORTH_ONEDNN and mkl_is_held_back()
    return (OneDnnLayer if is_onednn else Layer)(parameters, size, is_hidden=is_hidden)


@functools.cache
def mkl_is_held_back() -> bool:
    """Return whether torch's ordinary products here leave vectors unused that oneDNN would use.

    By what the processor is, never by a try: a training must give the same bits whenever it is repeated.
    """
    libraries: Any = torch.backends
    has_both = libraries.mkl.is_available() and libraries.mkldnn.is_available()
    return has_both and "AVX512" in libraries.cpu.get_cpu_capability() and "AuthenticAMD" in _vendor()


def _vendor() -> str:
    """Return what the processor says of its maker, such as ``AuthenticAMD``; on systems unknown, nothing."""
    try:
        found = re.search(r"^vendor_id\s*:\s*(\S+)", _CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        return platform.processor()  # Windows names it there
    return found[1] if found else ""
