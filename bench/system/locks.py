"""Locks between processes: one writer per stored run, one run per device. A crash leaves nothing locked.

The operating system holds the lock on an open file and releases it when the process ends, in whatever way. The file
also says who holds the lock; that text is only for messages.
"""

import contextlib
import datetime as dt
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bench import coding
from bench.errors import BadInputError

_DEVICE: Final = re.compile(r"([a-z]+)(?::([0-9]{1,4}))?")

_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"

_PHYSICAL: Final = re.compile(r"[0-9A-Za-z-]{1,100}")

_LOCKED_BYTE: Final = 2**30
"""The byte to lock on Windows, where a locked byte cannot be read: far behind the text that names the holder."""

_MAX_HOLDER_BYTES: Final = 4096

POLL_SECONDS: Final = 1.0
"""Time between two attempts to get a lock, long enough not to disturb its holder's measurement."""

REMIND_SECONDS: Final = 60.0
"""Time between two messages about the same wait."""


class HeldError(BadInputError):
    """The lock is held by somebody else."""


class FileLock:
    """An exclusive lock, held from `acquire` to `release`, on a file that exists only for this purpose."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Take over `descriptor`, an open and locked file at `path`; use `acquire` instead."""
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path, subject: str, remedy: str) -> "FileLock":
        """Lock `path` without waiting. `subject` and `remedy` start and end the message of a `HeldError`.

        Raises:
            HeldError: somebody holds the lock (possibly this process); the message says who.
            BadInputError: `path` cannot be written.
        """
        try:
            descriptor = _open_locked(path)
        except OSError as error:
            raise BadInputError(
                f"{subject}: the lock file {path} cannot be opened and locked: {error.strerror}; use a writable folder "
                "on a file system that supports locks"
            ) from error
        if descriptor is None:
            raise HeldError(f"{subject} is in use by {_holder(path)}; {remedy}")
        since = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            os.write(descriptor, coding.dumps({"pid": os.getpid(), "since": since}).encode())
        return cls(path, descriptor)

    def release(self) -> None:
        """Remove the lock file and unlock; releasing again does nothing."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        # Remove it while still locked: afterwards it could be somebody else's.
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(descriptor)
        if sys.platform == "win32":  # no open file can be removed there: ours could not be, somebody else's is safe
            with contextlib.suppress(OSError):
                self.path.unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for a lock that somebody else holds, and how to report the wait."""

    seconds: float = 0.0
    notify: Callable[[str], None] = lambda _line: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def acquire(self, path: Path, subject: str, remedy: str) -> FileLock:
        """Lock `path` like `FileLock.acquire`, as soon as it is free.

        Raises:
            HeldError: it was held the whole time.
            BadInputError: `path` cannot be written.
        """
        start = self.clock()
        last_notice: float | None = None
        while True:
            try:
                lock = FileLock.acquire(path, subject, remedy)
            except HeldError as error:
                now = self.clock()
                left = start + self.seconds - now
                if left <= 0:
                    waited = "" if last_notice is None else f"; waited {self.seconds:g} s"
                    raise HeldError(f"{error}{waited}") from None
                if last_notice is None or now - last_notice >= REMIND_SECONDS:
                    last_notice = now
                    self.notify(f"{subject} is in use by {_holder(path)}: waiting for up to {left:.0f} s")
                self.sleep(min(left, POLL_SECONDS))
            else:
                if last_notice is not None:
                    self.notify(f"{subject} is free: continuing")
                return lock


IMPATIENT: Final = Patience()
"""Do not wait at all."""


@contextlib.contextmanager
def device_locks(
    devices: Iterable[str],
    directory: Path | None = None,
    *,
    uuids: Mapping[str, str] = MappingProxyType({}),
    patience: Patience = IMPATIENT,
) -> Iterator[None]:
    """Hold the locks of `devices` (``cpu``, ``mps``, ``cuda:1``, …), all or none.

    ``cuda`` and ``cuda:0`` are the same device, and so are names that CUDA_VISIBLE_DEVICES maps to the same GPU: with
    the value ``1``, ``cuda:0`` is the ``cuda:1`` of processes without it. That value can also be a UUID, which only a
    worker can match with a number: a device among `uuids` has a second lock, named by its UUID. The lock files are in
    `directory`, by default a folder of this user's in the system's folder for temporary files. `patience` applies to
    each lock in turn.

    Raises:
        HeldError: another run holds a lock; the message says which.
        BadInputError: a device name is invalid, or the folder cannot be created or does not belong to this user alone.
    """
    names = {_canonical(device) for device in devices}
    known = {_canonical(device): f"GPU-{uuid}" for device, uuid in uuids.items() if _PHYSICAL.fullmatch(uuid)}
    subjects = {
        f"device-{kind}-{name}.lock": (kind, index)
        for kind, index in names
        for name in (_physical(kind, index), known.get((kind, index)))
        if name is not None
    }
    folder = _private_folder(directory)
    with contextlib.ExitStack() as stack:
        # All runs lock in the same order, so that of two runs one gets all of its devices.
        for file, (kind, index) in sorted(subjects.items()):
            lock = patience.acquire(
                folder / file,
                f"device {kind}:{index}" if index else f"device {kind}",
                "two runs on one device would distort each other's times: wait until it ends (--wait 1h), or stop it",
            )
            stack.callback(lock.release)
        yield


def require_free(devices: Iterable[str], patience: Patience) -> None:
    """Wait until no other run is using `devices`, before anything is started that could disturb it.

    ``auto`` always includes the CPU. Invalid names are ignored here and refused later. Nothing is held afterwards: the
    run itself takes its `device_locks`.

    Raises:
        HeldError: another run holds a lock, see `device_locks`.
    """
    names = {"cpu" if device == "auto" else device for device in devices}
    with device_locks(filter(_DEVICE.fullmatch, names), patience=patience):
        pass


def _canonical(device: str) -> tuple[str, int]:
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise BadInputError(
            f"{device!r} is not a device name: write a kind and an optional index, such as cpu or cuda:1"
        )
    return match[1], int(match[2] or 0)


def _physical(kind: str, index: int) -> str:
    """Return the number or the identifier that device ``kind:index`` has when all devices are visible.

    CUDA_VISIBLE_DEVICES lists the visible ones by either, in the order of their indices in this process.
    """
    visible = os.environ.get(_VISIBLE, "").split(",") if kind == "cuda" else []
    name = visible[index].strip() if index < len(visible) else ""
    return name if _PHYSICAL.fullmatch(name) else str(index)


def _private_folder(directory: Path | None) -> Path:
    user = _user()
    folder = directory or _temporary_folder() / ("mnist-mlp-bench" if user is None else f"mnist-mlp-bench-{user}")
    rule = "device locks need a folder that belongs to you and that nobody else can write to"
    remedy = f"remove {folder}, or set TMPDIR to a folder of your own"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as error:
        raise BadInputError(f"{folder} cannot be created: {error.strerror}; {rule}; {remedy}") from error
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
            "TMPDIR to a writable folder"
        ) from error


def _user() -> int | None:
    if sys.platform == "win32":  # pragma: no cover
        return None  # there, the folder for temporary files is the user's own already
    return os.geteuid()


def _open_locked(path: Path) -> int | None:
    """Open and lock the file at `path`, which is created if missing; return None if somebody else holds the lock."""
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
        os.close(descriptor)  # the holder removed the file after we opened it, so the lock is on a deleted file: retry


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
        return "another process"  # it has not yet written its id
