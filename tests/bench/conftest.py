"""Fixtures of the harness's tests: a real worker host that all share, a scripted stand-in, a place of one's own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_worker import FakeLauncher

from bench.execution.launcher import Launcher, make_launcher


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """The real launcher of this platform: importing torch takes seconds, so it is shared."""
    real = make_launcher()
    yield real
    real.close()


@pytest.fixture
def fake_launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def worker(fake_launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch) -> FakeLauncher:
    """The scripted worker in place of the real one."""
    monkeypatch.setattr("bench.execution.launcher.make_launcher", lambda _preload=(): fake_launcher)
    return fake_launcher


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make starting a worker an error: what is wrong must be found before."""
    monkeypatch.setattr("bench.execution.launcher.ForkingLauncher", pytest.fail)


@pytest.fixture
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no other run on this machine hold the device, and no other process be in the way."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def elsewhere(own_locks: None, tmp_path: Path) -> Iterator[Path]:
    """Work in an empty folder, with locks and processes of its own."""
    del own_locks
    with contextlib.chdir(tmp_path):
        yield tmp_path
