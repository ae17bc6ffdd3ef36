"""What tests give a run besides its executor: options, and a display."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import InterruptedRunError
from bench.execution import run
from bench.records import EpochRecord, Trial, TrialRecord


def options(tmp_path: Path, **changes: Any) -> run.Options:  # noqa: ANN401 - any option
    defaults = run.Options(
        name="test", results=tmp_path / "results", output=None, budget_seconds=None, command=("run",)
    )
    return dataclasses.replace(defaults, **changes)


class Display:
    """Keeps what is told, and can act when so many trials are done."""

    def __init__(self, after: dict[int, Callable[[], None]] | None = None) -> None:
        self.notes: list[str] = []
        self.numbers: list[int] = []
        self.concurrency = 0
        self.done = 0
        self.after = after or {}

    def __call__(self, _trials: tuple[Trial, ...], concurrency: int) -> contextlib.AbstractContextManager["Display"]:
        self.concurrency = concurrency
        return contextlib.nullcontext(self)

    def trial_started(self, number: int, trial: Trial) -> None:
        del trial
        self.numbers.append(number)

    def epoch_done(self, epoch: EpochRecord) -> None:
        pass

    def trial_done(self, record: TrialRecord) -> None:
        del record
        self.done += 1
        self.after.get(self.done, lambda: None)()

    def note(self, text: str) -> None:
        self.notes.append(text)


def interrupt() -> None:
    """Act as Ctrl-C does between two trials."""
    raise InterruptedRunError("interrupted by SIGINT")
