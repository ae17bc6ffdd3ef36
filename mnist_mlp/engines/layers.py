"""One fully connected layer's computation, written out: outputs, gradients, and the error of its inputs.

torch's ordinary products call MKL, which withholds from AMD's processors the wide vectors (AVX-512) that it uses on
Intel's. torch also carries oneDNN, which withholds them from nobody, behind an operator that torch.compile uses: a
linear layer with its ReLU. So each layer has the library that is faster at it.
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
"""Multiplications of a batch with a layer's weights from which oneDNN trained the layer faster, on two cores of an AMD
EPYC: a call of it costs some 20 µs more, large products half the time."""

_GAP: Final = 16
"""Unused columns beside an error's own: torch transposes a matrix with such a gap on all threads, others on one; and
rows that lie a power of two apart compete for the same few lines of the caches."""

_CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(slots=True)
class LayerParameters:
    """A layer's weights, (outputs, inputs), and biases, (outputs,), and the gradients of the mean loss to both.

    The gradient of the weights is a buffer to write to; oneDNN's layer puts its own product in its place.
    """

    weights: Tensor
    biases: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor


class Layer:
    """A layer's computation for batches of one size, by torch's ordinary products, into buffers made in the first step.

    The error of a value is the gradient of the batch's mean loss to it. Errors of outputs are those before the ReLU.
    """

    def __init__(self, parameters: LayerParameters, size: int) -> None:
        """Prepare for batches of `size` samples."""
        self._parameters = parameters
        self._size = size
        self._weights_t = parameters.weights.t()
        self._biases_t = parameters.biases.unsqueeze(1)
        self._before_relu = torch.ops.aten.threshold_backward.grad_input

    # Not every layer needs each of them: the first one never tells the error of its inputs, the last has no ReLU.

    @functools.cached_property
    def _outputs(self) -> Tensor:
        return self._parameters.weights.new_empty(self._size, self._parameters.weights.shape[0])

    @functools.cached_property
    def _input_error(self) -> Tensor:
        return self._parameters.weights.new_empty(self._size, self._parameters.weights.shape[1])

    def hidden(self, inputs: Tensor) -> Tensor:
        """Return the outputs after a ReLU, (size, outputs), for inputs, (size, inputs)."""
        return torch.relu_(torch.addmm(self._parameters.biases, inputs, self._weights_t, out=self._outputs))

    def logits(self, inputs: Tensor, logits: Tensor) -> None:
        """Write the outputs without a ReLU to `logits`, (outputs, size): classes first."""
        torch.addmm(self._biases_t, self._parameters.weights, inputs.t(), out=logits)

    def before_relu(self, error: Tensor, outputs: Tensor) -> Tensor:
        """Return the error of the outputs, (size, outputs), from that of the outputs after the ReLU, and these."""
        result: Tensor = self._before_relu(error, outputs, 0, grad_input=error)
        return result

    def transposed(self, error: Tensor) -> Tensor:
        """Return the error that `before_relu` gave as (outputs, size)."""
        return error.t()

    def gradients(self, error_t: Tensor, inputs: Tensor) -> None:
        """Write the gradients of weights and biases, from the error of the outputs, (outputs, size), and the inputs."""
        torch.mm(error_t, inputs, out=self._parameters.weight_gradient)
        torch.sum(error_t, 1, out=self._parameters.bias_gradient)

    def input_error(self, error: Tensor) -> Tensor:
        """Return the error of the inputs, (size, inputs), from that of the outputs, (size, outputs)."""
        return torch.mm(error, self._parameters.weights, out=self._input_error)


class OneDnnLayer(Layer):
    """Likewise by oneDNN, whose products torch allocates anew."""

    def __init__(self, parameters: LayerParameters, size: int) -> None:
        """See `Layer`."""
        super().__init__(parameters, size)
        _keep_freed_memory()
        self._linear = onednn_linear()
        outputs = len(parameters.biases)
        self._error = torch.empty(size, outputs + _GAP)[:, :outputs]
        self._error_t = torch.empty(outputs, size)

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
        """See `Layer.transposed`. A copy, for the left side of a product has to lie in rows."""
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
    """Have the C library keep what products free for the next ones, instead of giving it back to the system.

    Depending on how the heap lies, each product's memory would come fresh from the system in every step, page by page:
    800 page faults, an eighth of a step of 784-1024-10 at batch size 1024. Of glibc the rule is that whoever frees a
    block of up to 32 MiB that had pages of its own is expected to want such blocks again: from then on it takes them
    from the heap, and keeps twice as much free there. Other C libraries do as they do. No page of the block is touched.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def onednn_linear() -> Callable[..., Tensor]:
    """Return torch's operator for a linear layer by oneDNN.

    It takes inputs, (n, k), weights, (m, k), biases, (m,) or None, an activation's name (or ``none``) with its
    arguments and algorithm, and gives the outputs, (n, m), in new memory.
    """
    operator: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001 - it has no other name
    return operator


def make_layer(parameters: LayerParameters, size: int) -> Layer:
    """Return the computation that suits this layer, these batches and this machine."""
    return (OneDnnLayer if suits_onednn(parameters.weights, size) else Layer)(parameters, size)


def suits_onednn(weights: Tensor, size: int) -> bool:
    """Return whether oneDNN is faster at a layer with these weights, for batches of `size` samples, on this machine."""
    return weights.device.type == "cpu" and size * weights.numel() >= _WORTH_ONEDNN and mkl_is_held_back()


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
