"""Global settings of torch: set explicitly, read back, and checked by their effect. Worker only."""

from typing import Final

import torch

from bench.records import Settings
from mnist_mlp.devices import set_float32_products

_BEYOND_BF16: Final = 2.0**-8
"""1 + 2^-8 needs 8 fraction bits: float32 has 23 and TF32 10, so they keep it; bf16 has 7 and rounds it to 1."""

_BEYOND_TF32: Final = 2.0**-12
"""1 + 2^-12 needs 12 fraction bits: float32 has 23, TF32 and every shorter format at most 10, so they round it to 1."""


_HOST_PRODUCT_SIZE: Final = 64
_DEVICE_PRODUCT_SIZE: Final = 1024
"""cuBLAS chooses the format for each shape. On the H100 torch.compile expects TF32 only from 16 rows, 512 columns and
512 terms on (`torch._inductor.heuristics`): smaller products may be float32 whatever the setting."""


class SettingsError(Exception):
    """A setting did not take effect; the message says which."""


def apply_precision(precision: str, threads: int) -> Settings:
    """Set this process's arithmetic and thread count; return what torch then reports (`check_products` tests it).

    For ``fp32`` and ``tf32``, products of float32 matrices are computed in that format. ``bf16`` is autocast, which the
    training enters itself: outside it products are float32, inside it products of float32 matrices are computed in
    bf16. Denormals are kept, as by default: if they slow training down, the benchmark should show it.

    Raises:
        SettingsError: torch reports a different value from the one set.
    """
    torch.set_num_threads(threads)
    set_float32_products(precision)
    torch.set_flush_denormal(False)
    settings = read_back()
    tf32 = precision == "tf32"
    wanted = Settings(
        threads=threads,
        float32_matmul_precision="high" if tf32 else "highest",
        tf32_matmul=tf32,
        tf32_cudnn=tf32,
        flush_denormal=False,
    )
    if settings != wanted:
        raise SettingsError(f"settings did not take effect: asked for {wanted}, torch reports {settings}")
    return settings


def check_products(precision: str, device: torch.device) -> None:
    """Check that `apply_precision` took effect on `device`. This initialises the device's matrix libraries.

    Raises:
        SettingsError: a product is computed in another format.
    """
    _check_format("tf32" if precision == "tf32" else "fp32", device)
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            _check_format("bf16", device)


def _check_format(wanted: str, device: torch.device) -> None:
    found = product_format(device)
    if found != wanted:
        raise SettingsError(f"{device} multiplies float32 matrices in {found} although {wanted} was asked for")


def read_back() -> Settings:
    """Return the settings currently in force in this process."""
    smallest_normal = torch.tensor(torch.finfo(torch.float32).tiny)
    return Settings(
        threads=torch.get_num_threads(),
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        tf32_matmul=torch.backends.cuda.matmul.allow_tf32,
        tf32_cudnn=torch.backends.cudnn.allow_tf32,
        flush_denormal=bool(smallest_normal / 2 == 0),
    )


def product_format(device: torch.device) -> str:
    """Return the format in which `device` now multiplies float32 matrices: ``fp32``, ``tf32`` or ``bf16``.

    Up to two products show it, large enough for the device to use its shortest format: the result reveals how the
    operands were rounded. Formats with equally many fraction bits, such as TF32 and fp16, cannot be distinguished this
    way; they are reported as the one that can be asked for.
    """
    if _keeps(1 + _BEYOND_TF32, device):
        return "fp32"
    return "tf32" if _keeps(1 + _BEYOND_BF16, device) else "bf16"


def _keeps(value: float, device: torch.device) -> bool:
    size = _HOST_PRODUCT_SIZE if device.type == "cpu" else _DEVICE_PRODUCT_SIZE
    left = torch.full((size, size), value, device=device)
    product = left @ torch.eye(size, device=device)
    return bool((product == left).all())
