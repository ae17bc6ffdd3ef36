"""The self-test's checks of what measures: each passes on sound parts and fails on a planted fault."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_builders import make_contention
from fake_worker import FakeLauncher

from bench.coding import to_json
from bench.protocol.messages import Stretched
from bench.protocol.soundness import Check, Outcome
from bench.records import Contention, Peak
from bench.worker import examination, meter_checks
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

    def __init__(self, clock: Clock, *, waits: bool = True, launch_seconds: float = 1e-5) -> None:
        super().__init__("cpu")
        self.torch_device = torch.device("meta")
        self._clock = clock
        self._waits = waits
        self._launch_seconds = launch_seconds
        self._pending_seconds = 0.0
        self.events: list[str] = []
        self.peaks: list[Peak | None] = []
        self.reserved: Peak | None = None

    def launch(self, count: float) -> None:
        self._clock.now += count * self._launch_seconds
        self._pending_seconds += count * 1e-3

    def synchronise(self) -> None:
        if self._waits:
            self._clock.now += self._pending_seconds
            self._pending_seconds = 0.0

    def reset_peak(self) -> None:
        self.events.append("reset")

    def sample(self) -> None:
        self.events.append("sample")

    def allocated_peak(self) -> Peak | None:
        self.events.append("peak")
        return self.peaks.pop(0)

    def reserved_peak(self) -> Peak | None:
        return self.reserved


def simulated(
    parts: Parts,
    *,
    waits: bool = True,
    launch_seconds: float = 1e-5,
    shown: Callable[[float], float] = lambda now: now,
    work: Callable[[int], float] = lambda count: count,
) -> Parts:
    """Return `parts` with a simulated accelerator.

    `shown` is the time that its clock shows for the true one, and `work` the products that it does for those asked for.
    """
    clock = Clock()
    device = Accelerator(clock, waits=waits, launch_seconds=launch_seconds)
    return replace(
        parts,
        device=device,
        clock=lambda: shown(clock()),
        other_clock=clock,
        make_work=lambda _device, _size: lambda count: device.launch(work(count)),
    )


# The clock, and waiting for the device


def test_known_work_is_timed_as_once_and_twice_on_this_cpu(parts: Parts) -> None:
    # The real thing is noisy: that it measures is shown here, that it passes by the slow test of `selftest`.
    finding = meter_checks.examine_products(parts)
    assert "times as long" in finding.measured


def test_known_work_passes_on_a_sound_accelerator(parts: Parts) -> None:
    finding = meter_checks.examine_products(simulated(parts))
    assert finding == Finding(Outcome.PASS, "2.00 times as long; clocks agree to +0.0 %")


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda count: count + 0.9, Outcome.PASS),  # 8.9 / 4.9
        (lambda count: count + 1.2, Outcome.FAIL),  # 9.2 / 5.2
        (lambda count: count**1.1, Outcome.PASS),  # 2^1.1
        (lambda count: count**1.2, Outcome.FAIL),
    ],
    ids=["1.82", "1.77", "2.14", "2.30"],
)
def test_twice_the_products_may_take_1_8_to_2_2_times_as_long(
    parts: Parts, work: Callable[[int], float], expected: Outcome
) -> None:
    assert meter_checks.examine_products(simulated(parts, work=work)).outcome is expected


@pytest.mark.parametrize(
    ("speed", "expected"), [(0.88, Outcome.FAIL), (0.92, Outcome.PASS), (1.08, Outcome.PASS), (1.12, Outcome.FAIL)]
)
def test_clocks_may_differ_by_a_tenth(parts: Parts, speed: float, expected: Outcome) -> None:
    assert meter_checks.examine_products(simulated(parts, shown=lambda now: speed * now)).outcome is expected


def test_another_clock_that_stands_still_is_found(parts: Parts) -> None:
    finding = meter_checks.examine_products(replace(simulated(parts), other_clock=lambda: 5.0))
    assert finding == Finding(Outcome.FAIL, "the other clock stood still")


def test_an_accelerators_products_are_larger_than_the_hosts(parts: Parts) -> None:
    sizes: list[int] = []

    def make_work(_device: torch.device, size: int) -> Callable[[int], None]:
        sizes.append(size)
        return accelerator.device.launch  # type: ignore[attr-defined,no-any-return]  # the simulated one has it

    accelerator = simulated(parts)
    meter_checks.examine_products(replace(accelerator, make_work=make_work))
    meter_checks.examine_products(replace(accelerator, device=parts.device, make_work=make_work))
    assert sizes == [meter_checks.DEVICE_PRODUCT_SIZE, meter_checks.HOST_PRODUCT_SIZE]


def test_products_are_timed_with_one_thread_which_waits_for_no_other(parts: Parts) -> None:
    torch.set_num_threads(2)
    meter_checks.examine_products(simulated(parts))
    assert torch.get_num_threads() == 1


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


@pytest.mark.parametrize(("launch_seconds", "expected"), [(0.9e-3, Outcome.PASS), (1.1e-3, Outcome.FAIL)])
def test_launching_may_take_half_of_the_time(parts: Parts, launch_seconds: float, expected: Outcome) -> None:
    slow = simulated(parts, launch_seconds=launch_seconds)
    slow.device.launch(100)  # type: ignore[attr-defined]  # what the device still has to do is waited for before
    assert meter_checks.examine_synchronisation(slow).outcome is expected


def test_waiting_is_not_applicable_on_the_cpu_rather_than_passed(parts: Parts) -> None:
    assert meter_checks.examine_synchronisation(parts).outcome is Outcome.NOT_APPLICABLE


# Training steps, as a trial times them


class Timing:
    """A session that trains nothing and reports `seconds` of the number of batches."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._seconds = seconds
        self._worker = FakeLauncher()
        self.prepared: list[Mapping[str, Any]] = []
        self.ends: list[int] = []

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["do"] != "stretch":
            self.prepared.append(request)
            return self._worker.respond(request)
        self.ends.append(request["end"])
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
        (lambda batches: 0.0004 + 0.001 * batches, Outcome.PASS),
        (lambda batches: 0.0005 + 0.001 * batches, Outcome.FAIL),
        (lambda batches: 0.001 * batches**1.1, Outcome.PASS),
        (lambda batches: 0.001 * batches**1.2, Outcome.FAIL),
    ],
    ids=[
        *("proportional", "small overhead", "constant", "large overhead", "quadratic", "zero"),
        *("1.71", "1.67", "2.14", "2.30"),
    ],
)
def test_a_trial_that_times_its_steps_wrongly_is_found(
    parts: Parts, make_check: MakeCheck, seconds: Callable[[int], float], expected: Outcome
) -> None:
    faulty = replace(parts, make_session=lambda: Timing(seconds))
    assert make_check(faulty, "training steps at 1x and 2x").outcome is expected


