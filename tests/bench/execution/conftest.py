"""A run that was interrupted, to be resumed."""

from pathlib import Path

import pytest
from fake_worker import FakeLauncher
from local_runs import Quiet, options, start

from bench.errors import InterruptedRunError


@pytest.fixture
def interrupted(fake_launcher: FakeLauncher, tmp_path: Path) -> Path:
    """A stored run of which two of six trials are finished."""
    display = Quiet()
    display.after = {2: InterruptedRunError("interrupted by SIGINT")}
    with pytest.raises(InterruptedRunError, match=r"2 of 6 trials are stored in .*; continue with: .*--resume"):
        start(fake_launcher, options(tmp_path), display)
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    return path
