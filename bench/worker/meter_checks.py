"""Examinations of what measures: the clock, waiting for the device, memory and contention meters. Worker only."""

import math
import mmap
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

import torch

from bench.worker.examination import (
    ExaminationError,
    Finding,
    Parts,
    not_applicable,
    passed_if,
    prepared_trial,
    small_recipe,
    stretch,
)

MEBIBYTE: Final = 2**20

SCALE_RANGE: Final = (1.8, 2.2)
"""Twice the work may be timed as this many times as long: fixed costs shorten it, noise moves it either way."""

STRETCH_RANGE: Final = (1.7, 2.2)
"""Likewise for training steps: each stretch has a fixed cost of its own, of up to an eighth of its shortest time."""

CLOCK_RANGE: Final = (0.9, 1.1)
"""Two clocks of one machine differ by far less; a clock in wrong units by far more."""

HOST_ONCE_SECONDS: Final = 0.0005
"""Once the work takes at least this long on the CPU: far above what the clock resolves, and short enough to get through
between two disturbances. On x86_64-2c-1e6182e1 at a load of 5, work of 0.4 to 0.7 ms came out at 1.91 to 2.02 times in
8 of 8 tries, and work of 1 to 80 ms anywhere from 1.4 to 2.7."""

DEVICE_ONCE_SECONDS: Final = 0.005
"""An accelerator is not disturbed by other processes on the host, and is dearer to launch and to wait for."""

SIZING_TRIES: Final = 3
BLOCKS: Final = 40
"""ABBA blocks: 80 tries at once and 80 at twice the work."""

HOST_PRODUCT_SIZE: Final = 128
DEVICE_PRODUCT_SIZE: Final = 1024
"""A product of this size takes longer than launching it."""

MAX_PRODUCTS: Final = 2**12
"""Enough for the fastest devices, and seconds where the clock stands still."""

TIMING_THREADS: Final = 1
"""A single thread waits for no other one, which a busy machine may keep from running."""

QUEUED_SIZE: Final = 2048
QUEUED_PRODUCTS: Final = 16
"""Milliseconds of work on the fastest devices, which tens of microseconds launch."""

LAUNCH_SHARE: Final = 0.5
"""Launching alone may take at most this share of the synchronised time, or nothing was waited for."""

STRETCH_BATCH_SIZE: Final = 16
"""Small, so that even the digits' epoch has batches enough."""

ALLOCATION_BYTES: Final = 64 * MEBIBYTE
HOST_TOLERANCE: Final = 0.1
"""Pages that anything else in the process touches meanwhile."""

DEVICE_TOLERANCE_BYTES: Final = 2 * MEBIBYTE
"""Allocators round up: CUDA's to 2 MiB at most for a block of this size."""

BUSY_SECONDS: Final = 0.3
BUSY_RANGE: Final = (0.9, 1.2)
"""CPU time counted over CPU time used: this process's other threads may add a little."""

OTHERS_SHARE: Final = 0.5
"""At least this share of another process's CPU time must show: the counters tick in hundredths of a second."""

IDLE_SECONDS: Final = 0.05
IDLE_SHARE: Final = 0.5


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


# Time


def examine_products(parts: Parts) -> Finding:
    """Time matrix products once and twice over, and all of it by another clock too."""
    torch.set_num_threads(TIMING_THREADS)
    size = HOST_PRODUCT_SIZE if parts.on_host else DEVICE_PRODUCT_SIZE
    work = parts.make_work(parts.device.torch_device, size)

    def seconds(products: int) -> float:
        return parts.timer.seconds(lambda: work(products))

    count = _enough(parts, seconds, MAX_PRODUCTS)
    start, other_start = parts.clock(), parts.other_clock()
    ratio = _scale(lambda scale: seconds(scale * count))
    elapsed, other_elapsed = parts.clock() - start, parts.other_clock() - other_start
    if other_elapsed <= 0:
        return passed_if("the other clock stood still", sound=False)
    clocks = elapsed / other_elapsed
    return passed_if(
        f"{ratio:.2f} times as long; clocks agree to {100 * (clocks - 1):+.1f} %",
        sound=_within(ratio, SCALE_RANGE) and _within(clocks, CLOCK_RANGE),
    )


