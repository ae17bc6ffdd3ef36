"""Removes this machine's folders and names from messages, because stored runs may be published."""

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
"""The folders of an absolute path, up to its last name; in a path with blanks, only those before the first blank.

Absolute paths start at the root, a drive or another machine's share (``\\\\server``, ``//server``), or are file URLs.
"""

_COMMON_NAMES: Final = frozenset({"root", "user", "data", "localhost"})
"""Names of users and hosts that reveal nothing and occur as ordinary words in messages."""


def redact(message: str, root: Path | None = None) -> str:
    """Return `message` with folders replaced by placeholders, and user and host by ``<user>`` and ``<host>``.

    The data root (`root`, or the environment's) becomes ``<data root>``, the current folder ``<folder>``, the user's
    home ``~``, and so on. Any other absolute path keeps only its last name.
    """
    for place, placeholder in sorted(_places(root), key=lambda pair: -len(pair[0])):
        message = re.sub(rf"{re.escape(place)}(?![\w.-])", placeholder, message)
    message = _FOLDERS.sub("…/", message)
    for name, placeholder in _names():
        message = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", placeholder, message)
    return message


def _places(root: Path | None) -> Iterator[tuple[str, str]]:
    """Yield each folder whose path may reveal its user, as text, with its placeholder."""
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
                if len(Path(text).parts) > 1:  # not the root itself
                    # As Python writes it, and as torch's compiler writes Windows' paths.
                    yield from ((each, placeholder) for each in {text, repr(text)[1:-1], text.replace("\\", "/")})


def _present_folder() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return None


def _temporary_folder() -> str | None:
    try:
        return tempfile.gettempdir()
    except OSError:  # no folder is writable
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
