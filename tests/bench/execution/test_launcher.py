import contextlib
import sys
import time
import weakref
from pathlib import Path

import pytest

from bench.errors import WorkerError
from bench.execution.conversation import describe_place
from bench.execution.launcher import Launcher, make_arm_launchers, make_launcher, preload_for
from bench.execution.spawning import SpawningLauncher


@pytest.mark.parametrize(
    ("pipelines", "dataset", "modules"),
    [
        (("resident",), "mnist", ()),
        (("dataloader",), "mnist", ("torchvision.datasets", "torchvision.transforms")),
        (("resident",), "digits", ("sklearn.datasets",)),
    ],
)
def test_host_preloads_what_the_trials_will_import(
    pipelines: tuple[str, ...], dataset: str, modules: tuple[str, ...]
) -> None:
    assert preload_for(pipelines, dataset) == modules


def test_launcher_of_this_platform_forks_only_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with contextlib.closing(make_launcher()) as launcher:
        assert isinstance(launcher, SpawningLauncher)


def test_a_workload_that_cannot_be_imported_is_explained_by_the_trials_last_loss(tmp_path: Path) -> None:
    (tmp_path / "mnist_mlp").mkdir()
    (tmp_path / "mnist_mlp" / "__init__.py").write_text("raise ImportError('no Training in here')")
    (arm,), _ = make_arm_launchers([(sys.executable, tmp_path)])
    with contextlib.closing(arm), pytest.raises(WorkerError, match=r"exit status 1; its last output: .*no Training in"):
        describe_place(arm)


def test_launchers_keep_nothing_of_a_process_that_has_ended(launcher: Launcher) -> None:
    with contextlib.closing(SpawningLauncher()) as spawning:
        for each in (spawning, launcher):
            process = each.start()
            process.kill()
            process.wait()
            kept = weakref.ref(process)
            del process
            deadline = time.monotonic() + 60  # its thread lets go of it, too
            while kept() is not None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert kept() is None
