import math
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pytest
import torch

from bench.records import Contention, Peak
from bench.worker.meters import (
    ContentionMeter,
    HostMemory,
    Products,
    Yardstick,
    machine_cpu_seconds,
)
from bench.worker.timer import Timer

MEBIBYTE = 2**20
CPU = torch.device("cpu")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# Host memory


def status_file(folder: Path, *, resident_kib: int, peak_kib: int) -> Path:
    text = f"Name:\tpython\nVmPeak:\t 999999 kB\nVmHWM:\t {peak_kib} kB\nVmRSS:\t {resident_kib} kB\nThreads:\t1\n"
    return write(folder / "status", text)


def test_the_peak_is_the_high_water_mark_above_the_baseline(tmp_path: Path) -> None:
    memory = HostMemory(status_file(tmp_path, resident_kib=1000, peak_kib=1200), tmp_path / "absent" / "clear")
    assert memory.baseline_bytes == 1000 * 1024
    status_file(tmp_path, resident_kib=1100, peak_kib=5000)
    assert memory.peak() == Peak(bytes=4000 * 1024, method="VmHWM since process start above baseline")


def test_resetting_asks_the_kernel_and_the_method_says_so(tmp_path: Path) -> None:
    clear = tmp_path / "clear_refs"
    memory = HostMemory(status_file(tmp_path, resident_kib=1000, peak_kib=5000), clear)
    memory.reset_peak()
    assert clear.read_text() == "5"
    status_file(tmp_path, resident_kib=1000, peak_kib=1500)
    assert memory.peak() == Peak(bytes=500 * 1024, method="VmHWM since warm-up above baseline")


def test_a_reset_that_is_forbidden_is_not_claimed(tmp_path: Path) -> None:
    memory = HostMemory(status_file(tmp_path, resident_kib=1000, peak_kib=5000), tmp_path)  # a folder: not writable
    memory.reset_peak()
    assert memory.peak() == Peak(bytes=4000 * 1024, method="VmHWM since process start above baseline")


def test_pages_of_files_are_left_out_of_baseline_and_peak(tmp_path: Path) -> None:
    def status(*, resident_kib: int, peak_kib: int, file_kib: int) -> Path:
        path = status_file(tmp_path, resident_kib=resident_kib, peak_kib=peak_kib)
        return write(path, f"{path.read_text()}RssAnon:\t 1 kB\nRssFile:\t {file_kib} kB\n")

    memory = HostMemory(status(resident_kib=1000, peak_kib=1000, file_kib=300), tmp_path / "clear")
    memory.reset_peak()
    assert memory.baseline_bytes == 700 * 1024
    status(resident_kib=1800, peak_kib=2000, file_kib=900)  # 600 KiB of code were executed for the first time
    assert memory.peak() == Peak(bytes=400 * 1024, method="VmHWM without files since warm-up above baseline")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts pages of files separately")
def test_a_file_read_through_memory_is_no_peak_but_a_block_of_memory_is(tmp_path: Path) -> None:
    size = 64 * MEBIBYTE
    path = tmp_path / "library"
    path.write_bytes(os.urandom(size))
    memory = HostMemory()
    memory.reset_peak()  # of what other tests took
    if memory.baseline_bytes is None or "without files" not in getattr(memory.peak(), "method", ""):
        pytest.skip("this kernel does not count pages of files separately")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        sum(mapped[:: mmap.PAGESIZE])
        executed = memory.peak()
    assert executed is not None
    assert executed.bytes < size / 2
    block = bytearray(os.urandom(size))
    held = memory.peak()
    assert held is not None
    assert held.bytes - executed.bytes > len(block) / 2


def test_a_process_that_shrank_below_its_baseline_has_a_peak_of_zero(tmp_path: Path) -> None:
    memory = HostMemory(status_file(tmp_path, resident_kib=1000, peak_kib=1000), tmp_path / "clear")
    status_file(tmp_path, resident_kib=500, peak_kib=600)
    peak = memory.peak()
    assert peak is not None
    assert peak.bytes == 0


def test_a_system_without_proc_leaves_memory_unmeasured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_process() -> None:
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(psutil, "Process", no_process)
    memory = HostMemory(tmp_path / "status", tmp_path / "clear_refs")
    memory.reset_peak()
    assert memory.baseline_bytes is None
    assert memory.peak() is None


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., HostMemory]:
    """Return a function that makes the meter of a process on a system without Linux's files."""

    def make(**info: int) -> HostMemory:
        process = SimpleNamespace(memory_info=lambda: SimpleNamespace(**info))
        monkeypatch.setattr(psutil, "Process", lambda: process)
        return HostMemory(tmp_path / "absent", tmp_path / "absent" / "clear")

    return make


