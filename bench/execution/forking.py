"""Forks worker processes: a host, `bench.worker.host`, imports torch once and forks a fresh process per trial."""

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.coding import dumps, loads
from bench.errors import HostError, WorkerError
from bench.execution.processes import ALWAYS_NEEDED, HOST_START_SECONDS, Log, describe_end, worker_environment
from bench.protocol.channel import Channel

_REAP_SECONDS: Final = 60.0
"""A killed process is gone at once, unless a driver takes its time to release device memory."""

_END_SECONDS: Final = 10.0
"""A host whose import failed closes its connection first, and then takes a second or more to unload torch."""

_PIDFD_OPEN: Final = 434
"""The number of this system call on every architecture."""

_WORKER: Final = "bench.worker.session"
"""It imports `mnist_mlp`, so a host whose trials use different ones leaves it to them."""


def _open_process(pid: int) -> int:
    """Return a descriptor that becomes readable when the process ends.

    Some builds of Python lack `os.pidfd_open`, because they were compiled for older kernels than this one may be.

    Raises:
        OSError: the process is gone, or the kernel is too old.
    """
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    descriptor: int = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_OPEN, pid, 0)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "pidfd_open")
    return descriptor


def _socket_pair(kind: socket.SocketKind) -> tuple[socket.socket, socket.socket]:
    try:
        return socket.socketpair(socket.AF_UNIX, kind)
    except OSError as error:
        raise WorkerError(f"a connection to a worker process cannot be created: {error}") from error


def _rule(python: str, *, has_workload: bool) -> str:
    """Return what `python` must have for a host to start; with `has_workload` it imports a workload of its own."""
    if python != sys.executable:
        return "name a Python, 3.11 or newer, that can import torch and this project's packages (docs/faq.md)"
    also = ", and the arm's mnist_mlp" if has_workload else ""
    return f"this Python must be able to import torch and this project's packages, as after `uv sync`{also}"


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
        self._modules = (*preload, *ALWAYS_NEEDED, *(() if is_shared else (_WORKER,)))
        self._rule = _rule(python, has_workload=workload is not None and not is_shared)
        self._log = Log()
        self._processes: set[ForkedProcess] = set()
        try:
            self._start_host()
        except BaseException:
            self._log.file.close()
            raise

    @property
    def host_pid(self) -> int:
        """Process id of the worker host."""
        return self._host.pid

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
            self._await_imports()
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

    def _await_imports(self) -> None:
        try:
            self._receive(HOST_START_SECONDS)
        except WorkerError as error:
            if self._host.poll() in {None, -signal.SIGKILL}:  # too slow, or killed from outside
                raise
            raise HostError(f"{error}; {self._rule}") from error
        self._imported = True

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
                raise self._lost(self._how_it_ended()) from error
            raise

    def _receive(self, timeout_seconds: float) -> dict[str, Any]:
        try:
            self._control.settimeout(timeout_seconds)
            packet = self._control.recv(4096)
        except TimeoutError:
            self._control.close()  # a late answer would be taken for the answer to the next request
            raise self._lost(f"did not answer within {timeout_seconds:g} s") from None
        except OSError:
            packet = b""
        if not packet:
            self._control.close()
            raise self._lost(self._how_it_ended())
        answer: dict[str, Any] = loads(packet)
        return answer

    def _how_it_ended(self) -> str:
        try:
            return f"ended {describe_end(self._host.wait(timeout=_END_SECONDS))}"
        except subprocess.TimeoutExpired:
            return "closed its connection"

    def _lost(self, how: str) -> WorkerError:
        return WorkerError(f"the worker host {how}{self._log.explain()}")

    def _end_host(self) -> None:
        # Trials of a host that has died are still running, and another host could not wait for them.
        for process in tuple(self._processes):
            process.kill()
            process.wait()
        self._control.close()  # makes the host end itself, unless it is still importing
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
            descriptor = _open_process(self.pid)
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
