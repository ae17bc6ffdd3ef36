from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import torch

from bench.records import Accelerator, DeviceStatus, Peak
from bench.worker.devices import Device, list_accelerators, list_devices

GIBIBYTE = 2**30


class FakeCuda:
    """Stands for `torch.cuda` and every backend that is made like it."""

    def __init__(self, *names: str, memory_bytes: int | None = 24 * GIBIBYTE, uuids: Sequence[object] = ()) -> None:
        self.names = names
        self.uuids = uuids
        self.memory_bytes = memory_bytes
        self.calls: list[str] = []
        self.allocated = self.peak = 0

    def is_available(self) -> bool:
        return bool(self.names)

    def device_count(self) -> int:
        return len(self.names)

    def get_device_name(self, index: int) -> str:
        return self.names[index]

    def get_device_properties(self, device: str) -> object:
        index = torch.device(device).index
        assert index < len(self.names)
        memory = {} if self.memory_bytes is None else {"total_memory": self.memory_bytes}
        uuid = {"uuid": self.uuids[index]} if self.uuids else {}
        return SimpleNamespace(**memory, **uuid)

    def set_device(self, device: torch.device) -> None:
        assert device.index is not None  # torch.cuda refuses it
        self.calls.append(f"set {device}")

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def allocate(self, count: int) -> None:
        self.allocated += count
        self.peak = max(self.peak, self.allocated)

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.allocated

    def max_memory_allocated(self) -> int:
        return self.peak

    def max_memory_reserved(self) -> int:
        return self.peak + 1000


class FakeMps:
    """Stands for `torch.mps`, which reports what is allocated now and keeps no peak."""

    def __init__(self, *, available: bool = True) -> None:
        self.available = available
        self.allocated = 0
        self.synchronised = 0

    def is_available(self) -> bool:
        return self.available

    def synchronize(self) -> None:
        self.synchronised += 1

    def current_allocated_memory(self) -> int:
        return self.allocated


Backends = Callable[..., None]


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Backends:
    """Return a function that gives torch these backends and no others."""

    def no_stats() -> dict[str, int]:
        raise RuntimeError("Allocator for mps is not a DeviceAllocator.")  # as before torch 2.13

    def install(current: str | None = None, **modules: Any) -> None:  # noqa: ANN401 - fake modules have no type
        present = {"cuda": FakeCuda(), "mps": FakeMps(available=False), **modules}
        accelerator = None if current is None else torch.device(current)
        monkeypatch.setattr(torch, "get_device_module", present.__getitem__)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: accelerator)
        monkeypatch.setattr(torch.accelerator, "memory_stats", no_stats)
        monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M9")
        monkeypatch.setattr(torch.backends.mps, "get_core_count", lambda: 14)

    return install


def status_of(device: str) -> DeviceStatus:
    (status,) = (status for status in list_devices() if status.device == device)
    return status


# What there is


def test_the_host_is_always_there_and_comes_first(backends: Backends) -> None:
    backends()
    first, *others = list_devices()
    assert first == DeviceStatus(device="cpu", available=True, description="host processor", reason="")
    assert [(status.device, status.available) for status in others] == [("cuda", False), ("mps", False)]


def test_the_uuid_of_a_device_is_told_where_torch_knows_it(backends: Backends) -> None:
    uuid = UUID(int=0x5A1B)  # torch has a type of its own, whose text is the UUID
    backends("cuda", cuda=FakeCuda("GPU A", uuids=[uuid]))
    assert status_of("cuda:0").uuid == "00000000-0000-0000-0000-000000005a1b"
    backends("cuda", cuda=FakeCuda("GPU A"))
    assert not status_of("cuda:0").uuid


def test_every_cuda_device_is_listed_by_index_and_name(backends: Backends) -> None:
    backends("cuda", cuda=FakeCuda("GPU A", "GPU B"))
    assert [status for status in list_devices() if status.device.startswith("cuda")] == [
        DeviceStatus(device="cuda:0", available=True, description="GPU A", reason=""),
        DeviceStatus(device="cuda:1", available=True, description="GPU B", reason=""),
    ]


