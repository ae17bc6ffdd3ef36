"""Describes the machine and the software: names and versions only, no host name, user name or path. Worker only."""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import psutil
import torch

import bench
import mnist_mlp
from bench.records import Description, Machine, Software
from bench.system.redaction import redact
from bench.system.revision import git_state
from bench.worker.devices import list_accelerators, list_devices
from bench.worker.limits import usable_cores, usable_memory_bytes

VARIABLES: Final = (
    # Kernels of the CPU, and how its threads wait for work.
    *("ATEN_CPU_CAPABILITY", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA"),
    *("ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "LRU_CACHE_CAPACITY"),
    *("MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "MKL_DYNAMIC", "MKL_ENABLE_INSTRUCTIONS"),
    *("TORCH_MKLDNN_MATMUL_MIN_DIM", "TORCH_MKLDNN_MATMUL_MIN_SIZE"),
    *("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"),
    # The allocator of host memory, and libraries that replace it.
    *("DYLD_INSERT_LIBRARIES", "GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_"),
    *("MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_", "PYTHONMALLOC", "THP_MEM_ALLOC_ENABLE"),
    # CUDA: launches, allocator, cuBLAS.
    *("CUBLASLT_WORKSPACE_SIZE", "CUBLAS_WORKSPACE_CONFIG", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_LAUNCH_BLOCKING"),
    *("CUDA_MODULE_LOADING", "NVIDIA_TF32_OVERRIDE", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("PYTORCH_NO_CUDA_MEMORY_CACHING", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT"),
    # Metal.
    *("PYTORCH_ENABLE_MPS_FALLBACK", "PYTORCH_MPS_FAST_MATH", "PYTORCH_MPS_PREFER_METAL"),
    *("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "PYTORCH_MPS_LOW_WATERMARK_RATIO"),
    # torch.compile.
    *("TORCHDYNAMO_DISABLE", "TORCHINDUCTOR_FREEZING", "TORCHINDUCTOR_MAX_AUTOTUNE", "TORCH_COMPILE_DISABLE"),
    # Python.
    *("PYTHONDEVMODE", "PYTHONOPTIMIZE", "PYTHONTRACEMALLOC", "PYTHON_GIL", "PYTHON_JIT"),
)
"""Environment variables that trials inherit and that change how fast or how exactly torch computes, or what memory it
takes. Those that set the number of threads or bind them are not among them: trials do not inherit these."""

_ARM_CORES: Final = MappingProxyType(
    {
        "0x41/0xd03": "Cortex-A53",
        "0x41/0xd05": "Cortex-A55",
        "0x41/0xd07": "Cortex-A57",
        "0x41/0xd08": "Cortex-A72",
        "0x41/0xd0b": "Cortex-A76",
        "0x41/0xd0c": "Neoverse-N1",
        "0x41/0xd40": "Neoverse-V1",
        "0x41/0xd42": "Cortex-A78AE",
        "0x41/0xd49": "Neoverse-N2",
        "0x41/0xd4f": "Neoverse-V2",
        "0x41/0xd84": "Neoverse-V3",
        "0x41/0xd85": "Cortex-X925",
        "0x41/0xd87": "Cortex-A725",
        "0x41/0xd8e": "Neoverse-N3",
        "0x46/0x001": "A64FX",
        "0xc0/0xac3": "Ampere-1",
        "0xc0/0xac4": "Ampere-1a",
    }
)
"""Names of cores on which torch is likely to run, by implementer and part (Linux's asm/cputype.h, util-linux's lscpu).
An entry added for a core changes the machine id of the machines that have it."""

_ARM_BOARDS: Final = (
    Path("/sys/class/dmi/id/product_name"),  # servers and clouds, such as an instance's type
    Path("/sys/devices/soc0/machine"),  # boards: the device tree's text, which containers hide
    Path("/proc/device-tree/model"),
)
"""Files that name the product around ARM cores, best first: processors of different makers have the same cores."""

_WINDOWS_PROCESSOR: Final = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
"""The registry's key with the name of the first core's product."""


def describe() -> Description:
    """Return the machine, the software and the devices, as this process sees them."""
    machine = describe_machine()
    return Description(
        machine=machine,
        software=describe_software(),
        devices=list_devices(),
        # torch counts a container's cores, not its quota.
        default_threads=min(torch.get_num_threads(), machine.whole_cores),
    )


def describe_machine() -> Machine:
    """Return the machine. This initialises accelerators, so a process that is going to fork must not call it."""
    return Machine(
        architecture=platform.machine(),
        cpu_model=_cpu_model(),
        cores_logical=psutil.cpu_count() or os.cpu_count() or 1,
        cores_usable=usable_cores(),
        memory_bytes=usable_memory_bytes(),
        operating_system=platform.system(),
        accelerators=list_accelerators(),
    )


def describe_software() -> Software:
    """Return the versions of everything that affects speed and results."""
    commit, dirty = git_state(Path(mnist_mlp.__file__).parent)
    return Software(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        torch=torch.__version__,
        torchvision=_version("torchvision"),
        numpy=np.__version__,
        cuda=torch.version.cuda,
        driver=_cuda_driver(),
        blas=_blas(),
        operating_system_release=platform.release(),
        workload=mnist_mlp.__version__,
        harness=bench.__version__,
        git_commit=commit,
        git_dirty=dirty,
        variables=_variables(),
    )


def _variables() -> str | None:
    """Return which of `VARIABLES` are set, and how; libraries by their names without folders."""
    found = (f"{name}={' '.join(redact(os.environ[name]).split())}" for name in VARIABLES if os.environ.get(name))
    return ", ".join(found) or None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name = line.partition(":")[2].strip()
        # Vendors' kernels for ARM boards call every processor "ARMv8 Processor rev 1 (v8l)".
        if line.startswith(("model name", "Model\t", "cpu model")) and not name.startswith("ARMv"):
            return name
    if cores := _arm_cores(lines):
        return ", ".join((*_arm_board(), *cores))
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 - fixed words
    if sys.platform == "win32":  # Python has only the family and the stepping there, which different products share
        import winreg  # noqa: PLC0415 - only there

        with contextlib.suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _WINDOWS_PROCESSOR) as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return platform.processor() or platform.machine()


def _arm_cores(lines: Iterable[str]) -> list[str]:
    """Return each kind of ARM core, such as ``Neoverse-N1 r3p1`` (variant 3, revision 1).

    Linux lists numbers instead of a name; those of an unknown core stay, as implementer/part.
    """
    found: set[str] = set()
    core: dict[str, str] = {}
    for line in (*lines, ""):  # an empty line ends each core
        name, _, value = line.partition(":")
        core[name.strip()] = value.strip()
        if not line.strip():
            if "CPU part" in core:
                kind = f"{core.get('CPU implementer')}/{core['CPU part']}"
                variant, revision = core.get("CPU variant", "").removeprefix("0x"), core.get("CPU revision")
                found.add(f"{_ARM_CORES.get(kind, f'ARM {kind}')} r{variant}p{revision}")
            core = {}
    return sorted(found)


def _arm_board() -> list[str]:
    """Return the product's name, where the system knows it."""
    for file in _ARM_BOARDS:
        with contextlib.suppress(OSError):
            if name := " ".join(file.read_text(errors="replace").replace("\0", "").split()):
                return [name]
    return []


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_driver() -> str | None:
    # Nvidia's kernel module reports its version here; on other systems it remains unknown.
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return None
    return next((word for word in words if word.count(".") and word.replace(".", "").isdigit()), None)


def _blas() -> str | None:
    found = re.search(r"\bBLAS_INFO=(\w+)", torch.__config__.show())
    if found is None:
        return None
    return {"open": "openblas"}.get(found[1], found[1])  # torch's build calls OpenBLAS "open"
