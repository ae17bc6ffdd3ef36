"""The worker host: imports torch once, then forks a fresh process for each trial in milliseconds. Linux only.

It is started with a control socket (a SOCK_SEQPACKET pair's end, its number the first argument); further arguments
name the modules to import beforehand. Requests, one packet each:

    fork workload ranks (with the trial's end of its socket)  → {"pid": …}      see `bench.execution.processes`
    wait pid                                                  → {"status": …}   as `subprocess.Popen.returncode`

It stays single-threaded, never touches a device, and ends, with all it started, when its control socket closes: even
while it still imports, for a parent that was interrupted or killed by then has nobody left to end it.

What a trial started and left behind in a session of its own (``setsid``), out of reach of its process group, becomes a
child of this process when the trial ends, and is ended when no trial is left that could still want it.
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

from bench.coding import dumps, loads
from bench.protocol.channel import Channel

_PACKET_BYTES = 4096
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_ORPHANS_SECONDS = 5.0
"""A killed process is gone at once, unless a driver holds it; nobody waits longer for one that no trial owns."""


def main() -> None:
    """Import, say so, and serve until the other end of the control socket is gone."""
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
        with contextlib.suppress(OSError):  # the other end is gone: the next read says so
            control.send(dumps(answer).encode())
    for pid in children:
        _reap(pid, kill=True)
    _end_orphans()
    os._exit(0)  # tearing down an interpreter with torch in it takes a second that nobody has


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends. Where the kernel refuses, init stays theirs."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_orphans() -> None:
    """Kill and collect every child of this process, and what those leave in turn; there must be no trial among them."""
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:  # as after nearly every trial: there is none
            return
        _kill_children()
        time.sleep(0.001)


def _kill_children() -> None:
    import psutil  # noqa: PLC0415 - the host starts without it, and hardly ever needs it

    with contextlib.suppress(OSError, psutil.Error):  # Linux without /proc: they cannot be found
        for child in psutil.Process().children():
            child.kill()


def _import_for_good(modules: Sequence[str]) -> None:
    """Import `modules` without a garbage collector that walks through them, now and in the trials.

    Imports make hardly any garbage, yet looking for it takes a sixth of their time; in a trial each full collection
    would visit, and so copy, all that was imported (Python's documentation of `gc.freeze` advises this before a fork).
    """
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    gc.enable()


@contextlib.contextmanager
def _ending_at_hang_up(control: socket.socket) -> Iterator[None]:
    """Have the kernel end this process (SIGIO, whose default that is) when the socket's other end closes meanwhile."""
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([control], [], [], 0)[0]:  # nobody asks before we are ready, so it has closed already
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
    # Both sides set it, so that it holds before either goes on; the child may have been first, or be gone already.
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    return pid


def _run_trial(control: socket.socket, conversation: socket.socket, workload: str | None, ranks: int) -> None:
    """Serve one trial in the forked process; never returns."""
    status = 1
    try:
        os.setpgid(0, 0)  # a group of its own: whatever it starts can be ended with it
        control.close()
        if workload is not None:
            sys.path.insert(0, workload)
        _serve(conversation, ranks)
        status = 0
    except BaseException:  # noqa: BLE001 - nobody else would tell of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not sys.exit: the host's own clean-up is not the trial's


def _serve(conversation: socket.socket, ranks: int) -> None:
    if ranks > 1:
        from multiprocessing.connection import Connection  # noqa: PLC0415 - most hosts have no trial of several ranks

        from bench.worker import ranks as several  # noqa: PLC0415 - likewise

        several.serve(Connection(os.dup(conversation.fileno())), Connection(conversation.detach()), ranks)
        return
    from bench.worker.session import serve  # noqa: PLC0415 - imported before the fork, unless the workload differs by trial

    reader, writer = conversation.makefile("rb"), conversation.makefile("wb")
    serve(Channel(reader, writer, on_close=lambda: os._exit(1)))


def _reap(pid: int, *, kill: bool = False) -> int:
    """End what is left of the trial's process group and return how the trial itself ended.

    The trial is waited for first (or killed), but collected last: until then its number cannot be taken by another.
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
