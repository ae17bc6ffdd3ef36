"""A folder of its own for a command, with everything that the command may leave behind found again."""

import contextlib
import fcntl
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from checkout import TESTS
from heeded_signals import heeded
from uncovered import without_coverage

from bench.execution.processes import worker_environment
from bench.execution.progress import trial_names
from bench.records import Run
from bench.storage.store import read_run

MARK = "BENCH_FAULTS_MARK"
"""An environment variable, which everything that a command starts inherits."""

HANG_SECONDS = 120.0
"""Only ends what hangs."""

GONE_SECONDS = 20.0
"""A process that was told to end may take this long, on a busy machine, before it counts as left behind."""


SHELL = ("/bin/sh", "-c")
"""Takes a script, a name for it, and the command that the script calls "$@"."""


class Sandbox:
    """Runs `bench` in a folder of its own, with temporary files and locks of its own."""

    def __init__(self, folder: Path, *, real: bool = False) -> None:
        """Use `folder`; without `real` the worker is a stand-in that needs no torch."""
        self.folder = folder
        self.temporary = folder / "tmp"
        self.work = folder / "work"
        for each in (self.temporary, self.work):
            each.mkdir(parents=True, exist_ok=True)
        self.mark = secrets.token_hex(8)
        self._program = ["-m", "bench"] if real else [str(TESTS / "faults" / "stand_in_bench.py")]

    def environment(self) -> dict[str, str]:
        inherited = without_coverage(worker_environment())
        environment = inherited | {"TMPDIR": str(self.temporary), MARK: self.mark}
        folders = [environment["PYTHONPATH"], str(TESTS), str(TESTS / "faults")]
        return environment | {"PYTHONPATH": os.pathsep.join(folders)}

    def start(self, *arguments: str, before: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
        """Start `bench` with these arguments and variables; `before` is a command that takes another one to run."""
        with heeded():
            return subprocess.Popen(  # noqa: S603 - our own words
                [*before, sys.executable, *self._program, *arguments],
                cwd=self.work,
                env=self.environment() | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                bufsize=1,
                encoding="utf-8",
            )

    def run(self, *arguments: str, before: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        """Start `bench` likewise, and wait for its end."""
        with self.start(*arguments, before=before, **environment) as process:
            try:
                output, errors = process.communicate(timeout=HANG_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def family(self) -> list[psutil.Process]:
        """Return every process that carries this sandbox's mark, wherever it has been adopted."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def survivors(self) -> list[psutil.Process]:
        """Return what is still alive of the family once it has had time to end."""
        deadline = time.monotonic() + GONE_SECONDS
        while (alive := self.family()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return alive

    def stored(self) -> list[Path]:
        return sorted(self.work.rglob("*.jsonl"))

    def leftovers(self) -> list[Path]:
        """Return the files here that are neither a stored run nor its table."""
        files = [path for path in self.folder.rglob("*") if not path.is_dir()]
        return sorted(path for path in files if path.suffix not in {".jsonl", ".csv"} or path.name.startswith("."))


def host_and_trials(process: subprocess.Popen[str]) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """Return the worker hosts of the command `process`, and the trials that they have forked."""
    with contextlib.suppress(psutil.Error):
        hosts = [each for each in psutil.Process(process.pid).children() if "bench.worker.host" in _words(each)]
        return hosts, [trial for host in hosts for trial in _children(host) if _words(trial) == _words(host)]
    return [], []


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children()
    return []


def is_locked(path: Path) -> bool:
    """Return whether some process holds the lock at `path`."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def told(errors: str) -> list[str]:
    """Return the trials that standard error has told as finished."""
    return list(_told(errors))


def _told(errors: str) -> Iterator[str]:
    for line in errors.splitlines():
        start, _, rest = line.partition("] ")
        trial, colon, outcome = rest.partition(": ")
        if start.startswith("[") and colon and outcome != "started" and not outcome.startswith("epoch "):
            yield trial


def until_told(process: subprocess.Popen[str], count: int) -> list[str]:
    """Read the command's standard error until so many trials are told as finished; return the lines."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if len(told("".join(lines))) == count:
            return lines
    raise AssertionError(f"it ended before: {''.join(lines)}")


def stored_trials(run: Run) -> list[str]:
    """Return the trials in `run`, in the words of `told`."""
    trials = [record.trial for record in run.records]
    return list(map(trial_names(trials), trials))


def read_if_begun(path: Path) -> Run | None:
    """Return the stored run; None where its file was cut off before its header was whole."""
    return None if b"\n" not in path.read_bytes() else read_run(path)
