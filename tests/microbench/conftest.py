"""Set-up of pytest-benchmark: timed on request only, on every available device, without names of host or user.

In the ordinary test suite each benchmark only runs its work once. `--benchmark-only` measures times.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.worker.devices import Device
from mnist_mlp.data import Dataset, load

MACHINE_MEMBERS = frozenset(
    {
        "cpu",
        "machine",
        "python_compiler",
        "python_implementation",
        "python_implementation_version",
        "python_version",
        "release",
        "system",
    }
)
"""Facts about the machine that are stored. They are listed so that nothing that a later pytest-benchmark adds gets in;
its present ``node`` is the host's name."""

CPU_MEMBERS = frozenset({"arch", "bits", "brand_raw", "count"})

COMMIT_MEMBERS = frozenset({"dirty", "id", "time"})
"""Without the branch, whose name may contain a user's, and the project, which is the checkout's folder."""


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    _keep(machine_info, MACHINE_MEMBERS)
    _keep(machine_info["cpu"], CPU_MEMBERS)
    machine_info["torch"] = torch.__version__
    machine_info["torch_threads"] = torch.get_num_threads()


def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    _keep(commit_info, COMMIT_MEMBERS)


def _keep(members: dict[str, Any], wanted: frozenset[str]) -> None:
    for name in members.keys() - wanted:
        del members[name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", list(_devices()), indirect=True)


def _devices() -> Iterator[Any]:
    """Yield a parameter for each available device, without initialising CUDA."""
    yield "cpu"
    for name, mark in (("cuda:0", pytest.mark.cuda), ("mps", pytest.mark.mps)):
        if torch.get_device_module(name.partition(":")[0]).is_available():
            yield pytest.param(name, marks=mark)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Device:
    return Device(str(request.param))


@pytest.fixture
def benchmark(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Iterator[BenchmarkFixture]:
    """pytest-benchmark's own fixture; without `--benchmark-only` it runs the work once, untimed.

    Untimed work uses one thread, because with more threads than idle cores small operations take milliseconds.
    """
    threads = torch.get_num_threads()
    if not request.config.getoption("benchmark_only"):
        benchmark.disabled = True
        torch.set_num_threads(1)
    yield benchmark
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def noise() -> Dataset:
    """Noise of MNIST's shape: the arithmetic takes as long as on MNIST, and no data is needed."""
    return load("synthetic")
