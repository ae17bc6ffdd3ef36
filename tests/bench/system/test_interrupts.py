import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from bench.errors import ExitCode, InterruptedRunError
from bench.system.interrupts import SIGNALS, Interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself these signals there")

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A signal that is not handled, or a handler that is not restored, must fail a test and not end pytest."""

    def ignore(number: int, frame: FrameType | None) -> None:
        del number, frame

    before = {number: signal.signal(number, ignore) for number in map(signal.Signals.__getitem__, NAMES)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    """Send this process a signal; its handler has run when this returns, for only the main thread takes it."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_ends_the_command_as_interrupted(name: str) -> None:
    with pytest.raises(InterruptedRunError, match=f"^interrupted by {name}$") as caught, Interrupts():
        send(signal.Signals[name])
    assert caught.value.exit_code == ExitCode.INTERRUPTED


def test_further_signals_do_not_disturb_the_cleaning_up() -> None:
    cleaned = []
    with Interrupts():
        try:
            send(signal.SIGINT)
        except InterruptedRunError:
            send(signal.SIGINT)
            send(signal.SIGTERM)
            cleaned.append("up")
    assert cleaned == ["up"]


def test_a_signal_waits_for_the_end_of_a_shield() -> None:
    steps = []

    def store(interrupts: Interrupts) -> None:
        with interrupts.shield():
            send(signal.SIGTERM)
            steps.append("finished")
        steps.append("went on")

    with Interrupts() as interrupts:
        with pytest.raises(InterruptedRunError, match="SIGTERM"):
            store(interrupts)
        with interrupts.shield():
            steps.append("cleaned up")
    assert steps == ["finished", "cleaned up"]


def test_a_signal_waits_for_the_end_of_the_outermost_shield() -> None:
    steps = []

    def store(interrupts: Interrupts) -> None:
        with interrupts.shield():
            with interrupts.shield():
                send(signal.SIGINT)
            steps.append("outer goes on")

    with Interrupts() as interrupts, pytest.raises(InterruptedRunError):
        store(interrupts)
    assert steps == ["outer goes on"]


def test_a_shield_without_a_signal_does_nothing() -> None:
    with Interrupts() as interrupts:
        with interrupts.shield():
            pass
        with pytest.raises(InterruptedRunError):
            send(signal.SIGINT)


def test_an_error_within_a_shield_comes_through_although_a_signal_waits() -> None:
    def store(interrupts: Interrupts) -> None:
        with interrupts.shield():
            send(signal.SIGINT)
            raise OSError("disk full")

    with Interrupts() as interrupts:
        with pytest.raises(OSError, match="disk full"):
            store(interrupts)
        with pytest.raises(InterruptedRunError), interrupts.shield():
            pass


def test_the_handlers_from_before_are_put_back() -> None:
    def mine(number: int, frame: object) -> None:
        del number, frame

    for number in SIGNALS:
        signal.signal(number, mine)
    with Interrupts():
        assert all(signal.getsignal(number) is not mine for number in SIGNALS)
    assert all(signal.getsignal(number) is mine for number in SIGNALS)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with Interrupts():
        send(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    assert signal.getsignal(number) is signal.SIG_IGN


def test_elsewhere_than_in_the_main_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with Interrupts() as interrupts, interrupts.shield():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
    assert signal.getsignal(signal.SIGINT) is before
