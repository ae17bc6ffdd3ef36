"""Which engine, precision and pipeline go together on which kind of device, and why others do not. No torch."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from typing import Final

from mnist_mlp.checks import check_choice
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import ENGINES, PIPELINES, PRECISIONS

_WRITES_PARTS_ON_MPS: Final = (2, 14)
"""First release of torch that, on MPS, writes products and gathered rows correctly into a part of a larger buffer.

Before, what was gathered into columns went elsewhere (pytorch/pytorch#187109), and on macOS 14 products that were to go
into a part were never written (pytorch/pytorch#193385).
"""


def why_unsupported(  # noqa: PLR0913 - what has to go together
    *, device: str, engine: str, precision: str, pipeline: str, compiler: bool = True, world_size: int = 1
) -> str | None:
    """Return why this combination cannot be trained, with a remedy; None if it can.

    Every combination that is supported trains every recipe: all outputs, losses, optimizers and depths.

    Args:
        device: its name, such as ``cpu`` or ``cuda:1``.
        engine: one of `mnist_mlp.recipes.ENGINES`.
        precision: one of `mnist_mlp.recipes.PRECISIONS`.
        pipeline: one of `mnist_mlp.recipes.PIPELINES`.
        compiler: whether there is what torch.compile needs on this device, see `has_compiler`.
        world_size: how many processes share the training, each with a device of its own.
    """
    kind = device.partition(":")[0]
    if world_size > 1:
        reason = _why_no_ranks(kind, engine)
        if reason is not None:
            return reason
    return (
        _why_no_engine(kind, device, engine, compiler=compiler)
        or _why_no_pipeline(engine, pipeline)
        or _why_no_precision(kind, device, engine, precision)
    )


def _why_no_ranks(kind: str, engine: str) -> str | None:
    if engine != "eager":
        return f"engine {engine!r} trains in one process only: with several ranks, use engine eager"
    if kind == "mps":
        return "several ranks are not offered on 'mps', for which torch has no exchange of gradients: use world size 1"
    return None


def _why_no_engine(kind: str, device: str, engine: str, *, compiler: bool) -> str | None:
    if engine == "graph" and kind != "cuda":
        return f"engine 'graph' replays CUDA graphs, which device {device!r} has not: use engine fused"
    if engine == "compiled" and kind == "mps":
        return "engine 'compiled' is not offered on 'mps', where torch.compile is a prototype: use another engine"
    if engine == "compiled" and not compiler:
        return f"engine 'compiled' needs {_needed_compiler(kind)}, and none was found: install it, or use engine fused"
    if engine == "fused" and kind == "mps" and _torch_release() < _WRITES_PARTS_ON_MPS:
        needed, found = (".".join(map(str, release)) for release in (_WRITES_PARTS_ON_MPS, _torch_release()))
        return (
            f"engine 'fused' needs torch {needed} on 'mps', where torch {found} may write what belongs in a part of "
            f"a buffer elsewhere, or not at all: install a later torch, or use engine eager"
        )
    return None


def _why_no_pipeline(engine: str, pipeline: str) -> str | None:
    if engine in {"fused", "graph"} and pipeline == "dataloader":
        return (
            f"engine {engine!r} assembles its batches itself from the data on the device, so pipeline 'dataloader' "
            f"cannot feed it: use pipeline resident, or engine eager"
        )
    return None


def _why_no_precision(kind: str, device: str, engine: str, precision: str) -> str | None:
    if precision == "tf32" and kind != "cuda":
        return f"precision 'tf32' is a format of NVIDIA's tensor cores, which device {device!r} has not: use fp32"
    if precision == "bf16" and engine in {"fused", "graph"}:
        return (
            f"engine {engine!r} writes every product into float32 buffers and has no bf16 path: "
            f"use fp32, or bf16 with engine eager or compiled"
        )
    if precision == "bf16" and kind == "mps":
        return "precision 'bf16' is not offered on 'mps', whose support differs from chip to chip: use fp32"
    return None


def check_supported(*, device: str, engine: str, precision: str, pipeline: str, world_size: int = 1) -> None:
    """Raise `InvalidValueError` unless this combination can be trained on this machine."""
    check_choice("engine", engine, ENGINES)
    check_choice("precision", precision, PRECISIONS)
    check_choice("pipeline", pipeline, PIPELINES)
    compiler = engine != "compiled" or has_compiler(device)
    reason = why_unsupported(
        device=device,
        engine=engine,
        precision=precision,
        pipeline=pipeline,
        compiler=compiler,
        world_size=world_size,
    )
    if reason is not None:
        raise InvalidValueError(reason)


def has_compiler(device: str) -> bool:
    """Return whether this machine has what torch.compile turns kernels for `device` into code with."""
    if device.partition(":")[0] == "cuda":
        # Triton compiles a part of itself when it is first used.
        c_compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
        return importlib.util.find_spec("triton") is not None and c_compiler is not None
    return shutil.which(_cxx()) is not None


def _torch_release() -> tuple[int, ...]:
    """Return the first two numbers of the installed torch's version."""
    return tuple(map(int, importlib.metadata.version("torch").split(".")[:2]))


def _needed_compiler(kind: str) -> str:
    if kind == "cuda":
        return "the package triton and a C compiler (gcc, clang, or what the variable CC names)"
    return f"the C++ compiler {_cxx()!r} (the variable CXX names another)"


def _cxx() -> str:
    """Return the C++ compiler that torch.compile would call: `torch._inductor.config.cpp.cxx`, without torch."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return os.environ.get("CXX", usual)