@pytest.mark.parametrize(("seconds", "count"), [(0.001, 1), (0.0002, 4), (1e-9, 32)])
def test_steps_are_timed_in_turns_within_one_epoch_and_with_one_thread(
    parts: Parts, tmp_path: Path, seconds: float, count: int
) -> None:
    session = Timing(lambda batches: seconds * batches)
    assert len(parts.dataset.train_labels) // meter_checks.STRETCH_BATCH_SIZE < 4 * 32
    faster = replace(parts, threads=2, root=tmp_path, make_session=lambda: session)
    assert meter_checks.examine_stretches(faster).outcome is Outcome.PASS
    assert session.ends[-4 * meter_checks.BLOCKS :] == [count, 2 * count, 2 * count, count] * meter_checks.BLOCKS
    (prepared,) = session.prepared
    assert prepared["trial"]["configuration"]["threads"] == 1
    assert prepared["root"] == str(tmp_path)


def test_disturbances_which_only_add_time_change_nothing(parts: Parts) -> None:
    disturbances = itertools.cycle([0.0, 0.0, 0.5])
    disturbed = Timing(lambda batches: 0.001 * batches + next(disturbances))
    assert meter_checks.examine_stretches(replace(parts, make_session=lambda: disturbed)).outcome is Outcome.PASS


# Settings


def test_products_are_checked_when_float32_is_set(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(examination, "check_products", lambda *asked: checked.append(asked))
    parts.apply_settings(1, parts.device.torch_device)
    assert checked == [("fp32", torch.device("cpu"))]


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
        ((0, 58), Outcome.PASS),
        ((0, 70), Outcome.PASS),
        ((0, 57), Outcome.FAIL),
        ((0, 71), Outcome.FAIL),
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
    assert device.events == ["reset", "sample", "peak", "sample", "peak"][: 3 if before is None else 5]


def test_findings_about_memory_state_by_how_much_the_peaks_rose(parts: Parts) -> None:
    host = replace(parts, host_memory=fake_memory(30, 94))
    assert meter_checks.examine_host_memory(host).measured == "peak rose by 64.0 MiB"
    device = Accelerator(Clock())
    rise = "allocated peak rose by 64.0 MiB"
    for reserved, measured in ((None, rise), (80, f"{rise}, reserved is 80.0 of 74.0 MiB allocated")):
        device.peaks, device.reserved = [peak_of(10), peak_of(74)], peak_of(reserved)
        assert meter_checks.examine_device_memory(replace(parts, device=device)).measured == measured


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
