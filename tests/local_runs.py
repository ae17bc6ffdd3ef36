"""Runs on this machine with a scripted worker."""

from pathlib import Path

from fake_worker import FakeLauncher
from run_parts import Display

from bench.execution import run
from bench.execution.executor import ExecutionOptions, LocalExecutor
from bench.planning.plan import Request
from bench.system.interrupts import Interrupts

REQUEST = Request(models=("784-128-10",), batch_sizes=(64, 128), repeats=3, devices=("cpu",), epochs=2)


def executor(launcher: FakeLauncher) -> LocalExecutor:
    return LocalExecutor(launcher, ExecutionOptions(data_root=None, timeout_seconds=60))


def runner(launcher: FakeLauncher, opts: run.Options, display: Display | None = None) -> run.Runner:
    return run.Runner(
        options=opts, executor=executor(launcher), interrupts=Interrupts(), make_progress=display or Display()
    )


def start(launcher: FakeLauncher, opts: run.Options, display: Display | None = None) -> run.Finished:
    return runner(launcher, opts, display).start(REQUEST)


def resume(launcher: FakeLauncher, path: Path, opts: run.Options) -> run.Finished:
    return runner(launcher, opts).resume(path)
