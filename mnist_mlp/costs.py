"""Operations, bytes and memory that a multi-layer perceptron needs. Plain arithmetic on layer widths, no torch."""

import itertools


def parameter_count(layers: tuple[int, ...]) -> int:
    """Return the number of weights and biases of an MLP with these layer widths."""
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(layers))


def forward_flops(layers: tuple[int, ...]) -> int:
    """Return the floating-point operations of one sample's forward pass, matrix products only.

    A layer multiplies one row of n inputs with an n by m matrix: n·m multiplications and as many additions, 2·n·m.
    Bias, activation, softmax and loss are left out, as usual: they are only a few times m operations per layer.
    """
    return sum(2 * inputs * outputs for inputs, outputs in itertools.pairwise(layers))


def training_flops(layers: tuple[int, ...]) -> int:
    """Return the floating-point operations per sample of a training step, matrix products only.

    Besides the forward pass, each layer computes the gradient of its weights (2·n·m) and each layer except the first
    the gradient of its input (2·n·m). So a step costs three forward passes minus the first layer's 2·n·m. The
    optimizer's few operations per parameter and *step*, not per sample, are left out.
    """
    return 3 * forward_flops(layers) - 2 * layers[0] * layers[1]


def training_bytes(
    layers: tuple[int, ...], batch_size: float, *, optimizer: str, momentum: bool = False, activation_bytes: int = 4
) -> float:
    """Return the least bytes that one training step moves, counting each tensor once per operation that needs it.

    Parameters, 4 bytes each, are read in the forward pass; their gradients are written and read; the optimizer reads
    and writes them and its moments (two for Adam, one for SGD with momentum). The backward pass reads all weights but
    the first layer's again. Each input pixel is read as a byte, written as a float and read in both passes. A layer's
    outputs, `activation_bytes` each, are written, read by the next layer and read again in the backward pass; their
    gradients are written and read by two products (by one in the first layer). Caches may save some of these bytes, and
    a framework's temporary values add to them.
    """
    moments = 2 if optimizer == "adam" else int(momentum)
    parameters = parameter_count(layers) * (1 + 2 + 2 + 2 * moments)
    backward = sum(inputs * outputs for inputs, outputs in itertools.pairwise(layers[1:]))
    errors = 6 * sum(layers[1:]) - layers[1]
    return 4 * (parameters + backward) + batch_size * (layers[0] * (1 + 3 * 4) + activation_bytes * errors)


def memory_floor(  # noqa: PLR0913 - all of them matter
    layers: tuple[int, ...],
    batch_size: int,
    *,
    samples: int,
    optimizer: str,
    momentum: bool = False,
    activation_bytes: int = 4,
) -> int:
    """Return the bytes that any implementation must hold at once in the middle of a training step.

    These are the `samples` of the dataset that are resident (1 byte per pixel, 8 per label), the parameters and their
    gradients, the optimizer's moments (two for Adam, one for SGD with momentum), a batch of float32 images with its
    labels, and the outputs of every layer, `activation_bytes` each, which the backward pass needs.
    """
    moments = 2 if optimizer == "adam" else int(momentum)
    dataset = samples * (layers[0] + 8)
    parameters = 4 * parameter_count(layers) * (2 + moments)
    return dataset + parameters + batch_size * (4 * layers[0] + 8 + activation_bytes * sum(layers[1:]))
