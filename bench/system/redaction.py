"""Messages without the places and names of this machine: what is stored may be published."""

import getpass
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.system.folders import ROOT

_FOLDERS: Final = re.compile(
    r"(?:(?<![\w.~>/\\])(?:/|[A-Za-z]:[/\\]+|\\\\+|(?<!:)//)|(?<=file://)(?!~)/?(?:[A-Za-z]:[/\\]+)?)"
    r"(?:[^/\\\s'\"`:;,(){}<>|\[\]]+[/\\]+)+"
)
"""The folders of an absolute path, up to the last name; of a path with blanks only those before the first of them.

Absolute are paths from the root, of a drive, of another machine's share (``\\\\server``, ``//server``), and file URLs.
"""

_COMMON_NAMES: Final = frozenset({"root", "user", "data", "localhost"})
"""Names of users and hosts that tell nothing, and that messages use as words."""


def redact(message: str, root: Path | None = None) -> str:
    """Return `message` with folders replaced by placeholders, user and host by ``<user>`` and ``<host>``.

    The data root (`root`, or what the environment names) becomes ``<data root>``, the present folder ``<folder>``, the
    user's home ``~``; further ones likewise. Of any other absolute path only the last name is kept.
    """
    for place, placeholder in sorted(_places(root), key=lambda pair: -len(pair[0])):
        message = re.sub(rf"{re.escape(place)}(?![\w.-])", placeholder, message)
    message = _FOLDERS.sub("…/", message)
    for name, placeholder in _names():
        message = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", placeholder, message)
    return message


def _places(root: Path | None) -> Iterator[tuple[str, str]]:
    """Yield each folder whose path may tell of its user, as text, with what to write instead."""
    environ = os.environ.get
    places = (
        (root, "<data root>"),
        (environ("MNIST_MLP_DATA"), "<data root>"),
        (_present_folder(), "<folder>"),
        (environ("XDG_CACHE_HOME"), "<cache>"),
        (environ("HOME"), "~"),
        (environ("USERPROFILE"), "~"),
        (_temporary_folder(), "<temporary>"),
        (ROOT, "<bench>"),
        (sys.prefix, "<python>"),
    )
    for place, placeholder in places:
        if place:
            path = Path(place)
            for text in {str(place), str(path), str(path.absolute()), os.path.realpath(path)}:
                if len(Path(text).parts) > 1:  # not / itself
                    yield from ((each, placeholder) for each in {text, repr(text)[1:-1]})


def _present_folder() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return None


def _temporary_folder() -> str | None:
    try:
        return tempfile.gettempdir()
    except OSError:  # nothing can be written anywhere
        return None


def _names() -> Iterator[tuple[str, str]]:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # an unnamed user, as in some containers
        user = ""
    host = socket.gethostname()
    for name, placeholder in ((host, "<host>"), (host.partition(".")[0], "<host>"), (user, "<user>")):
        if len(name) > 1 and name.lower() not in _COMMON_NAMES:
            yield name, placeholder