def test_where_nothing_reports_the_peak_it_is_none_and_never_zero(elsewhere: Callable[..., HostMemory]) -> None:
    memory = elsewhere(rss=1000)
    memory.reset_peak()
    assert memory.baseline_bytes == 1000
    if sys.platform != "darwin":
        assert memory.peak() is None


def test_on_windows_the_peak_is_that_of_the_working_set(
    elsewhere: Callable[..., HostMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    memory = elsewhere(rss=1000, peak_wset=1700)
    assert memory.peak() == Peak(bytes=700, method="peak_wset since process start above baseline")


@pytest.mark.skipif(sys.platform == "win32", reason="Python has no resource module there")
def test_on_macos_the_peak_is_in_bytes_already(
    elsewhere: Callable[..., HostMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("resource.getrusage", lambda _who: SimpleNamespace(ru_maxrss=5000))
    memory = elsewhere(rss=1000)
    assert memory.peak() == Peak(bytes=4000, method="ru_maxrss since process start above baseline")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_this_process_sees_a_known_allocation_until_it_is_reset() -> None:
    memory = HostMemory()
    memory.reset_peak()
    idle = memory.peak()
    assert idle is not None
    if "since warm-up" not in idle.method:
        pytest.skip("this sandbox forbids resetting the peak")
    with mmap.mmap(-1, 64 * MEBIBYTE) as block:
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
    peak = memory.peak()
    assert peak is not None
    assert peak.bytes == pytest.approx(64 * MEBIBYTE, rel=0.1)
    memory.reset_peak()
    again = memory.peak()
    assert again is not None
    assert again.bytes < 16 * MEBIBYTE


# Contention


class MacTimes(NamedTuple):
    user: float
    nice: float
    system: float
    idle: float


class WindowsTimes(NamedTuple):
    user: float
    system: float
    idle: float
    interrupt: float
    dpc: float


class LinuxTimes(NamedTuple):
    user: float
    nice: float
    system: float
    idle: float
    iowait: float
    irq: float
    softirq: float
    steal: float
    guest: float
    guest_nice: float


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that scripts the machine's CPU times and this process's, before and after."""

    def script(*, machine: tuple[object, object], own: tuple[float, float]) -> None:
        machine_times, own_times = iter(machine), iter(own)

        def cpu_times(*, percpu: bool = False) -> object:
            if percpu:
                return [BEFORE]  # of one core, to which nobody needs to be bound
            times = next(machine_times)
            if isinstance(times, Exception):
                raise times
            return times

        monkeypatch.setattr(psutil, "cpu_times", cpu_times)
        monkeypatch.setattr(time, "process_time", lambda: next(own_times))

    return script


BEFORE = LinuxTimes(100.0, 1.0, 10.0, 1000.0, 5.0, 0.5, 0.25, 2.0, 40.0, 4.0)
AFTER = LinuxTimes(104.0, 1.5, 11.0, 1900.0, 9.0, 0.75, 0.5, 2.5, 49.0, 5.0)
NOTHING_COUNTED = LinuxTimes(*[0.0] * 10)
BUSY_SECONDS = 4.0 + 0.5 + 1.0 + 0.25 + 0.25


def test_what_others_used_is_busy_time_less_our_own(counters: Callable[..., None]) -> None:
    counters(machine=(BEFORE, AFTER), own=(20.0, 23.5))
    meter = ContentionMeter()
    meter.start()
    contention = meter.stop()
    assert contention.process_cpu_seconds == 3.5
    assert contention.other_cpu_seconds == BUSY_SECONDS - 3.5
    assert contention.steal_seconds == 0.5


class Cores:
    """A machine of four cores, of which each epoch's others use as many seconds as the core's number says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, bound: set[int], online: str) -> None:
        self.online = tmp_path / "online"
        self.online.write_text(online)
        self.reads = 0
        self.listed = [0, 1, 2, 3]
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: bound, raising=False)
        monkeypatch.setattr(psutil, "cpu_times", self.cpu_times)
        monkeypatch.setattr(time, "process_time", lambda: 0.0)

    def cpu_times(self, *, percpu: bool = False) -> object:
        cores = [NOTHING_COUNTED._replace(user=float(core * self.reads), steal=self.reads / 8) for core in self.listed]
        return cores if percpu else LinuxTimes(*map(sum, zip(*cores, strict=True)))

    def count(self, *, whole_machine: bool = False) -> Contention:
        meter = ContentionMeter(whole_machine=whole_machine, online=self.online)
        self.reads = 1
        meter.start()
        self.reads = 2
        return meter.stop()


@pytest.mark.parametrize(("bound", "seconds", "steal"), [({1, 2}, 3.0, 0.25), ({3}, 3.0, 0.125), ({0}, 0.0, 0.125)])
def test_others_count_on_the_cores_alone_to_which_the_trial_is_bound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bound: set[int], seconds: float, steal: float
) -> None:
    counted = Cores(monkeypatch, tmp_path, bound=bound, online="0-3\n").count()
    assert (counted.other_cpu_seconds, counted.steal_seconds) == (seconds, steal)


@pytest.mark.parametrize(
    ("bound", "online", "whole_machine"),
    [
        ({0, 1, 2, 3}, "0-3", False),
        ({1, 2}, "0-3", True),  # of several ranks each may have cores of its own
        ({1, 2}, "0-2,4", False),  # the third in the list is core 4, or is it?
        ({1, 2}, "0-7", False),  # a container's list, in numbers of its own
        ({5, 7}, "0-3", False),
    ],
)
def test_others_count_on_the_whole_machine_if_our_cores_are_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bound: set[int], online: str, *, whole_machine: bool
) -> None:
    counted = Cores(monkeypatch, tmp_path, bound=bound, online=online).count(whole_machine=whole_machine)
    assert (counted.other_cpu_seconds, counted.steal_seconds) == (6.0, 0.5)


