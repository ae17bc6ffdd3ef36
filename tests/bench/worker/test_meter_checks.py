"""The self-test's checks of what measures: each passes on sound parts and fails on a planted fault."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from bench_builders import make_contention
from fake_worker import FakeLauncher

from bench.coding import to_json
from bench.protocol.messages import Stretched
from bench.protocol.soundness import Check, Outcome
from bench.records import Contention, Peak
from bench.worker import meter_checks
from bench.worker.devices import Device
from bench.worker.examination import Finding, Parts
from bench.worker.meters import ContentionMeter, HostMemory

MakeCheck = Callable[[Parts, str], Check]
MEBIBYTE = 2**20


# A simulated accelerator: its work takes time only when it is waited for


class Clock:
    """A clock that the simulated accelerator moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Accelerator(Device):
    """Launching a product takes 10 µs of the host's time and 1 ms of the device's, which `synchronise` waits for."""

    def __init__(self, clock: Clock, *, waits: bool = True) -> None:
        super().__init__("cpu")
        self.torch_device = torch.device("meta")
        self._clock = clock
        self._waits = waits
        self._pending_seconds = 0.0
        self.peaks: list[Peak | None] = []
        self.reserved: Peak | None = None

    def launch(self, count: int) -> None:
        self._clock.now += count * 1e-5
        self._pending_seconds += count * 1e-3

    def synchronise(self) -> None:
        if self._waits:
            self._clock.now += self._pending_seconds
            self._pending_seconds = 0.0

    def allocated_peak(self) -> Peak | None:
        return self.peaks.pop(0)

    def reserved_peak(self) -> Peak | None:
        return self.reserved


def simulated(parts: Parts, *, waits: bool = True, shown: Callable[[float], float] = lambda now: now) -> Parts:
    """Return `parts` with a simulated accelerator; `shown` is the time that its clock shows for the true one."""
    clock = Clock()
    device = Accelerator(clock, waits=waits)
    return replace(
        parts,
        device=device,
        clock=lambda: shown(clock()),
        other_clock=clock,
        make_work=lambda _device, _size: device.launch,
    )


# The clock, and waiting for the device


def test_known_work_is_timed_as_once_and_twice_on_this_cpu(parts: Parts) -> None:
    # The real thing is noisy: that it measures is shown here, that it passes by the slow test of `selftest`.
    finding = meter_checks.examine_products(parts)
    assert "times as long" in finding.measured


def test_known_work_passes_on_a_sound_accelerator(parts: Parts) -> None:
    finding = meter_checks.examine_products(simulated(parts))
    assert finding == Finding(Outcome.PASS, "2.00 times as long; clocks agree to +0.0 %")


def test_a_difference_of_clocks_that_rounds_to_zero_has_no_minus_sign(parts: Parts) -> None:
    finding = meter_checks.examine_products(simulated(parts, shown=lambda now: 0.9999 * now))
    assert finding == Finding(Outcome.PASS, "2.00 times as long; clocks agree to +0.0 %")


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (lambda now: 2 * now, "clocks agree to +100.0 %"),
        (lambda now: now / 1000, "clocks agree to -99.9 %"),
        (lambda now: (now - 1000) ** 2, "times as long"),
        (lambda now: 100 * round(now / 100), "stood still"),
    ],
    ids=["fast", "milliseconds", "bent", "coarse"],
)
def test_a_wrong_clock_is_found(
    parts: Parts, make_check: MakeCheck, shown: Callable[[float], float], words: str
) -> None:
    check = make_check(simulated(parts, shown=shown), "products at 1x and 2x")
    assert check.outcome is Outcome.FAIL
    assert words in check.measured


def test_a_clock_that_stands_still_is_found(parts: Parts, make_check: MakeCheck) -> None:
    check = make_check(simulated(parts, shown=lambda _now: 5.0), "products at 1x and 2x")
    assert check.outcome is Outcome.FAIL
    assert "stood still" in check.measured


def test_an_accelerator_that_is_waited_for_passes(parts: Parts) -> None:
    finding = meter_checks.examine_synchronisation(simulated(parts))
    assert finding == Finding(Outcome.PASS, "launching alone takes 1.0 % of the time")


def test_a_synchronise_that_does_nothing_is_found(parts: Parts) -> None:
    finding = meter_checks.examine_synchronisation(simulated(parts, waits=False))
    assert finding == Finding(Outcome.FAIL, "launching alone takes 100.0 % of the time")


def test_waiting_is_not_applicable_on_the_cpu_rather_than_passed(parts: Parts) -> None:
    assert meter_checks.examine_synchronisation(parts).outcome is Outcome.NOT_APPLICABLE


# Training steps, as a trial times them


