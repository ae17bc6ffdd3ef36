import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.records import Energy
from bench.worker.energy import (
    MAX_TICK_ERROR,
    MIN_SECONDS,
    NVML_METHOD,
    RAPL_METHOD,
    Counter,
    EnergyMeter,
    Nvml,
    UnmeasurableError,
    make_energy_meter,
    measure_idle_watts,
    needed_seconds,
    open_nvml,
)

CPU = torch.device("cpu")
CUDA = torch.device("cuda:1")


class NvmlError(Exception):
    pass


class LibraryMismatchError(Exception):
    """As pynvml's NVMLLibraryMismatchError it is no NVMLError."""


def fail(error: Exception) -> Callable[..., Any]:
    def function(*_: object) -> Any:  # noqa: ANN401 - it never returns
        raise error

    return function


def script(values: Iterable[Any]) -> Callable[..., Any]:
    remaining = iter(values)

    def function(*_: object) -> Any:  # noqa: ANN401 - whatever the script says
        value = next(remaining)
        if isinstance(value, Exception):
            raise value
        return value

    return function


def library(**functions: object) -> SimpleNamespace:
    """A module ``pynvml`` of one GPU and one MIG slice; handles are the names they were asked for by."""

    def by_uuid(uuid: bytes) -> bytes:
        if uuid not in {b"GPU-1111-22", b"MIG-3333-44"}:
            raise NvmlError("Not Found")
        return uuid

    functions = {
        "NVMLError": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetHandleByPciBusId": lambda place: place,
        "nvmlDeviceGetTotalEnergyConsumption": lambda _handle: 5000,
    } | functions
    return SimpleNamespace(**{name: function for name, function in functions.items() if function is not None})


def opened(loaded: SimpleNamespace, **properties: object) -> Nvml:
    asked: list[torch.device] = []

    def properties_of(device: torch.device) -> SimpleNamespace:
        asked.append(device)
        return SimpleNamespace(**properties or {"uuid": "1111-22"})

    nvml = open_nvml(CUDA, lambda: loaded, properties_of)
    assert asked == [CUDA]
    return nvml


def cuda_meter(loaded: SimpleNamespace, seconds: Iterable[float] = ()) -> EnergyMeter:
    return make_energy_meter(CUDA, nvml=lambda _device: opened(loaded), clock=script(seconds))


def reason_of(meter: EnergyMeter) -> str:
    energy, reason = meter.result()
    assert energy is None
    assert reason
    assert len(reason.splitlines()) == 1
    return reason


def handle_of(nvml: Nvml) -> object:
    return nvml._handle  # noqa: SLF001 - which device it is


# NVML: finding the device


def test_the_device_is_found_by_its_uuid_and_not_by_its_number() -> None:
    assert handle_of(opened(library())) == b"GPU-1111-22"


def test_a_slice_of_a_gpu_is_never_taken_for_the_whole() -> None:
    properties = {"uuid": "3333-44", "pci_domain_id": 0, "pci_bus_id": 1, "pci_device_id": 0}
    assert handle_of(opened(library(), **properties)) == b"MIG-3333-44"
    with pytest.raises(UnmeasurableError, match="Not Found"):
        opened(library(), **(properties | {"uuid": "5555-66"}))


