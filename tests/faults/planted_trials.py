"""Faults for real trials: a worker host that imports `planted_host` has each trial fail as its seed says.

The fault strikes in the first epoch. Seed 0, and every seed without a fault, trains as ever.
"""

import ctypes
import getpass
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from bench.protocol.channel import MAX_LINE_BYTES, Channel
from bench.records import FailureKind
from bench.worker import session as worker

_SECONDS = "600"


class _Here:
    """What a fault can get at."""

    channel: Channel
    seed = 0


def _say(data: bytes) -> None:
    writer = _Here.channel._writer  # noqa: SLF001 - past the protocol, as a fault is
    writer.write(data)
    writer.flush()


def exhaust_memory_of_torch() -> None:
    """Stand before a limit of the system, as in a container, and ask torch for more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.ones(2**28)


def exhaust_memory_of_python() -> None:
    bytearray(2**50)


def exhaust_memory_of_cuda() -> None:
    """Fail as its allocator does: only that is planted, the way out of the trial is the real one."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.64 GiB of which 5.19 MiB is "
        "free."
    )


def loop() -> None:
    while True:
        pass


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def crash() -> None:
    ctypes.string_at(0)


def print_garbage() -> None:
    for descriptor in (1, 2):
        os.write(descriptor, b"\x00\xff\x1b[2J{}\n" * 20_000)
    print("{", flush=True)  # noqa: T201 - what it is about


def answer_garbage() -> None:
    _say(b"\xff\xfe\x00 no JSON\n")


def answer_endlessly() -> None:
    _say(b"x" * (MAX_LINE_BYTES + 1))


def answer_deeply() -> None:
    _say(b"[" * 200_000 + b"]" * 200_000 + b"\n")


def answer_something_else() -> None:
    _say(b'{"answer":{"flops_per_second":1e400}}\n')


def leave_a_grandchild() -> None:
    """Start something that holds the conversation's socket, and die."""
    subprocess.Popen(["/bin/sleep", _SECONDS], close_fds=False)  # noqa: S603 - our own words
    os._exit(3)


def leave_a_session() -> None:
    """Start two that no signal to the trial's process group reaches, of which one outlives the other; and die."""
    words = ["/bin/sh", "-c", f"sleep {_SECONDS} & exec sleep {_SECONDS}"]
    subprocess.Popen(words, close_fds=False, start_new_session=True)  # noqa: S603 - our own words
    os._exit(3)


def leave_a_session_and_train_on() -> None:
    """Do as a daemon does: leave by two forks, while the trial goes on."""
    words = ["/bin/sh", "-c", f"setsid sleep {_SECONDS} &"]
    subprocess.run(words, close_fds=False, check=True)  # noqa: S603 - our own words


def name_places() -> None:
    """Say everything that a stored file must not hold."""
    place = Path.cwd() / "private" / "set.bin"
    names = f"{getpass.getuser()}@{socket.gethostname()}"
    raise RuntimeError(f"cannot read {place} nor {Path.home()}/notes nor {sys.executable}, says {names}")


FAULTS: Final[Mapping[int, tuple[Callable[[], object], FailureKind | None]]] = {
    1: (exhaust_memory_of_torch, FailureKind.OUT_OF_MEMORY),
    2: (exhaust_memory_of_python, FailureKind.OUT_OF_MEMORY),
    3: (loop, FailureKind.TIMEOUT),
    4: (stop, FailureKind.TIMEOUT),
    5: (crash, FailureKind.CRASH),
    6: (os.abort, FailureKind.CRASH),
    7: (print_garbage, None),
    8: (answer_garbage, FailureKind.CRASH),
    9: (answer_endlessly, FailureKind.CRASH),
    10: (answer_deeply, FailureKind.CRASH),
    11: (answer_something_else, FailureKind.CRASH),
    12: (leave_a_grandchild, FailureKind.CRASH),
    13: (lambda: os._exit(0), FailureKind.CRASH),
    14: (sys.exit, FailureKind.CRASH),
    15: (name_places, FailureKind.CRASH),
    16: (leave_a_session, FailureKind.CRASH),
    17: (leave_a_session_and_train_on, None),
    18: (exhaust_memory_of_cuda, FailureKind.OUT_OF_MEMORY),
}
"""Seed → what goes wrong, and what kind of failure that is: None where it must not be one."""

NAN_SEED: Final = 19
"""The trial whose weights become NaN: the training itself has to notice."""

_train = worker.Session._train  # noqa: SLF001 - where faults are planted
_prepare = worker.Session._prepare  # noqa: SLF001 - where the faults belong
_serve = worker.serve


def _planted_prepare(session: worker.Session, trial: Any, root: Path | None) -> Any:  # noqa: ANN401 - passed on
    prepared = _prepare(session, trial, root)
    _Here.seed = trial.seed
    return prepared


def _planted_train(session: worker.Session, epoch: int) -> Any:  # noqa: ANN401 - passed on
    if epoch == 0 and _Here.seed in FAULTS:
        FAULTS[_Here.seed][0]()
    if _Here.seed == NAN_SEED:
        with torch.no_grad():
            next(iter(session._training.model.parameters())).fill_(float("nan"))  # noqa: SLF001 - where the faults belong
    return _train(session, epoch)


def _planted_serve(channel: Channel) -> None:
    _Here.channel = channel
    _serve(channel)


def plant() -> None:
    """Plant the faults in every trial of this process and of what it forks."""
    worker.Session._prepare = _planted_prepare  # type: ignore[assignment,method-assign]  # noqa: SLF001 - where the faults belong
    worker.Session._train = _planted_train  # type: ignore[assignment,method-assign]  # noqa: SLF001 - where the faults belong
    worker.serve = _planted_serve
