"""Progress on standard error: a live display on a terminal, plain lines elsewhere."""

import collections
import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TextIO

from bench.planning.dimensions import IDENTITY, dimension_words, varying_members
from bench.records import Configuration, EpochRecord, Measurement, Trial, TrialRecord
from bench.system.outputs import say
from bench.units import format_bytes, format_number, format_percent, format_rate, format_seconds
from bench.warning_rules import ADVICE

_PLAIN_INTERVAL_SECONDS: Final = 30.0


_whatever_becomes_of_the_terminal: Final = contextlib.suppress(OSError)
"""A terminal may close: under nohup the run continues, otherwise SIGHUP ends it in good order."""


class Progress(Protocol):
    """What a run reports while it is running."""

    def trial_started(self, number: int, trial: Trial) -> None:
        """Trial `number`, counted from 1, is starting."""

    def epoch_done(self, epoch: EpochRecord) -> None:
        """The current trial has finished an epoch."""

    def trial_done(self, record: TrialRecord) -> None:
        """A trial has finished and is stored."""

    def note(self, text: str) -> None:
        """Something happened that the user should know about."""


class RemainingTime:
    """Estimates a run's remaining seconds from the wall times of its finished trials, by configuration."""

    def __init__(self, trials: tuple[Trial, ...], concurrency: int = 1) -> None:
        """Start with all of `trials` to run, `concurrency` of them at a time."""
        self._concurrency = concurrency
        self._left = collections.Counter(trial.configuration for trial in trials)
        self._seen: dict[Configuration, list[float]] = {}

    def finish(self, record: TrialRecord) -> None:
        """Take a finished trial into account."""
        self._left[record.trial.configuration] -= 1
        self._seen.setdefault(record.trial.configuration, []).append(record.wall_seconds)

    def seconds(self) -> float | None:
        """Return the estimate; None before the first trial has finished. New configurations count as the mean."""
        if not self._seen:
            return None
        known = {key: statistics.median(walls) for key, walls in self._seen.items()}
        mean = statistics.fmean(known.values())
        return sum(count * known.get(key, mean) for key, count in self._left.items()) / self._concurrency


def trial_names(trials: Iterable[Trial]) -> Callable[[Trial], str]:
    """Return a function that names each of `trials` by device, model, batch size, seed and whatever else varies."""
    distinct = list(dict.fromkeys(trial.configuration for trial in trials))
    varying = [key for key in varying_members(distinct) if key not in IDENTITY]

    def name(trial: Trial) -> str:
        configuration = trial.configuration
        others = (dimension_words(key, getattr(configuration, key)) for key in varying)
        model = f"{configuration.device} {configuration.model} batch {configuration.batch_size}"
        return " ".join((model, *others, f"seed {trial.seed}"))

    return name


def describe_outcome(record: TrialRecord) -> str:
    """Return a short description of a trial's outcome."""
    outcome = record.outcome
    if not isinstance(outcome, Measurement):
        return f"FAILED ({outcome.kind}): {outcome.message}"
    rate = f"{format_seconds(outcome.epoch_seconds)} an epoch, {format_rate(outcome.throughput_per_second)}"
    return rate if outcome.test_accuracy is None else f"{rate}, test accuracy {format_percent(outcome.test_accuracy)}"


def describe_epoch(number: int, epoch: EpochRecord, *, in_detail: bool) -> str:
    """Return a short description of an epoch; in detail, with its time and the results on the test images."""
    text = f"epoch {number}, {format_rate(epoch.train_samples / epoch.train_seconds)}"
    if not in_detail:
        return text
    text = f"{text}, {format_seconds(epoch.train_seconds)}, test loss {format_number(epoch.test_loss)}"
    return text if epoch.test_accuracy is None else f"{text}, test accuracy {format_percent(epoch.test_accuracy)}"


def describe_details(record: TrialRecord) -> Iterator[str]:
    """Yield lines with further details of a trial, and what to do about its warnings."""
    outcome = record.outcome
    if isinstance(outcome, Measurement):
        training = sum(epoch.train_seconds for epoch in outcome.epochs)
        yield (
            f"whole trial {format_seconds(record.wall_seconds)}: preparation "
            f"{format_seconds(outcome.preparation_seconds)}, warm-up {format_seconds(outcome.warm_up_seconds)} (cold "
            f"start {format_seconds(outcome.cold_start_seconds)}), training {format_seconds(training)}"
        )
        peaks = (
            ("host", outcome.host_peak),
            ("allocated", outcome.device_allocated_peak),
            ("reserved", outcome.device_reserved_peak),
        )
        yield from (f"{name} peak {format_bytes(peak.bytes)} ({peak.method})" for name, peak in peaks if peak)
        if outcome.energy is not None:
            yield f"energy {outcome.energy.joules:.3g} J ({outcome.energy.method})"
        elif outcome.energy_reason:
            yield f"energy unmeasured: {outcome.energy_reason}"
    for warning in record.warnings:
        yield f"warning {warning}: {ADVICE[warning]}"


class QuietProgress:
    """Shows only failed trials, a line each."""

    def __init__(self, trials: tuple[Trial, ...], stream: TextIO) -> None:
        """Write to `stream`."""
        self._name = trial_names(trials)
        self._stream = stream

    def trial_started(self, number: int, trial: Trial) -> None:
        """See `Progress.trial_started`."""

    def epoch_done(self, epoch: EpochRecord) -> None:
        """See `Progress.epoch_done`."""

    def trial_done(self, record: TrialRecord) -> None:
        """See `Progress.trial_done`."""
        if not isinstance(record.outcome, Measurement):
            say(f"{self._name(record.trial)}: {describe_outcome(record)}", stream=self._stream)

    def note(self, text: str) -> None:
        """See `Progress.note`."""


