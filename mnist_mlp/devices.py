"""Choosing the device to train on, and the arithmetic of its products. Nothing falls back silently."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

import torch

from mnist_mlp.checks import check_type
from mnist_mlp.errors import InvalidValueError

DEVICE_KINDS: Final = ("cpu", "cuda", "mps")

_TF32_CAPABILITY: Final = (8, 0)
"""Lowest compute capability of NVIDIA GPUs with TF32."""


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called `name`: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``, or a `torch.device`.

    ``auto`` is the first available of cuda, mps and cpu.

    Raises:
        InvalidValueError: there is no such device here; the message says why, and which devices there are.
    """
    if isinstance(name, torch.device):
        name = str(name) if name.type == "cuda" else name.type  # a tensor's own device is mps:0
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if _count(kind)))
    check_type("device", name, str, "its name, like cpu, cuda, cuda:1 or mps")
    kind, _, index = name.partition(":")
    if kind not in DEVICE_KINDS:  # no suggestion here: the name nearest to gpu is cpu
        raise InvalidValueError(
            f"device {name!r} is unknown: use auto, cpu, cuda (an NVIDIA or AMD GPU) or mps (an Apple GPU)"
        )
    if ":" in name and (kind != "cuda" or re.fullmatch("0|[1-9][0-9]{0,2}", index) is None):
        raise InvalidValueError(f"device {name!r} is not the name of a device: write it like cpu, cuda, cuda:1 or mps")
    count = _count(kind)
    if count <= int(index or 0):
        reason = _why_not(kind) if count == 0 else f"there are only {count}, numbered from 0"
        present = ", ".join(kind for kind in DEVICE_KINDS if _count(kind))
        raise InvalidValueError(f"device {name!r} is not available: {reason}. Available: {present}")
    return torch.device(name)


def set_float32_products(precision: str) -> None:
    """Have float32 matrix products computed in TF32 for precision ``tf32``, and in float32 for all others.

    This changes torch's setting for the whole process. TF32 rounds the operands to 10 fraction bits, on GPUs that have
    it.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


@contextlib.contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Apply `set_float32_products` within the context, then restore the process's settings."""
    backends: Any = torch.backends  # its types leave some of this out
    switches = (backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [switch.fp32_precision for switch in switches]
    products = cudnn = None
    # torch can read the older settings only while they agree with the newer ones, the switches.
    with contextlib.suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        cudnn = backends.cudnn.allow_tf32
    set_float32_products(precision)
    try:
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if cudnn is not None:
            backends.cudnn.allow_tf32 = cudnn
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `InvalidValueError` for precision ``tf32`` on a CUDA device without it."""
    if precision != "tf32" or device.type != "cuda":
        return
    found = torch.cuda.get_device_capability(device)
    if found < _TF32_CAPABILITY:
        needed, has = (".".join(map(str, capability)) for capability in (_TF32_CAPABILITY, found))
        raise InvalidValueError(
            f"precision 'tf32' needs compute capability {needed}, and device {str(device)!r} has {has}: use fp32"
        )


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    return int(torch.backends.mps.is_available()) if kind == "mps" else 1


def _why_not(kind: str) -> str:
    build = f"this build of torch ({torch.__version__})"
    if kind == "mps":
        return "torch finds no Apple GPU" if torch.backends.mps.is_built() else f"{build} has no MPS"
    if torch.version.cuda is None:
        return f"{build} has no CUDA"
    return f"{build} has CUDA {torch.version.cuda}, but it finds no driver or no GPU"
