"""Spawns worker processes: each is a new interpreter, which imports torch itself."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.errors import WorkerError
from bench.execution.processes import ALWAYS_NEEDED, Log, describe_end, worker_environment
from bench.protocol.channel import Channel


class SpawningLauncher:
    """Starts a new interpreter per trial."""

    def __init__(
        self,
        *,
        python: str = sys.executable,
        preload: Sequence[str] = (),
        workload: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Remember the interpreter, and the `preload` modules, which each process imports before anything else."""
        self._python = python
        self._modules = (*preload, *ALWAYS_NEEDED)
        self._environment = worker_environment(workload) | dict(variables or {})
        self._log = Log()
        self._processes: set[SpawnedProcess] = set()

    def start(self, ranks: int = 1) -> "SpawnedProcess":
        """See `Launcher.start`."""
        module = ("bench.worker.session",) if ranks == 1 else ("bench.worker.ranks", str(ranks))
        try:
            command = (self._python, "-m", *module, *self._modules)
            process = SpawnedProcess(command, self._environment, self._log, self._processes.discard)
        except OSError as error:
            raise WorkerError(f"the worker process could not be started: {error}") from error
        self._processes.add(process)
        return process

    def close(self) -> None:
        """See `Launcher.close`."""
        for process in tuple(self._processes):
            process.kill()
            process.wait()
        self._log.file.close()


class SpawnedProcess:
    """A trial's process, started by this one."""

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        log: Log,
        on_end: "Callable[[SpawnedProcess], None]",
    ) -> None:
        """Start it and begin the conversation over its standard streams. `wait` calls `on_end`."""
        self._on_end = on_end
        self._log, self._log_start = log, log.size()
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.file,
            env=environment,
            start_new_session=True,
        )
        if self._process.stdout is None or self._process.stdin is None:
            raise WorkerError("the worker process has no standard streams")
        self.channel = Channel(self._process.stdout, self._process.stdin)
        self._ended: str | None = None
        threading.Thread(target=self._watch, name="trial-watch", daemon=True).start()

    def _watch(self) -> None:
        """When the process ends, kill the rest of its group, which may still hold the conversation's streams."""
        self._process.wait()
        self.kill()

    def kill(self) -> None:
        """See `Process.kill`."""
        if sys.platform == "win32":
            self._process.kill()
        elif self._ended is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> str:
        """See `Process.wait`."""
        if self._ended is None:
            self._ended = describe_end(self._process.wait())
            self.channel.close()
            self._on_end(self)
        return self._ended

    def last_output(self) -> str:
        """See `Process.last_output`."""
        return self._log.explain(self._log_start, silence="")
