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
