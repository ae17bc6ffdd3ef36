"""What worker processes have in common, whether `forking` or `spawning` starts them."""

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final, Protocol

from bench.errors import WorkerError
from bench.protocol.channel import Channel
from bench.system.folders import ROOT

HOST_START_SECONDS: Final = 300.0
"""How long a process may take to start. Importing torch takes seconds; from a cold network disk, minutes."""

_LOG_TAIL_BYTES: Final = 4096

_COMPILE_THREADS: Final = "TORCHINDUCTOR_COMPILE_THREADS"
"""With more than one, torch.compile for CUDA starts a pool of processes, which would still be importing torch, and
using a core, while a trial is measured."""


class Process(Protocol):
    """A started worker process."""

    channel: Channel

    def kill(self) -> None:
        """Kill it and everything it started."""

    def wait(self) -> str:
        """Wait until it ends; return in words how it ended."""

    def last_output(self) -> str:
        """Return its last output as a clause to append to a message; empty if there is none."""


ALWAYS_NEEDED: Final = ("torch._dynamo", "bench.worker.devices", "bench.worker.meters")
"""Modules that every trial needs, imported before its memory is measured. The first optimizer would import
torch._dynamo lazily, which takes seconds."""

_THREAD_POLICIES: Final = frozenset(
    {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_THREAD_LIMIT", "OMP_DYNAMIC"}
    | {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}
)
"""OpenMP's variables that bind threads, or start fewer than asked for, which torch does not report: importing torch
with OMP_PROC_BIND binds the process to one core, and with OMP_THREAD_LIMIT=1 two threads are one. And those that say
how many, which shells, torchrun and Ray set for other reasons. Trials use the threads that the plan says, on the cores
that taskset or a cpuset allows."""


def worker_environment(workload: Path | None = None) -> dict[str, str]:
    """Return this process's environment, changed so that this `bench` and the right `mnist_mlp` are found first.

    A `workload` for another interpreter contains a copy of this `bench`, because the folder of an installed one also
    contains this interpreter's torch.
    """
    inherited = os.environ.get("PYTHONPATH")
    own = [] if workload and (workload / "bench").is_dir() else [str(ROOT)]
    folders = [*([str(workload)] if workload else []), *own, *([inherited] if inherited else [])]
    kept = {name: value for name, value in os.environ.items() if name not in _THREAD_POLICIES}
    # The current folder may be another checkout and must not be searched before these.
    return {
        _COMPILE_THREADS: "1",
        **kept,
        "PYTHONPATH": os.pathsep.join(folders),
        "PYTHONSAFEPATH": "1",
    }


def describe_end(status: int) -> str:
    """Return in words what a return code means; a negative one is a signal, as in `subprocess.Popen.returncode`."""
    if status >= 0:
        return f"with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    hint = " (often because the system ran out of memory)" if name == "SIGKILL" else ""
    return f"by signal {name}{hint}"


class Log:
    """An unnamed file for what worker processes print, which is used only to explain why one died."""

    def __init__(self) -> None:
        """Open the file; it is deleted when closed.

        Raises:
            WorkerError: there is no room for temporary files.
        """
        try:
            self.file = tempfile.TemporaryFile("ab")  # noqa: SIM115 - it lives as long as the processes writing to it
        except OSError as error:
            raise WorkerError(
                f"a temporary file for the output of trials cannot be created: {error.strerror}; make room, or set "
                "TMPDIR to a writable folder"
            ) from error

    def size(self) -> int:
        """Return how much has been printed so far, in bytes."""
        return os.fstat(self.file.fileno()).st_size

    def explain(self, since: int = 0, silence: str = ", having printed nothing") -> str:
        """Return the last output as a clause to append to a message, with the remedy if the cause is known.

        Only what was printed after the log had the size `since` counts; if that is nothing, return `silence`.
        """
        tail = self._read_from(max(since, self.size() - _LOG_TAIL_BYTES)).decode(errors="replace")
        lines = tail.strip().splitlines()
        if not lines:
            return silence
        if "torchvision::nms" in tail:
            return (
                ": this torch and this torchvision were not built for each other "
                f"({lines[-1].strip()}): install both from the same source, as `uv run` does"
            )
        last = next((line for line in reversed(lines) if any(map(str.isalnum, line))), lines[-1])
        return f"; its last output: {last.strip()[:300]}"

    def _read_from(self, start: int) -> bytes:
        log = self.file.fileno()
        if sys.platform != "win32":
            return os.pread(log, _LOG_TAIL_BYTES, start)
        try:
            os.lseek(log, start, os.SEEK_SET)
            return os.read(log, _LOG_TAIL_BYTES)
        finally:
            os.lseek(log, 0, os.SEEK_END)  # the processes that print share this position
