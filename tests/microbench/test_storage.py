"""The microbenchmarks store their raw rounds, but no names of host, user, branch or folder."""

import getpass
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from checkout import ROOT

from bench.compare.rounds import read_rounds

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

ELSEWHERE = "a fictional user of a fictional host"


def test_only_listed_members_of_machine_and_commit_are_stored(pytestconfig: pytest.Config) -> None:
    machine: dict[str, Any] = dict.fromkeys(("node", "home", "python_build"), ELSEWHERE)
    machine |= {"python_version": "3.12.4", "cpu": {"brand_raw": "Fictional CPU 9000", "path": ELSEWHERE}}
    commit = {"id": "0123abcd", "dirty": True} | dict.fromkeys(("branch", "project", "error", "author"), ELSEWHERE)
    pytestconfig.hook.pytest_benchmark_update_machine_info(config=pytestconfig, machine_info=machine)
    pytestconfig.hook.pytest_benchmark_update_commit_info(config=pytestconfig, commit_info=commit)
    assert ELSEWHERE not in json.dumps([machine, commit])
    assert commit == {"id": "0123abcd", "dirty": True}
    assert machine["python_version"] == "3.12.4"
    assert machine["cpu"] == {"brand_raw": "Fictional CPU 9000"}
    assert machine["torch_threads"] >= 1


def test_benchmarks_run_once_untimed_unless_asked_for(request: pytest.FixtureRequest) -> None:
    """The fixture is requested by name, so that pytest-benchmark does not store this test as a benchmark."""
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")
    calls: list[None] = []
    benchmark(calls.append, None)
    assert len(calls) == 1
    assert benchmark.stats is None


@pytest.mark.slow
def test_stored_file_holds_every_round_and_names_no_host_user_or_folder(tmp_path: Path) -> None:
    stored = run_one_benchmark(tmp_path)
    saved = read_rounds(stored)
    assert [benchmark.name for benchmark in saved.benchmarks] == [
        "tests/microbench/test_steps.py::test_forward[784-128-10-batch64-cpu]"
    ]
    assert saved.benchmarks[0].seconds
    assert saved.benchmarks[0].moments.n >= 5
    text = stored.read_text()
    content = json.loads(text)
    assert content["commit_info"].keys() <= {"id", "time", "dirty"}
    assert not {"node", platform.node(), getpass.getuser()} & set(all_strings(content))
    assert not [place for place in (ROOT, Path.home(), tmp_path, Path(sys.prefix)) if str(place) in text]


def run_one_benchmark(folder: Path) -> Path:
    """Time one benchmark as briefly as possible in its own process; return the stored file."""
    options = (
        "--benchmark-only",
        "--benchmark-save-data",
        "--benchmark-autosave",
        f"--benchmark-storage=file://{folder}",
    )
    brief = ("--benchmark-max-time=0.01", "-k", "forward and batch64 and cpu", "-p", "no:cacheprovider", "-q")
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "pytest", "tests/microbench/test_steps.py", *options, *brief],
        cwd=ROOT,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (stored,) = folder.glob("*/0001_*.json")
    return stored


def all_strings(value: object) -> list[str]:
    """Return every string in a JSON value, including the names of members."""
    match value:
        case str():
            return [value]
        case dict():
            return [*value, *(text for member in value.values() for text in all_strings(member))]
        case list():
            return [text for item in value for text in all_strings(item)]
        case _:
            return []
