"""The reference MNIST multi-layer perceptrons and their training."""

__version__ = "0.1.0"
