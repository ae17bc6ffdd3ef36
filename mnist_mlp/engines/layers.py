"""The forward and backward pass of one fully connected layer, written out.

On x86 CPUs torch's ordinary matrix products call MKL, which does not use its widest vectors (AVX-512) on AMD's
processors. torch also contains oneDNN, which uses them everywhere; torch.compile calls it through an operator for a
linear layer with its activation. Each layer here uses whichever of the two libraries is faster for it.
"""

import functools
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

_WORTH_ONEDNN: Final = 2_500_000
"""Batch size times number of weights from which oneDNN trained a layer faster, on two cores of an AMD EPYC: each call
costs about 20 µs more, but large products take half the time."""

_GAP: Final = 16
"""Unused columns at the end of each row of the error buffer: torch transposes a matrix with such gaps on all threads,
but one without them on a single thread; and rows whose distance is a power of two compete for the same cache lines."""

_CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(slots=True)
class LayerParameters:
    """A layer's weights, (outputs, inputs), and biases, (outputs,), with the gradients of the mean loss to both.

    The gradients are buffers to write to; `OneDnnLayer` replaces that of the weights with a new tensor.
    """

    weights: Tensor
    biases: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor


class Layer:
    """A layer's computation for batches of one size, with torch's ordinary products and preallocated buffers.

    The *error* of a value is the gradient of the batch's mean loss with respect to it. The error of the outputs is
    taken before the ReLU.
    """

    def __init__(self, parameters: LayerParameters, size: int) -> None:
        """Prepare for batches of `size` samples."""
        self._parameters = parameters
        self._size = size
        self._weights_t = parameters.weights.t()
        self._biases_t = parameters.biases.unsqueeze(1)
        self._before_relu = torch.ops.aten.threshold_backward.grad_input

    # Allocated on first use: the first layer never computes the error of its inputs, and the last one has no ReLU.

    @functools.cached_property
    def _outputs(self) -> Tensor:
        return self._parameters.weights.new_empty(self._size, self._parameters.weights.shape[0])

    @functools.cached_property
    def _input_error(self) -> Tensor:
        return self._parameters.weights.new_empty(self._size, self._parameters.weights.shape[1])

    def hidden(self, inputs: Tensor) -> Tensor:
        """Return the outputs after the ReLU, (size, outputs), for inputs, (size, inputs)."""
        return torch.relu_(torch.addmm(self._parameters.biases, inputs, self._weights_t, out=self._outputs))

    def logits(self, inputs: Tensor, logits: Tensor) -> None:
        """Write the outputs, without a ReLU, to `logits`, (outputs, size): classes first."""
        torch.addmm(self._biases_t, self._parameters.weights, inputs.t(), out=logits)

    def before_relu(self, error: Tensor, outputs: Tensor) -> Tensor:
        """Return the error before the ReLU from the error after it and the outputs, (size, outputs) each."""
        result: Tensor = self._before_relu(error, outputs, 0, grad_input=error)
        return result

    def transposed(self, error: Tensor) -> Tensor:
        """Return the error from `before_relu` transposed, (outputs, size)."""
        return error.t()

    def gradients(self, error_t: Tensor, inputs: Tensor) -> None:
        """Compute the gradients of weights and biases from the outputs' error, (outputs, size), and the inputs."""
        torch.mm(error_t, inputs, out=self._parameters.weight_gradient)
        torch.sum(error_t, 1, out=self._parameters.bias_gradient)

    def input_error(self, error: Tensor) -> Tensor:
        """Return the error of the inputs, (size, inputs), from that of the outputs, (size, outputs)."""
        return torch.mm(error, self._parameters.weights, out=self._input_error)


