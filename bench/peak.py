"""The highest rate of matrix products that a device reaches, measured: what training could cost at the least."""

import time
from collections.abc import Callable
from typing import Final

import torch

SIZES: Final = (512, 1024, 2048, 4096, 8192, 16384)
"""Square products, from what a core's caches hold to what fills a large accelerator."""

LONGEST_SECONDS: Final = 0.05
"""After a size whose product takes longer than this no larger one is tried: the rate has levelled off by then."""

REPEATS: Final = 5


def measure_peak(
    device: torch.device, synchronise: Callable[[], None], *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return FLOP/s of the fastest product of two square matrices, at the process's precision and threads.

    A product of n by n matrices counts 2 n³ FLOPs. The best of `REPEATS` counts, because all that can disturb one
    slows it down.
    """
    best = 0.0
    for size in SIZES:
        left, right, product = (torch.ones(size, size, device=device) for _ in range(3))
        seconds = min(_time(left, right, product, synchronise, clock) for _ in range(1 + REPEATS))
        best = max(best, 2 * size**3 / seconds)
        if seconds > LONGEST_SECONDS:
            break
    return best


def _time(
    left: torch.Tensor,
    right: torch.Tensor,
    product: torch.Tensor,
    synchronise: Callable[[], None],
    clock: Callable[[], float],
) -> float:
    synchronise()
    start = clock()
    torch.mm(left, right, out=product)
    synchronise()
    return clock() - start
