import contextlib
import getpass
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

import bench
import mnist_mlp
from bench.coding import dumps, from_json, loads
from bench.records import Description
from bench.system.revision import git_state
from bench.worker.fingerprint import VARIABLES, describe, describe_machine, describe_software
from bench.worker.limits import usable_cores

# This machine


def test_a_description_survives_storage() -> None:
    description = describe()
    assert from_json(Description, loads(dumps(description))) == description


def test_the_description_names_no_host_user_or_path() -> None:
    text = dumps(describe())
    host, home = socket.gethostname(), str(Path.home())
    for private in {host, host.partition(".")[0], getpass.getuser()}:
        assert re.search(rf"(?<![\w.-]){re.escape(private)}(?![\w.-])", text) is None
    for folder in {home, str(Path.cwd()), str(Path(mnist_mlp.__file__).parent), sys.prefix} - {"/"}:
        assert folder not in text
    assert re.search(r'[\s"](/\w|[A-Za-z]:\\)', text) is None


@pytest.mark.parametrize(("by_torch", "cores", "threads"), [(8, 16.0, 8), (8, 2.5, 2), (1, 16.0, 1), (8, 0.5, 1)])
def test_default_threads_are_those_that_torch_takes_but_no_more_than_usable_cores(
    monkeypatch: pytest.MonkeyPatch, by_torch: int, cores: float, threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: by_torch)  # physical cores, whatever a quota allows
    monkeypatch.setattr("bench.worker.fingerprint.usable_cores", lambda: cores)
    assert describe().default_threads == threads


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("bare_environment")
def test_variables_that_change_how_torch_computes_are_stored_without_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_software().variables is None
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    monkeypatch.setenv("LD_PRELOAD", "/home/jane/lib/libjemalloc.so.2:/opt/lib/libother.so")
    monkeypatch.setenv("PYTHONOPTIMIZE", "")  # as if it were not set
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    assert describe_software().variables == "LD_PRELOAD=…/libjemalloc.so.2:…/libother.so, CUDA_LAUNCH_BLOCKING=1"


def test_the_description_is_what_this_process_sees() -> None:
    description = describe()
    machine, software = description.machine, description.software
    assert machine.architecture == platform.machine()
    assert machine.cpu_model
    assert machine.cores_usable == usable_cores()
    assert 0 < machine.cores_usable <= machine.cores_logical
    assert 0 < machine.memory_bytes <= psutil.virtual_memory().total
    assert machine.operating_system == platform.system()
    assert software.operating_system_release == platform.release()
    assert (software.torch, software.cuda) == (torch.__version__, torch.version.cuda)
    assert software.numpy == np.__version__
    assert software.python.endswith(f" {platform.python_version()}")
    assert (software.workload, software.harness) == (mnist_mlp.__version__, bench.__version__)
    assert [a.device for a in machine.accelerators] == [d.device for d in description.devices if d.available][1:]


@pytest.mark.usefixtures("bare_environment")
@pytest.mark.parametrize("name", ["DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE"])
def test_arithmetic_that_onednn_shortens_is_stored_under_either_of_its_prefixes(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "BF16")
    assert describe_software().variables == f"{name}=BF16"


def test_the_commit_is_that_of_the_models_wherever_they_are_described_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.worker.fingerprint.git_state", lambda folder: (str(folder), True))
    software = describe_software()
    assert (software.git_commit, software.git_dirty) == (str(Path(mnist_mlp.__file__).parent), True)


# Other machines


