"""What one sample costs to push through a multi-layer perceptron. Plain arithmetic on layer widths, no torch."""

import itertools


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


def training_bytes(
    layers: tuple[int, ...], batch_size: float, *, optimizer: str, momentum: bool = False, activation_bytes: int = 4
) -> float:
    """Return bytes that one training step moves at least, each tensor counted once for every operation that needs it.

    Parameters, 4 bytes each: read forward, their gradient written and read, read and written by the optimizer, its
    moments (two of Adam, one of SGD with momentum) read and written; weights but the first layer's are read backward
    too. Activations: an input image is read as a byte, written as a float and read forward and backward; a layer's
    outputs, `activation_bytes` each, are written and read forward, read backward, their error written and read by both
    products (the first layer needs but one). Caches may save some of it, temporary values of a framework add to it.
    """
    moments = 2 if optimizer == "adam" else int(momentum)
    parameters = parameter_count(layers) * (1 + 2 + 2 + 2 * moments)
    backward = sum(inputs * outputs for inputs, outputs in itertools.pairwise(layers[1:]))
    errors = 6 * sum(layers[1:]) - layers[1]
    return 4 * (parameters + backward) + batch_size * (layers[0] * (1 + 3 * 4) + activation_bytes * errors)


def memory_floor(  # noqa: PLR0913 - what decides it
    layers: tuple[int, ...],
    batch_size: int,
    *,
    samples: int,
    optimizer: str,
    momentum: bool = False,
    activation_bytes: int = 4,
) -> int:
    """Return bytes that must be alive at once in the middle of a training step, whatever the implementation.

    The `samples` of the dataset that are kept there (an image a byte a pixel, a label 8 bytes), parameters and their
    gradients, the optimizer's moments (two of Adam, one of SGD with momentum), a batch of float32 images with its
    labels, and each layer's outputs, which the backward pass needs, `activation_bytes` each.
    """
    moments = 2 if optimizer == "adam" else int(momentum)
    dataset = samples * (layers[0] + 8)
    parameters = 4 * parameter_count(layers) * (2 + moments)
    return dataset + parameters + batch_size * (4 * layers[0] + 8 + activation_bytes * sum(layers[1:]))