class Timing:
    """A session that trains nothing and reports `seconds` of the number of batches."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._seconds = seconds
        self._worker = FakeLauncher()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["do"] != "stretch":
            return self._worker.respond(request)
        seconds = self._seconds(request["end"] - request["begin"])
        stretched = Stretched(train_seconds=seconds, train_samples=1, train_loss=2.3)
        return {"answer": to_json(stretched)}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda batches: 0.001 * batches, Outcome.PASS),
        (lambda batches: 0.00005 + 0.001 * batches, Outcome.PASS),
        (lambda _batches: 0.01, Outcome.FAIL),
        (lambda batches: 0.02 + 0.001 * batches, Outcome.FAIL),
        (lambda batches: 0.001 * batches**2, Outcome.FAIL),
        (lambda _batches: 0.0, Outcome.FAIL),
    ],
    ids=["proportional", "small overhead", "constant", "large overhead", "quadratic", "zero"],
)
def test_a_trial_that_times_its_steps_wrongly_is_found(
    parts: Parts, make_check: MakeCheck, seconds: Callable[[int], float], expected: Outcome
) -> None:
    faulty = replace(parts, make_session=lambda: Timing(seconds))
    assert make_check(faulty, "training steps at 1x and 2x").outcome is expected


# Memory


def fake_memory(*peaks: int | None) -> Callable[[], HostMemory]:
    """Return a factory of meters that report `peaks`, in MiB, one after the other."""

    class Scripted(HostMemory):
        def peak(self) -> Peak | None:
            mebibytes = script.pop(0)
            return None if mebibytes is None else Peak(bytes=mebibytes * MEBIBYTE, method="scripted")

    script = list(peaks)
    return Scripted


def test_the_real_meter_sees_what_is_touched(parts: Parts) -> None:
    assert meter_checks.examine_host_memory(parts).outcome in {Outcome.PASS, Outcome.NOT_APPLICABLE}


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ((0, 64), Outcome.PASS),
        ((0, 68), Outcome.PASS),
        ((30, 94), Outcome.PASS),
        ((64, 64), Outcome.FAIL),
        ((0, 0), Outcome.FAIL),
        ((0, 32), Outcome.FAIL),
        ((0, 128), Outcome.FAIL),
        ((0, None), Outcome.FAIL),
        ((None,), Outcome.NOT_APPLICABLE),
    ],
)
def test_a_host_meter_that_is_blind_constant_or_wrong_is_found(
    parts: Parts, peaks: tuple[int | None, ...], expected: Outcome
) -> None:
    assert meter_checks.examine_host_memory(replace(parts, host_memory=fake_memory(*peaks))).outcome is expected


def test_an_earlier_peak_that_cannot_be_reset_hides_nothing(parts: Parts) -> None:
    class EarlierPeak(HostMemory):
        def peak(self) -> Peak | None:
            peak = super().peak()
            return None if peak is None else Peak(bytes=max(peak.bytes, 40 * MEBIBYTE), method="not reset")

    expected = meter_checks.examine_host_memory(parts).outcome
    assert meter_checks.examine_host_memory(replace(parts, host_memory=EarlierPeak)).outcome is expected


@pytest.mark.parametrize(
    ("before", "after", "reserved", "expected"),
    [
        (10, 74, 80, Outcome.PASS),
        (10, 76, 76, Outcome.PASS),
        (10, 74, None, Outcome.PASS),
        (10, 74, 70, Outcome.FAIL),
        (10, 10, 80, Outcome.FAIL),
        (10, 73, 80, Outcome.FAIL),
        (10, 90, 90, Outcome.FAIL),
        (10, None, None, Outcome.FAIL),
        (None, None, None, Outcome.NOT_APPLICABLE),
    ],
)
def test_a_device_meter_that_is_blind_constant_or_wrong_is_found(
    parts: Parts, before: int | None, after: int | None, reserved: int | None, expected: Outcome
) -> None:
    device = Accelerator(Clock())
    device.peaks = [peak_of(before), peak_of(after)]
    device.reserved = peak_of(reserved)
    assert meter_checks.examine_device_memory(replace(parts, device=device)).outcome is expected


def peak_of(mebibytes: int | None) -> Peak | None:
    return None if mebibytes is None else Peak(bytes=mebibytes * MEBIBYTE, method="scripted")


def test_device_memory_is_not_applicable_on_the_cpu(parts: Parts) -> None:
    assert meter_checks.examine_device_memory(parts).outcome is Outcome.NOT_APPLICABLE


# Contention


def meter(stop: Callable[[Contention], Contention]) -> Callable[[], ContentionMeter]:
    """Return a factory of real meters whose readings pass through `stop`."""

    class Faulty(ContentionMeter):
        def stop(self) -> Contention:
            return stop(super().stop())

    return Faulty


CONTENTION_FAULTS: dict[str, tuple[str, Callable[[Contention], Contention]]] = {
    "blind": ("examine_cpu_time", lambda read: replace(read, process_cpu_seconds=0.0)),
    "constant": ("examine_cpu_time", lambda _read: make_contention(process_cpu_seconds=0.3, other_cpu_seconds=0.3)),
    "doubled": (
        "examine_cpu_time",
        lambda read: replace(read, process_cpu_seconds=2 * read.process_cpu_seconds),
    ),
    "blind to others": ("examine_contention", lambda read: replace(read, other_cpu_seconds=0.0)),
    "constant for others": (
        "examine_contention",
        lambda _read: make_contention(process_cpu_seconds=0.3, other_cpu_seconds=0.3),
    ),
}


@pytest.mark.parametrize("fault", CONTENTION_FAULTS)
def test_a_cpu_meter_that_is_blind_constant_or_wrong_is_found(parts: Parts, fault: str) -> None:
    name, stop = CONTENTION_FAULTS[fault]
    finding: Finding = getattr(meter_checks, name)(replace(parts, contention=meter(stop)))
    assert finding.outcome is Outcome.FAIL


def test_the_real_meter_counts_this_process_and_another(parts: Parts, make_check: MakeCheck) -> None:
    assert make_check(parts, "CPU time").outcome is Outcome.PASS
    others = make_check(parts, "CPU time of others")
    assert others.outcome in {Outcome.PASS, Outcome.NOT_APPLICABLE}


def test_where_others_are_not_counted_there_is_nothing_to_check(parts: Parts) -> None:
    faulty = replace(parts, contention=meter(lambda read: replace(read, other_cpu_seconds=None)))
    assert meter_checks.examine_contention(faulty).outcome is Outcome.NOT_APPLICABLE
