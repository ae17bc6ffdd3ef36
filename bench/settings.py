"""Global settings of torch: set explicitly, read back, and checked by what they do. Worker only."""

from typing import Final

import torch

from bench.records import Settings

_BEYOND_TF32: Final = 2.0**-12
"""1 + 2^-12 needs 12 fraction bits: float32 has 23, TF32 and every shorter format at most 10, so they round it to 1."""


class SettingsError(Exception):
    """A setting did not take effect; the message says which."""


def apply_fp32(threads: int, device: torch.device) -> Settings:
    """Set full float32 arithmetic and the thread count for this process; return what torch then reports.

    Denormals are kept, as they are by default: that they slow training down is something to be seen, not hidden.

    Raises:
        SettingsError: torch reports another value than was set, or a product on `device` shows shortened arithmetic.
    """
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.set_flush_denormal(False)
    settings = read_back()
    wanted = Settings(
        threads=threads, float32_matmul_precision="highest", tf32_matmul=False, tf32_cudnn=False, flush_denormal=False
    )
    if settings != wanted:
        raise SettingsError(f"settings did not take effect: asked for {wanted}, torch reports {settings}")
    if not multiplies_in_fp32(device):
        raise SettingsError(f"{device} multiplies float32 matrices in a shorter format although float32 was asked for")
    return settings


def read_back() -> Settings:
    """Return the settings now in force in this process."""
    smallest_normal = torch.tensor(torch.finfo(torch.float32).tiny)
    return Settings(
        threads=torch.get_num_threads(),
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        tf32_matmul=torch.backends.cuda.matmul.allow_tf32,
        tf32_cudnn=torch.backends.cudnn.allow_tf32,
        flush_denormal=bool(smallest_normal / 2 == 0),
    )


def multiplies_in_fp32(device: torch.device) -> bool:
    """Multiply two small matrices on `device` whose product tells float32 from TF32, bf16 and fp16."""
    size = 64  # large enough for the libraries to take the matrix units
    left = torch.full((size, size), 1 + _BEYOND_TF32, device=device)
    product = left @ torch.eye(size, device=device)
    return bool((product == left).all())
