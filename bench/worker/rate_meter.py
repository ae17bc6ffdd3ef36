"""Measures what a device can do: products, memory, transfers, the cost of a step; and its idle power. Worker only.

One process measures one precision with one number of threads, because both are settings of the process, which the
caller makes.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from bench.protocol.rates import Bandwidth, DeviceRates, IdlePower, LayerRate, StepTime, TransferRate
from bench.worker.devices import CPU, Device, list_accelerators
from bench.worker.energy import EnergyMeter, make_energy_meter, measure_idle_watts
from bench.worker.limits import usable_memory_bytes
from bench.worker.peak import LONGEST_SECONDS, measure_peak
from bench.worker.timer import Timer
from mnist_mlp.data import Dataset
from mnist_mlp.engines.layers import onednn_linear, suits_onednn
from mnist_mlp.recipes import CLASSES, ENGINES, INPUT_FEATURES, Recipe
from mnist_mlp.support import why_unsupported
from mnist_mlp.train import Training

LAYERS: Final = ((128, 64), (512, 256), (1024, 1024), (2048, 4096))
"""Width and batch size of the layers measured: from dominated by overhead to dominated by arithmetic."""

TRY_SECONDS: Final = 0.002
"""A try repeats short work until it takes about this long: far above the clock's resolution and the cost of waiting."""

MAX_ROUNDS: Final = 1000
"""Rounds of work in one try at most, however short the work."""

REPEATS: Final = 5
"""Tries after the warm-up, of which the best counts."""

HOST_ARRAY_BYTES: Final = 64 * 2**20
DEVICE_ARRAY_BYTES: Final = 256 * 2**20
"""Sizes of one array of the bandwidth measurement (on the host also of a transfer): beyond all usual caches."""

CACHES: Final = 4
"""An array on the CPU is at least this many times as large as all last-level caches together, memory permitting."""

MEMORY_SHARE: Final = 10
"""All arrays together take at most one part in this many of the usable memory."""

SCALAR: Final = 3.0
"""The scalar s of STREAM's triad, a = b + s c (McCalpin 1995)."""

TINY: Final = Recipe(name="784-16-10", layers=(INPUT_FEATURES, 16, CLASSES), batch_size=8)
"""A training step of it is 0.2 million multiply-adds, a few microseconds of one core: nearly all is overhead."""

STEPS: Final = 256
"""Steps in a stretch, so many that its fixed cost hardly counts."""

STRETCHES: Final = 9

IDLE_SECONDS: Final = 3.0
"""Length of one sleep during which idle power is measured: more than the `bench.worker.energy.MIN_SECONDS` needed."""

IDLE_SLEEPS: Final = 10
"""Sleeps at most until the device has settled: other processes of the calibration have just used it."""

SETTLED: Final = 0.05
"""Idle power has settled once two successive sleeps agree to this share. NVML's ticks alone are 2 % of a sleep."""


def best_seconds(timer: Timer, work: Callable[[], object]) -> float:
    """Return the shortest time of one `work` over `REPEATS` tries, each of as many rounds as fill `TRY_SECONDS`.

    Two calls come first: one for whatever happens only once, one to find out how many rounds fill a try.
    """
    timer.seconds(work)
    once = timer.seconds(work)
    rounds = MAX_ROUNDS if once * MAX_ROUNDS <= TRY_SECONDS else math.ceil(TRY_SECONDS / once)

    def attempt() -> None:
        for _ in range(rounds):
            work()

    return min(timer.seconds(attempt) for _ in range(REPEATS)) / rounds


def measure_rates(  # noqa: PLR0913 - what decides rates
    device: Device,
    *,
    precision: str,
    threads: int,
    whole: bool,
    clock: Callable[[], float] = time.perf_counter,
    budget_bytes: int | None = None,
) -> DeviceRates:
    """Return the rates of `device` in this process, which the caller has set to `precision` and `threads`.

    Without `whole`, only the rate of square products and the bandwidth are measured, for comparing thread counts.
    `budget_bytes` limits what is allocated on the device; by default, a tenth of its memory.
    """
    timer = Timer(device.synchronise, clock)
    budget = memory_budget_bytes(device.name) if budget_bytes is None else budget_bytes
    place = device.torch_device
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    on_host = place.type == CPU
    first = precision == "fp32"  # whatever does not depend on the precision is measured only once
    idle_power = measure_idle_power(place) if whole and first else None  # before this process makes the device work
    return DeviceRates(
        precision=precision,
        threads=threads,
        square_flops_per_second=measure_peak(place, timer, dtype=dtype, budget_bytes=budget),
        layers=tuple(measure_layers(place, dtype, timer, budget)) if whole else (),
        bandwidth=measure_bandwidth(place, timer, array_bytes(budget, on_host=on_host)) if first else None,
        steps=tuple(measure_steps(place, precision, timer)) if whole else (),
        transfers=tuple(measure_transfers(place, timer, transfer_bytes(budget)))
        if first and whole and not on_host
        else (),
        idle_power=idle_power,
    )


