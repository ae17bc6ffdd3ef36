import io
import re
import threading

import pytest
from bench_builders import make_configuration, make_epoch, make_epochs, make_failure, make_measurement, make_record
from hypothesis import given
from hypothesis import strategies as st

from bench.execution.progress import (
    PlainProgress,
    RemainingTime,
    TerminalProgress,
    describe_details,
    describe_epoch,
    describe_outcome,
    make_progress,
    trial_names,
)
from bench.records import Failure, FailureKind, Trial, TrialRecord, TrialWarning
from bench.warning_rules import ADVICE

SMALL = make_configuration(batch_size=1024)
LARGE = make_configuration(batch_size=16)


def trials_of(*counts: tuple[object, int]) -> tuple[Trial, ...]:
    records = [make_record(configuration, repeat) for configuration, n in counts for repeat in range(n)]  # type: ignore[arg-type]  # members by name, of several types
    return tuple(record.trial for record in records)


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# Remaining time


def test_before_the_first_trial_has_ended_nothing_can_be_said() -> None:
    assert RemainingTime(trials_of((SMALL, 3))).seconds() is None


def test_a_configuration_is_expected_to_take_its_own_median_again() -> None:
    remaining = RemainingTime(trials_of((SMALL, 5)))
    for repeat, wall_seconds in enumerate((10.0, 12.0, 500.0)):
        remaining.finish(make_record(SMALL, repeat, wall_seconds=wall_seconds))
    assert remaining.seconds() == 2 * 12.0


def test_an_unseen_configuration_counts_as_the_mean_of_the_others() -> None:
    remaining = RemainingTime(trials_of((SMALL, 3), (LARGE, 2), (make_configuration(), 4)))
    remaining.finish(make_record(SMALL, 0, wall_seconds=2.0))
    assert remaining.seconds() == 2 * 2.0 + 2 * 2.0 + 4 * 2.0
    remaining.finish(make_record(LARGE, 0, wall_seconds=10.0))
    assert remaining.seconds() == 2 * 2.0 + 1 * 10.0 + 4 * 6.0


@given(st.lists(st.floats(min_value=0.001, max_value=1e6), min_size=1, max_size=8))
def test_when_all_is_done_no_time_remains(walls: list[float]) -> None:
    remaining = RemainingTime(trials_of((SMALL, len(walls))))
    for repeat, wall_seconds in enumerate(walls):
        remaining.finish(make_record(SMALL, repeat, wall_seconds=wall_seconds))
    assert remaining.seconds() == 0


# Words


def test_a_trial_is_described_by_what_distinguishes_it() -> None:
    trials = trials_of((SMALL, 2), (LARGE, 1))
    assert list(map(trial_names(trials), trials)) == [
        "cpu 784-128-10 batch 1024 seed 42",
        "cpu 784-128-10 batch 1024 seed 43",
        "cpu 784-128-10 batch 16 seed 42",
    ]


def test_whatever_varies_in_a_grid_is_part_of_its_trials_names() -> None:
    fused = make_configuration(batch_size=1024, engine="fused", threads=4, learning_rate=0.1)
    trials = trials_of((SMALL, 1), (fused, 1))
    assert list(map(trial_names(trials), trials)) == [
        "cpu 784-128-10 batch 1024 eager 2 threads learning rate 0.001 seed 42",
        "cpu 784-128-10 batch 1024 fused 4 threads learning rate 0.1 seed 42",
    ]


def test_an_outcome_is_time_rate_and_accuracy() -> None:
    assert describe_outcome(make_record()) == "2.12 s an epoch, 28.2k/s, test accuracy 98.10 %"


def test_the_accuracy_on_noise_is_not_shown() -> None:
    noise = make_measurement(epochs=make_epochs((2.0,), (None,)))
    assert describe_outcome(make_record(outcome=noise)) == "2.00 s an epoch, 30.0k/s"


def test_a_failure_is_shown_with_kind_and_message() -> None:
    failed = make_record(outcome=make_failure(FailureKind.TIMEOUT, "60 s are over"))
    assert describe_outcome(failed) == "FAILED (timeout): 60 s are over"


# Plain lines


