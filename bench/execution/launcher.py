"""What starts worker processes: where forking is safe (Linux), a host that forks them; elsewhere each is spawned."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bench.execution.forking import ForkingLauncher, SharedLauncher
from bench.execution.processes import Process
from bench.execution.spawning import SpawningLauncher


class Launcher(Protocol):
    """Starts worker processes."""

    def start(self, ranks: int = 1) -> Process:
        """Return a fresh worker process, which starts the others if several `ranks` are to train together.

        Raises:
            WorkerError: none could be started.
        """

    def close(self) -> None:
        """End all processes that are still running."""


def preload_for(pipelines: Iterable[str], dataset: str) -> tuple[str, ...]:
    """Return the modules that every trial would import, to be imported before its memory is measured."""
    readers = ("torchvision.datasets", "torchvision.transforms") if "dataloader" in pipelines else ()
    return (*readers, "sklearn.datasets") if dataset == "digits" else readers


def make_launcher(
    preload: Sequence[str] = (),
    *,
    python: str = sys.executable,
    workload: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Launcher:
    """Return the launcher for this platform.

    Args:
        preload: modules that each trial needs besides the usual ones.
        python: the interpreter for the worker processes.
        workload: a folder with another `mnist_mlp` for them to train; the harness stays this one.
        variables: environment variables for them, in addition to this process's own.
    """
    # Forking is unsafe on macOS once its frameworks are loaded, and Windows cannot fork.
    if sys.platform == "linux":
        return ForkingLauncher(python=python, preload=preload, workload=workload, variables=variables)
    return SpawningLauncher(python=python, preload=preload, workload=workload, variables=variables)


def make_arm_launchers(
    arms: Sequence[tuple[str, Path | None]], preload: Sequence[str] = ()
) -> tuple[tuple[Launcher, ...], Callable[[], None]]:
    """Return a launcher for each arm (an interpreter and a workload), and a function that replaces their worker hosts.

    Processes of one host inherit its memory layout, which differs from host to host: training by two hosts of the same
    program differed by up to 12 %, however many trials each forked (docs/measuring.md). So arms with the same
    interpreter share one host; others have one each. Call the returned function before each round of pairs: the
    remaining effect of a host then varies from round to round and shows in the spread of the pairs.
    """
    interpreters = {python for python, _ in arms}
    if sys.platform == "linux" and len(interpreters) == 1:
        # The first arm's workload includes the `bench` that another interpreter needs; each trial puts its own first.
        host = ForkingLauncher(python=interpreters.pop(), preload=preload, workload=arms[0][1], is_shared=True)
        return tuple(SharedLauncher(host, workload) for _, workload in arms), host.renew
    launchers = tuple(make_launcher(preload, python=python, workload=workload) for python, workload in arms)

    def renew() -> None:
        for launcher in launchers:
            if isinstance(launcher, ForkingLauncher):
                launcher.renew()

    return launchers, renew
