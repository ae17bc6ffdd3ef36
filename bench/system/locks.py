"""Locks between processes: one writer a stored run, one run a device. A crash leaves nothing locked.

The operating system holds the lock on an open file and drops it when the process dies, however it dies. The lock file
also says who holds it; that text is for messages and decides nothing.
"""

import contextlib
import datetime as dt
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import coding
from bench.errors import BadInputError

_DEVICE: Final = re.compile(r"([a-z]+)(?::([0-9]{1,4}))?", re.ASCII)

_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"

_PHYSICAL: Final = re.compile(r"[0-9A-Za-z-]{1,100}", re.ASCII)

_LOCKED_BYTE: Final = 2**30
"""Where Windows locks, whose locks forbid reading: far behind the text that says who holds the lock."""

_MAX_HOLDER_BYTES: Final = 4096

POLL_SECONDS: Final = 1.0
"""Between two looks at a lock that is waited for: no time that its holder's measurement could lose."""

REMIND_SECONDS: Final = 60.0
"""Between two messages about the same wait."""


class HeldError(BadInputError):
    """Somebody else holds the lock."""


class FileLock:
    """An exclusive lock, held from `acquire` to `release`, on a file that exists for this purpose alone."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Take over `descriptor`, an open and locked file at `path`; use `acquire` to get one."""
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path, subject: str, remedy: str) -> "FileLock":
        """Lock `path`, or say who holds it; never wait. `subject` and `remedy` begin and end the message.

        Raises:
            HeldError: somebody holds the lock (this process included).
            BadInputError: `path` cannot be written.
        """
        try:
            descriptor = _open_locked(path)
        except OSError as error:
            raise BadInputError(
                f"{subject}: the lock file {path} cannot be opened and locked: {error.strerror}; choose a place that "
                "you may write to, on a file system with locks"
            ) from error
        if descriptor is None:
            raise HeldError(f"{subject} is in use by {_holder(path)}; {remedy}")
        since = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            os.write(descriptor, coding.dumps({"pid": os.getpid(), "since": since}).encode())
        return cls(path, descriptor)

    def release(self) -> None:
        """Remove the lock file and unlock; once released, do nothing."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        # Removed while still locked: afterwards it could be somebody else's. Windows refuses to remove an open file.
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for a lock that somebody holds, and where to say so."""

    seconds: float = 0.0
    tell: Callable[[str], None] = lambda _line: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def acquire(self, path: Path, subject: str, remedy: str) -> FileLock:
        """Lock `path` as `FileLock.acquire` does, as soon as it is free.

        Raises:
            HeldError: it was held all the time.
            BadInputError: `path` cannot be written.
        """
        start = self.clock()
        told: float | None = None
        while True:
            try:
                lock = FileLock.acquire(path, subject, remedy)
            except HeldError as error:
                now = self.clock()
                left = start + self.seconds - now
                if left <= 0:
                    raise HeldError(f"{error}; waited {self.seconds:g} s" if told is not None else str(error)) from None
                if told is None or now - told >= REMIND_SECONDS:
                    told = now
                    self.tell(f"{subject} is in use by {_holder(path)}: waiting for it, {left:.0f} s at most")
                self.sleep(min(left, POLL_SECONDS))
            else:
                if told is not None:
                    self.tell(f"{subject} is free: going on")
                return lock


IMPATIENT: Final = Patience()
"""Not to wait at all."""


@contextlib.contextmanager
def device_locks(
    devices: Iterable[str], directory: Path | None = None, *, patience: Patience = IMPATIENT
) -> Iterator[None]:
    """Hold the locks of `devices` (``cpu``, ``mps``, ``cuda:1``, …), all or none; ``cuda`` and ``cuda:0`` are the same.

    So are those that CUDA_VISIBLE_DEVICES makes the same: ``cuda:0`` where it is ``1``, and ``cuda:1`` without it. The
    lock files lie in `directory`, by default a folder of this user's in the system's place for temporary files. With
    `patience` each lock is waited for, one after the other.

    Raises:
        HeldError: another run holds a lock; the message says which.
        BadInputError: a device name is none, or the folder cannot be made or is not this user's alone.
    """
    names = {_canonical(device) for device in devices}
    subjects = {f"device-{kind}-{_physical(kind, index)}.lock": (kind, index) for kind, index in names}
    folder = _private_folder(directory)
    with contextlib.ExitStack() as stack:
        # One order for all, so that of two runs one gets everything it wants.
        for file, (kind, index) in sorted(subjects.items()):
            lock = patience.acquire(
                folder / file,
                f"device {kind}:{index}" if index else f"device {kind}",
                "two runs on one device spoil each other's timings: wait until that one ends (--wait 1h), or stop it",
            )
            stack.callback(lock.release)
        yield


def require_free(devices: Iterable[str], patience: Patience) -> None:
    """Wait for, or refuse, what another run holds of `devices`, before anything is started that could disturb it.

    Of ``auto`` the CPU is known to be part. What is no device's name is left to who knows which there are. Nothing is
    held afterwards: `device_locks` decides.

    Raises:
        HeldError: another run holds a lock, see `device_locks`.
    """
    names = {"cpu" if device == "auto" else device for device in devices}
    with device_locks(filter(_DEVICE.fullmatch, names), patience=patience):
        pass


def _canonical(device: str) -> tuple[str, int]:
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise BadInputError(f"{device!r} is no device name: write a kind and an optional index, such as cpu or cuda:1")
    return match[1], int(match[2] or 0)


def _physical(kind: str, index: int) -> str:
    """Return what device ``kind:index`` is called where all are visible: its number there, or an identity of its own.

    The variable lists the visible ones in the order of their numbers here, by either.
    """
    visible = os.environ.get(_VISIBLE, "").split(",") if kind == "cuda" else []
    name = visible[index].strip() if index < len(visible) else ""
    return name if _PHYSICAL.fullmatch(name) else str(index)


def _private_folder(directory: Path | None) -> Path:
    user = _user()
    folder = directory or _temporary_folder() / ("mnist-mlp-bench" if user is None else f"mnist-mlp-bench-{user}")
    rule = "device locks need a folder that belongs to you and that nobody else can write to"
    remedy = f"remove {folder}, or set TMPDIR to a place of your own"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise BadInputError(f"{folder} cannot be made: {error.strerror}; {rule}; {remedy}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise BadInputError(f"{folder} is not a folder; {rule}; {remedy}")
    if user is not None and (status.st_uid != user or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise BadInputError(
            f"{folder} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}; {rule}; {remedy}"
        )
    return folder


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise BadInputError(
            f"there is no folder for temporary files, where device locks are kept: {error.strerror}; make room, or set "
            "TMPDIR to a folder that you may write to"
        ) from error


def _user() -> int | None:
    if sys.platform == "win32":  # pragma: no cover
        return None  # its folder for temporary files is the user's own already
    return os.geteuid()


def _open_locked(path: Path) -> int | None:
    """Return a descriptor of the file at `path`, made if need be, with the lock; None when somebody holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            _lock(descriptor)
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it between our opening and locking it: a lock on no name


if sys.platform == "win32":  # pragma: no cover
    import errno
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked") from error
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = coding.loads(file.read(_MAX_HOLDER_BYTES))
        return f"process {int(data['pid'])} since {data['since']}"
    except (OSError, BadInputError, TypeError, KeyError, ValueError):
        return "another process"  # which has not yet written who it is
