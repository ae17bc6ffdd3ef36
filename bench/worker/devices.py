"""One adapter for every kind of device: whether it is available, waiting for it, and its peak memory. Worker only.

`torch.accelerator` serves every backend without a branch of its own here. Querying CUDA initialises it, so a process
that is going to fork must not.
"""

import contextlib
from types import ModuleType
from typing import Final

import torch

from bench.records import Accelerator, DeviceStatus, Peak

CPU: Final = "cpu"


def list_devices() -> tuple[DeviceStatus, ...]:
    """Return every device, and cuda and mps even if they are unavailable, with the reason."""
    statuses = [DeviceStatus(device=CPU, available=True, description="host processor", reason="")]
    for kind, reason in (("cuda", _why_no_cuda), ("mps", _why_no_mps)):
        found = _available(kind)
        statuses += found or [DeviceStatus(device=kind, available=False, description="", reason=reason())]
    other = torch.accelerator.current_accelerator()
    if other is not None and other.type not in {"cuda", "mps"}:
        statuses += _available(other.type)
    return tuple(statuses)


def list_accelerators() -> tuple[Accelerator, ...]:
    """Return the accelerators that `list_devices` finds available, with their memory."""
    return tuple(
        Accelerator(device=status.device, name=status.description, memory_bytes=_total_memory(status.device))
        for status in list_devices()
        if status.available and status.device != CPU
    )


def _available(kind: str) -> list[DeviceStatus]:
    module = torch.get_device_module(kind)
    if not module.is_available():
        return []
    if kind == "mps":  # there is only one, without an index
        return [DeviceStatus(device=kind, available=True, description=_apple_gpu(), reason="")]
    return [_status(f"{kind}:{index}", module, index) for index in range(module.device_count())]


def _apple_gpu() -> str:
    """Return the GPU's name and number of cores, in which GPUs of one name differ. Virtual machines show no cores."""
    cores = torch.backends.mps.get_core_count()
    return torch.backends.mps.get_name() + (f" ({cores} GPU cores)" if cores else "")


def _status(device: str, module: ModuleType, index: int) -> DeviceStatus:
    try:
        name = module.get_device_name(index)
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:  # present but unusable, such as one that broke
        return DeviceStatus(device=device, available=False, description="", reason=str(error).splitlines()[0])
    uuid = getattr(module.get_device_properties(device), "uuid", "")  # CUDA's, and that of other backends that have one
    return DeviceStatus(device=device, available=True, description=name, reason="", uuid=str(uuid))


def _why_no_cuda() -> str:
    build = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}  # torch calls AMD's devices cuda too
    known = next(
        (f"torch {torch.__version__} has {name} {version}" for name, version in build.items() if version), None
    )
    if known is None:
        return f"this build of torch ({torch.__version__}) has no CUDA: install one that does"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"{known}, but: {str(error).split('. ')[0].strip()}"
    return f"{known}, but the driver shows no device"


def _why_no_mps() -> str:
    if not torch.backends.mps.is_built():
        return f"this build of torch ({torch.__version__}) has no MPS: it is for Macs with an Apple GPU"
    return "this macOS or this Mac's GPU does not support MPS"


def _total_memory(device: str) -> int | None:
    kind = torch.device(device).type
    if kind == "mps":
        return None  # shared with the host
    properties = torch.get_device_module(kind).get_device_properties(device)
    total = getattr(properties, "total_memory", None)
    return None if total is None else int(total)


class Device:
    """The device a trial trains on.

    Peaks are of this process alone: ``allocated`` counts bytes of live tensors and, on CUDA, of the workspaces that
    torch allocates for cuBLAS; ``reserved`` counts what the caching allocator holds for them. On the CPU both are None,
    because the host's peak includes them. Where there is no peak counter (MPS before torch 2.13), `sample` records how
    much is allocated at a moment, and the largest such sample is reported as the peak and labelled as sampled.
    """

    def __init__(self, name: str) -> None:
        """Select the device called `name`, such as ``cpu``, ``cuda:0`` (never without its number) or ``mps``."""
        self.name = name
        self.torch_device = torch.device(name)
        kind = self.torch_device.type
        self._backend = None if kind == CPU else torch.get_device_module(kind)
        self._largest_sample: int | None = None
        if self._backend is not None and hasattr(self._backend, "set_device"):
            self._backend.set_device(self.torch_device)

    def synchronise(self) -> None:
        """Wait until the device has done all work given to it."""
        if self._backend is not None:
            self._backend.synchronize()

    def sample(self) -> None:
        """Record the memory allocated now, where there is no peak counter."""
        now = getattr(self._backend, "current_allocated_memory", None)
        if now is not None:
            self._largest_sample = max(self._largest_sample or 0, int(now()))

    def reset_peak(self) -> None:
        """Reset the peak counters, where there are any. Samples are kept: they are taken during warm-up."""
        counters = self._counters()
        if counters is not None:
            counters.reset_peak_memory_stats()

    def allocated_peak(self) -> Peak | None:
        """Return the highest bytes of live tensors since `reset_peak`, else the largest sample, else None."""
        counters = self._counters()
        if counters is not None:
            return Peak(bytes=int(counters.max_memory_allocated()), method="max_memory_allocated since warm-up")
        if self._largest_sample is None:
            return None
        return Peak(bytes=self._largest_sample, method="current_allocated_memory sampled after warm-up steps")

    def reserved_peak(self) -> Peak | None:
        """Return the highest bytes held by the caching allocator since `reset_peak`; None where not counted."""
        counters = self._counters()
        if counters is None:
            return None
        return Peak(bytes=int(counters.max_memory_reserved()), method="max_memory_reserved since warm-up")

    def _counters(self) -> ModuleType | None:
        """Return the module with the peak counters: the backend's own, or `torch.accelerator`; None if neither has any.

        The latter has MPS's since torch 2.13, once the device has been used; earlier releases raise.
        """
        if self._backend is None or hasattr(self._backend, "max_memory_allocated"):
            return self._backend
        with contextlib.suppress(RuntimeError):
            if "allocated_bytes.all.peak" in torch.accelerator.memory_stats():
                return torch.accelerator
        return None
