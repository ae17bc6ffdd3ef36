import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from bench_builders import make_trial

from bench.errors import WorkerError
from bench.execution.conversation import describe_place, run_trial
from bench.execution.launcher import Launcher, make_arm_launchers, make_launcher, preload_for
from bench.execution.spawning import SpawningLauncher
from bench.records import Failure


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


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_every_process_has_the_modules_and_the_variables_that_it_is_to_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    if platform == "linux" != sys.platform:
        pytest.skip("processes are forked on Linux alone")
    (tmp_path / "telling.py").write_text("import os\nraise ImportError(os.environ['SEEN'])\n")
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with (
        contextlib.closing(make_launcher(("telling",), variables={"SEEN": "a variable"})) as launcher,
        pytest.raises(WorkerError, match=r"its last output: ImportError: a variable($|;)"),
    ):
        describe_place(launcher)


class FakeHost:
    """A worker host that notes what it is made for, what it forks and how often it is replaced."""

    made: ClassVar[list["FakeHost"]] = []

    def __init__(
        self,
        *,
        python: str,
        preload: Sequence[str],
        workload: Path | None,
        variables: Mapping[str, str] | None = None,
        is_shared: bool = False,
    ) -> None:
        assert variables is None
        self.made_for = python, preload, workload, is_shared
        self.forked: list[tuple[Path | None, int]] = []
        self.renewals = 0
        self.made.append(self)

    def start_with(self, workload: Path | None, ranks: int) -> None:
        self.forked.append((workload, ranks))

    def renew(self) -> None:
        self.renewals += 1


def test_arms_of_one_interpreter_share_a_host_and_every_host_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("bench.execution.launcher.ForkingLauncher", FakeHost)
    monkeypatch.setattr(FakeHost, "made", [])
    old, new = Path("old"), Path("new")
    arms, renew_shared = make_arm_launchers([("python", old), ("python", new)], ("json",))
    for ranks, arm in enumerate(arms, start=1):
        arm.start(ranks)
    launchers, renew_both = make_arm_launchers([("python", None), ("another", new)], ("json",))
    shared, *each = FakeHost.made
    assert shared.made_for == ("python", ("json",), old, True)
    assert shared.forked == [(old, 1), (new, 2)]
    assert [host.made_for for host in each] == [("python", ("json",), None, False), ("another", ("json",), new, False)]
    assert len(launchers) == 2
    renew_shared()
    assert [host.renewals for host in FakeHost.made] == [1, 0, 0]
    renew_both()
    assert [host.renewals for host in FakeHost.made] == [1, 1, 1]


DYING = (
    "import os, time\n"
    "os.write(2, {words!r})\n"
    "if os.fork() == 0:\n"
    "    time.sleep(600)  # holds the trial's socket\n"
    "os._exit(3)\n"
)

WORKLOADS = {
    "broken": "raise ImportError('no Training in here')",
    "talking": DYING.format(words=b"words of the first\n"),
    "silent": DYING.format(words=b""),
}
"""What fails as soon as it is imported."""


@pytest.fixture(scope="module")
def failing_arms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Launcher]]:
    """An arm for each of `WORKLOADS`, which share a host where processes are forked."""
    folders = {name: tmp_path_factory.mktemp(name) for name in WORKLOADS}
    for name, folder in folders.items():
        (folder / "mnist_mlp").mkdir()
        (folder / "mnist_mlp" / "__init__.py").write_text(WORKLOADS[name])
    arms, _ = make_arm_launchers([(sys.executable, folder) for folder in folders.values()])
    with contextlib.ExitStack() as stack:
        yield dict(zip(WORKLOADS, (stack.enter_context(contextlib.closing(arm)) for arm in arms), strict=True))


def test_a_workload_that_cannot_be_imported_is_explained_by_the_trials_last_loss(
    failing_arms: Mapping[str, Launcher],
) -> None:
    with pytest.raises(WorkerError, match=r"exit status 1; its last output: .*no Training in"):
        describe_place(failing_arms["broken"])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_forked_trial_that_dies_is_a_crash_at_once_whatever_it_left_behind_and_printed_before(
    failing_arms: Mapping[str, Launcher],
) -> None:
    arms = (failing_arms["talking"], failing_arms["silent"])
    first, second = (run_trial(arm, make_trial(), root=None, timeout_seconds=60).outcome for arm in arms)
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert first.message == "the trial's process ended with exit status 3; its last output: words of the first"
    assert second.message == "the trial's process ended with exit status 3"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_a_process_that_has_ended_is_killed_no_more(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have its number by then."""
    killers: list[threading.Thread] = []
    with contextlib.closing(SpawningLauncher()) as spawning:
        for each in (spawning, launcher):
            process = each.start()
            process.kill()
            process.wait()
            with monkeypatch.context() as patch:
                patch.setattr(os, "killpg", lambda *_: killers.append(threading.current_thread()))
                process.kill()
    assert threading.main_thread() not in killers  # only in one that was about to notice the end


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
