"""Where the harness itself is; the workload that it measures by default is beside it."""

from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parents[1]
"""The folder of the package `bench`."""

ROOT: Final = PACKAGE.parent
"""The folder that contains it: a checkout, or an installation's site-packages."""