def test_the_first_trials_start_and_each_finished_trial_are_one_line_with_the_time_left() -> None:
    trials = trials_of((SMALL, 3))
    stream = io.StringIO()
    progress = PlainProgress(trials, stream, clock=FakeClock())
    for number, trial in enumerate(trials[:2], start=1):
        progress.trial_started(number, trial)
        progress.epoch_done(make_epoch())
        outcome = make_measurement() if number == 1 else make_failure()
        progress.trial_done(make_record(SMALL, trial.repeat, wall_seconds=9.5, outcome=outcome))
    measured = "2.12 s an epoch, 28.2k/s, test accuracy 98.10 %"
    assert stream.getvalue().splitlines() == [
        "[1/3] cpu 784-128-10 batch 1024 seed 42: started",
        f"[1/3] cpu 784-128-10 batch 1024 seed 42: {measured}; about 19.0 s left",
        "[2/3] cpu 784-128-10 batch 1024 seed 43: FAILED (out_of_memory): 9 GiB wanted, 8 GiB free; about 9.50 s left",
    ]


def test_during_a_long_trial_a_line_comes_at_most_every_half_minute() -> None:
    clock, stream = FakeClock(), io.StringIO()
    progress = PlainProgress(trials_of((SMALL, 1)), stream, clock=clock)
    progress.trial_started(1, trials_of((SMALL, 1))[0])
    for _ in range(12):
        clock.now += 7.5
        progress.epoch_done(make_epoch(train_seconds=2.0))
    trial = "[1/1] cpu 784-128-10 batch 1024 seed 42"
    started, *lines = stream.getvalue().splitlines()
    assert started == f"{trial}: started"
    assert lines == [f"{trial}: epoch {n}, 30.0k/s" for n in (4, 8, 12)]


def test_the_epochs_of_each_trial_are_counted_from_one() -> None:
    clock, stream = FakeClock(), io.StringIO()
    trials = trials_of((SMALL, 2))
    progress = PlainProgress(trials, stream, clock=clock)
    for number, trial in enumerate(trials, start=1):
        progress.trial_started(number, trial)
        clock.now += 60.0
        progress.epoch_done(make_epoch())
    assert re.findall(r"\[(\d)/2\].* epoch (\d+)", stream.getvalue()) == [("1", "1"), ("2", "1")]


def test_in_detail_each_epoch_is_shown_and_each_trials_times_memory_and_advice() -> None:
    trials = trials_of((SMALL, 1))
    stream = io.StringIO()
    with make_progress(trials, stream, "verbose") as progress:
        progress.trial_started(1, trials[0])
        for epoch in make_epochs():
            progress.epoch_done(epoch)
        outcome = make_measurement(energy_reason="no counter")
        progress.trial_done(make_record(SMALL, outcome=outcome, warnings=(TrialWarning.STALL,)))
    started, *lines = stream.getvalue().splitlines()
    trial = "[1/1] cpu 784-128-10 batch 1024 seed 42"
    assert started == f"{trial}: started"
    assert lines[:2] == [
        f"{trial}: epoch 1, 26.7k/s, 2.25 s, test loss 0.0875, test accuracy 96.50 %",
        f"{trial}: epoch 2, 30.0k/s, 2.00 s, test loss 0.0875, test accuracy 97.25 %",
    ]
    assert lines[4:] == [
        "    whole trial 9.50 s: preparation 750 ms, warm-up 500 ms (cold start 62.5 ms), training 6.38 s",
        "    host peak 381 MiB (VmHWM)",
        "    energy unmeasured: no counter",
        f"    warning stall: {ADVICE[TrialWarning.STALL]}",
    ]


def test_what_was_not_measured_and_has_no_reason_is_left_out_of_the_details() -> None:
    record = make_record(outcome=make_measurement(energy=None, energy_reason=""))
    assert not any("energy" in line for line in describe_details(record))
    (epoch,) = make_epochs((2.0,), (None,))
    assert describe_epoch(1, epoch, in_detail=True) == "epoch 1, 30.0k/s, 2.00 s, test loss 0.0875"


def test_trials_that_run_at_the_same_time_are_counted_as_they_end_and_share_the_time_left() -> None:
    trials = trials_of((SMALL, 4))
    plain, live = io.StringIO(), FakeTerminal()
    for stream in (plain, live):
        with make_progress(trials, stream, concurrency=2) as progress:
            progress.trial_started(1, trials[0])
            progress.trial_started(2, trials[1])
            progress.trial_done(make_record(SMALL, 0, wall_seconds=9.0))
    assert re.findall(r"\[./4\]|[\d.]+ s left", plain.getvalue().partition("started")[2]) == ["[1/4]", "13.5 s left"]
    assert "13.5 s left" in words(live)


def test_quiet_shows_only_failures_even_on_a_terminal() -> None:
    stream = FakeTerminal()
    trials = trials_of((SMALL, 2))
    with make_progress(trials, stream, "quiet") as progress:
        for number, outcome in enumerate((make_measurement(), make_failure()), start=1):
            progress.trial_started(number, trials[number - 1])
            progress.epoch_done(make_epoch())
            progress.trial_done(make_record(SMALL, number - 1, outcome=outcome))
    failed = "cpu 784-128-10 batch 1024 seed 43: FAILED (out_of_memory): 9 GiB wanted, 8 GiB free\n"
    assert stream.getvalue() == failed


