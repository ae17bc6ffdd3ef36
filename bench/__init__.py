"""The harness: trains reference models across devices and records what happened."""
