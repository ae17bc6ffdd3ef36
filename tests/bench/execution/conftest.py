"""A run that was interrupted, to be resumed."""

from pathlib import Path

import pytest
from fake_worker import FakeLauncher
from local_runs import start
from run_parts import Display, interrupt, options

from bench.errors import InterruptedRunError


@pytest.fixture
def interrupted(own_locks: None, fake_launcher: FakeLauncher, tmp_path: Path) -> Path:
    """A stored run of which two of six trials are finished."""
    del own_locks
    with pytest.raises(InterruptedRunError, match=r"2 of 6 trials are stored in .*; continue with: .*--resume"):
        start(fake_launcher, options(tmp_path), Display({2: interrupt}))
    (path,) = (tmp_path / "results").rglob("*.jsonl")
    return path