def memory_budget_bytes(device: str) -> int:
    """Return how much memory of `device` the measurements may take: a tenth of its own, or of the host's if shared."""
    own = (each.memory_bytes for each in list_accelerators() if each.device == device)
    return (next(own, None) or usable_memory_bytes()) // MEMORY_SHARE


# Products


def measure_layers(device: torch.device, dtype: torch.dtype, timer: Timer, budget_bytes: int) -> Iterator[LayerRate]:
    """Yield the rate of each of `LAYERS` in turn, until one takes `LONGEST_SECONDS` or the next does not fit."""
    for width, batch_size in LAYERS:
        held = 2 * batch_size * INPUT_FEATURES + 2 * INPUT_FEATURES * width + 3 * batch_size * width
        if held * dtype.itemsize > budget_bytes:
            return
        seconds = best_seconds(timer, layer_products(width, batch_size, device, dtype))
        yield LayerRate(width=width, batch_size=batch_size, flops_per_second=layer_flops(width, batch_size) / seconds)
        if seconds > LONGEST_SECONDS:
            return


def layer_flops(width: int, batch_size: int) -> int:
    """Return the FLOPs of a layer's three products: a multiplication and an addition for each weight and sample."""
    return 3 * 2 * INPUT_FEATURES * width * batch_size


def layer_products(width: int, batch_size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that multiplies as `mnist_mlp.engines.layers` does: same library, same layout of operands."""
    inputs = torch.rand(batch_size, INPUT_FEATURES, device=device).to(dtype)
    weights = torch.rand(width, INPUT_FEATURES, device=device).to(dtype)
    error = torch.rand(batch_size, width, device=device).to(dtype)
    if dtype == torch.float32 and suits_onednn(weights, batch_size):
        return _by_onednn(inputs, weights, error)
    return _by_mm(inputs, weights, error)


def _by_mm(inputs: Tensor, weights: Tensor, error: Tensor) -> Callable[[], None]:
    outputs, gradient, input_error = map(torch.empty_like, (error, weights, inputs))

    def multiply() -> None:
        torch.mm(inputs, weights.t(), out=outputs)
        torch.mm(error.t(), inputs, out=gradient)
        torch.mm(error, weights, out=input_error)

    return multiply


def _by_onednn(inputs: Tensor, weights: Tensor, error: Tensor) -> Callable[[], None]:
    linear, error_t = onednn_linear(), error.t().contiguous()

    def multiply() -> None:
        for left, right in ((inputs, weights), (error_t, inputs.t()), (error, weights.t())):
            linear(left, right, None, "none", [], "")

    return multiply


# Memory


def array_bytes(budget_bytes: int, *, on_host: bool, cache_bytes: int | None = None) -> int:
    """Return the size of one of the three arrays of the bandwidth: far beyond the caches, but within the budget.

    `cache_bytes` is the size of all last-level caches; by default, as the system reports it.
    """
    wanted = DEVICE_ARRAY_BYTES
    if on_host:
        cache = last_level_cache_bytes() if cache_bytes is None else cache_bytes
        wanted = max(HOST_ARRAY_BYTES, CACHES * (cache or 0))
    return min(wanted, budget_bytes // 3)


def last_level_cache_bytes(processors: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Return the total size of all caches of the highest level; None if the system does not report it (not Linux)."""
    found: dict[tuple[int, str], int] = {}
    for folder in processors.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, shared, size = ((folder / name).read_text().strip() for name in ("level", "shared_cpu_list", "size"))
            found[int(level), shared] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    highest = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == highest) or None


