"""What a worker needs of its system is there on macOS: a whole trial where Python finds what macOS has and no more.

What a real Mac would show beyond that (its GPU, Apple's compiler) is not seen here.
"""

import ctypes.util  # noqa: F401 - it must be imported while this still is Linux
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from bench_builders import make_configuration

from bench.coding import from_json, to_json
from bench.protocol.messages import Evaluated, Finished, Prepared, Trained
from bench.records import Description, Trial
from bench.worker.session import Session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="imitates macOS on Linux")

CONFIGURATION = make_configuration(
    model="784-8-10", layers=(784, 8, 10), batch_size=4096, epochs=1, dataset="digits", threads=torch.get_num_threads()
)
TRIAL = Trial(configuration=CONFIGURATION, seed=3, repeat=0)


class Memory(NamedTuple):
    """What psutil reports of a process's memory on macOS."""

    rss: int
    vms: int
    pfaults: int
    pageins: int


class Times(NamedTuple):
    """The kinds of CPU time that macOS counts."""

    user: float
    nice: float
    system: float
    idle: float


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource  # noqa: PLC0415 - Windows has none

    def without_linux(method: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Path, *arguments: object, **options: object) -> object:
            if path.parts[:2] in {("/", "proc"), ("/", "sys")}:
                raise FileNotFoundError(path)
            return method(path, *arguments, **options)

        return look

    for name in ("open", "read_text", "write_text", "iterdir", "stat"):
        monkeypatch.setattr(Path, name, without_linux(getattr(Path, name)))
    for name in ("sched_getaffinity", "pidfd_open", "posix_fadvise", "memfd_create", "eventfd", "getrandom"):
        monkeypatch.delattr(os, name)
    times, memory, usage = psutil.cpu_times(), psutil.Process().memory_info(), resource.getrusage(resource.RUSAGE_SELF)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: SimpleNamespace(power_plugged=False))
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times(*(getattr(times, name) for name in Times._fields)))
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _self: Memory(memory.rss, memory.vms, 0, 0))
    in_bytes = SimpleNamespace(ru_maxrss=1024 * usage.ru_maxrss, ru_nivcsw=usage.ru_nivcsw)
    monkeypatch.setattr(resource, "getrusage", lambda _who: in_bytes)
    sysctl = subprocess.CompletedProcess((), 0, stdout="Apple M9\n")
    monkeypatch.setattr("bench.worker.fingerprint.subprocess.run", lambda *_, **__: sysctl)
    monkeypatch.setattr("bench.worker.fingerprint.git_state", lambda _folder: (None, None))
    monkeypatch.setattr(sys, "platform", "darwin")


@pytest.mark.usefixtures("macos")
def test_trial_on_macos_measures_what_macos_counts_and_leaves_the_rest_empty() -> None:
    session = Session()

    def ask(kind: type[Any], **request: object) -> Any:  # noqa: ANN401 - one of the answers
        answer = session.answer(request)
        assert "answer" in answer, answer
        return from_json(kind, answer["answer"])

    machine = ask(Description, do="describe").machine
    assert machine.cpu_model == "Apple M9"
    assert machine.cores_usable == machine.cores_logical
    assert machine.memory_bytes > 0
    ask(Prepared, do="prepare", trial=to_json(TRIAL), root=None)
    trained = ask(Trained, do="train", epoch=0)
    ask(Evaluated, do="evaluate")
    finished = ask(Finished, do="finish")
    counted = trained.contention
    assert (counted.steal_seconds, counted.pressure_stall_seconds, counted.throttled_seconds) == (None, None, None)
    assert counted.other_cpu_seconds is not None
    assert counted.involuntary_switches is not None
    assert counted.load_average is not None
    assert trained.device_conditions is None
    assert finished.host_peak.method == "ru_maxrss since process start above baseline"
    assert finished.on_battery is True
    assert finished.energy is None
    assert finished.energy_reason == "RAPL: available on Linux only"
