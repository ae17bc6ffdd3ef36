"""Fixtures of the harness's tests: a real worker host shared by all of them, and a scripted stand-in for it."""

from collections.abc import Iterator

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
