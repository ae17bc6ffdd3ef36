"""Examinations of what measures: clock, waiting for the device, memory meters, contention meters. Worker only."""

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
"""Twice the work may take this many times as long: fixed costs lower the ratio, noise moves it either way."""

STRETCH_RANGE: Final = (1.7, 2.2)
"""Likewise for training steps: each stretch has a fixed cost of up to an eighth of its shortest time."""

CLOCK_RANGE: Final = (0.9, 1.1)
"""Ratio of two clocks' elapsed times: clocks of one machine differ by far less, a clock in wrong units by far more."""

HOST_ONCE_SECONDS: Final = 0.0005
"""Shortest time of the single amount of work on the CPU: far above the clock's resolution, short enough to finish
between two disturbances. On x86_64-2c-1e6182e1 at a load of 5, work of 0.4 to 0.7 ms gave ratios of 1.91 to 2.02 in
8 of 8 tries, and work of 1 to 80 ms anything from 1.4 to 2.7."""

DEVICE_ONCE_SECONDS: Final = 0.005
"""Likewise on accelerators: other host processes do not disturb them, but launching and waiting cost more."""

SIZING_TRIES: Final = 3
BLOCKS: Final = 40
"""ABBA blocks: 80 tries at single and 80 at double work."""

HOST_PRODUCT_SIZE: Final = 128
DEVICE_PRODUCT_SIZE: Final = 1024
"""Large enough that a product takes longer than launching it."""

MAX_PRODUCTS: Final = 2**12
"""Enough for the fastest devices, and only seconds of work if the clock stands still."""

TIMING_THREADS: Final = 1
"""A single thread need not wait for another one, which a busy machine may keep from running."""

QUEUED_SIZE: Final = 2048
QUEUED_PRODUCTS: Final = 16
"""Milliseconds of work even on the fastest devices, launched in tens of microseconds."""

LAUNCH_SHARE: Final = 0.5
"""Launching alone may take at most this share of the synchronised time; otherwise nothing was waited for."""

STRETCH_BATCH_SIZE: Final = 16
"""Small, so that even an epoch of digits has enough batches."""

ALLOCATION_BYTES: Final = 64 * MEBIBYTE
HOST_TOLERANCE: Final = 0.1
"""For pages that anything else in the process touches meanwhile."""

DEVICE_TOLERANCE_BYTES: Final = 2 * MEBIBYTE
"""Allocators round up: CUDA's by at most 2 MiB for a block of this size."""

BUSY_SECONDS: Final = 0.3
BUSY_RANGE: Final = (0.9, 1.2)
"""CPU time counted over CPU time used: other threads of this process may add a little."""

OTHERS_SHARE: Final = 0.5
"""At least this share of another process's CPU time must be counted: the counters tick in hundredths of a second."""

IDLE_SECONDS: Final = 0.05
IDLE_SHARE: Final = 0.5


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


# Time


def examine_products(parts: Parts) -> Finding:
    """Time a number of matrix products and twice as many, and all of it with a second clock."""
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
        f"{ratio:.2f} times as long; clocks agree to {100 * (clocks - 1):+z.1f} %",
        sound=_within(ratio, SCALE_RANGE) and _within(clocks, CLOCK_RANGE),
    )