def examine_stretches(parts: Parts) -> Finding:
    """Let a real trial time its own training steps, once and twice as many."""
    session = prepared_trial(parts, small_recipe(batch_size=STRETCH_BATCH_SIZE), threads=TIMING_THREADS)

    def seconds(batches: int) -> float:
        return stretch(session, 0, batches).train_seconds

    seconds(1)  # draws the epoch's order
    epoch_batches = len(parts.dataset.train_labels) // STRETCH_BATCH_SIZE
    count = _enough(parts, seconds, epoch_batches // 2)
    ratio = _scale(lambda scale: seconds(scale * count))
    return passed_if(f"{ratio:.2f} times as long", sound=_within(ratio, STRETCH_RANGE))


def _enough(parts: Parts, seconds: Callable[[int], float], most: int) -> int:
    """Return how much work, at most `most`, takes long enough to be timed."""
    least = HOST_ONCE_SECONDS if parts.on_host else DEVICE_ONCE_SECONDS
    count = 1
    while 2 * count <= most and min(seconds(count) for _ in range(SIZING_TRIES)) < least:
        count *= 2
    return count


def _scale(seconds: Callable[[int], float]) -> float:
    """Return how many times as long double work takes: the shortest of each, taken in turn in ABBA blocks.

    Whatever disturbs only ever adds time, so the shortest is the least disturbed.
    """
    shortest = {1: math.inf, 2: math.inf}
    for scale in (1, 2, 2, 1) * BLOCKS:
        shortest[scale] = min(shortest[scale], seconds(scale))
    if shortest[1] <= 0:
        raise ExaminationError("the clock stood still while the work was done")
    return shortest[2] / shortest[1]


def examine_synchronisation(parts: Parts) -> Finding:
    """See that a timing which did not wait for the device would have been far too short."""
    if parts.on_host:
        return not_applicable("work on the CPU is done when its call returns")
    work = parts.make_work(parts.device.torch_device, QUEUED_SIZE)
    parts.device.synchronise()
    start = parts.clock()
    work(QUEUED_PRODUCTS)
    launched = parts.clock()
    parts.device.synchronise()
    share = (launched - start) / (parts.clock() - start)
    return passed_if(f"launching alone takes {100 * share:.1f} % of it", sound=share <= LAUNCH_SHARE)


# Memory


def examine_host_memory(parts: Parts) -> Finding:
    """Touch a known amount of host memory and look at the peak before and after."""
    meter = parts.host_memory()
    meter.reset_peak()
    idle = meter.peak()
    if idle is None:
        return not_applicable("nothing here tells the peak; trials leave it empty")
    # Where the peak cannot be reset, an earlier one hides what stays below it: touch that much more.
    with mmap.mmap(-1, idle.bytes + ALLOCATION_BYTES) as block:
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        busy = meter.peak()
    rise = (busy.bytes if busy else 0) - idle.bytes
    return passed_if(
        f"peak rose by {rise / MEBIBYTE:.1f} MiB",
        sound=abs(rise - ALLOCATION_BYTES) <= HOST_TOLERANCE * ALLOCATION_BYTES,
    )


def examine_device_memory(parts: Parts) -> Finding:
    """Allocate a known amount on the device and look at its peaks before and after."""
    if parts.on_host:
        return not_applicable("the CPU has no memory of its own; see host memory")
    device = parts.device
    device.reset_peak()
    device.sample()
    before = device.allocated_peak()
    if before is None:
        return not_applicable("this device counts no memory; trials leave it empty")
    block = torch.zeros(ALLOCATION_BYTES, dtype=torch.uint8, device=device.torch_device)
    device.sample()
    after, reserved = device.allocated_peak(), device.reserved_peak()
    del block
    rise = (after.bytes if after else 0) - before.bytes
    told = f"allocated peak rose by {rise / MEBIBYTE:.1f} MiB"
    sound = ALLOCATION_BYTES <= rise <= ALLOCATION_BYTES + DEVICE_TOLERANCE_BYTES
    if after is not None and reserved is not None:
        told += f", reserved is {reserved.bytes / MEBIBYTE:.1f} of {after.bytes / MEBIBYTE:.1f} MiB allocated"
        sound = sound and reserved.bytes >= after.bytes
    return passed_if(told, sound=sound)


# Contention


def examine_cpu_time(parts: Parts) -> Finding:
    """Keep this thread busy for a known CPU time by its own clock, then idle, and compare what the meter counts."""
    meter = parts.contention()
    meter.start()
    start = time.thread_time()
    while time.thread_time() - start < BUSY_SECONDS:
        pass
    busy = meter.stop().process_cpu_seconds
    meter.start()
    time.sleep(IDLE_SECONDS)
    idle = meter.stop().process_cpu_seconds
    return passed_if(
        f"{busy:.2f} s of {BUSY_SECONDS:g} s busy, {idle:.2f} s of {IDLE_SECONDS:g} s idle",
        sound=_within(busy / BUSY_SECONDS, BUSY_RANGE) and idle <= IDLE_SHARE * IDLE_SECONDS,
    )


def examine_contention(parts: Parts) -> Finding:
    """Have another process use a known CPU time, and compare what is counted with a moment without it."""
    meter = parts.contention()
    meter.start()
    time.sleep(IDLE_SECONDS)
    idle = meter.stop().other_cpu_seconds
    program = f"import time\nwhile time.process_time() < {BUSY_SECONDS}: pass"
    meter.start()
    subprocess.run([sys.executable, "-S", "-c", program], check=True)  # noqa: S603 - our own words
    busy = meter.stop().other_cpu_seconds
    if idle is None or busy is None:
        return not_applicable("this system does not tell CPU time of others; trials leave it empty")
    return passed_if(
        f"{busy - idle:.2f} s more than idle, for {BUSY_SECONDS:g} s of another process",
        sound=busy - idle >= OTHERS_SHARE * BUSY_SECONDS,
    )