# Live display


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rich judge the stream alone."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")


def words(stream: FakeTerminal) -> str:
    """Return what was drawn, without the terminal's control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def follow(stream: FakeTerminal, *records: TrialRecord) -> None:
    trials = tuple(record.trial for record in records)
    with make_progress(trials, stream) as progress:
        for number, record in enumerate(records, start=1):
            progress.trial_started(number, record.trial)
            progress.epoch_done(make_epoch())
            progress.trial_done(record)


def test_a_terminal_shows_count_trial_and_time_left() -> None:
    stream = FakeTerminal()
    follow(stream, make_record(SMALL, 0), make_record(SMALL, 1))
    assert "2/2" in words(stream)
    assert "30.0k/s cpu 784-128-10 batch 1024 seed 43" in words(stream)
    assert "0 s left" in words(stream)


def test_on_a_narrow_terminal_the_trials_name_is_cut_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = FakeTerminal()
    other = make_configuration(batch_size=1024, engine="fused", pipeline="dataloader")
    follow(stream, make_record(SMALL), make_record(other))
    drawn = [line.rstrip() for line in re.split(r"[\r\n]", words(stream)) if "cpu" in line]
    assert all(re.match(r"[0-2]/2 .* 0:00:\d\d .*cpu 784.*…$", line) for line in drawn)
    assert "s left 30.0k/s cpu 784" in drawn[-1]


def test_a_terminal_is_drawn_at_each_event_and_by_no_timer() -> None:
    stream, record, threads = FakeTerminal(), make_record(SMALL), threading.active_count()
    with make_progress((record.trial,), stream) as progress:
        progress.trial_started(1, record.trial)
        assert "cpu 784-128-10 batch 1024 seed 42" in words(stream)
        progress.epoch_done(make_epoch())
        assert "30.0k/s cpu 784-128-10 batch 1024 seed 42" in words(stream)
        assert threading.active_count() == threads


def test_the_live_display_leaves_an_empty_line_and_a_cursor() -> None:
    stream = FakeTerminal()
    follow(stream, make_record(SMALL))
    erase_line, show_cursor, hide_cursor = "\x1b[2K", "\x1b[?25h", "\x1b[?25l"
    assert stream.getvalue().endswith(erase_line)
    assert stream.getvalue().rindex(show_cursor) > stream.getvalue().rindex(hide_cursor)
    assert "FAILED" not in words(stream)


def test_the_display_is_cleared_when_the_run_breaks_off() -> None:
    stream = FakeTerminal()
    with pytest.raises(KeyboardInterrupt), make_progress(trials_of((SMALL, 2)), stream):
        raise KeyboardInterrupt
    assert stream.getvalue().endswith("\x1b[2K")


def test_a_failed_trial_stays_on_the_terminal_word_for_word() -> None:
    stream = FakeTerminal()
    failure = Failure(kind=FailureKind.CRASH, message="ValueError: [red]no markup[/red] [1, 2]")
    follow(stream, make_record(SMALL, 0, outcome=failure), make_record(SMALL, 1))
    assert "cpu 784-128-10 batch 1024 seed 42: FAILED (crash): ValueError: [red]no markup[/red] [1, 2]" in words(stream)


def test_no_colour_is_used_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = FakeTerminal()
    follow(stream, make_record(SMALL, outcome=make_failure()))
    assert re.search(r"\x1b\[[0-9;]*3[0-7]m", stream.getvalue()) is None


def test_the_display_suits_the_stream() -> None:
    with make_progress(trials_of((SMALL, 1)), FakeTerminal()) as live:
        assert isinstance(live, TerminalProgress)
    with make_progress(trials_of((SMALL, 1)), io.StringIO()) as plain:
        assert isinstance(plain, PlainProgress)
    with make_progress(trials_of((SMALL, 1)), FakeTerminal(), "verbose") as detailed:
        assert isinstance(detailed, PlainProgress)


def test_a_log_that_cannot_be_written_does_not_end_the_run() -> None:
    class FullDisk(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    progress = PlainProgress(trials_of((SMALL, 1)), FullDisk())
    progress.trial_started(1, make_record(SMALL).trial)
    progress.trial_done(make_record(SMALL))


def test_a_terminal_that_goes_away_does_not_end_the_run() -> None:
    class Gone(FakeTerminal):
        def write(self, _text: str) -> int:
            raise OSError(5, "Input/output error")

    follow(Gone(), make_record(SMALL, outcome=make_failure()))