class OneDnnLayer(Layer):
    """The same with oneDNN's products, for which torch allocates new memory each time."""

    def __init__(self, parameters: LayerParameters, size: int) -> None:
        """See `Layer`."""
        super().__init__(parameters, size)
        _keep_freed_memory()
        self._linear = onednn_linear()
        outputs = len(parameters.biases)
        self._error = torch.empty(size, outputs + _GAP, dtype=torch.float32, device="cpu")[:, :outputs]
        self._error_t = torch.empty(outputs, size, dtype=torch.float32, device="cpu")

    def _product(self, left: Tensor, right: Tensor, biases: Tensor | None = None, activation: str = "none") -> Tensor:
        """Return the rows of `left`, (n, k), times those of `right`, (m, k), as (n, m)."""
        return self._linear(left, right, biases, activation, [], "")

    def hidden(self, inputs: Tensor) -> Tensor:
        """See `Layer.hidden`."""
        return self._product(inputs, self._parameters.weights, self._parameters.biases, "relu")

    def logits(self, inputs: Tensor, logits: Tensor) -> None:
        """See `Layer.logits`."""
        torch.add(self._product(self._parameters.weights, inputs), self._biases_t, out=logits)

    def before_relu(self, error: Tensor, outputs: Tensor) -> Tensor:
        """See `Layer.before_relu`."""
        result: Tensor = self._before_relu(error, outputs, 0, grad_input=self._error)
        return result

    def transposed(self, error: Tensor) -> Tensor:
        """See `Layer.transposed`. This is a copy, because the left factor of a product must be stored row by row."""
        return self._error_t.copy_(error.t())

    def gradients(self, error_t: Tensor, inputs: Tensor) -> None:
        """See `Layer.gradients`."""
        self._parameters.weight_gradient = self._product(error_t, inputs.t())
        torch.sum(error_t, 1, out=self._parameters.bias_gradient)

    def input_error(self, error: Tensor) -> Tensor:
        """See `Layer.input_error`."""
        return self._product(error, self._weights_t)


@functools.cache
def _keep_freed_memory() -> None:
    """Have glibc reuse the memory that products free, instead of returning it to the system.

    Otherwise, depending on the heap's layout, every step may get fresh pages for its products: 800 page faults, an
    eighth of a step of 784-1024-10 at batch size 1024. When a block of up to 32 MiB that was mapped separately is freed
    for the first time, glibc raises its threshold: from then on blocks of this size come from the heap, where twice as
    much is kept free. So it is enough to allocate and free such a block once; its pages are never touched. Other C
    libraries are not affected.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")


def onednn_linear() -> Callable[..., Tensor]:
    """Return torch's operator for a linear layer with oneDNN.

    It takes inputs, (n, k), weights, (m, k), biases, (m,) or None, and the name of an activation (or ``none``) with
    its arguments and algorithm. It returns the outputs, (n, m), in new memory.
    """
    operator: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001 - it has no other name
    return operator


def make_layer(parameters: LayerParameters, size: int) -> Layer:
    """Return the faster computation for this layer, batches of `size` samples, and this machine."""
    return (OneDnnLayer if suits_onednn(parameters.weights, size) else Layer)(parameters, size)


def suits_onednn(weights: Tensor, size: int) -> bool:
    """Return whether oneDNN is faster for a layer with these weights and batches of `size` samples on this machine."""
    return weights.device.type == "cpu" and size * weights.numel() >= _WORTH_ONEDNN and mkl_is_held_back()


@functools.cache
def mkl_is_held_back() -> bool:
    """Return whether torch's ordinary products leave vectors unused here that oneDNN would use.

    This depends on the processor only, never on a timing: a repeated training must give the same bits.
    """
    libraries: Any = torch.backends
    has_both = libraries.mkl.is_available() and libraries.mkldnn.is_available()
    return has_both and "AVX512" in libraries.cpu.get_cpu_capability() and "AuthenticAMD" in _vendor()


def _vendor() -> str:
    """Return the processor's vendor, such as ``AuthenticAMD``, or an empty text if it is unknown."""
    try:
        found = re.search(r"^vendor_id\s*:\s*(\S+)", _CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        return platform.processor()  # on Windows this includes the vendor
    return found[1] if found else ""
