"""Standard streams, for both packages: the terminal's width, closed streams (``>&-``), missing characters."""

import io
import os
import shutil
import sys
from typing import TextIO


def terminal_width() -> int:
    """Return the width of standard output in characters: the terminal's, or 80."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 80


def nowhere() -> TextIO:
    """Return a stream to replace one that cannot be written to.

    Python would otherwise try to flush that one when it exits, fail, and end with an exit code of its own.
    """
    return open(os.devnull, "w")  # noqa: PTH123 - not a path to a file


def open_closed_streams() -> None:
    """Connect closed standard streams to the null device; to be called before any file is opened.

    Otherwise Python has None for such a stream, and the next file opened gets its number, so that text that a library
    prints would end up in that file.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - the lowest number that is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, errors="backslashreplace", closefd=False))  # noqa: SIM115 - it stays open


def escape_missing_characters() -> None:
    """Have characters that the output's encoding lacks shown as escape sequences, instead of ending the command.

    On Windows, output to a pipe or a file has the system's code page, which lacks most of the world's letters.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
