"""A progress bar on the terminal while an epoch trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class StepBar:
    """Shows how many of an epoch's batches are done; it is removed at the end and while other lines are printed."""

    def __init__(self, steps: int, console: Console | None = None) -> None:
        """Prepare a bar of `steps` batches, on standard error unless `console` is given; ``with`` shows it."""
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            transient=True,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("epoch", total=steps)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._progress.stop()

    @property
    def done(self) -> int:
        """Batches counted so far in this epoch."""
        return int(self._progress.tasks[0].completed)

    def step(self) -> None:
        """Count one batch."""
        self._progress.advance(self._task)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the bar while a line is printed, then show it again, empty."""
        self._progress.stop()
        yield
        self._progress.reset(self._task)
        self._progress.start()
