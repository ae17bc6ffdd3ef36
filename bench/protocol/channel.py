"""Messages between processes: one JSON object per line over a dedicated pair of byte streams.

A reader thread reads the lines, so that a receiver can wait with a time limit on every platform, and so that a process
learns at once when its peer is gone.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

from bench.coding import dumps, loads
from bench.errors import BadInputError

MAX_LINE_BYTES: Final = 16 * 2**20
"""A longer line is not a valid message: the longest ones, descriptions of machines, have a few KiB."""


class ChannelClosedError(Exception):
    """The peer closed its end or died."""


class ChannelTimeoutError(Exception):
    """No message came within the time limit."""


class ProtocolError(Exception):
    """The peer sent something that is not a message."""


class Channel:
    """One end of a conversation. `on_close` is called in the reader thread when the peer closes its end."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes], *, on_close: Callable[[], None] | None = None) -> None:
        """Take over both streams and start reading."""
        self._reader = reader
        self._writer = writer
        self._on_close = on_close
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="channel-reader", daemon=True).start()

    def _read(self) -> None:
        # A reset connection, or a stream closed while it is being read, means the same as its end.
        with contextlib.suppress(OSError, ValueError), self._reader:
            while line := self._reader.readline(MAX_LINE_BYTES):
                self._lines.put(line)
        self._lines.put(b"")
        if self._on_close is not None:
            self._on_close()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message.

        Raises:
            ChannelClosedError: the peer is gone.
        """
        line = dumps(dict(message)).encode() + b"\n"
        try:
            self._writer.write(line)
            self._writer.flush()
        except (OSError, ValueError) as error:
            raise ChannelClosedError from error

    def receive(self, timeout_seconds: float | None = None) -> dict[str, Any]:
        """Return the next message, waiting for at most `timeout_seconds` (None: for ever).

        Raises:
            ChannelClosedError: the peer is gone and every message it sent has been received.
            ChannelTimeoutError: no message came in time.
            ProtocolError: the peer sent something that is not a message.
        """
        try:
            line = self._lines.get(timeout=timeout_seconds)
        except queue.Empty:
            raise ChannelTimeoutError from None
        if not line:
            self._lines.put(b"")  # so that the next call raises this too
            raise ChannelClosedError
        try:
            message = loads(line)
        except BadInputError as error:
            raise ProtocolError(f"{error}: {line[:80]!r}") from error
        if not isinstance(message, dict):
            raise ProtocolError(f"not an object: {line[:80]!r}")
        return message

    def close(self) -> None:
        """Close this end for writing; the reader thread ends when the peer closes its end."""
        with contextlib.suppress(OSError):
            self._writer.close()
