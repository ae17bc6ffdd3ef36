"""Which engines, precisions and pipelines work together on which device, and why the others do not. No torch."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from typing import Final

from mnist_mlp.checks import check_choice
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import ENGINES, PIPELINES, PRECISIONS

_WRITES_PARTS_ON_MPS: Final = (2, 14)
"""First release of torch that, on MPS, writes products and gathered rows correctly into a view of a larger buffer.

Earlier ones wrote gathered columns to the wrong place (pytorch/pytorch#187109), and on macOS 14 did not write products
into views at all (pytorch/pytorch#193385).
"""

_APPLES_COMPILERS: Final = "/usr/bin/"
"""On macOS, the compilers in here are always there. Unless Apple's developer tools are installed, they only offer to
install them, in a window; `xcode-select -p` tells without one."""

_XCODE_SELECT: Final = "/usr/bin/xcode-select"


def why_unsupported(  # noqa: PLR0913 - the parts that have to fit together
    *, device: str, engine: str, precision: str, pipeline: str, compiler: bool = True, world_size: int = 1
) -> str | None:
    """Return why this combination cannot be trained, with a remedy; None if it can be.

    A supported combination can train every recipe, whatever its output, loss, optimizer and depth.

    Args:
        device: its name, such as ``cpu`` or ``cuda:1``.
        engine: one of `mnist_mlp.recipes.ENGINES`.
        precision: one of `mnist_mlp.recipes.PRECISIONS`.
        pipeline: one of `mnist_mlp.recipes.PIPELINES`.
        compiler: whether the compiler that torch.compile needs on this device is there, see `has_compiler`.
        world_size: number of processes that share the training, each with its own device.
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
        return f"engine {engine!r} trains in one process only: use engine eager for several ranks"
    if kind == "mps":
        return "several ranks are not supported on 'mps', where torch cannot exchange gradients: use world size 1"
    return None


def _why_no_engine(kind: str, device: str, engine: str, *, compiler: bool) -> str | None:
    if engine == "graph" and kind != "cuda":
        return f"engine 'graph' replays CUDA graphs, which device {device!r} does not have: use engine fused"
    if engine == "compiled" and kind == "mps":
        return "engine 'compiled' is not supported on 'mps', where torch.compile is a prototype: use another engine"
    if engine == "compiled" and not compiler:
        return f"engine 'compiled' needs {_needed_compiler(kind)}, which was not found: install it, or use engine fused"
    if engine == "fused" and kind == "mps" and _torch_release() < _WRITES_PARTS_ON_MPS:
        needed, found = (".".join(map(str, release)) for release in (_WRITES_PARTS_ON_MPS, _torch_release()))
        return (
            f"engine 'fused' needs torch {needed} on 'mps', because torch {found} may write results to the wrong part "
            f"of a buffer, or not at all: install a later torch, or use engine eager"
        )
    return None


def _why_no_pipeline(engine: str, pipeline: str) -> str | None:
    if engine in {"fused", "graph"} and pipeline == "dataloader":
        return (
            f"engine {engine!r} gathers its batches from data on the device, so it cannot use pipeline 'dataloader': "
            f"use pipeline resident, or engine eager"
        )
    return None


def _why_no_precision(kind: str, device: str, engine: str, precision: str) -> str | None:
    if precision == "tf32" and kind != "cuda":
        return f"precision 'tf32' is a format of NVIDIA's tensor cores, which device {device!r} does not have: use fp32"
    if precision == "bf16" and engine in {"fused", "graph"}:
        return (
            f"engine {engine!r} computes in float32 only, not in bf16: use fp32, or bf16 with engine eager or compiled"
        )
    if precision == "bf16" and kind == "mps":
        return "precision 'bf16' is not supported on 'mps', because its support differs between Apple chips: use fp32"
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
    """Return whether this machine has the compiler that torch.compile needs for `device`."""
    if device.partition(":")[0] == "cuda":
        # On first use, Triton compiles a part of itself with a C compiler.
        c_compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
        return importlib.util.find_spec("triton") is not None and c_compiler is not None
    found = shutil.which(_cxx())
    if sys.platform == "darwin" and found is not None and found.startswith(_APPLES_COMPILERS):
        return not subprocess.run([_XCODE_SELECT, "-p"], capture_output=True, check=False).returncode  # noqa: S603 - fixed words
    return found is not None


def _torch_release() -> tuple[int, ...]:
    """Return the first two numbers of the installed torch's version."""
    return tuple(map(int, importlib.metadata.version("torch").split(".")[:2]))


def _needed_compiler(kind: str) -> str:
    if kind == "cuda":
        return "the package triton and a C compiler (gcc, clang, or the one that CC names)"
    return f"the C++ compiler {_cxx()!r} (CXX can name another one)"


def _cxx() -> str:
    """Return the C++ compiler that torch.compile would call, like `torch._inductor.config.cpp.cxx`, without torch."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return os.environ.get("CXX", usual)
