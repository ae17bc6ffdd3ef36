"""Builds the fake CUDA runtime (`fake_cuda.c`) for the torch of this interpreter.

torch's libraries ask for some two hundred functions, of which training uses a quarter. `fake_cuda.c` has those that
matter. The others are generated: those in `HARMLESS` do nothing; any other one, when it is called, fails and is
reported, so that a torch that uses more of CUDA ends with a message instead of a riddle.
"""

import re
import subprocess
from pathlib import Path
from typing import Final

from checkout import TESTS

SOURCE: Final = TESTS / "cuda_runtime" / "fake_cuda.c"

_CLIENTS: Final = ("c10_cuda", "caffe2_nvrtc", "torch_cpu", "torch_cuda", "torch_python")
"""torch's libraries that use CUDA."""

_CUDA_NAME: Final = re.compile(r"\bU ((?:__)?cu(?:da|blas|[A-Z])\w+)")
"""A function of CUDA's runtime, its driver or cuBLAS that a library lacks, in the output of nm."""

HARMLESS: Final = re.compile(
    r"__cuda(Register|Unregister)\w+|cudaFuncSetAttribute|cublasDestroy_v2|cublasSet(PointerMode|Workspace)_v2"
    r"|cublasLtMat(mulDesc|mulPreference|rixLayout)(Create|Destroy|SetAttribute)"
)
"""Functions that do nothing and succeed."""


class NotBuiltError(Exception):
    """The fake cannot be built here; the message says why."""


def build(folder: Path, torch_folder: Path) -> Path:
    """Compile the fake for the torch in `torch_folder` into `folder`; return the library, to be preloaded.

    Raises:
        NotBuiltError: a tool refused its work; the message has its words.
    """
    headers = torch_folder.parent / "triton/backends/nvidia/include"  # complete, unlike those of NVIDIA's packages
    generated = folder / "generated.c"
    generated.write_text(_functions(asked_for(torch_folder)))
    # This name makes it the driver for whoever loads that.
    library = folder / "libcuda.so.1"
    _output(
        "gcc",
        *("-shared", "-fPIC", "-O1", f"-Wl,-soname,{library.name}", "-o", str(library)),
        *(f"-I{headers}", str(SOURCE), str(generated)),
    )
    return library


def asked_for(torch_folder: Path) -> list[str]:
    """Return the names of CUDA's functions that torch's libraries ask for, sorted."""
    libraries = [str(torch_folder / "lib" / f"lib{name}.so") for name in _CLIENTS]
    return sorted(set(_CUDA_NAME.findall(_output("nm", "-D", "--undefined-only", *libraries))))


def _functions(names: list[str]) -> str:
    """Return C that defines functions of these names, weakly: those in `SOURCE` take precedence."""
    lines = ["int fake_cuda_unknown(const char *name);"]
    for name in names:
        result = "0" if HARMLESS.fullmatch(name) else f'fake_cuda_unknown("{name}")'
        lines.append(f"__attribute__((weak)) int {name}(void) {{ return {result}; }}")
    return "\n".join(lines) + "\n"


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        raise NotBuiltError(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout
