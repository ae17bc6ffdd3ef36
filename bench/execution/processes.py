"""Worker processes: how they are started, ended, and how their end is told.

Where processes can be forked safely (Linux), one worker host imports torch once and forks a fresh process per trial;
elsewhere each trial is spawned and imports torch anew. The conversation with it is the same.
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
"""A killed process is gone at once, but for a driver that takes its time to give back device memory."""

_ALWAYS: Final = ("torch._dynamo", "bench.worker.devices", "bench.worker.meters")
"""What every worker host imports. The first optimizer would import torch._dynamo lazily, which takes seconds."""

_WORKER: Final = "bench.worker.session"
"""It imports `mnist_mlp`, so a host whose trials differ in that leaves it to them."""

HOST_START_SECONDS: Final = 300.0
"""Importing torch takes seconds; from a cold network disk, minutes."""


class Process(Protocol):
    """A started worker process."""

    channel: Channel

    def kill(self) -> None:
        """End it now, with all it started."""

    def wait(self) -> str:
        """Wait for its end; return in words how it ended."""

    def last_words(self) -> str:
        """Return the end of what it printed as a clause to append to a message; empty where that is nothing."""


class Launcher(Protocol):
    """Starts worker processes."""

    def start(self, ranks: int = 1) -> Process:
        """Return a fresh worker process, with as many others as it takes for `ranks` that train together.

        Raises:
            WorkerError: none could be started.
        """

    def close(self) -> None:
        """End everything that is still running."""


def make_launcher(
    preload: Sequence[str] = (),
    *,
    python: str = sys.executable,
    workload: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Launcher:
    """Return the launcher for this platform.

    Args:
        preload: modules that each trial needs beside the usual ones.
        python: the interpreter that the worker processes run.
        workload: a folder with another `mnist_mlp` for them to train; the harness stays this one.
        variables: environment variables for them, beside this process's own.
    """
    # Forking after macOS frameworks were loaded is unsafe there, and Windows cannot fork.
    if sys.platform == "linux":
        return ForkingLauncher(python=python, preload=preload, workload=workload, variables=variables)
    return SpawningLauncher(python=python, workload=workload, variables=variables)


def make_arm_launchers(
    arms: Sequence[tuple[str, Path | None]], preload: Sequence[str] = ()
) -> tuple[tuple[Launcher, ...], Callable[[], None]]:
    """Return a launcher for each arm, an interpreter and a workload, and what makes their next processes independent.

    Processes of one host inherit its memory layout, and that differs from host to host: two hosts of one program made
    training differ by up to 12 %, however many trials each forked (docs/measuring.md). So arms with one interpreter
    share one host, others have one each. The returned function replaces the hosts, to be called before each round of
    pairs: what is left of a host's effect then differs from round to round, and shows in the spread of the pairs.
    """
    interpreters = {python for python, _ in arms}
    if sys.platform == "linux" and len(interpreters) == 1:
        # The first arm's workload comes with the `bench` that another interpreter needs; each trial puts its own first.
        host = ForkingLauncher(python=interpreters.pop(), preload=preload, workload=arms[0][1], is_shared=True)
        return tuple(SharedLauncher(host, workload) for _, workload in arms), host.renew
    launchers = tuple(make_launcher(preload, python=python, workload=workload) for python, workload in arms)

    def renew() -> None:
        for launcher in launchers:
            if isinstance(launcher, ForkingLauncher):
                launcher.renew()

    return launchers, renew


_COMPILE_THREADS: Final = "TORCHINDUCTOR_COMPILE_THREADS"
"""With more than one, torch.compile for CUDA starts a pool of processes that are still importing torch while a trial
is measured, and take a core for it."""


def worker_environment(workload: Path | None = None) -> dict[str, str]:
    """Return this process's environment, with this very `bench`, and the `mnist_mlp` meant, found before any other.

    A `workload` for another interpreter brings this `bench` with it: beside an installed one lies this one's torch.
    """
    inherited = os.environ.get("PYTHONPATH")
    own = [] if workload and (workload / "bench").is_dir() else [str(ROOT)]
    folders = [*([str(workload)] if workload else []), *own, *([inherited] if inherited else [])]
    # The present folder may be another checkout: it must not be searched before these.
    return {
        _COMPILE_THREADS: "1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folders),
        "PYTHONSAFEPATH": "1",
    }


def describe_end(status: int) -> str:
    """Return in words what a return code says, in the manner of `subprocess.Popen.returncode`."""
    if status >= 0:
        return f"with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    hint = " (often the system's answer to too little memory)" if name == "SIGKILL" else ""
    return f"by signal {name}{hint}"


class Log:
    """An unnamed file for what worker processes print: no part of the protocol, only to explain a death with."""

    def __init__(self) -> None:
        """Open the file; it is gone when closed.

        Raises:
            WorkerError: there is no place for temporary files.
        """
        try:
            self.file = tempfile.TemporaryFile("ab")  # noqa: SIM115 - it lives as long as the processes writing to it
        except OSError as error:
            raise WorkerError(
                f"a temporary file for what trials print cannot be made: {error.strerror}; make room, or set TMPDIR to "
                "a folder that you may write to"
            ) from error

    def size(self) -> int:
        """Return how much was printed by now, in bytes."""
        return os.fstat(self.file.fileno()).st_size

    def explain(self, since: int = 0, silence: str = ", having printed nothing") -> str:
        """Return the end of it as a clause to append to a message, with the remedy where the cause is known.

        What was printed before it had the size `since` is left out; `silence` is returned where that leaves nothing.
        """
        start = max(since, self.size() - _LOG_TAIL_BYTES)
        tail = os.pread(self.file.fileno(), _LOG_TAIL_BYTES, start).decode(errors="replace")
        lines = tail.strip().splitlines()
        if not lines:
            return silence
        if "torchvision::nms" in tail:
            return (
                ": this torch and this torchvision were not built for each other "
                f"({lines[-1].strip()}): install both from one source, as uv run does here"
            )
        return f"; its last words: {lines[-1].strip()[:300]}"


def _socket_pair(kind: socket.SocketKind) -> tuple[socket.socket, socket.socket]:
    try:
        return socket.socketpair(socket.AF_UNIX, kind)
    except OSError as error:
        raise WorkerError(f"no connection to a worker process can be made: {error}") from error


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

        With `is_shared` it imports no workload: each trial imports its own, see `start_with`.
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
        # Distinct packets, so that a descriptor always travels with its own request.
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
                    start_new_session=True,  # a terminal's Ctrl-C is for this process alone to act on
                )
            except OSError as error:
                self._control.close()
                raise WorkerError(f"the worker host could not be started: {error}") from error

    def start(self, ranks: int = 1) -> "ForkedProcess":
        """See `Launcher.start`. A host that has died (out of memory, say) is replaced once."""
        return self.start_with(None, ranks)

    def start_with(self, workload: Path | None, ranks: int = 1) -> "ForkedProcess":
        """Start a process that imports `mnist_mlp` from the folder `workload`; None: the host's own."""
        try:
            return self._fork(workload, ranks)
        except WorkerError:
            if not self._imported:  # it never came up: starting it again would only fail again
                raise
        self.renew()
        return self._fork(workload, ranks)

    def renew(self) -> None:
        """End the host, and its trials, and start another."""
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
        """Wait for the forked process; return its status as `subprocess.Popen.returncode` would be."""
        return int(self._ask({"do": "wait", "pid": pid})["status"])

    def _ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """Send the host a request and return its answer; where that is interrupted, the host ends with its trials."""
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
        except OSError:  # time-outs too
            packet = b""
        if not packet:
            self._control.close()  # an answer that came late would be taken for that to the next request
            raise self._died()
        answer: dict[str, Any] = loads(packet)
        return answer

    def _died(self) -> WorkerError:
        return WorkerError(f"the worker host ended or does not answer{self._log.explain()}")

    def _end_host(self) -> None:
        # Closing its socket lets it end its trials first; while importing, when it has none, it ends at once.
        self._control.close()
        if self._host is not None:
            try:
                self._host.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                self._host.kill()
                self._host.wait()

    def forget(self, process: "ForkedProcess") -> None:
        """Note that `process` has ended and been waited for."""
        self._processes.discard(process)

    def close(self) -> None:
        """See `Launcher.close`."""
        for process in tuple(self._processes):
            process.kill()
            process.wait()
        self._end_host()
        self._log.file.close()


class SharedLauncher:
    """One arm's way to a worker host that it shares with the other arm."""

    def __init__(self, host: ForkingLauncher, workload: Path | None) -> None:
        """Start processes of `host` with this `workload`."""
        self._host = host
        self._workload = workload

    def start(self, ranks: int = 1) -> "ForkedProcess":
        """See `Launcher.start`."""
        return self._host.start_with(self._workload, ranks)

    def close(self) -> None:
        """See `Launcher.close`. The host ends for both arms."""
        self._host.close()


class ForkedProcess:
    """A trial's process, forked by the host."""

    def __init__(
        self, pid: int, conversation: socket.socket, launcher: ForkingLauncher, last_words: Callable[[], str]
    ) -> None:
        """Begin the conversation."""
        self.pid = pid
        self.last_words = last_words
        self._launcher = launcher
        self._ended: str | None = None
        self._conversation = conversation
        self.channel = Channel(conversation.makefile("rb"), conversation.makefile("wb"))
        threading.Thread(target=self._watch, name="trial-watch", daemon=True).start()

    def _watch(self) -> None:
        """Close the conversation when the process ends, even if something it left behind still holds its socket."""
        # No such process: it has been collected already. No such call: an old kernel, where the socket must do.
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(self.pid)
            try:
                select.select([descriptor], [], [])
            finally:
                os.close(descriptor)
            self._conversation.shutdown(socket.SHUT_RD)  # what has arrived can still be read

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
    """A new interpreter per trial."""

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
        """Start it and begin the conversation over its standard streams. `on_end` is called once it is waited for."""
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
        """When the process ends, end what it left of its group, which may still hold the conversation's streams."""
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

    def last_words(self) -> str:
        """See `Process.last_words`."""
        return self._log.explain(self._log_start, silence="")
