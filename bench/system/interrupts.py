"""Ctrl-C, SIGTERM and SIGHUP end a command in good order: what is finished is stored, nothing is left running."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Final, Self

from bench.errors import InterruptedRunError

SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that end a command, if this system has them. SIGHUP is sent when the terminal closes."""


class Interrupts:
    """While this context is open, each of `SIGNALS` raises `InterruptedRunError` in the main thread, once.

    A signal that is ignored stays ignored: nohup ignores SIGHUP, and a script's background job ignores SIGINT. Further
    signals have no effect, so that they cannot disturb the clean-up that the first one started. Within `shield`, a
    signal takes effect at the end of the block.
    """

    def __init__(self) -> None:
        """Nothing is installed yet."""
        self._shields = 0
        self._received: int | None = None
        self._raised = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers; do nothing outside the main thread, where Python does not allow it."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
        self._raise_unless_shielded()

    def _raise_unless_shielded(self) -> None:
        if self._received is None or self._raised or self._shields:
            return
        self._raised = True
        raise InterruptedRunError(f"interrupted by {signal.Signals(self._received).name}")

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        """Finish this block before a signal takes effect."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        self._raise_unless_shielded()
