"""What a test process does about signals that it was started to ignore, as nohup and scripts' background jobs are."""

import contextlib
import signal
from collections.abc import Iterator

from bench.system.interrupts import SIGNALS


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """Let commands that are started within this context heed what ends one: they inherit what is ignored."""
    ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
