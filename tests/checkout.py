"""Where the checkout's folders are, for tests in whatever folder."""

from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parent
ROOT: Final = TESTS.parent
GOLDEN: Final = TESTS / "bench" / "golden"
"""What stored runs and tables looked like, byte for byte."""

REFERENCE: Final = ROOT / "results" / "reference" / "x86_64-2c-1e6182e1"
"""Runs that were measured on one machine, and are published."""
