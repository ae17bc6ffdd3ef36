"""The harness: trains reference models across devices and records what happened."""

__version__ = "0.1.0"
