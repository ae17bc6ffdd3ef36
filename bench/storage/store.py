"""Writing and reading stored runs: one JSON-lines file each, appended to trial by trial and readable at any moment.

`bench.storage.runfile` defines the lines, `bench.storage.references` how runs are named and found.
"""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.errors import BadInputError, StorageError
from bench.records import Fingerprint, Footer, Header, Run, TrialRecord
from bench.storage import runfile
from bench.storage.ledger import Ledger
from bench.system.locks import IMPATIENT, FileLock, Patience
from bench.system.outputs import remove_abandoned, require_writable, write_atomically

_MERGE_SECONDS: Final = 60.0
"""How long a merge waits for another one into the same file: of 100 000 trials one takes 7 s."""


class RunWriter:
    """Appends to one stored run. The only writer of its file, in any process, until `close` or its process's end."""

    def __init__(self, path: Path, file: io.FileIO, lock: FileLock, ledger: Ledger, end: int) -> None:
        """Take over an open file whose whole lines end at byte `end`, and its lock; use `create` or `resume`."""
        self.path = path
        self._file = file
        self._lock = lock
        self._ledger = ledger
        self._end = end

    @classmethod
    def create(cls, path: Path, header: Header) -> "RunWriter":
        """Make a new file at `path`, and its folders, that holds `header`, on disk when this returns.

        Raises:
            BadInputError: something is at `path` already, or nothing can be made there.
            StorageError: the header could not be written; no file is left behind.
        """
        line = runfile.encode(header)
        ledger = Ledger(header)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(path, error) from error
        lock = _writer_lock(path)
        try:
            writer = cls(path, path.open("xb", buffering=0), lock, ledger, end=0)
        except OSError as error:
            lock.release()
            raise _unusable(path, error) from error
        try:
            writer._write(line)
        except BaseException:
            writer._file.close()
            path.unlink(missing_ok=True)
            lock.release()
            raise
        _sync_folder(path.parent)
        return writer

    @classmethod
    def resume(cls, path: Path) -> "tuple[RunWriter, Run]":
        """Open the stored run at `path` to append to it, and return what it holds; a torn last line is cut off.

        Raises:
            BadInputError: `path` is no stored run, cannot be written, or is being written.
        """
        runfile.require_file(path)
        lock = _writer_lock(path)
        try:
            file = path.open("r+b", buffering=0)
        except OSError as error:
            lock.release()
            raise _unusable(path, error) from error
        try:
            reading = runfile.read(path)
            writer = cls(path, file, lock, reading.ledger, reading.end)
            if reading.run.warnings:
                writer._cut_back()
                os.fsync(file.fileno())
        except BaseException:
            file.close()
            lock.release()
            raise
        return writer, reading.run

    def fingerprint_number(self, fingerprint: Fingerprint) -> int:
        """Return the number by which records name `fingerprint`; one that is new is stored first.

        Raises:
            StorageError: it could not be written; what was stored before is intact.
        """
        known = self._ledger.fingerprints
        if fingerprint not in known:
            self._write(runfile.encode(fingerprint))
            self._ledger.enter(fingerprint)
        return known.index(fingerprint)

    def append(self, record: TrialRecord) -> None:
        """Store `record`: it is on disk when this returns.

        Raises:
            StorageError: it could not be written; what was stored before is intact.
            BadInputError: it is not a trial of this run's plan, that trial is stored already, or it ran nowhere that is
                known here (`fingerprint_number`).
        """
        line = runfile.encode(record)
        self._ledger.admit(record)
        try:
            self._write(line)
        except BaseException:
            self._ledger.forget(record)
            raise

    def finish(self, footer: Footer) -> None:
        """Store `footer`: this run, or this part of it, stopped in good order.

        Raises:
            StorageError: it could not be written; what was stored before is intact.
        """
        self._write(runfile.encode(footer))

    def close(self) -> None:
        """Let others write; once closed, do nothing."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        """Return this writer, to be closed with the context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it, whatever happened."""
        self.close()

    def _write(self, line: bytes) -> None:
        try:
            self._require_at_path()
            self._cut_back()  # again, where a full disk or a signal kept the last failed write from it
            rest = memoryview(line)
            while rest:  # a nearly full disk takes a part of it first
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException as error:  # a signal's exception too must not leave half a line behind
            with contextlib.suppress(OSError):
                self._cut_back()
            if not isinstance(error, OSError):
                raise
            raise StorageError(
                f"{self.path}: a line of {len(line)} bytes cannot be stored: {error.strerror}; everything before it is "
                "intact: make room or repair the disk, then go on with --resume"
            ) from error
        self._end += len(line)

    def _require_at_path(self) -> None:
        """Refuse to go on measuring for a file that nobody could find: what is written to it would be lost."""
        try:
            is_there = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise StorageError(
                f"{self.path} was removed, moved or replaced while it was being written, so nothing more is stored: "
                "restore it and go on with --resume, or start a new run"
            )

    def _cut_back(self) -> None:
        self._file.truncate(self._end)
        self._file.seek(self._end)


def read_run(path: Path) -> Run:
    """Return the stored run at `path`; it may still be growing. A torn last line is dropped, and `warnings` says so.

    Raises:
        BadInputError: `path` is no stored run, or a line in it breaks a rule.
    """
    return runfile.read(path).run


def update_merged(path: Path, merge: Callable[[Run | None], Run]) -> Run:
    """Replace the run at `path` by what `merge` makes of it, None where there is none yet; return that.

    No other merge comes in between, which would be lost: one that began earlier is waited for. What is merged already
    is not written again.

    Raises:
        BadInputError: `path` cannot be written, or is being written for a minute.
        StorageError: it could not be written; what was there before is intact.
    """
    require_writable(path)
    lock = _writer_lock(path, Patience(seconds=_MERGE_SECONDS))
    try:
        before = read_run(path) if path.exists() else None
        merged = merge(before)
        if merged != before:
            remove_abandoned(path)
            write_atomically(path, runfile.lines_of(merged))
        return merged
    finally:
        lock.release()


def _writer_lock(path: Path, patience: Patience = IMPATIENT) -> FileLock:
    resolved = path.resolve()  # one lock, whatever way the file is reached
    return patience.acquire(
        resolved.with_name(f".{resolved.name}.lock"), str(path), "a stored run has one writer: wait until that one ends"
    )


def _unusable(path: Path, error: OSError) -> BadInputError:
    reason = "it exists already" if isinstance(error, FileExistsError) else error.strerror
    return BadInputError(f"{path} cannot be written: {reason}; name another file, or go on with this run by --resume")


def _sync_folder(folder: Path) -> None:
    """Make a new file's name as durable as its contents. Windows and some network file systems cannot and need not."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
