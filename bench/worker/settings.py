"""Global settings of torch: set explicitly, read back, and checked by what they do. Worker only."""

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
"""cuBLAS chooses the format shape by shape. On the H100 torch.compile reckons with TF32 only from 16 rows, 512 columns
and 512 terms on (`torch._inductor.heuristics`): smaller products may be float32 whatever is set."""


class SettingsError(Exception):
    """A setting did not take effect; the message says which."""


def apply_precision(precision: str, threads: int) -> Settings:
    """Set this process's arithmetic and thread count; return what torch then reports. `check_products` tries it out.

    For ``fp32`` and ``tf32``, products of float32 matrices are computed in that format. ``bf16`` is autocast, which the
    training enters itself: float32 outside it, and in it a product of float32 matrices is one of bf16 matrices.
    Denormals are kept, as they are by default: that they slow training down is something to be seen, not hidden.

    Raises:
        SettingsError: torch reports another value than was set.
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
    """See that `apply_precision` took effect on `device`, which initialises its libraries for products if nothing did.

    Raises:
        SettingsError: a product shows another format.
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
    """Return the settings now in force in this process."""
    smallest_normal = torch.tensor(torch.finfo(torch.float32).tiny)
    return Settings(
        threads=torch.get_num_threads(),
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        tf32_matmul=torch.backends.cuda.matmul.allow_tf32,
        tf32_cudnn=torch.backends.cudnn.allow_tf32,
        flush_denormal=bool(smallest_normal / 2 == 0),
    )


def product_format(device: torch.device) -> str:
    """Return what products of float32 matrices are computed in on `device` now: ``fp32``, ``tf32``, ``bf16``.

    Two products tell, large enough for the device to take its shortest format: what the operands are rounded to is seen
    in the result. Formats with as many fraction bits, such as TF32 and fp16, cannot be told apart so; they go by the
    name of the one that is asked for.
    """
    if _keeps(1 + _BEYOND_TF32, device):
        return "fp32"
    return "tf32" if _keeps(1 + _BEYOND_BF16, device) else "bf16"


def _keeps(value: float, device: torch.device) -> bool:
    size = _HOST_PRODUCT_SIZE if device.type == "cpu" else _DEVICE_PRODUCT_SIZE
    left = torch.full((size, size), value, device=device)
    product = left @ torch.eye(size, device=device)
    return bool((product == left).all())
