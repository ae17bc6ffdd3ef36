"""Energy of the device that a trial trains on, from the hardware's own counters. Worker only.

NVML counts the millijoules of a CUDA device (Volta and newer) since its driver was loaded, RAPL the microjoules of each
processor package. Both count everything that the device draws, including idle power and other programs' work, and both
advance in ticks. If a counter cannot be used (library, driver, permission, hardware), a one-line reason is reported.
"""

import importlib
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from bench.records import Energy

MIN_SECONDS: Final = 2.0
"""Windows that add up to less do not count as measured: devices also take a while to change their power."""

MAX_TICK_ERROR: Final = 0.05
"""Highest bias plus standard error, as a share of the energy, that ticks may cause in a sum; see `needed_seconds`."""

NVML_METHOD: Final = "NVML total energy counter"
RAPL_METHOD: Final = "RAPL package"

_NVML_TICK_SECONDS: Final = 0.1
"""Newer GPUs update the counter every 20 to 100 ms (documentation of PETSc's PetscLogGpuEnergyMeter)."""

_RAPL_TICK_SECONDS: Final = 0.001
"""About 1 ms (Intel's Software Developer's Manual, volume 3B, section on RAPL)."""

_POWERCAP: Final = Path("/sys/class/powercap")


class UnmeasurableError(Exception):
    """Why something cannot be measured here, in one line."""


class Nvml:
    """One CUDA device as NVML knows it."""

    def __init__(self, library: Any, handle: object) -> None:  # noqa: ANN401 - pynvml ships no types
        """Keep the module ``pynvml``, initialised, and its handle of the device."""
        self._library = library
        self._handle = handle

    def ask(self, function: str, *arguments: object) -> Any:  # noqa: ANN401 - what NVML answers
        """Return the result of NVML's `function` for this device.

        Raises:
            UnmeasurableError: NVML, its Python module or the device does not support it.
        """
        try:
            return getattr(self._library, function)(self._handle, *arguments)
        except Exception as error:  # noqa: BLE001 - not all of pynvml's are NVMLErrors, and none may fail a trial
            raise UnmeasurableError(f"NVML: {_line(error)}") from None


def open_nvml(
    device: torch.device,
    load: Callable[[], Any] = lambda: importlib.import_module("pynvml"),
    properties: Callable[[torch.device], Any] = torch.cuda.get_device_properties,
) -> Nvml:
    """Return NVML's view of `device`, of type cuda: found by its UUID, because NVML numbers devices in its own way.

    Raises:
        UnmeasurableError: there is no NVML, or it does not know the device.
    """
    try:
        library = load()
        library.nvmlInit()
        return Nvml(library, _nvml_handle(library, properties(device)))
    except ImportError:
        raise UnmeasurableError("NVML: no Python module pynvml, install the package nvidia-ml-py") from None
    except Exception as error:  # noqa: BLE001 - likewise
        raise UnmeasurableError(f"NVML: {_line(error)}") from None


def _nvml_handle(library: Any, properties: Any) -> object:  # noqa: ANN401 - as pynvml and torch have them
    uuid = getattr(properties, "uuid", None)
    if uuid is None:
        place = f"{properties.pci_domain_id:08X}:{properties.pci_bus_id:02X}:{properties.pci_device_id:02X}.0"
        return library.nvmlDeviceGetHandleByPciBusId(place.encode())
    # Bytes, because the oldest pynvml accepts nothing else. For a MIG slice torch reports the slice's UUID; the bus
    # address would name the whole GPU, which others use too.
    try:
        return library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
    except library.NVMLError:
        return library.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}".encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """A counter of energy that only grows, in one or more parts.

    `read` returns each part's count, or raises `UnmeasurableError`. A part wraps around to 0 after its entry in
    `ranges`; None if it never does.
    """

    method: str
    tick_seconds: float
    joules_per_count: float
    ranges: tuple[int | None, ...]
    read: Callable[[], tuple[int, ...]]

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Return the energy between two readings less than one range apart.

        Raises:
            UnmeasurableError: a part went backwards and has no range.
        """
        counts = 0
        for start, end, wraps_after in zip(before, after, self.ranges, strict=True):
            if end < start and wraps_after is None:
                raise UnmeasurableError(f"{self.method} went backwards")
            counts += end - start + (wraps_after or 0) * (end < start)
        return counts * self.joules_per_count


def needed_seconds(windows: int, tick_seconds: float) -> float:
    """Return how long `windows` windows must be in total for a counter that advances every `tick_seconds`.

    A reading lags by up to a tick, uniformly distributed. So a window appears half a tick early: if next to nothing is
    drawn before it, its energy is too low by tick · power / 2, a bias that more windows do not reduce. The difference
    of two such readings also has a standard deviation of tick · power / √6 (each uniform lag has tick / √12), and the
    sum of n windows √n times that. Bias and deviation together may be at most `MAX_TICK_ERROR` of power · seconds. For
    many windows that is 10 ticks a window, for few windows more.
    """
    return max(MIN_SECONDS, tick_seconds * (windows / 2 + math.sqrt(windows / 6)) / MAX_TICK_ERROR)


