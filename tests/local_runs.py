"""Runs on this machine with a scripted worker."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from fake_worker import FakeLauncher

from bench.execution import run
from bench.execution.executor import ExecutionOptions, LocalExecutor
from bench.planning.plan import Request as RunRequest
from bench.records import EpochRecord, Trial, TrialRecord
from bench.system.interrupts import Interrupts

REQUEST = RunRequest(models=("784-128-10",), batch_sizes=(64, 128), repeats=3, devices=("cpu",), epochs=2)


def options(tmp_path: Path, **changes: Any) -> run.Options:  # noqa: ANN401 - any option
    defaults = run.Options(
        name="test",
        results=tmp_path / "results",
        output=None,
        budget_seconds=None,
        command=("run",),
    )
    return dataclasses.replace(defaults, **changes)


class Quiet:
    """A display that shows nothing but can act between trials."""

    def __init__(self) -> None:
        self.done: list[TrialRecord] = []
        self.after: dict[int, Exception] = {}

    def __call__(self, _trials: tuple[Trial, ...], _concurrency: int) -> contextlib.AbstractContextManager["Quiet"]:
        return contextlib.nullcontext(self)

    def trial_started(self, number: int, trial: Trial) -> None:
        pass

    def epoch_done(self, epoch: EpochRecord) -> None:
        pass

    def trial_done(self, record: TrialRecord) -> None:
        self.done.append(record)
        if len(self.done) in self.after:
            raise self.after[len(self.done)]

    def note(self, text: str) -> None:
        pass


def executor(launcher: FakeLauncher) -> LocalExecutor:
    return LocalExecutor(launcher, ExecutionOptions(data_root=None, timeout_seconds=60))


def runner(launcher: FakeLauncher, opts: run.Options, display: Quiet | None = None) -> run.Runner:
    return run.Runner(
        options=opts, executor=executor(launcher), interrupts=Interrupts(), make_progress=display or Quiet()
    )


def start(launcher: FakeLauncher, opts: run.Options, display: Quiet | None = None) -> run.Finished:
    return runner(launcher, opts, display).start(REQUEST)


def resume(launcher: FakeLauncher, path: Path, opts: run.Options) -> run.Finished:
    return runner(launcher, opts).resume(path)
