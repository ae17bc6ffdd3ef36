"""Standard streams: how wide a terminal is, and what the shell closed (``>&-``); for both packages."""

import os
import shutil
import sys


def terminal_width() -> int:
    """Return how many characters a line of standard output may have."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 80


def open_closed_streams() -> None:
    """Have what is closed of standard input, output and error lead nowhere; to be called before any file is opened.

    Else Python has None for it, and the next file to be opened gets its number: what a library prints goes into that.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - the lowest number that is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, errors="backslashreplace", closefd=False))  # noqa: SIM115 - it stays open