def test_without_a_uuid_the_device_is_found_by_its_place_on_the_bus() -> None:
    nvml = opened(library(), pci_domain_id=1, pci_bus_id=0xAF, pci_device_id=2)
    assert handle_of(nvml) == b"00000001:AF:02.0"


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (fail(ImportError("No module named 'pynvml'")), "install the package nvidia-ml-py"),
        (lambda: library(nvmlInit=fail(NvmlError("NVML Shared Library Not Found"))), "Shared Library Not Found"),
        (lambda: library(nvmlInit=fail(NvmlError("Driver Not Loaded\nmore"))), "Driver Not Loaded"),
        (lambda: library(nvmlDeviceGetHandleByUUID=fail(NvmlError("Not Found"))), "Not Found"),
        (lambda: library(nvmlDeviceGetHandleByUUID=None), "nvmlDeviceGetHandleByUUID"),
        (lambda: library(nvmlInit=fail(PermissionError(13, "Permission denied", "/dev/x"))), "Permission denied"),
        (lambda: library(nvmlInit=fail(NvmlError())), "NvmlError"),
        (lambda: library(nvmlInit=fail(LibraryMismatchError("older than its driver"))), "older than its driver"),
        (lambda: library(nvmlDeviceGetHandleByUUID=fail(LibraryMismatchError("older"))), "older"),
        (lambda: library(nvmlDeviceGetTotalEnergyConsumption=fail(LibraryMismatchError("older"))), "older"),
        (fail(SyntaxError("written for another Python")), "written for another Python"),
    ],
)
def test_without_nvml_the_meter_gives_the_reason_and_never_raises(load: Callable[[], Any], reason: str) -> None:
    def properties(_device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(uuid="1111-22")

    meter = make_energy_meter(CUDA, nvml=lambda device: open_nvml(device, load, properties))
    meter.start()
    meter.stop()
    assert reason in reason_of(meter)
    assert "/dev" not in reason_of(meter)


def test_a_driver_without_a_device_is_a_reason_too() -> None:
    no_device = fail(AssertionError("Torch not compiled with CUDA enabled"))
    meter = make_energy_meter(CUDA, nvml=lambda device: open_nvml(device, library, no_device))
    assert "not compiled with CUDA" in reason_of(meter)


def test_a_device_that_does_not_count_energy_has_no_meter() -> None:
    old = library(nvmlDeviceGetTotalEnergyConsumption=fail(NvmlError("Not Supported")))
    assert reason_of(cuda_meter(old)) == "NVML: Not Supported"
    assert "nvmlDeviceGetTotalEnergyConsumption" in reason_of(
        cuda_meter(library(nvmlDeviceGetTotalEnergyConsumption=None))
    )


# Windows


def test_energy_is_the_sum_of_the_windows_and_of_nothing_between_them() -> None:
    counts = script([0, 10_000, 160_000, 900_000, 1_050_000])  # the first is the factory's own
    meter = cuda_meter(library(nvmlDeviceGetTotalEnergyConsumption=counts), seconds=[10.0, 12.0, 60.0, 62.0])
    for _ in range(2):
        meter.start()
        meter.stop()
    assert meter.result() == (Energy(joules=300.0, seconds=4.0, method=NVML_METHOD), "")


def test_windows_too_short_for_the_ticks_are_unmeasured_and_the_reason_says_how_long_they_must_be() -> None:
    counts = script([0, 0, 100_000])
    meter = cuda_meter(library(nvmlDeviceGetTotalEnergyConsumption=counts), seconds=[0.0, MIN_SECONDS - 0.5])
    meter.start()
    meter.stop()
    assert reason_of(meter) == (
        f"{NVML_METHOD}: 1.5 s of training in 1 epoch are too short for this counter; "
        "epochs of 2 s would do: use a wider model or smaller batches or more epochs"
    )


def test_a_meter_that_never_ran_has_measured_nothing() -> None:
    assert "0 s of training in 0 epochs" in reason_of(cuda_meter(library()))


def test_a_counter_that_does_not_advance_is_unmeasured_and_not_zero() -> None:
    meter = cuda_meter(library(), seconds=[0.0, 10.0])
    meter.start()
    meter.stop()
    assert reason_of(meter) == f"{NVML_METHOD}: the counter does not advance"


@pytest.mark.parametrize("failing_call", [1, 2, 3, 4])
def test_one_reading_that_fails_makes_the_whole_sum_unmeasured(failing_call: int) -> None:
    counts: list[Any] = [0, 0, 500_000, 600_000, 900_000]
    counts[failing_call] = NvmlError("GPU is lost")
    meter = cuda_meter(library(nvmlDeviceGetTotalEnergyConsumption=script(counts)), seconds=[0.0, 10.0, 20.0, 30.0])
    for _ in range(2):
        meter.start()
        meter.stop()
    assert reason_of(meter) == "NVML: GPU is lost"


def test_a_counter_that_went_backwards_without_a_range_is_unmeasured() -> None:
    counts = script([0, 500_000, 400])
    meter = cuda_meter(library(nvmlDeviceGetTotalEnergyConsumption=counts), seconds=[0.0, 10.0])
    meter.start()
    meter.stop()
    assert reason_of(meter) == f"{NVML_METHOD} went backwards"


def test_what_windows_need_grows_with_their_number_and_the_tick() -> None:
    assert needed_seconds(0, 0.1) == needed_seconds(1, 0.1) == needed_seconds(100, 0.001) == MIN_SECONDS
    assert needed_seconds(24, 0.1) == pytest.approx(0.1 * (12 + 2) / 0.05)
    assert needed_seconds(600, 0.001) == pytest.approx(0.001 * (300 + 10) / 0.05)


class LaggingDevice:
    """Draws `TRAINING_WATTS` in epochs and `GAP_WATTS` between them; its counter shows what it was at the last tick."""

    TRAINING_WATTS = 600.0
    GAP_WATTS = 60.0
    TICK = 0.1

    def __init__(self) -> None:
        self.now = 0.0
        self._joules = 0.0
        self._shown = 0.0

    def draw(self, watts: float, seconds: float) -> None:
        end = self.now + seconds
        last_tick = math.floor(end / self.TICK) * self.TICK
        if last_tick > self.now:
            self._shown = self._joules + watts * (last_tick - self.now)
        self._joules += watts * seconds
        self.now = end

    def train(self, epochs: int, epoch_seconds: float) -> EnergyMeter:
        loaded = library(nvmlDeviceGetTotalEnergyConsumption=lambda _handle: round(1000 * self._shown))
        meter = make_energy_meter(CUDA, nvml=lambda _device: opened(loaded), clock=lambda: self.now)
        for _ in range(epochs):
            self.draw(self.GAP_WATTS, 0.3141)
            meter.start()
            self.draw(self.TRAINING_WATTS, epoch_seconds)
            meter.stop()
        return meter


@pytest.mark.parametrize(("epochs", "epoch_seconds"), [(2, 1.6871), (5, 1.3719), (20, 1.1937), (400, 1.0517)])
def test_of_a_counter_that_lags_energy_is_right_to_the_error_that_is_allowed(epochs: int, epoch_seconds: float) -> None:
    energy, reason = LaggingDevice().train(epochs, epoch_seconds).result()
    assert energy is not None, reason
    truth = LaggingDevice.TRAINING_WATTS * epochs * epoch_seconds
    assert energy.joules == pytest.approx(truth, rel=MAX_TICK_ERROR)


def test_no_number_of_short_epochs_makes_up_for_a_counter_that_lags() -> None:
    meter = LaggingDevice().train(400, 0.2941)
    assert reason_of(meter) == (
        f"{NVML_METHOD}: 1.2e+02 s of training in 400 epochs are too short for this counter; "
        "epochs of 1.05 s would do: use a wider model or smaller batches"
    )


def test_other_kinds_of_device_have_no_known_counter() -> None:
    assert reason_of(make_energy_meter(torch.device("mps"))) == "no energy counter is known for mps"


# RAPL

linux = pytest.mark.skipif(sys.platform != "linux", reason="RAPL is read on Linux alone")


def write_domain(folder: Path, name: str, counts: int | str, max_range: int | None = 10_000_000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{counts}\n")
    if max_range is not None:
        (folder / "max_energy_range_uj").write_text(f"{max_range}\n")
    return folder


def cpu_meter(powercap: Path, seconds: Iterable[float] = (0.0, 5.0)) -> EnergyMeter:
    return make_energy_meter(CPU, powercap=powercap, clock=script(seconds))


@linux
def test_rapl_is_the_sum_of_the_packages_and_of_nothing_inside_or_around_them(tmp_path: Path) -> None:
    first = write_domain(tmp_path / "intel-rapl:0", "package-0", 1_000_000)
    second = write_domain(tmp_path / "intel-rapl:1", "package-1", 2_000_000)
    others = [
        write_domain(tmp_path / "intel-rapl:0:0", "core", 0),
        write_domain(tmp_path / "intel-rapl:2", "psys", 0),
        write_domain(tmp_path / "intel-rapl-mmio:0", "package-0", 0),
    ]
    meter = cpu_meter(tmp_path)
    meter.start()
    for other in others:
        (other / "energy_uj").write_text("9000000")
    (first / "energy_uj").write_text("4000000")
    (second / "energy_uj").write_text("2500000")
    meter.stop()
    energy, reason = meter.result()
    assert energy is not None
    assert energy.joules == pytest.approx(3.5)
    assert (energy.seconds, energy.method, reason) == (5.0, RAPL_METHOD, "")


@linux
def test_a_package_that_does_not_advance_beside_one_that_does_adds_nothing(tmp_path: Path) -> None:
    counting = write_domain(tmp_path / "intel-rapl:0", "package-0", 1_000_000)
    write_domain(tmp_path / "intel-rapl:1", "package-1", 2_000_000)
    meter = cpu_meter(tmp_path)
    meter.start()
    (counting / "energy_uj").write_text("4000000")
    meter.stop()
    energy, _ = meter.result()
    assert energy is not None
    assert energy.joules == pytest.approx(3.0)


@linux
def test_many_short_epochs_are_enough_for_rapls_fine_ticks(tmp_path: Path) -> None:
    package = write_domain(tmp_path / "intel-rapl:0", "package-0", 0, max_range=10**9)
    meter = cpu_meter(tmp_path, seconds=[0.125 * number for number in range(40)])
    for epoch in range(20):
        meter.start()
        (package / "energy_uj").write_text(f"{(epoch + 1) * 2_000_000}")
        meter.stop()
    energy, reason = meter.result()
    assert energy is not None, reason
    assert energy.joules == pytest.approx(40.0)
    assert energy.seconds == 20 * 0.125


@linux
def test_a_package_that_wraps_around_goes_on_counting(tmp_path: Path) -> None:
    package = write_domain(tmp_path / "intel-rapl:0", "package-0", 9_000_000)
    meter = cpu_meter(tmp_path)
    meter.start()
    (package / "energy_uj").write_text("500000")
    meter.stop()
    energy, reason = meter.result()
    assert energy is not None
    assert energy.joules == pytest.approx(1.5)
    assert reason == ""


@linux
@pytest.mark.parametrize("stated", ["", "much\n"])
def test_a_wrap_around_of_unknown_range_is_unmeasured(tmp_path: Path, stated: str) -> None:
    package = write_domain(tmp_path / "intel-rapl:0", "package-0", 9_000_000, max_range=None)
    if stated:
        (package / "max_energy_range_uj").write_text(stated)
    meter = cpu_meter(tmp_path)
    meter.start()
    (package / "energy_uj").write_text("500000")
    meter.stop()
    assert reason_of(meter) == f"{RAPL_METHOD} went backwards"


@linux
def test_without_a_package_there_is_no_counter(tmp_path: Path) -> None:
    assert "virtual machines and on ARM" in reason_of(cpu_meter(tmp_path / "absent"))
    write_domain(tmp_path / "intel-rapl:0", "psys", 0)
    (tmp_path / "intel-rapl:1").mkdir()  # its name cannot be read
    assert "virtual machines" in reason_of(cpu_meter(tmp_path))


@linux
def test_a_counter_that_only_root_may_read_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_domain(tmp_path / "intel-rapl:0", "package-0", 0)
    read = Path.read_text

    def refuse(path: Path) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    reason = reason_of(cpu_meter(tmp_path))
    assert "root" in reason
    assert str(tmp_path) not in reason


@linux
def test_an_empty_counter_is_a_reason(tmp_path: Path) -> None:
    write_domain(tmp_path / "intel-rapl:0", "package-0", "")
    assert "cannot be read" in reason_of(cpu_meter(tmp_path))
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert "No such file" in reason_of(cpu_meter(tmp_path))


def test_rapl_is_looked_for_on_linux_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert reason_of(cpu_meter(tmp_path)) == "RAPL: available on Linux only"


# Idle power


def idle_counter(counts: Iterable[Any]) -> Counter:
    return Counter(
        method="scripted", tick_seconds=0.1, joules_per_count=0.5, ranges=(None,), read=script([(n,) for n in counts])
    )


def test_idle_power_is_energy_over_the_time_that_was_slept_by_the_clock() -> None:
    slept: list[float] = []
    watts = measure_idle_watts(idle_counter([100, 400]), 5.0, slept.append, script([10.0, 16.0]))
    assert (watts, slept) == (25.0, [5.0])


@pytest.mark.parametrize("counts", [[100, 100], [400, 100]])
def test_idle_power_that_a_counter_cannot_measure_is_none(counts: list[int]) -> None:
    assert measure_idle_watts(idle_counter(counts), 5.0, lambda _seconds: None, script([0.0, 5.0])) is None


def test_what_can_be_measured_here_has_a_method_and_what_cannot_has_a_reason() -> None:
    meter = make_energy_meter(CPU)
    assert (meter.counter is None) == bool(meter.reason)
