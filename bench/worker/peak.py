"""Measures the highest rate of matrix products that a device reaches, which bounds how fast training can be."""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import torch
from torch import Tensor

from bench.worker.timer import Timer
from mnist_mlp.engines.layers import mkl_is_held_back, onednn_linear

SIZES: Final = (512, 1024, 2048, 4096, 8192, 16384)
"""Sizes of square matrices, from what fits a core's caches to what keeps a large accelerator busy."""

LONGEST_SECONDS: Final = 0.02
"""Once a product takes longer than this, no larger size is tried: the rate has levelled off by then."""

REPEATS: Final = 6

_Multiply: TypeAlias = Callable[[Tensor, Tensor, Tensor], None]
"""Multiplies the first two matrices; may write to the third."""


def measure_peak(
    device: torch.device,
    timer: Timer,
    *,
    dtype: torch.dtype = torch.float32,
    budget_bytes: int | None = None,
) -> float:
    """Return FLOP/s of the fastest product of two square matrices, at the process's precision and threads.

    A product of n by n matrices counts 2 n³ FLOPs. The best of `REPEATS` tries counts, because any disturbance only
    slows a product down; where the fused engine chooses between two of torch's libraries, the faster one counts. Sizes
    after the first whose matrices take more than `budget_bytes` are left out; by default, none is.
    """
    libraries: list[_Multiply] = [_by_mm]
    if device.type == "cpu" and dtype == torch.float32 and mkl_is_held_back():
        libraries.append(_by_onednn)
    best = 0.0
    for size in SIZES:
        # Three matrices here, and one that oneDNN allocates.
        if best and budget_bytes is not None and 4 * size**2 * dtype.itemsize > budget_bytes:
            break
        # Random numbers: a product of ones takes less power, so that a GPU would clock higher than in any training.
        matrices = tuple(torch.rand(size, size, device=device, dtype=dtype) for _ in range(3))
        products = [partial(multiply, *matrices) for multiply in libraries]
        seconds = min(timer.seconds(product) for product in products for _ in range(REPEATS))
        best = max(best, 2 * size**3 / seconds)
        if seconds > LONGEST_SECONDS:
            break
    return best


def _by_mm(left: Tensor, right: Tensor, product: Tensor) -> None:
    torch.mm(left, right, out=product)


def _by_onednn(left: Tensor, right: Tensor, _: Tensor) -> None:
    onednn_linear()(left, right, None, "none", [], "")
