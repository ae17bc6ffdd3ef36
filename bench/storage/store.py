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
from bench.storage.table import run_id_of, table_of, write_csv
from bench.system.locks import IMPATIENT, FileLock, Patience
from bench.system.outputs import is_empty, remove_abandoned, require_writable, write_atomically

_MERGE_SECONDS: Final = 60.0
"""How long a merge waits for another one into the same file. Merging 100 000 trials takes 7 s."""


class RunWriter:
    """Appends to one stored run. No other process can write to the file until `close`, or until this process ends."""

    def __init__(self, path: Path, file: io.FileIO, lock: FileLock, ledger: Ledger, end: int) -> None:
        """Take over an open file whose complete lines end at byte `end`, and its lock; use `create` or `resume`."""
        self.path = path
        self._file = file
        self._lock = lock
        self._ledger = ledger
        self._end = end

    @classmethod
    def create(cls, path: Path, header: Header) -> "RunWriter":
        """Create the file at `path`, and its folders, with `header`, which is on disk when this returns.

        An empty file is replaced: that is what remains if this is killed before the header is written.

        Raises:
            BadInputError: `path` exists already, or cannot be created.
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
            if is_empty(path):
                path.unlink()
            writer = cls(path, path.open("xb", buffering=0), lock, ledger, end=0)
        except OSError as error:
            lock.release()
            raise _unusable(path, error) from error
        try:
            writer._write(line)
        except BaseException as error:
            writer._file.close()
            path.unlink(missing_ok=True)
            lock.release()
            if isinstance(error.__cause__, OSError):
                reason = error.__cause__.strerror
                raise StorageError(f"{path} cannot be written: {reason}; make room, or choose another place") from error
            raise
        _sync_folder(path.parent)
        return writer

    @classmethod
    def resume(cls, path: Path) -> "tuple[RunWriter, Run]":
        """Open the stored run at `path` to append to it, and return its contents; a torn last line is removed.

        Raises:
            BadInputError: `path` is not a stored run, cannot be written, or is being written by another process.
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
        """Return the number that records have for `fingerprint`; a new one is stored first.

        Raises:
            StorageError: it could not be written; everything stored before is intact.
        """
        known = self._ledger.fingerprints
        if fingerprint not in known:
            self._write(runfile.encode(fingerprint))
            self._ledger.add_fingerprint(fingerprint)
        return known.index(fingerprint)

    def append(self, record: TrialRecord) -> None:
        """Store `record`: it is on disk when this returns.

        Raises:
            StorageError: it could not be written; everything stored before is intact.
            BadInputError: its trial is not in this run's plan or is stored already, or its fingerprint number is
                unknown (see `fingerprint_number`).
        """
        line = runfile.encode(record)
        self._ledger.admit(record)
        try:
            self._write(line)
        except BaseException:
            self._ledger.forget(record)
            raise

    def finish(self, footer: Footer) -> None:
        """Store `footer`: this command stopped in good order.

        Raises:
            StorageError: it could not be written; everything stored before is intact.
        """
        self._write(runfile.encode(footer))

    def close(self) -> None:
        """Close the file and release its lock; closing again does nothing."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        """Return this writer, which is closed with the context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it, whatever happened."""
        self.close()

    def _write(self, line: bytes) -> None:
        try:
            self._require_at_path()
            self._cut_back()  # again: a full disk or a signal may have prevented it after the last failed write
            rest = memoryview(line)
            while rest:  # a nearly full disk may take only a part at first
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException as error:  # a signal's exception must not leave half a line behind either
            with contextlib.suppress(OSError):
                self._cut_back()
            if not isinstance(error, OSError):
                raise
            raise StorageError(
                f"{self.path}: a line of {len(line)} bytes cannot be stored: {error.strerror}; everything before it is "
                "intact: make room or repair the disk, then continue with --resume"
            ) from error
        self._end += len(line)

    def _require_at_path(self) -> None:
        """Check that the file is still at its path: what is written to a deleted or replaced file would be lost."""
        try:
            is_there = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise StorageError(
                f"{self.path} was removed, moved or replaced while it was being written, so nothing more is stored: "
                "restore it and continue with --resume, or start a new run"
            )

    def _cut_back(self) -> None:
        self._file.truncate(self._end)
        self._file.seek(self._end)


def read_run(path: Path) -> Run:
    """Return the stored run at `path`, which may still be growing. A torn last line is dropped, and `warnings` says so.

    Raises:
        BadInputError: `path` is not a stored run, or a line in it breaks a rule.
    """
    return runfile.read(path).run


def update_merged(path: Path, merge: Callable[[Run | None], Run]) -> Run:
    """Pass the run at `path`, None if there is none, to `merge`; store the result at `path` and return it.

    A complete run's table is written beside it. A lock keeps concurrent merges from overwriting each other: one that
    started earlier is waited for. An unchanged run is not written again, nor is its table unless it is missing.

    Raises:
        BadInputError: `path` cannot be written, another process is still writing it after a minute, or the file where
            its table belongs is not this run's.
        StorageError: it could not be written; the previous file is intact.
    """
    require_writable(path)
    lock = _writer_lock(path, Patience(seconds=_MERGE_SECONDS))
    try:
        before = read_run(path) if path.exists() else None
        merged = merge(before)
        table = table_of(path)
        require_own_table(table, *(each.header.run_id for each in (before, merged) if each is not None))
        if merged != before:
            remove_abandoned(path)
            write_atomically(path, runfile.lines_of(merged))
        is_complete = merged.footer is not None and merged.footer.complete
        if is_complete and (merged != before or not table.exists()):
            write_table(merged, path)
        return merged
    finally:
        lock.release()


def write_table(run: Run, path: Path) -> None:
    """Write the table of `run`, stored at `path`, beside it. Call it only as the run's only writer.

    Raises:
        StorageError: it cannot be written; an earlier table is unchanged.
    """
    table = table_of(path)
    remove_abandoned(table)
    write_csv(run, table)


def require_own_table(table: Path, *run_ids: str) -> None:
    """Check that `table` is missing or shows one of these runs: a merged run's id changes with each shard added.

    Raises:
        BadInputError: it is another run's, or no table of a run.
    """
    if table.exists() and run_id_of(table) not in run_ids:
        raise BadInputError(
            f"{table}, where this run's table would be written, exists already and is not this run's: move that file "
            "away"
        )


def _writer_lock(path: Path, patience: Patience = IMPATIENT) -> FileLock:
    resolved = path.resolve()  # one lock, whatever way the file is reached
    return patience.acquire(
        resolved.with_name(f".{resolved.name}.lock"),
        str(path),
        "a stored run can have only one writer: wait until that one ends",
    )


def _unusable(path: Path, error: OSError) -> BadInputError:
    if isinstance(error, FileExistsError) and path.exists():
        return BadInputError(f"{path} exists already: name another file, or continue that run with --resume")
    return BadInputError(f"{path} cannot be written: {error.strerror}; choose a writable place with enough room")


def _sync_folder(folder: Path) -> None:
    """Make a new file's name as durable as its contents; Windows and some network file systems do not support it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