@pytest.mark.parametrize(("logical", "elsewhere", "cores"), [(8, 6, 8), (None, 6, 6), (None, None, 1)])
def test_cores_are_counted_with_their_hardware_threads_by_whatever_can_count_them(
    monkeypatch: pytest.MonkeyPatch, logical: int | None, elsewhere: int | None, cores: int
) -> None:
    counts = {True: logical, False: 4}
    monkeypatch.setattr(psutil, "cpu_count", lambda *, logical=True: counts[logical])
    monkeypatch.setattr(os, "cpu_count", lambda: elsewhere)
    assert describe_machine().cores_logical == cores


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that replaces the files under /proc and /sys: name → text; all others are missing."""
    read_text = Path.read_text

    def install(**files: str) -> None:
        def read(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
            if path.parts[:2] not in {("/", "proc"), ("/", "sys")}:
                return read_text(path, encoding, errors)
            for name, text in files.items():
                if name in path.parts:
                    return text
            raise FileNotFoundError(path)

        monkeypatch.setattr(Path, "read_text", read)

    return install


def arm_cores(*parts: str, name: str = "", implementer: str = "0x41") -> str:
    """What Linux says of ARM cores of these parts: numbers, and with most kernels no name."""
    named = f"model name\t: {name}\n" if name else ""
    return "\n".join(
        f"processor\t: {number}\n{named}BogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU implementer\t: {implementer}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: {part}\nCPU revision\t: 1\n"
        for number, part in enumerate(parts)
    )


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("processor\t: 0\nmodel\t\t: 85\nmodel name\t: Fictional CPU 9000 @ 3.00GHz\n", "Fictional CPU 9000 @ 3.00GHz"),
        ("processor\t: 0\nBogoMIPS\t: 108.00\n\nModel\t\t: Fictional Board 4\n", "Fictional Board 4"),
        ("cpu model\t\t: Fictional MIPS: V5\n", "Fictional MIPS: V5"),
        (arm_cores("0xd0c", "0xd0c"), "Neoverse-N1 r3p1"),
        (arm_cores("0xd40", "0xd40"), "Neoverse-V1 r3p1"),
        (arm_cores("0xfff"), "ARM 0x41/0xfff r3p1"),
        (arm_cores("0xd0c", implementer="0x48"), "ARM 0x48/0xd0c r3p1"),
        (arm_cores("0xd05", "0xd05", "0xd0b", "0xd0b"), "Cortex-A55 r3p1, Cortex-A76 r3p1"),
        (arm_cores("0xd0c", name="Fictional Server 920"), "Fictional Server 920"),
        (arm_cores("0xd08") + "\nHardware\t: BCM2835\nModel\t\t: Fictional Board 4\n", "Fictional Board 4"),
    ],
)
def test_the_processor_is_named_as_linux_names_it(proc: Callable[..., None], text: str, model: str) -> None:
    proc(cpuinfo=text)
    assert describe_machine().cpu_model == model


def test_a_name_that_all_arm_processors_share_does_not_count(proc: Callable[..., None]) -> None:
    shared = "ARMv8 Processor rev 1 (v8l)"  # so NVIDIA's kernels call both of these
    proc(cpuinfo=arm_cores("0xd42", name=shared))
    orin = describe_machine()
    proc(cpuinfo=arm_cores("0x004", name=shared, implementer="0x4e"))
    xavier = describe_machine()
    assert (orin.cpu_model, xavier.cpu_model) == ("Cortex-A78AE r3p1", "ARM 0x4e/0x004 r3p1")
    assert orin.id != xavier.id


@pytest.mark.parametrize(
    ("files", "model"),
    [
        ({"dmi": "c6g.large\n", "soc0": "Other"}, "c6g.large, Neoverse-N1 r3p1"),
        ({"dmi": "\n", "soc0": "Fictional  Kit\n", "device-tree": "Other"}, "Fictional Kit, Neoverse-N1 r3p1"),
        ({"device-tree": "Fictional Kit\0"}, "Fictional Kit, Neoverse-N1 r3p1"),
    ],
)
def test_arm_cores_are_told_apart_by_the_product_that_they_are_in(
    proc: Callable[..., None], files: dict[str, str], model: str
) -> None:
    proc(cpuinfo=arm_cores("0xd0c"), **files)
    assert describe_machine().cpu_model == model


def test_a_processor_that_linux_names_is_not_renamed_after_its_board(proc: Callable[..., None]) -> None:
    proc(cpuinfo="model name\t: Fictional CPU 9000\n", dmi="Fictional Server\n")
    assert describe_machine().cpu_model == "Fictional CPU 9000"


@pytest.mark.parametrize(("processor", "model"), [("Fictional64 Family 6", "Fictional64 Family 6"), ("", "arm64")])
def test_a_processor_that_linux_neither_names_nor_numbers_is_described_by_python(
    proc: Callable[..., None], monkeypatch: pytest.MonkeyPatch, processor: str, model: str
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(sys, "platform", "linux")
    for files in ({}, {"cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\n"}):
        proc(**files)
        assert describe_machine().cpu_model == model


def test_on_macos_the_processor_is_what_sysctl_says(proc: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_options: object) -> SimpleNamespace:
        assert command[1:] == ["-n", "machdep.cpu.brand_string"]
        return SimpleNamespace(stdout="Fictional M9\n")

    proc()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", run)
    assert describe_machine().cpu_model == "Fictional M9"


@pytest.mark.parametrize(
    ("registry", "model"),
    [
        ({"ProcessorNameString": "Fictional CPU 9000 8-Core Processor      "}, "Fictional CPU 9000 8-Core Processor"),
        ({}, "Fictional64 Family 6"),
    ],
)
def test_on_windows_the_processor_is_the_registrys_product_not_its_family(
    proc: Callable[..., None], monkeypatch: pytest.MonkeyPatch, registry: dict[str, str], model: str
) -> None:
    def query(key: str, name: str) -> tuple[str, int]:
        if key.endswith(r"CentralProcessor\0") and name in registry:
            return registry[name], 1
        raise FileNotFoundError(2, "The system cannot find the file specified")

    winreg = SimpleNamespace(
        HKEY_LOCAL_MACHINE=1, OpenKey=lambda _root, key: contextlib.nullcontext(key), QueryValueEx=query
    )
    proc()
    monkeypatch.setitem(sys.modules, "winreg", winreg)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(platform, "processor", lambda: "Fictional64 Family 6")
    assert describe_machine().cpu_model == model


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:04 2025\nGCC version: 13.3.0\n",
            "580.65.06",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\n",
            "580.65.06",
        ),
        ("something else altogether\n", None),
    ],
)
def test_the_driver_is_the_version_that_its_kernel_module_reports(
    proc: Callable[..., None], text: str, driver: str | None
) -> None:
    proc(nvidia=text)
    assert describe_software().driver == driver


def test_without_a_driver_its_version_is_none(proc: Callable[..., None]) -> None:
    proc()
    assert describe_software().driver is None


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert describe_software().torchvision is None


@pytest.mark.parametrize(
    ("build", "blas"),
    [
        ("Build settings: BLAS_INFO=mkl, BUILD_TYPE=Release, LAPACK_INFO=mkl, ", "mkl"),
        ("Build settings: BLAS_INFO=open, BUILD_TYPE=Release, LAPACK_INFO=open, ", "openblas"),
        ("Build settings: BLAS_INFO=accelerate, BUILD_TYPE=Release, ", "accelerate"),
        ("Build settings: BUILD_TYPE=Release, LAPACK_INFO=open, ", None),
    ],
)
def test_the_blas_is_the_one_torch_was_built_with(
    monkeypatch: pytest.MonkeyPatch, build: str, blas: str | None
) -> None:
    monkeypatch.setattr("torch.__config__.show", lambda: build)
    assert describe_software().blas == blas


# The checkout

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


@pytest.fixture(autouse=True)
def own_git_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep git away from the user's settings, and from the repository whose hook may have started these tests."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "no-settings"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.org")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed words


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a repository with one commit, which tracks `package/code.py`."""
    root = tmp_path / "checkout"
    package = root / "package"
    package.mkdir(parents=True)
    (package / "code.py").write_text("x = 1\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")
    return root