def examine_stretches(parts: Parts) -> Finding:
    """Have a real trial time a number of its own training steps and twice as many."""
    session = prepared_trial(parts, small_recipe(batch_size=STRETCH_BATCH_SIZE), threads=TIMING_THREADS)

    def seconds(batches: int) -> float:
        return stretch(session, 0, batches).train_seconds

    epoch_batches = len(parts.dataset.train_labels) // STRETCH_BATCH_SIZE
    count = _enough(parts, seconds, epoch_batches // 2)
    ratio = _scale(lambda scale: seconds(scale * count))
    return passed_if(f"{ratio:.2f} times as long", sound=_within(ratio, STRETCH_RANGE))


def _enough(parts: Parts, seconds: Callable[[int], float], most: int) -> int:
    """Return how much work, at most `most`, takes long enough to be timed; found by doubling."""
    least = HOST_ONCE_SECONDS if parts.on_host else DEVICE_ONCE_SECONDS
    count = 1
    while 2 * count <= most and min(seconds(count) for _ in range(SIZING_TRIES)) < least:
        count *= 2
    return count


def _scale(seconds: Callable[[int], float]) -> float:
    """Return how many times as long twice the work takes: the shortest times of both, measured in ABBA blocks.

    Disturbances only ever add time, so the shortest time is the least disturbed.
    """
    shortest = {1: math.inf, 2: math.inf}
    for scale in (1, 2, 2, 1) * BLOCKS:
        shortest[scale] = min(shortest[scale], seconds(scale))
    if shortest[1] <= 0:
        raise ExaminationError("the clock stood still while the work was done")
    return shortest[2] / shortest[1]


def examine_synchronisation(parts: Parts) -> Finding:
    """Check that a timing that does not wait for the device is far too short."""
    if parts.on_host:
        return not_applicable("on the CPU a call returns only when its work is done")
    work = parts.make_work(parts.device.torch_device, QUEUED_SIZE)
    parts.device.synchronise()
    start = parts.clock()
    work(QUEUED_PRODUCTS)
    launched = parts.clock()
    parts.device.synchronise()
    share = (launched - start) / (parts.clock() - start)
    return passed_if(f"launching alone takes {100 * share:.1f} % of the time", sound=share <= LAUNCH_SHARE)


# Memory


def examine_host_memory(parts: Parts) -> Finding:
    """Touch a known amount of host memory and compare the peaks before and after."""
    meter = parts.host_memory()
    meter.reset_peak()
    idle = meter.peak()
    if idle is None:
        return not_applicable("this system does not report the peak; trials leave it empty")
    # Where the peak cannot be reset, an earlier peak hides anything below it: touch that much more.
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
    """Allocate a known amount on the device and compare its peaks before and after."""
    if parts.on_host:
        return not_applicable("the CPU has no memory of its own; see host memory")
    device = parts.device
    device.reset_peak()
    device.sample()
    before = device.allocated_peak()
    if before is None:
        return not_applicable("this device does not count its memory; trials leave it empty")
    block = torch.zeros(ALLOCATION_BYTES, dtype=torch.uint8, device=device.torch_device)
    device.sample()
    after, reserved = device.allocated_peak(), device.reserved_peak()
    del block
    rise = (after.bytes if after else 0) - before.bytes
    measured = f"allocated peak rose by {rise / MEBIBYTE:.1f} MiB"
    sound = ALLOCATION_BYTES <= rise <= ALLOCATION_BYTES + DEVICE_TOLERANCE_BYTES
    if after is not None and reserved is not None:
        measured += f", reserved is {reserved.bytes / MEBIBYTE:.1f} of {after.bytes / MEBIBYTE:.1f} MiB allocated"
        sound = sound and reserved.bytes >= after.bytes
    return passed_if(measured, sound=sound)


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
    """Have another process use a known CPU time, and compare what is counted with an idle moment."""
    meter = parts.contention()
    meter.start()
    time.sleep(IDLE_SECONDS)
    idle = meter.stop().other_cpu_seconds
    program = f"import time\nwhile time.process_time() < {BUSY_SECONDS}: pass"
    meter.start()
    subprocess.run([sys.executable, "-S", "-c", program], check=True)  # noqa: S603 - our own program
    busy = meter.stop().other_cpu_seconds
    if idle is None or busy is None:
        return not_applicable("this system does not report CPU time of others; trials leave it empty")
    return passed_if(
        f"{busy - idle:.2f} s more than idle, for {BUSY_SECONDS:g} s of another process",
        sound=busy - idle >= OTHERS_SHARE * BUSY_SECONDS,
    )