def measure_bandwidth(device: torch.device, timer: Timer, size_bytes: int) -> Bandwidth:
    """Return the rates of STREAM's copy and triad on arrays of about `size_bytes` each.

    Copy counts two arrays and triad three, as in STREAM: reading a line before it is overwritten does not count.
    """
    first, second, result = (torch.ones(size_bytes // 4, device=device) for _ in range(3))
    size_bytes = result.numel() * result.itemsize
    copy = best_seconds(timer, lambda: result.copy_(first))
    triad = best_seconds(timer, lambda: torch.add(first, second, alpha=SCALAR, out=result))
    return Bandwidth(
        array_bytes=size_bytes,
        copy_bytes_per_second=2 * size_bytes / copy,
        triad_bytes_per_second=3 * size_bytes / triad,
    )


def transfer_bytes(budget_bytes: int) -> int:
    """Return the size of a transfer, such that its arrays, two on the host and one on the device, fit both budgets."""
    return min(HOST_ARRAY_BYTES, budget_bytes // 3, usable_memory_bytes() // MEMORY_SHARE // 3)


def measure_transfers(device: torch.device, timer: Timer, size_bytes: int) -> Iterator[TransferRate]:
    """Yield the rates of copying `size_bytes` to and from `device`, for pageable and, if available, pinned memory."""
    there = torch.ones(size_bytes, dtype=torch.uint8, device=device)
    for pinned in (False, True):
        here = pinned_bytes(size_bytes) if pinned else torch.ones(size_bytes, dtype=torch.uint8)
        if here is None:
            return
        for to_device in (True, False):
            target, source = (there, here) if to_device else (here, there)
            seconds = best_seconds(timer, partial(target.copy_, source, non_blocking=True))
            yield TransferRate(to_device=to_device, pinned=pinned, bytes_per_second=size_bytes / seconds)


def pinned_bytes(size_bytes: int) -> Tensor | None:
    """Return page-locked host memory; None if torch has none for this kind of device."""
    try:
        return torch.ones(size_bytes, dtype=torch.uint8).pin_memory()
    except (RuntimeError, NotImplementedError):
        return None


# Steps


def measure_steps(device: torch.device, precision: str, timer: Timer) -> Iterator[StepTime]:
    """Yield the time of a tiny model's training step for each engine that supports `precision` on `device`.

    Except ``compiled``, which would compile for longer than everything else here takes together.
    """
    dataset = _noise(STEPS * TINY.batch_size)
    for engine in ENGINES:
        reason = why_unsupported(
            device=str(device), engine=engine, precision=precision, pipeline="resident", compiler=False
        )
        if reason is None:
            training = Training(TINY, dataset, device=device, seed=0, engine=engine, precision=precision)
            yield StepTime(engine=engine, seconds=_step_seconds(training, timer))


def _step_seconds(training: Training, timer: Timer) -> float:
    """Return the median, over `STRETCHES` stretches of `STEPS` steps, of the stretch's time divided by its steps."""
    order = training.order(0)
    timer.seconds(lambda: training.train(order))  # warm-up
    return statistics.median(timer.seconds(lambda: training.train(order)) for _ in range(STRETCHES)) / STEPS


def _noise(samples: int) -> Dataset:
    """Return `samples` random images to train on and one batch to test on: their content does not affect the time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (samples,), generator=generator)
    few = slice(0, TINY.batch_size)
    return Dataset(
        name="random images",
        sha256="",
        source="generated",
        train_images=images,
        train_labels=labels,
        test_images=images[few],
        test_labels=labels[few],
    )


# Power


def measure_idle_power(
    device: torch.device,
    make_meter: Callable[[torch.device], EnergyMeter] = make_energy_meter,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> IdlePower:
    """Return the mean power of `device` over `IDLE_SECONDS` of sleep once it has settled, or why it is unknown."""
    meter = make_meter(device)
    if meter.counter is None:
        return IdlePower(watts=None, method="", reason=meter.reason)
    torch.empty(1, device=device)  # opens the device, as every process that trains on it does
    method, before = meter.counter.method, math.inf
    for _ in range(IDLE_SLEEPS):
        watts = measure_idle_watts(meter.counter, IDLE_SECONDS, sleep, clock)
        if watts is None:
            return IdlePower(watts=None, method="", reason=f"{method}: the counter fails or does not advance")
        if abs(watts - before) <= SETTLED * watts:
            return IdlePower(watts=watts, method=method, reason="")
        before = watts
    reason = f"{method}: power never settled in {IDLE_SLEEPS} successive idle sleeps of {IDLE_SECONDS:g} s"
    return IdlePower(watts=None, method="", reason=reason)