@needs_git
def test_a_hooks_own_repository_is_not_taken_for_the_folders(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(checkout.parent / "another" / ".git"))
    assert git_state(checkout) == (commit, False)


@needs_git
@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
def test_asking_for_the_state_runs_no_program_that_the_repository_names(checkout: Path) -> None:
    monitor = checkout / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch '{checkout / 'ran'}'\n")
    monitor.chmod(0o755)
    git(checkout, "config", "core.fsmonitor", str(monitor))
    assert git_state(checkout)[1] is False
    assert not (checkout / "ran").exists()


@needs_git
def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert git_state(checkout) == git_state(checkout / "package") == (commit, False)


@needs_git
@pytest.mark.parametrize("staged", [True, False])
def test_a_changed_file_makes_the_checkout_dirty_wherever_it_is(checkout: Path, *, staged: bool) -> None:
    (checkout / "package" / "code.py").write_text("x = 2\n")
    if staged:
        git(checkout, "add", ".")
    assert git_state(checkout / "package") == (git(checkout, "rev-parse", "HEAD"), True)


@needs_git
def test_files_that_git_does_not_track_leave_the_checkout_clean(checkout: Path) -> None:
    (checkout / "package" / "notes.txt").write_text("mine\n")
    assert git_state(checkout / "package") == (git(checkout, "rev-parse", "HEAD"), False)


@needs_git
def test_an_environment_inside_a_checkout_is_not_of_its_commit(checkout: Path) -> None:
    installed = checkout / "environment" / "site-packages" / "package"
    installed.mkdir(parents=True)
    (installed / "code.py").write_text("x = 1\n")
    assert git_state(installed) == (None, None)


@needs_git
def test_a_repository_without_a_commit_has_no_state(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    assert git_state(tmp_path) == (None, None)


@needs_git
def test_a_folder_in_no_repository_has_no_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) == (None, None)
    assert git_state(tmp_path / "absent") == (None, None)


@needs_git
def test_without_git_there_is_no_state(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout / "nowhere"))
    assert git_state(checkout) == (None, None)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
@pytest.mark.parametrize(
    "script", ["echo 'fatal: detected dubious ownership' >&2; exit 128", "echo code.py; kill -9 $$"]
)
def test_a_git_that_fails_gives_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    fake = tmp_path / "git"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert git_state(tmp_path) == (None, None)


@needs_git
def test_a_git_that_hangs_is_given_up(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], *, timeout: float, **_options: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    assert git_state(checkout) == (None, None)
