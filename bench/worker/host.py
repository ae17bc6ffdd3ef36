"""The worker host: imports torch once, then forks a fresh process for each trial in milliseconds. Linux only.

It is started with a control socket (a SOCK_SEQPACKET pair's end, its number the first argument); further arguments
name the modules to import beforehand. Requests, one packet each:

    fork workload ranks (with the trial's end of its socket)  → {"pid": …}      see `bench.execution.forking`
    wait pid                                                  → {"status": …}   as `subprocess.Popen.returncode`

It stays single-threaded, never touches a device, and ends with everything it started when its control socket closes,
even while it is still importing: if the parent was interrupted or killed by then, nobody else would end it.

A process that a trial left behind in a session of its own (``setsid``), out of reach of the trial's process group,
becomes a child of this process when the trial ends, and is killed once no trial is left that might still need it.
"""

import array
import contextlib
import ctypes
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.coding import dumps, loads
from bench.protocol.channel import Channel

_PACKET_BYTES = 4096
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_OUT_OF_MEMORY_SCORE = Path("/proc/self/oom_score_adj")
_ORPHANS_SECONDS = 5.0
"""A killed process ends at once unless a driver holds it, and one that no trial owns is not worth a longer wait."""


def main() -> None:
    """Import, report readiness, and serve until the other end of the control socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _adopt_orphans()
    with _ending_at_hang_up(control):
        _import_for_good(sys.argv[2:])
    control.send(dumps({"pid": os.getpid()}).encode())
    children: set[int] = set()
    while True:
        try:
            packet, ancillary, _, _ = control.recvmsg(_PACKET_BYTES, socket.CMSG_SPACE(array.array("i").itemsize))
        except ConnectionResetError:
            break
        if not packet:
            break
        request = loads(packet)
        if request["do"] == "fork":
            pid = _fork(control, _received_socket(ancillary), request["workload"], request["ranks"])
            children.add(pid)
            answer = {"pid": pid}
        else:
            answer = {"status": _reap(request["pid"])}
            children.discard(request["pid"])
            if not children:
                _end_orphans()
        with contextlib.suppress(OSError):  # the other end has closed: the next read will show it
            control.send(dumps(answer).encode())
    for pid in children:
        _reap(pid, kill=True)
    _end_orphans()
    os._exit(0)  # an orderly shutdown of an interpreter that has loaded torch would take a second


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends. Where the kernel refuses, init remains it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_orphans() -> None:
    """Kill and reap every child of this process, and their orphans in turn. No trial may be running."""
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:  # no children, as after nearly every trial
            return
        _kill_children()
        time.sleep(0.001)


def _kill_children() -> None:
    import psutil  # noqa: PLC0415 - slow to import and hardly ever needed

    with contextlib.suppress(OSError, psutil.Error):  # without /proc they cannot be found
        for child in psutil.Process().children():
            child.kill()


def _import_for_good(modules: Sequence[str]) -> None:
    """Import `modules` and exclude them from garbage collection, here and in the trials.

    Imports produce hardly any garbage, yet looking for it takes a sixth of their time. In a trial each full collection
    would touch, and thereby copy, every imported object (Python's documentation of `gc.freeze` advises this before a
    fork).
    """
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    gc.enable()


@contextlib.contextmanager
def _ending_at_hang_up(control: socket.socket) -> Iterator[None]:
    """Have the kernel end this process (SIGIO's default action) if the socket's other end closes meanwhile."""
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([control], [], [], 0)[0]:  # no request can come before we are ready, so it has closed
        os._exit(0)
    yield
    fcntl.fcntl(control, fcntl.F_SETFL, flags)


def _received_socket(ancillary: list[tuple[int, int, bytes]]) -> socket.socket:
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload)
    return socket.socket(fileno=descriptors[0])


def _fork(control: socket.socket, conversation: socket.socket, workload: str | None, ranks: int) -> int:
    pid = os.fork()
    if pid == 0:
        _run_trial(control, conversation, workload, ranks)
    conversation.close()
    # Parent and child both set it, so that it holds before either continues; the child may have ended by now.
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    return pid


def _run_trial(control: socket.socket, conversation: socket.socket, workload: str | None, ranks: int) -> None:
    """Serve one trial in the forked process; never returns."""
    status = 1
    try:
        os.setpgid(0, 0)  # a process group of its own, so that whatever it starts can be ended with it
        control.close()
        _die_first_of_memory()
        if workload is not None:
            sys.path.insert(0, workload)
        _serve(conversation, ranks)
        status = 0
    except BaseException:  # noqa: BLE001 - nothing else would report it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not sys.exit, which would run the host's clean-up


def _die_first_of_memory() -> None:
    """Have the kernel kill this process before others, this host included, when memory runs out.

    It chooses the largest. That may be the host, which has mapped most of torch's files: a trial maps few of them.
    """
    with contextlib.suppress(OSError):
        _OUT_OF_MEMORY_SCORE.write_text("1000")  # the highest (man 5 proc); every process may raise its own


def _serve(conversation: socket.socket, ranks: int) -> None:
    if ranks > 1:
        from multiprocessing.connection import Connection  # noqa: PLC0415 - most hosts run no trial of several ranks

        from bench.worker import ranks as several  # noqa: PLC0415 - likewise

        several.serve(Connection(os.dup(conversation.fileno())), Connection(conversation.detach()), ranks)
        return
    from bench.worker.session import serve  # noqa: PLC0415 - preloaded unless each trial has its own workload

    reader, writer = conversation.makefile("rb"), conversation.makefile("wb")
    serve(Channel(reader, writer, on_close=lambda: os._exit(1)))


def _reap(pid: int, *, kill: bool = False) -> int:
    """End what is left of the trial's process group and return how the trial itself ended.

    The trial is waited for first (or killed), but reaped last: until then its process id cannot be reused.
    """
    if kill:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main()
