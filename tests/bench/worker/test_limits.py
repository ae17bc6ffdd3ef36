import os
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from bench.worker.limits import usable_cores, usable_memory_bytes


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# Usable cores


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("quota", "cores"),
    [("150000 100000\n", 1.5), ("50000 100000\n", 0.5), ("1600000 100000\n", 8.0), ("max 100000\n", 8.0)],
)
def test_a_quota_of_cgroup_version_2_limits_the_cores(tmp_path: Path, quota: str, cores: float) -> None:
    write(tmp_path / "cpu.max", quota)
    assert usable_cores(tmp_path) == cores


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("quota", "cores"), [("250000\n", 2.5), ("-1\n", 8.0), ("0\n", 8.0)])
def test_a_quota_of_cgroup_version_1_limits_the_cores(tmp_path: Path, quota: str, cores: float) -> None:
    write(tmp_path / "cpu" / "cpu.cfs_quota_us", quota)
    write(tmp_path / "cpu" / "cpu.cfs_period_us", "100000\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("0::/user.slice/job.scope", "user.slice/job.scope"),
        ("0::/user.slice/job.scope", "user.slice"),  # a limit further up holds too
        ("0::/kubepods.slice:cri:1a2b", "kubepods.slice:cri:1a2b"),
        ("4:cpu,cpuacct:/batch", "cpu/batch"),
    ],
)
def test_the_quota_of_the_cgroup_this_process_is_in_limits_the_cores(tmp_path: Path, line: str, folder: str) -> None:
    membership = write(tmp_path / "membership", f"9:memory:/elsewhere\n8:cpuset:/elsewhere\n{line}\n")
    if folder.startswith("cpu/"):
        write(tmp_path / folder / "cpu.cfs_quota_us", "150000\n")
        write(tmp_path / folder / "cpu.cfs_period_us", "100000\n")
    else:
        write(tmp_path / folder / "cpu.max", "150000 100000\n")
    write(tmp_path / "elsewhere" / "cpu.max", "50000 100000\n")
    assert usable_cores(tmp_path, membership) == 1.5


@pytest.mark.usefixtures("eight_cores")
def test_where_the_own_cgroup_is_unknown_the_outermost_ones_quota_limits_the_cores(tmp_path: Path) -> None:
    write(tmp_path / "cpu.max", "150000 100000\n")
    assert usable_cores(tmp_path, tmp_path / "absent") == 1.5


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize("text", ["", "200000", "many 100000", "200000 0", "-5 100000", "1 2 3"])
def test_a_malformed_quota_is_no_limit(tmp_path: Path, text: str) -> None:
    write(tmp_path / "cpu.max", text)
    assert usable_cores(tmp_path) == 8.0


@pytest.mark.usefixtures("eight_cores")
def test_a_quota_of_version_1_without_its_period_is_no_limit(tmp_path: Path) -> None:
    write(tmp_path / "cpu" / "cpu.cfs_quota_us", "200000\n")
    assert usable_cores(tmp_path) == 8.0
    write(tmp_path / "cpu" / "cpu.cfs_period_us", "\n")
    assert usable_cores(tmp_path) == 8.0


@pytest.mark.parametrize(("count", "cores"), [(6, 6.0), (None, 1.0)])
def test_where_affinity_is_unknown_all_cores_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int | None, cores: float
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert usable_cores(tmp_path) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_limits_the_cores_of_this_process(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores(tmp_path) == 1.0
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores(tmp_path) == len(allowed)


# Usable memory


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 16 * 2**30),
        ({"memory.max": "4294967296\n"}, 4 * 2**30),
        ({"memory.max": "max\n"}, 16 * 2**30),
        ({"memory.max": "a lot\n"}, 16 * 2**30),
        ({"memory.max": "99999999999999\n"}, 16 * 2**30),
        ({"memory/memory.limit_in_bytes": "2147483648\n"}, 2 * 2**30),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 16 * 2**30),
        ({"memory.max": "max\n", "memory/memory.limit_in_bytes": "2147483648\n"}, 2 * 2**30),
    ],
)
def test_memory_is_the_hosts_or_the_cgroups_if_that_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * 2**30))
    for name, text in files.items():
        write(tmp_path / name, text)
    assert usable_memory_bytes(tmp_path) == limit


@pytest.mark.skipif(sys.platform != "linux", reason="only there can a process lack /proc")
def test_a_system_without_proc_still_knows_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_file() -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(psutil, "virtual_memory", no_file)
    assert usable_memory_bytes(tmp_path, tmp_path / "cgroup") > 2**20
