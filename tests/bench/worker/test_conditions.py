import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_builders import make_conditions, make_contention

from bench.records import Contention, DeviceConditions
from bench.warning_rules import SLOWED_CLOCK_REASONS
from bench.worker import conditions
from bench.worker.conditions import (
    CLOCK_REASONS,
    MAX_CLOCK_SAMPLE_SECONDS,
    DeviceWatch,
    HostPressure,
    make_device_watch,
)
from bench.worker.energy import Nvml, UnmeasurableError

CPU = torch.device("cpu")
CUDA = torch.device("cuda:0")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# The host


def pressure_text(microseconds: int) -> str:
    return (
        f"some avg10=15.96 avg60=4.49 avg300=1.34 total={microseconds}\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
    )


class Host:
    """Files of a host under one folder; `during` runs what changes them between start and stop."""

    def __init__(self, folder: Path) -> None:
        self.pressure = folder / "pressure"
        self.cgroup = folder / "cgroup"
        self.membership = folder / "membership"

    def measure(self, during: Callable[[], object] = lambda: None) -> Contention:
        meter = HostPressure(self.pressure, self.cgroup, self.membership)
        meter.start()
        during()
        return meter.stop(make_contention())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_stall_time_is_the_growth_of_the_line_some(host: Host) -> None:
    write(host.pressure, pressure_text(6_000_000))
    contention = host.measure(lambda: write(host.pressure, pressure_text(6_250_000)))
    assert contention.pressure_stall_seconds == 0.25


@pytest.mark.parametrize("text", [None, "", "full avg10=0.00 total=7\n", "some avg10=0.00\n", "some total=many\n"])
def test_without_pressure_information_stall_is_none_and_never_zero(host: Host, text: str | None) -> None:
    if text is not None:
        write(host.pressure, text)
    assert host.measure().pressure_stall_seconds is None


def test_pressure_information_that_is_switched_off_is_none(host: Host) -> None:
    host.pressure.mkdir()  # to read it fails, as it does with psi=0
    assert host.measure().pressure_stall_seconds is None


def test_pressure_information_that_vanishes_meanwhile_is_none(host: Host) -> None:
    write(host.pressure, pressure_text(1))
    assert host.measure(host.pressure.unlink).pressure_stall_seconds is None


def test_throttling_of_cgroup_version_2_is_in_microseconds(host: Host) -> None:
    file = write(host.cgroup / "cpu.stat", "usage_usec 7\nnr_throttled 1\nthrottled_usec 1000000\n")
    contention = host.measure(lambda: write(file, "usage_usec 9\nnr_throttled 3\nthrottled_usec 1500000\n"))
    assert contention.throttled_seconds == 0.5


def test_throttling_of_cgroup_version_1_is_in_nanoseconds(host: Host) -> None:
    file = write(host.cgroup / "cpu" / "cpu.stat", "nr_periods 4\nnr_throttled 1\nthrottled_time 2000000000\n")
    contention = host.measure(lambda: write(file, "nr_periods 5\nnr_throttled 2\nthrottled_time 2250000000\n"))
    assert contention.throttled_seconds == 0.25


def test_quotas_of_ones_own_cgroup_and_of_those_around_it_add_up(host: Host) -> None:
    write(host.membership, "0::/user.slice/job.scope\n")
    files = [host.cgroup / folder / "cpu.stat" for folder in ("user.slice", "user.slice/job.scope", "elsewhere")]
    for file in files:
        write(file, "throttled_usec 0\n")

    def throttle() -> None:
        for file in files:
            write(file, "throttled_usec 250000\n")

    assert host.measure(throttle).throttled_seconds == 0.5


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_one_cgroup_under_two_names_counts_once(host: Host) -> None:
    file = write(host.cgroup / "cpu,cpuacct" / "job" / "cpu.stat", "throttled_time 0\n")
    (host.cgroup / "cpu").symlink_to(host.cgroup / "cpu,cpuacct")
    (host.cgroup / "job").symlink_to(host.cgroup / "cpu,cpuacct" / "job")
    write(host.membership, "4:cpu,cpuacct:/job\n")
    assert host.measure(lambda: write(file, "throttled_time 1000000000\n")).throttled_seconds == 1.0