@pytest.mark.parametrize("error", [RuntimeError, torch.cuda.DeferredCudaCallError])
def test_a_device_that_cannot_report_its_name_is_unavailable_for_that_reason(
    backends: Backends, error: type[Exception]
) -> None:
    class Broken(FakeCuda):
        def get_device_name(self, index: int) -> str:
            raise error(f"device {index} is used exclusively by another process\nand more")

    backends("cuda", cuda=Broken("GPU A"))
    reason = "device 0 is used exclusively by another process"
    assert status_of("cuda:0") == DeviceStatus(device="cuda:0", available=False, description="", reason=reason)


@pytest.mark.parametrize(
    ("cores", "description"), [(14, "Apple M9 (14 GPU cores)"), (0, "Apple M9")], ids=["real", "virtual"]
)
def test_an_apple_gpu_is_listed_without_index_by_name_and_number_of_cores(
    backends: Backends, monkeypatch: pytest.MonkeyPatch, cores: int, description: str
) -> None:
    backends("mps", mps=FakeMps())
    monkeypatch.setattr(torch.backends.mps, "get_core_count", lambda: cores)
    assert status_of("mps") == DeviceStatus(device="mps", available=True, description=description, reason="")


def test_any_other_accelerator_that_torch_has_is_listed_too(backends: Backends) -> None:
    backends("xpu", xpu=FakeCuda("XPU A"))
    assert [status.device for status in list_devices()] == ["cpu", "cuda", "mps", "xpu:0"]
    assert list_accelerators() == (Accelerator(device="xpu:0", name="XPU A", memory_bytes=24 * GIBIBYTE),)


def test_accelerators_come_with_their_own_memory_and_none_where_it_is_the_hosts(backends: Backends) -> None:
    backends("cuda", cuda=FakeCuda("GPU A", memory_bytes=8 * GIBIBYTE), mps=FakeMps())
    assert list_accelerators() == (
        Accelerator(device="cuda:0", name="GPU A", memory_bytes=8 * GIBIBYTE),
        Accelerator(device="mps", name="Apple M9 (14 GPU cores)", memory_bytes=None),
    )


def test_memory_that_a_backend_does_not_report_is_none(backends: Backends) -> None:
    backends("xpu", xpu=FakeCuda("XPU A", memory_bytes=None))
    assert [accelerator.memory_bytes for accelerator in list_accelerators()] == [None]


def test_this_machine_can_be_described() -> None:
    devices = list_devices()
    assert devices[0].device == "cpu"
    for status in devices:
        assert status.available == (status.reason == "") == (status.description != "")
    assert len(list_accelerators()) == sum(status.available for status in devices) - 1


# Why something is not there


