"""Where the harness itself lies: beside it is the workload that it measures unless told otherwise."""

from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parents[1]
"""The folder of the package `bench`."""

ROOT: Final = PACKAGE.parent
"""What holds it: a checkout, or an installation's site-packages."""
