"""How pytest-benchmark is used here: only on request, on every device there is, and without naming host or user.

In the ordinary suite each benchmark runs its work once, to show that it works. Times are taken with `--benchmark-only`.
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
"""What of the machine is stored. Listed, so that a member that a later pytest-benchmark adds stays out; ``node``, which
it has today, is the host's name."""

CPU_MEMBERS = frozenset({"arch", "bits", "brand_raw", "count"})

COMMIT_MEMBERS = frozenset({"dirty", "id", "time"})
"""Not the branch, which may be called after a user, nor the project, which is the checkout's folder."""


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
    """Yield a parameter for each device there is, asking in a way that does not start CUDA."""
    yield "cpu"
    for name, mark in (("cuda:0", pytest.mark.cuda), ("mps", pytest.mark.mps)):
        if torch.get_device_module(name.partition(":")[0]).is_available():
            yield pytest.param(name, marks=mark)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Device:
    return Device(str(request.param))


@pytest.fixture
def benchmark(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Iterator[BenchmarkFixture]:
    """pytest-benchmark's own fixture, which here runs the work once, untimed, unless benchmarks were asked for.

    Untimed, it runs on one thread: more threads than idle cores make small operations take milliseconds.
    """
    threads = torch.get_num_threads()
    if not request.config.getoption("benchmark_only"):
        benchmark.disabled = True
        torch.set_num_threads(1)
    yield benchmark
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def noise() -> Dataset:
    """Images of noise of MNIST's shape: the arithmetic takes as long on them, and nothing need be installed."""
    return load("synthetic")