class PlainProgress:
    """Shows that the first trial has started, a line per finished trial, and one now and then during a long trial.

    In detail, it also shows one per epoch.
    """

    def __init__(
        self,
        trials: tuple[Trial, ...],
        stream: TextIO,
        *,
        in_detail: bool = False,
        concurrency: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write to `stream`."""
        self._in_detail = in_detail
        self._name = trial_names(trials)
        self._total = len(trials)
        self._remaining = RemainingTime(trials, concurrency)
        self._stream = stream
        self._clock = clock
        self._number = 0
        self._done = 0
        self._trial: Trial | None = None
        self._last_line = clock()
        self._epochs_done = 0

    def _line(self, number: int, text: str) -> None:
        seconds = self._remaining.seconds()
        left = "" if seconds is None else f"; about {format_seconds(seconds)} left"
        say(f"[{number}/{self._total}] {text}{left}", stream=self._stream)
        self._last_line = self._clock()

    def trial_started(self, number: int, trial: Trial) -> None:
        """See `Progress.trial_started`."""
        if self._trial is None:  # the first result may be minutes away
            self._line(number, f"{self._name(trial)}: started")
        self._number, self._trial, self._epochs_done = number, trial, 0

    def epoch_done(self, epoch: EpochRecord) -> None:
        """See `Progress.epoch_done`."""
        self._epochs_done += 1
        if self._trial is None:
            return
        if self._in_detail or self._clock() - self._last_line >= _PLAIN_INTERVAL_SECONDS:
            epochs = describe_epoch(self._epochs_done, epoch, in_detail=self._in_detail)
            self._line(self._number, f"{self._name(self._trial)}: {epochs}")

    def trial_done(self, record: TrialRecord) -> None:
        """See `Progress.trial_done`."""
        self._remaining.finish(record)
        self._done += 1
        self._line(self._done, f"{self._name(record.trial)}: {describe_outcome(record)}")
        for line in describe_details(record) if self._in_detail else ():
            say(f"    {line}", stream=self._stream)

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        say(text, stream=self._stream)


class TerminalProgress:
    """Shows a bar with the current trial, its throughput and the time left, below the lines of failed trials."""

    def __init__(self, trials: tuple[Trial, ...], stream: TextIO, *, concurrency: int = 1) -> None:
        """Draw on `stream`, a terminal."""
        from rich.console import Console  # noqa: PLC0415 - only a live display needs it
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - only a terminal needs it
        from rich.progress import Progress as RichProgress  # noqa: PLC0415 - only a terminal needs it
        from rich.table import Column  # noqa: PLC0415 - only a terminal needs it

        self._name = trial_names(trials)
        self._remaining = RemainingTime(trials, concurrency)
        self._bar = RichProgress(
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
            # Last, and cut where the terminal ends: otherwise a long name leaves no room for the rest.
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
            console=Console(file=stream, stderr=True),
            transient=True,
            auto_refresh=False,  # a timer would redraw while a trial is being timed on the same cores
        )
        self._task = self._bar.add_task("starting", total=len(trials), left="", rate="")

    def __enter__(self) -> Self:
        """Start drawing."""
        with _whatever_becomes_of_the_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Clear the display."""
        with _whatever_becomes_of_the_terminal:
            self._bar.stop()

    def trial_started(self, number: int, trial: Trial) -> None:
        """See `Progress.trial_started`. The bar does its own counting."""
        del number
        self._update(description=self._name(trial), rate="")

    def epoch_done(self, epoch: EpochRecord) -> None:
        """See `Progress.epoch_done`."""
        self._update(rate=format_rate(epoch.train_samples / epoch.train_seconds))

    def trial_done(self, record: TrialRecord) -> None:
        """See `Progress.trial_done`."""
        self._remaining.finish(record)
        seconds = self._remaining.seconds()
        left = "" if seconds is None else f"{format_seconds(seconds)} left"
        self._update(advance=1, left=left)
        if not isinstance(record.outcome, Measurement):
            text = f"{self._name(record.trial)}: {describe_outcome(record)}"
            self.note(text)

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        with _whatever_becomes_of_the_terminal:
            self._bar.console.print(text, markup=False, emoji=False, highlight=False)

    def _update(self, **changes: Any) -> None:  # noqa: ANN401 - rich's options
        with _whatever_becomes_of_the_terminal:
            self._bar.update(self._task, refresh=True, **changes)


def make_progress(
    trials: tuple[Trial, ...],
    stream: TextIO,
    volume: Literal["quiet", "verbose"] | None = None,
    *,
    concurrency: int = 1,
) -> contextlib.AbstractContextManager[Progress]:
    """Return the display that suits `stream` and `volume`, for `concurrency` trials at a time."""
    if volume == "quiet":
        return contextlib.nullcontext(QuietProgress(trials, stream))
    if volume == "verbose" or not stream.isatty():
        plain = PlainProgress(trials, stream, in_detail=volume == "verbose", concurrency=concurrency)
        return contextlib.nullcontext(plain)
    return TerminalProgress(trials, stream, concurrency=concurrency)