def test_a_quota_that_did_not_bite_is_zero_and_none_is_none(host: Host) -> None:
    assert host.measure().throttled_seconds is None
    file = write(host.cgroup / "cpu.stat", "usage_usec 7\nuser_usec 7\n")  # version 2 without a quota's counts
    assert host.measure().throttled_seconds is None
    write(file, "throttled_usec 8\n")
    assert host.measure().throttled_seconds == 0.0


def test_a_sum_of_quotas_that_lacks_one_is_none(host: Host) -> None:
    write(host.membership, "0::/job\n")
    write(host.cgroup / "cpu.stat", "throttled_usec 8\n")
    own = write(host.cgroup / "job" / "cpu.stat", "throttled_usec 8\n")
    assert host.measure(own.unlink).throttled_seconds is None


def test_a_cgroup_that_is_made_anew_counts_no_negative_time(host: Host) -> None:
    file = write(host.cgroup / "cpu.stat", "throttled_usec 9000000\n")
    assert host.measure(lambda: write(file, "throttled_usec 8\n")).throttled_seconds == 0.0


def test_the_load_average_is_that_before_the_stretch(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([(1.5, 9.0, 9.0), (2.5, 9.0, 9.0)])
    monkeypatch.setattr(os, "getloadavg", lambda: next(loads), raising=False)
    assert host.measure().load_average == 1.5


def test_without_a_load_average_it_is_none(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def unobtainable() -> None:
        raise OSError("Load averages are unobtainable")

    monkeypatch.setattr(os, "getloadavg", unobtainable, raising=False)
    assert host.measure().load_average is None
    monkeypatch.delattr(os, "getloadavg")
    assert host.measure().load_average is None


@pytest.mark.parametrize(("counted", "load"), [(None, None), ({"idle": 9.0}, 0.0)])
def test_a_load_of_zero_is_none_where_no_cpu_time_is_counted(
    host: Host, monkeypatch: pytest.MonkeyPatch, counted: dict[str, float] | None, load: float | None
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr(conditions, "machine_cpu_seconds", lambda: counted)
    assert host.measure().load_average == load


def test_other_fields_of_the_contention_are_kept(host: Host) -> None:
    measured = host.measure()
    assert measured.process_cpu_seconds == make_contention().process_cpu_seconds
    assert measured.steal_seconds == make_contention().steal_seconds


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_hosts_counters_only_grow() -> None:
    meter = HostPressure()
    meter.start()
    first, second = meter.stop(make_contention()), meter.stop(make_contention())
    for one, other in (
        (first.pressure_stall_seconds, second.pressure_stall_seconds),
        (first.throttled_seconds, second.throttled_seconds),
    ):
        assert (one is None) == (other is None)
        assert one is None or other is None or 0 <= one <= other


# CUDA devices


class NvmlError(Exception):
    pass


def unsupported(*_: object) -> None:
    raise NvmlError("Not Supported")


def processes(*ids: int) -> Callable[[object], list[SimpleNamespace]]:
    return lambda _handle: [SimpleNamespace(pid=number) for number in ids]


OWN = os.getpid()


def nvml(**functions: Callable[..., Any]) -> Nvml:
    supported: dict[str, Callable[..., Any]] = {
        "nvmlDeviceGetClockInfo": lambda _handle, kind: {1: 1_410}[kind],
        "nvmlDeviceGetMaxClockInfo": lambda _handle, kind: {1: 1_980}[kind],
        "nvmlDeviceGetTemperature": lambda _handle, sensor: {0: 61}[sensor],
        "nvmlDeviceGetCurrentClocksEventReasons": lambda _handle: 0,
        "nvmlDeviceGetComputeRunningProcesses": processes(OWN),
    }
    return Nvml(SimpleNamespace(NVMLError=NvmlError, **(supported | functions)), "handle")


def conditions_of(known: Nvml) -> DeviceConditions | None:
    watch = make_device_watch(CUDA, nvml=lambda _device: known)
    watch.start()
    return watch.stop()


def test_a_cuda_devices_conditions_are_in_si_units() -> None:
    assert conditions_of(nvml()) == DeviceConditions(
        clock_hertz=1.41e9, max_clock_hertz=1.98e9, temperature_celsius=61.0, clock_reasons=(), other_processes=0
    )


def test_reasons_are_named_by_their_bits() -> None:
    def named(bits: int) -> tuple[str, ...] | None:
        measured = conditions_of(nvml(nvmlDeviceGetCurrentClocksEventReasons=lambda _handle: bits))
        assert measured is not None
        return measured.clock_reasons

    assert [named(1 << place) for place in range(9)] == [
        ("gpu_idle",),
        ("applications_clocks",),
        ("sw_power_cap",),
        ("hw_slowdown",),
        ("sync_boost",),
        ("sw_thermal_slowdown",),
        ("hw_thermal_slowdown",),
        ("hw_power_brake",),
        ("display_clocks",),
    ]
    assert named(0x4 | 0x40 | 0x8000) == ("sw_power_cap", "hw_thermal_slowdown")


@pytest.mark.parametrize(
    ("reasons", "clock_hertz"),
    [((0x1, 0x4), 1.9e9), ((0x4, 0x1 | 0x20), 1.9e9), ((0x1, 0x1 | 0x4), None), ((0x0, 0x0), 1.9e9)],
)
def test_the_clock_of_an_idle_device_does_not_count(reasons: tuple[int, int], clock_hertz: float | None) -> None:
    samples = iter(reasons)
    now = [0]

    def reasons_now(_handle: object) -> int:
        now[0] = next(samples)
        return now[0]

    measured = conditions_of(
        nvml(
            nvmlDeviceGetCurrentClocksEventReasons=reasons_now,
            nvmlDeviceGetClockInfo=lambda _handle, _kind: 345 if now[0] & 0x1 else 1_900,
        )
    )
    assert measured is not None
    assert measured.clock_hertz == clock_hertz
    assert measured.max_clock_hertz == 1.98e9


@pytest.mark.parametrize("error", [NvmlError("Not Supported"), Exception("NVML: library and module do not match")])
def test_whatever_nvml_raises_is_a_condition_that_is_unknown(error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    assert conditions_of(nvml(**dict.fromkeys(QUERIES, fail))) is None


def test_older_drivers_are_asked_for_reasons_by_the_old_name() -> None:
    old = nvml(
        nvmlDeviceGetCurrentClocksEventReasons=unsupported,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda _handle: 0x8,
    )
    measured = conditions_of(old)
    assert measured is not None
    assert measured.clock_reasons == ("hw_slowdown",)


@pytest.mark.parametrize(
    ("ids", "others"),
    [((OWN,), 0), ((OWN, OWN), 0), ((OWN, -7), 1), ((-7, OWN, -8, -8), 2), ((), None), ((-7,), None)],
)
def test_others_are_counted_only_where_this_process_is_seen_among_them(
    ids: tuple[int, ...], others: int | None
) -> None:
    measured = conditions_of(nvml(nvmlDeviceGetComputeRunningProcesses=processes(*ids)))
    assert measured is not None
    assert measured.other_processes == others


QUERIES = {
    "nvmlDeviceGetClockInfo": "clock_hertz",
    "nvmlDeviceGetMaxClockInfo": "max_clock_hertz",
    "nvmlDeviceGetTemperature": "temperature_celsius",
    "nvmlDeviceGetCurrentClocksEventReasons": "clock_reasons",
    "nvmlDeviceGetComputeRunningProcesses": "other_processes",
}


@pytest.mark.parametrize(("query", "member"), QUERIES.items())
def test_a_query_that_is_unsupported_is_none_and_the_others_stay(query: str, member: str) -> None:
    measured = conditions_of(nvml(**{query: unsupported}))
    assert measured is not None
    unknown = [name for name in QUERIES.values() if getattr(measured, name) is None]
    assert unknown == [member]


def test_without_nvml_there_are_no_conditions_and_no_exception() -> None:
    def fail(_device: torch.device) -> Nvml:
        raise UnmeasurableError("no NVML")

    watch = make_device_watch(CUDA, nvml=fail)
    watch.start()
    assert watch.stop() is None


def test_the_reasons_that_are_warned_about_are_among_those_known() -> None:
    assert set(CLOCK_REASONS.values()) > SLOWED_CLOCK_REASONS


# The worse of two samples


def watch_of(*samples: DeviceConditions | None) -> DeviceConditions | None:
    remaining = iter(samples)
    watch = DeviceWatch(lambda: next(remaining))
    watch.start()
    return watch.stop()


def test_of_two_samples_the_worse_counts_in_each_respect() -> None:
    cool = DeviceConditions(
        clock_hertz=2e9,
        max_clock_hertz=2.1e9,
        temperature_celsius=50.0,
        clock_reasons=("hw_slowdown",),
        other_processes=0,
    )
    hot = DeviceConditions(
        clock_hertz=1e9,
        max_clock_hertz=2.2e9,
        temperature_celsius=90.0,
        clock_reasons=("sw_power_cap",),
        other_processes=2,
    )
    worse = dataclasses.replace(hot, clock_reasons=("sw_power_cap", "hw_slowdown"))
    assert watch_of(cool, hot) == watch_of(hot, cool) == worse


def test_a_value_in_only_one_sample_counts() -> None:
    known = make_conditions()
    unknown = make_conditions(
        clock_hertz=None, max_clock_hertz=None, temperature_celsius=None, clock_reasons=None, other_processes=None
    )
    assert watch_of(known, unknown) == watch_of(unknown, known) == watch_of(None, known) == known
    assert watch_of(None, None) is None


# The processor's clocks


@pytest.fixture
def two_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 3}, raising=False)
    for core, kilohertz in ((0, 9_000_000), (1, 1_200_000), (3, 3_400_000)):
        write(tmp_path / f"cpu{core}" / "cpufreq" / "scaling_cur_freq", f"{kilohertz}\n")
        write(tmp_path / f"cpu{core}" / "cpufreq" / "cpuinfo_max_freq", "3700000\n")
    return tmp_path


def clocks(processors: Path, clock: Callable[[], float] = lambda: 1.0) -> DeviceConditions | None:
    watch = make_device_watch(CPU, processors=processors, clock=clock)
    watch.start()
    return watch.stop()


def test_the_processors_clock_is_that_of_its_fastest_usable_core(two_cores: Path) -> None:
    measured = clocks(two_cores)
    assert measured is not None
    assert (measured.clock_hertz, measured.max_clock_hertz) == (3.4e9, 3.7e9)
    assert (measured.temperature_celsius, measured.clock_reasons, measured.other_processes) == (None, None, None)


def test_a_clock_that_cannot_be_read_is_left_out(two_cores: Path) -> None:
    write(two_cores / "cpu3" / "cpufreq" / "scaling_cur_freq", "<unknown>\n")
    (two_cores / "cpu1" / "cpufreq" / "cpuinfo_max_freq").unlink()
    measured = clocks(two_cores)
    assert measured is not None
    assert (measured.clock_hertz, measured.max_clock_hertz) == (1.2e9, 3.7e9)


@pytest.mark.parametrize(("share", "read_again"), [(0.25, True), (0.26, False)])
def test_clocks_that_take_long_to_read_are_not_read_again(
    two_cores: Path, monkeypatch: pytest.MonkeyPatch, share: float, *, read_again: bool
) -> None:
    now, read_text = 0.0, Path.read_text

    def read_slowly(path: Path) -> str:
        nonlocal now
        now += share * MAX_CLOCK_SAMPLE_SECONDS  # each of two cores has two files
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", read_slowly)
    assert (clocks(two_cores, lambda: now) is not None) == read_again


def test_without_clocks_or_affinity_there_are_no_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert clocks(tmp_path) is None
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert clocks(tmp_path) is None


def test_other_kinds_of_device_are_not_watched() -> None:
    watch = make_device_watch(torch.device("mps"))
    watch.start()
    assert watch.stop() is None
