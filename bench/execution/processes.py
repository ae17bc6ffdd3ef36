"""Starts and ends worker processes, and describes how they ended.

Where forking is safe (Linux), one worker host imports torch once and forks a fresh process per trial; elsewhere each
trial's process is spawned and imports torch itself. The conversation with it is the same.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from bench.coding import dumps, loads
from bench.errors import WorkerError
from bench.protocol.channel import Channel
from bench.system.folders import ROOT

_LOG_TAIL_BYTES: Final = 4096
_REAP_SECONDS: Final = 60.0
"""A killed process is gone at once, unless a driver takes its time to release device memory."""

_ALWAYS: Final = ("torch._dynamo", "bench.worker.devices", "bench.worker.meters")
"""What every worker host imports. The first optimizer would import torch._dynamo lazily, which takes seconds."""

_WORKER: Final = "bench.worker.session"
"""It imports `mnist_mlp`, so a host whose trials use different ones leaves it to them."""

HOST_START_SECONDS: Final = 300.0
"""Importing torch takes seconds; from a cold network disk, minutes."""


class Process(Protocol):
    """A started worker process."""

    channel: Channel

    def kill(self) -> None:
        """Kill it and everything it started."""

    def wait(self) -> str:
        """Wait until it ends; return in words how it ended."""

    def last_output(self) -> str:
        """Return its last output as a clause to append to a message; empty if there is none."""


class Launcher(Protocol):
    """Starts worker processes."""

    def start(self, ranks: int = 1) -> Process:
        """Return a fresh worker process, which starts the others if several `ranks` are to train together.

        Raises:
            WorkerError: none could be started.
        """

    def close(self) -> None:
        """End all processes that are still running."""


def make_launcher(
    preload: Sequence[str] = (),
    *,
    python: str = sys.executable,
    workload: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Launcher:
    """Return the launcher for this platform.

    Args:
        preload: modules that each trial needs besides the usual ones.
        python: the interpreter for the worker processes.
        workload: a folder with another `mnist_mlp` for them to train; the harness stays this one.
        variables: environment variables for them, in addition to this process's own.
    """
    # Forking is unsafe on macOS once its frameworks are loaded, and Windows cannot fork.
    if sys.platform == "linux":
        return ForkingLauncher(python=python, preload=preload, workload=workload, variables=variables)
    return SpawningLauncher(python=python, workload=workload, variables=variables)


def make_arm_launchers(
    arms: Sequence[tuple[str, Path | None]], preload: Sequence[str] = ()
) -> tuple[tuple[Launcher, ...], Callable[[], None]]:
    """Return a launcher for each arm (an interpreter and a workload), and a function that replaces their worker hosts.

    Processes of one host inherit its memory layout, which differs from host to host: training by two hosts of the same
    program differed by up to 12 %, however many trials each forked (docs/measuring.md). So arms with the same
    interpreter share one host; others have one each. Call the returned function before each round of pairs: the
    remaining effect of a host then varies from round to round and shows in the spread of the pairs.
    """
    interpreters = {python for python, _ in arms}
    if sys.platform == "linux" and len(interpreters) == 1:
        # The first arm's workload includes the `bench` that another interpreter needs; each trial puts its own first.
        host = ForkingLauncher(python=interpreters.pop(), preload=preload, workload=arms[0][1], is_shared=True)
        return tuple(SharedLauncher(host, workload) for _, workload in arms), host.renew
    launchers = tuple(make_launcher(preload, python=python, workload=workload) for python, workload in arms)

    def renew() -> None:
        for launcher in launchers:
            if isinstance(launcher, ForkingLauncher):
                launcher.renew()

    return launchers, renew


_COMPILE_THREADS: Final = "TORCHINDUCTOR_COMPILE_THREADS"
"""With more than one, torch.compile for CUDA starts a pool of processes, which would still be importing torch, and
using a core, while a trial is measured."""


def worker_environment(workload: Path | None = None) -> dict[str, str]:
    """Return this process's environment, changed so that this `bench` and the right `mnist_mlp` are found first.

    A `workload` for another interpreter contains a copy of this `bench`, because the folder of an installed one also
    contains this interpreter's torch.
    """
    inherited = os.environ.get("PYTHONPATH")
    own = [] if workload and (workload / "bench").is_dir() else [str(ROOT)]
    folders = [*([str(workload)] if workload else []), *own, *([inherited] if inherited else [])]
    # The current folder may be another checkout and must not be searched before these.
    return {
        _COMPILE_THREADS: "1",
        **os.environ,
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
        start = max(since, self.size() - _LOG_TAIL_BYTES)
        tail = os.pread(self.file.fileno(), _LOG_TAIL_BYTES, start).decode(errors="replace")
        lines = tail.strip().splitlines()
        if not lines:
            return silence
        if "torchvision::nms" in tail:
            return (
                ": this torch and this torchvision were not built for each other "
                f"({lines[-1].strip()}): install both from the same source, as `uv run` does"
            )
        return f"; its last output: {lines[-1].strip()[:300]}"


def _socket_pair(kind: socket.SocketKind) -> tuple[socket.socket, socket.socket]:
    try:
        return socket.socketpair(socket.AF_UNIX, kind)
    except OSError as error:
        raise WorkerError(f"a connection to a worker process cannot be created: {error}") from error


class ForkingLauncher:
    """One worker host, which forks a process per trial."""

    def __init__(
        self,
        *,
        python: str = sys.executable,
        preload: Sequence[str] = (),
        workload: Path | None = None,
        variables: Mapping[str, str] | None = None,
        is_shared: bool = False,
    ) -> None:
        """Start the host at once; `start` waits until it has imported torch and the `preload` modules.

        With `is_shared` it imports no workload: each trial imports its own (see `start_with`).
        """
        self._python = python
        self._environment = worker_environment(workload) | dict(variables or {})
        self._modules = (*preload, *_ALWAYS, *(() if is_shared else (_WORKER,)))
        self._log = Log()
        self._host: subprocess.Popen[bytes] | None = None
        self._processes: set[ForkedProcess] = set()
        self._control: socket.socket
        try:
            self._start_host()
        except BaseException:
            self._log.file.close()
            raise

    @property
    def host_pid(self) -> int | None:
        """Process id of the worker host; None before it is started."""
        return None if self._host is None else self._host.pid

    def _start_host(self) -> None:
        self._imported = False
        # A socket with packets, so that a descriptor always arrives with its own request.
        self._control, theirs = _socket_pair(socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._host = subprocess.Popen(  # noqa: S603 - our own module
                    [self._python, "-m", "bench.worker.host", str(theirs.fileno()), *self._modules],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log.file,
                    stderr=self._log.file,
                    env=self._environment,
                    start_new_session=True,  # so that only this process gets a terminal's Ctrl-C
                )
            except OSError as error:
                self._control.close()
                raise WorkerError(f"the worker host could not be started: {error}") from error

    def start(self, ranks: int = 1) -> "ForkedProcess":
        """See `Launcher.start`. A host that has died, for example out of memory, is replaced once."""
        return self.start_with(None, ranks)

    def start_with(self, workload: Path | None, ranks: int = 1) -> "ForkedProcess":
        """Start a process that imports `mnist_mlp` from the folder `workload`; None means the host's own."""
        try:
            return self._fork(workload, ranks)
        except WorkerError:
            if not self._imported:  # the host never started successfully: trying again would fail again
                raise
        self.renew()
        return self._fork(workload, ranks)

    def renew(self) -> None:
        """End the host and its trials, and start another host."""
        self._end_host()
        self._start_host()

    def _fork(self, workload: Path | None, ranks: int) -> "ForkedProcess":
        if not self._imported:
            self._receive(HOST_START_SECONDS)
            self._imported = True
        printed = self._log.size()
        ours, theirs = _socket_pair(socket.SOCK_STREAM)
        try:
            with theirs:
                request = {"do": "fork", "workload": None if workload is None else str(workload), "ranks": ranks}
                answer = self._ask(request, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        process = ForkedProcess(int(answer["pid"]), ours, self, lambda: self._log.explain(printed, silence=""))
        self._processes.add(process)
        return process

    def reap(self, pid: int) -> int:
        """Wait for the forked process; return its status in the form of `subprocess.Popen.returncode`."""
        return int(self._ask({"do": "wait", "pid": pid})["status"])

    def _ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """Send the host a request and return its answer; if this is interrupted, the host and its trials end."""
        try:
            socket.send_fds(self._control, [dumps(request).encode()], descriptors)
            return self._receive(_REAP_SECONDS)
        except BaseException as error:
            self._control.close()
            if isinstance(error, OSError):
                raise self._died() from error
            raise

    def _receive(self, timeout_seconds: float) -> dict[str, Any]:
        try:
            self._control.settimeout(timeout_seconds)
            packet = self._control.recv(4096)
        except OSError:  # including a timeout
            packet = b""
        if not packet:
            self._control.close()  # a late answer would be taken for the answer to the next request
            raise self._died()
        answer: dict[str, Any] = loads(packet)
        return answer

    def _died(self) -> WorkerError:
        return WorkerError(f"the worker host ended or does not answer{self._log.explain()}")

    def _end_host(self) -> None:
        # Closing its socket makes it end its trials, then itself. While it is still importing, it has none.
        self._control.close()
        if self._host is not None:
            try:
                self._host.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                self._host.kill()
                self._host.wait()

    def forget(self, process: "ForkedProcess") -> None:
        """Remove `process`, which has ended and been waited for."""
        self._processes.discard(process)

    def close(self) -> None:
        """See `Launcher.close`."""
        for process in tuple(self._processes):
            process.kill()
            process.wait()
        self._end_host()
        self._log.file.close()


class SharedLauncher:
    """The launcher of one arm, on a worker host that it shares with the other arm."""

    def __init__(self, host: ForkingLauncher, workload: Path | None) -> None:
        """Fork processes from `host` with this `workload`."""
        self._host = host
        self._workload = workload

    def start(self, ranks: int = 1) -> "ForkedProcess":
        """See `Launcher.start`."""
        return self._host.start_with(self._workload, ranks)

    def close(self) -> None:
        """See `Launcher.close`. This ends the host for both arms."""
        self._host.close()


class ForkedProcess:
    """A trial's process, forked by the host."""

    def __init__(
        self, pid: int, conversation: socket.socket, launcher: ForkingLauncher, last_output: Callable[[], str]
    ) -> None:
        """Begin the conversation."""
        self.pid = pid
        self.last_output = last_output
        self._launcher = launcher
        self._ended: str | None = None
        self._conversation = conversation
        self.channel = Channel(conversation.makefile("rb"), conversation.makefile("wb"))
        threading.Thread(target=self._watch, name="trial-watch", daemon=True).start()

    def _watch(self) -> None:
        """Close the conversation when the process ends, even if something it started still holds its socket."""
        # An OSError means that the process is gone already, or that the kernel is too old for this call.
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(self.pid)
            try:
                select.select([descriptor], [], [])
            finally:
                os.close(descriptor)
            self._conversation.shutdown(socket.SHUT_RD)  # what has already arrived can still be read

    def kill(self) -> None:
        """See `Process.kill`."""
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> str:
        """See `Process.wait`."""
        if self._ended is None:
            try:
                self._ended = describe_end(self._launcher.reap(self.pid))
            except WorkerError:
                self._ended = "together with its host"
            self.channel.close()
            self._conversation.close()
            self._launcher.forget(self)
        return self._ended


class SpawningLauncher:
    """Starts a new interpreter per trial."""

    def __init__(
        self,
        *,
        python: str = sys.executable,
        workload: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Remember the interpreter."""
        self._python = python
        self._environment = worker_environment(workload) | dict(variables or {})
        self._log = Log()
        self._processes: set[SpawnedProcess] = set()

    def start(self, ranks: int = 1) -> "SpawnedProcess":
        """See `Launcher.start`."""
        module = ("bench.worker.session",) if ranks == 1 else ("bench.worker.ranks", str(ranks))
        try:
            command = (self._python, "-m", *module)
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
