"""Runs on a cluster of scripted nodes, which can be lost or slow."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_cluster import FakeCluster, FakeNode
from run_parts import Display, options

from bench.execution import run
from bench.execution.cluster import ClusterExecutor
from bench.execution.executor import Executor
from bench.execution.nodes import NodeLostError
from bench.planning.plan import Request
from bench.records import Run, Trial
from bench.system.interrupts import Interrupts
from bench.system.locks import Patience

REQUEST = Request(models=("784-128-10",), batch_sizes=(32, 64, 128, 256), repeats=5, devices=("cpu",), epochs=1)
TRIALS = 20


def executor(
    *nodes: FakeNode, cluster: FakeCluster | None = None, tell: Callable[[str], None] | None = None
) -> ClusterExecutor:
    return ClusterExecutor(cluster or FakeCluster(*nodes), Patience(notify=tell or (lambda _line: None)))


def runner(who: Executor, opts: run.Options, display: Display | None = None) -> run.Runner:
    return run.Runner(options=opts, executor=who, interrupts=Interrupts(), make_progress=display or Display())


def start(
    who: ClusterExecutor,
    tmp_path: Path,
    request: Request = REQUEST,
    display: Display | None = None,
    **changes: Any,  # noqa: ANN401 - any option
) -> run.Finished:
    return runner(who, options(tmp_path, **changes), display).start(request)


def resume(who: ClusterExecutor, path: Path, tmp_path: Path) -> run.Finished:
    return runner(who, options(tmp_path)).resume(path)


def lose(*, at: int) -> Callable[[Trial], None]:
    """Return what makes a node fail at this call, and at all that follow."""
    count = itertools.count(1)

    def act(_trial: Trial) -> None:
        if next(count) >= at:
            raise NodeLostError("it burnt down")

    return act


def slow(_trial: Trial) -> None:
    threading.Event().wait(0.05)


def check_complete(stored: Run, trials: int = TRIALS) -> None:
    assert Counter(record.trial for record in stored.records).most_common(1)[0][1] == 1
    assert len(stored.records) == trials
    assert stored.footer is not None
    assert stored.footer.complete
