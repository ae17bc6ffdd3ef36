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
from typing import Final

import numpy as np
import psutil
import torch

import bench
import mnist_mlp
from bench.records import Description, Machine, Software
from bench.system.revision import git_state
from bench.worker.devices import list_accelerators, list_devices
from bench.worker.limits import usable_cores, usable_memory_bytes

_WINDOWS_PROCESSOR: Final = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
"""The registry's key with the name of the first core's product."""


def describe() -> Description:
    """Return the machine, the software and the devices, as this process sees them."""
    return Description(machine=describe_machine(), software=describe_software(), devices=list_devices())


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
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith(("model name", "Model\t", "cpu model")):
            return line.partition(":")[2].strip()
    if cores := _arm_cores(lines):
        return f"ARM {', '.join(cores)}"
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 - fixed words
    if sys.platform == "win32":  # Python has only the family and the stepping there, which different products share
        import winreg  # noqa: PLC0415 - only there

        with contextlib.suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _WINDOWS_PROCESSOR) as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return platform.processor() or platform.machine()


def _arm_cores(lines: Iterable[str]) -> list[str]:
    """Return each kind of ARM core as implementer/part/variant: Linux lists numbers there instead of a name."""
    found: set[str] = set()
    kind: dict[str, str] = {}
    for line in (*lines, ""):  # an empty line ends each core
        name, _, value = line.partition(":")
        kind[name.strip()] = value.strip()
        if not line.strip():
            numbers = [kind.get(f"CPU {name}", "") for name in ("implementer", "part", "variant")]
            found |= {"/".join(numbers)} if any(numbers) else set()
            kind = {}
    return sorted(found)


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