@pytest.mark.parametrize("what", ["no file says which cores are online", "affinity is unknown"])
def test_others_count_on_the_whole_machine_where_linuxs_files_or_calls_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    cores = Cores(monkeypatch, tmp_path, bound={1, 2}, online="0-3")
    if what == "affinity is unknown":
        monkeypatch.delattr(os, "sched_getaffinity")
    else:
        cores.online.unlink()
    assert cores.count().other_cpu_seconds == 6.0


@pytest.mark.parametrize("bound", [{2}, {3}])
def test_others_time_is_unknown_if_another_core_went_offline_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bound: set[int]
) -> None:
    cores = Cores(monkeypatch, tmp_path, bound=bound, online="0-3")
    meter = ContentionMeter(online=cores.online)
    cores.reads = 1
    meter.start()
    cores.reads = 2
    cores.listed.remove(1)
    cores.online.write_text("0,2-3")
    counted = meter.stop()
    assert (counted.other_cpu_seconds, counted.steal_seconds) == (None, None)


def test_a_core_that_has_gone_offline_leaves_cpu_time_uncounted() -> None:
    assert machine_cpu_seconds([10**6]) is None


def test_coarse_counters_never_make_the_others_time_negative(counters: Callable[..., None]) -> None:
    counters(machine=(BEFORE, AFTER), own=(20.0, 20.0 + BUSY_SECONDS + 0.01))
    meter = ContentionMeter()
    meter.start()
    assert meter.stop().other_cpu_seconds == 0.0


def test_a_counter_of_steal_that_ran_backwards_makes_no_negative_time(counters: Callable[..., None]) -> None:
    counters(machine=(BEFORE, AFTER._replace(steal=0.0)), own=(20.0, 23.5))
    meter = ContentionMeter()
    meter.start()
    assert meter.stop().steal_seconds == 0.0


def test_steal_is_none_where_the_system_has_no_such_counter(counters: Callable[..., None]) -> None:
    counters(machine=(MacTimes(1.0, 0.0, 1.0, 5.0), MacTimes(3.0, 0.0, 2.0, 9.0)), own=(0.0, 1.0))
    meter = ContentionMeter()
    meter.start()
    contention = meter.stop()
    assert contention.steal_seconds is None
    assert contention.other_cpu_seconds == 2.0


def test_windows_interrupts_are_counted_once_as_the_system_time_that_they_are(counters: Callable[..., None]) -> None:
    before, after = WindowsTimes(1.0, 2.0, 5.0, 0.25, 0.25), WindowsTimes(3.0, 4.0, 9.0, 0.75, 1.25)
    counters(machine=(before, after), own=(0.0, 1.0))
    meter = ContentionMeter()
    meter.start()
    assert meter.stop().other_cpu_seconds == 3.0


@pytest.mark.parametrize("unknown", [PermissionError("/proc/stat"), RuntimeError("no counters"), NOTHING_COUNTED])
@pytest.mark.parametrize("comes_first", [True, False])
def test_counters_that_are_unreadable_or_all_zero_are_none_and_never_zero(
    counters: Callable[..., None], unknown: Exception | LinuxTimes, *, comes_first: bool
) -> None:
    counters(machine=(unknown, AFTER) if comes_first else (BEFORE, unknown), own=(1.0, 3.0))
    meter = ContentionMeter()
    meter.start()
    contention = meter.stop()
    assert contention.process_cpu_seconds == 2.0
    assert contention.other_cpu_seconds is None
    assert contention.steal_seconds is None


def test_counters_of_a_machine_that_only_idled_are_zero_and_not_none(counters: Callable[..., None]) -> None:
    counters(machine=(NOTHING_COUNTED._replace(idle=1.0), NOTHING_COUNTED._replace(idle=9.0)), own=(0.0, 0.0))
    meter = ContentionMeter()
    meter.start()
    contention = meter.stop()
    assert (contention.other_cpu_seconds, contention.steal_seconds) == (0.0, 0.0)


def test_involuntary_switches_are_none_where_they_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    meter = ContentionMeter()
    meter.start()
    assert meter.stop().involuntary_switches is None


@pytest.mark.skipif(sys.platform == "win32", reason="Python has no resource module there")
def test_involuntary_switches_of_the_stretch_alone_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = iter((70, 82))
    monkeypatch.setattr("resource.getrusage", lambda _who: SimpleNamespace(ru_nivcsw=next(switches)))
    meter = ContentionMeter()
    meter.start()
    assert meter.stop().involuntary_switches == 12


def burn(cpu_seconds: float) -> None:
    end = time.process_time() + cpu_seconds
    while time.process_time() < end:
        math.sqrt(2.0)


def test_the_cpu_time_of_our_own_work_is_counted_and_grows_with_it() -> None:
    meter = ContentionMeter()
    meter.start()
    burn(0.02)
    first = meter.stop()
    burn(0.02)
    second = meter.stop()
    assert first.process_cpu_seconds >= 0.02
    assert second.process_cpu_seconds >= first.process_cpu_seconds + 0.02
    for one, other in (
        (first.steal_seconds, second.steal_seconds),
        (first.involuntary_switches, second.involuntary_switches),
    ):
        assert (one is None) == (other is None)
        assert one is None or other is None or 0 <= one <= other
    meter.start()
    assert meter.stop().process_cpu_seconds < second.process_cpu_seconds


# Known work, and the yardstick


def test_known_work_is_as_many_products_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Products(CPU, 8)
    products: list[torch.Size] = []
    monkeypatch.setattr(torch, "mm", lambda left, _right, *, out: products.extend((left.shape, out.shape)))
    work(3)
    assert products == [(8, 8), (8, 8)] * 3


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yield the order in which products are asked for and the clock is read."""
    log: list[str] = []
    multiply, clock = torch.mm, time.perf_counter

    def logged_multiply(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        log.append("product")
        assert left.shape == right.shape == (512, 512)
        return multiply(left, right, out=out)

    def logged_clock() -> float:
        log.append("clock")
        return clock()

    with monkeypatch.context() as patch:
        patch.setattr(torch, "mm", logged_multiply)
        patch.setattr(time, "perf_counter", logged_clock)
        yield log


def test_the_yardstick_times_synchronised_work_and_runs_once_beforehand(events: list[str]) -> None:
    yardstick = Yardstick(CPU, Timer(lambda: events.append("synchronise"), time.perf_counter))
    once = ["synchronise", "clock", *["product"] * 8, "synchronise", "clock"]
    assert events == ["product", *once]
    assert yardstick.seconds() > 0
    assert events == ["product", *once, *once]


def test_twice_the_repeats_are_twice_the_work(events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    yardstick = Yardstick(CPU, Timer(lambda: None))
    events.clear()
    monkeypatch.setattr(Yardstick, "REPEATS", 2 * Yardstick.REPEATS)
    yardstick.seconds()
    assert events.count("product") == 16


def test_the_yardstick_leaves_the_trials_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    Yardstick(CPU, Timer(lambda: None)).seconds()
    assert torch.equal(torch.get_rng_state(), state)