def test_a_build_without_cuda_says_so(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    backends()
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert status_of("cuda").reason == f"this build of torch ({torch.__version__}) has no CUDA: install one that does"


def test_a_build_for_amds_devices_is_not_told_to_install_cuda(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init() -> None:
        raise RuntimeError("No HIP GPUs are available")

    backends()
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "7.1.25424")
    monkeypatch.setattr(torch.cuda, "init", init)
    reason = f"torch {torch.__version__} has ROCm 7.1.25424, but: No HIP GPUs are available"
    assert status_of("cuda").reason == reason


@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
def test_a_missing_driver_is_reported_by_torchs_first_sentence(
    backends: Backends, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def init() -> None:
        raise error("Found no NVIDIA driver on your system. Please check that …\nand install one from …")

    backends()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    assert status_of("cuda") == DeviceStatus(
        device="cuda",
        available=False,
        description="",
        reason=f"torch {torch.__version__} has CUDA 13.0, but: Found no NVIDIA driver on your system",
    )


def test_a_driver_without_a_device_has_a_reason_of_its_own(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    backends()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    assert status_of("cuda").reason.endswith("has CUDA 13.0, but the driver shows no device")


@pytest.mark.parametrize(
    ("built", "reason"), [(False, "has no MPS: it is for Macs"), (True, "this macOS or this Mac's GPU does not")]
)
def test_a_missing_apple_gpu_is_explained(
    backends: Backends, monkeypatch: pytest.MonkeyPatch, *, built: bool, reason: str
) -> None:
    backends()
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: built)
    assert not status_of("mps").available
    assert reason in status_of("mps").reason


# A trial's device


def test_on_the_host_there_is_nothing_to_wait_for_and_no_device_memory() -> None:
    device = Device("cpu")
    device.synchronise()
    device.sample()
    device.reset_peak()
    assert device.torch_device == torch.device("cpu")
    assert device.allocated_peak() is None
    assert device.reserved_peak() is None


def test_a_device_is_selected_by_its_index_and_waited_for(backends: Backends) -> None:
    cuda = FakeCuda("GPU A", "GPU B")
    backends("cuda", cuda=cuda)
    device = Device("cuda:1")
    assert (device.name, device.torch_device) == ("cuda:1", torch.device("cuda", 1))
    device.synchronise()
    device.synchronise()
    assert cuda.calls == ["set cuda:1", "synchronize", "synchronize"]


def test_peaks_are_counted_from_the_reset_on(backends: Backends) -> None:
    cuda = FakeCuda("GPU A")
    backends("cuda", cuda=cuda)
    device = Device("cuda:0")
    cuda.allocate(9000)
    cuda.allocate(-8000)
    device.reset_peak()
    assert device.allocated_peak() == Peak(bytes=1000, method="max_memory_allocated since warm-up")
    cuda.allocate(500)
    device.sample()
    cuda.allocate(-1500)
    assert device.allocated_peak() == Peak(bytes=1500, method="max_memory_allocated since warm-up")
    assert device.reserved_peak() == Peak(bytes=2500, method="max_memory_reserved since warm-up")


def test_without_a_peak_counter_the_largest_sample_is_the_peak_and_labelled_so(backends: Backends) -> None:
    mps = FakeMps()
    backends("mps", mps=mps)
    device = Device("mps")
    assert device.allocated_peak() is None
    for allocated in (3000, 7000, 2000):
        mps.allocated = allocated
        device.sample()
    device.reset_peak()
    peak = device.allocated_peak()
    assert peak is not None
    assert peak.bytes == 7000
    assert "sampled" in peak.method
    assert "max_memory" not in peak.method
    assert device.reserved_peak() is None
    device.synchronise()
    assert mps.synchronised == 1


def test_peaks_that_only_torch_accelerator_counts_are_taken_from_there_once_the_device_is_used(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters, stats = FakeCuda("Apple M9"), dict[str, int]()
    backends("mps", mps=FakeMps())
    for name in ("reset_peak_memory_stats", "max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.accelerator, name, getattr(counters, name))
    monkeypatch.setattr(torch.accelerator, "memory_stats", lambda: stats)
    device = Device("mps")
    device.sample()
    assert device.allocated_peak() == Peak(bytes=0, method="current_allocated_memory sampled after warm-up steps")
    stats["allocated_bytes.all.peak"] = 9000
    counters.allocate(9000)
    counters.allocate(-8000)
    device.reset_peak()
    assert device.allocated_peak() == Peak(bytes=1000, method="max_memory_allocated since warm-up")
    assert device.reserved_peak() == Peak(bytes=2000, method="max_memory_reserved since warm-up")


def test_a_backend_that_reports_no_memory_has_no_peaks(backends: Backends) -> None:
    backends(mps=SimpleNamespace(synchronize=lambda: None))
    device = Device("mps")
    device.sample()
    device.reset_peak()
    assert device.allocated_peak() is None
    assert device.reserved_peak() is None


# Real devices


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_counters_see_a_known_allocation_after_the_reset() -> None:
    device = Device("cuda:0")
    status = status_of("cuda:0")
    assert status.available
    assert status.description == torch.cuda.get_device_name(0)
    torch.empty(256 * 2**20, dtype=torch.uint8, device=device.torch_device)
    device.reset_peak()
    before = device.allocated_peak()
    block = torch.empty(64 * 2**20, dtype=torch.uint8, device=device.torch_device)
    del block
    device.synchronise()
    after, reserved = device.allocated_peak(), device.reserved_peak()
    assert before is not None
    assert after is not None
    assert reserved is not None
    assert after.bytes - before.bytes == 64 * 2**20
    assert reserved.bytes >= after.bytes
