"""The harness: trains reference models across devices and records what happened.

Its version is `mnist_mlp`'s, which is not imported for it: an arm of `ab` brings its own.
"""

__version__ = "0.1.1"