class EnergyMeter:
    """Sums a counter over windows, each from `start` to `stop`, which are called outside the timed region."""

    def __init__(
        self, counter: Counter | None, reason: str = "", clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Measure with `counter`; None if there is none, for this `reason`."""
        self.counter = counter
        self.reason = reason
        self._clock = clock
        self._before: tuple[tuple[int, ...], float] | None = None
        self._windows = 0
        self._joules = 0.0
        self._seconds = 0.0

    def start(self) -> None:
        """Begin a window."""
        self._before = self._read()

    def stop(self) -> None:
        """End the window and add it to the sum."""
        after = self._read()
        if self.counter is None or self._before is None or after is None:
            return
        try:
            self._joules += self.counter.joules(self._before[0], after[0])
        except UnmeasurableError as error:
            self._fail(error)
            return
        self._seconds += after[1] - self._before[1]
        self._windows += 1

    def result(self) -> tuple[Energy | None, str]:
        """Return the sum over all windows and an empty text, or None and the reason why it was not measured."""
        if self.counter is None:
            return None, self.reason
        if self._seconds < needed_seconds(self._windows, self.counter.tick_seconds):
            return None, self._why_too_short(self.counter)
        if self._joules <= 0:
            return None, f"{self.counter.method}: the counter does not advance"
        return Energy(joules=self._joules, seconds=self._seconds, method=self.counter.method), ""

    def _why_too_short(self, counter: Counter) -> str:
        windows = max(1, self._windows)
        enough = math.ceil(100 * needed_seconds(windows, counter.tick_seconds) / windows) / 100
        more = " or more epochs" if self._seconds > windows * counter.tick_seconds / (2 * MAX_TICK_ERROR) else ""
        return (
            f"{counter.method}: {self._seconds:.2g} s of training in {self._windows} epoch{'s' * (self._windows != 1)} "
            f"are too short for this counter; epochs of {enough:g} s would do: use a wider model or smaller "
            f"batches{more}"
        )

    def _read(self) -> tuple[tuple[int, ...], float] | None:
        if self.counter is None:
            return None
        try:
            return self.counter.read(), self._clock()
        except UnmeasurableError as error:
            self._fail(error)
            return None

    def _fail(self, error: UnmeasurableError) -> None:
        """Give up: a sum with a part missing is worthless."""
        self.counter, self.reason = None, str(error)


def make_energy_meter(
    device: torch.device,
    *,
    nvml: Callable[[torch.device], Nvml] = open_nvml,
    powercap: Path = _POWERCAP,
    clock: Callable[[], float] = time.perf_counter,
) -> EnergyMeter:
    """Return the meter of `device`: NVML's for cuda, RAPL's for cpu, for others one that only gives the reason."""
    if device.type not in {"cuda", "cpu"}:
        return EnergyMeter(None, f"no energy counter is known for {device.type}")
    try:
        counter = _nvml_counter(nvml(device)) if device.type == "cuda" else _rapl_counter(powercap)
        counter.read()  # an old device fails only when read
    except UnmeasurableError as error:
        return EnergyMeter(None, str(error))
    return EnergyMeter(counter, clock=clock)


def measure_idle_watts(
    counter: Counter, seconds: float, sleep: Callable[[float], None], clock: Callable[[], float]
) -> float | None:
    """Return the mean power of the counter's device while this process sleeps for `seconds`, at least `MIN_SECONDS`.

    Nothing else should run meanwhile. None if the counter fails or does not advance.
    """
    try:
        before, start = counter.read(), clock()
        sleep(seconds)
        after, end = counter.read(), clock()
        joules = counter.joules(before, after)
    except UnmeasurableError:
        return None
    return joules / (end - start) if joules > 0 else None


def _nvml_counter(nvml: Nvml) -> Counter:
    return Counter(
        method=NVML_METHOD,
        tick_seconds=_NVML_TICK_SECONDS,
        joules_per_count=1e-3,
        ranges=(None,),
        read=lambda: (int(nvml.ask("nvmlDeviceGetTotalEnergyConsumption")),),
    )


def _rapl_counter(powercap: Path) -> Counter:
    """Return the counter of all processor packages, including other sockets': a trial may run on any.

    Domains inside a package (``intel-rapl:0:1``) are part of it, and ``psys`` is the whole computer (kernel's
    Documentation/power/powercap). AMD's processors have the same files since Zen.
    """
    if sys.platform != "linux":
        raise UnmeasurableError("RAPL: available on Linux only")
    packages = [domain for domain in powercap.glob("intel-rapl:*") if _text(domain / "name").startswith("package")]
    if not packages:
        raise UnmeasurableError("RAPL: the system shows no processor package, as in most virtual machines and on ARM")

    def read() -> tuple[int, ...]:
        try:
            return tuple(int((package / "energy_uj").read_text()) for package in packages)
        except PermissionError:
            raise UnmeasurableError("RAPL: no permission to read energy_uj, which often only root has") from None
        except (OSError, ValueError) as error:
            raise UnmeasurableError(f"RAPL: energy_uj cannot be read: {_line(error)}") from None

    texts = [_text(package / "max_energy_range_uj").strip() for package in packages]
    return Counter(
        method=RAPL_METHOD,
        tick_seconds=_RAPL_TICK_SECONDS,
        joules_per_count=1e-6,
        ranges=tuple(int(text) if text.isdecimal() else None for text in texts),
        read=read,
    )


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""


def _line(error: BaseException) -> str:
    """Return the message of `error` as one line that names no path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.splitlines() or [type(error).__name__])[0][:200]
