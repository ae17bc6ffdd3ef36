"""Reading the stored runs of a comparison, several large ones at once."""

import os
import sys
from pathlib import Path

import pytest
from stored_runs import side, store

from bench.compare import reading
from bench.compare.reading import read_tables
from bench.compare.trials import make_table
from bench.errors import BadInputError
from bench.records import Run
from bench.storage.store import read_run

RUNS = (side((2.0,)), side((1.0, 3.0), run_id="b0b0b0b0"))


def stored(folder: Path, *runs: Run) -> list[Path]:
    return [store(run, folder / f"{place}.jsonl") for place, run in enumerate(runs)]


def test_small_runs_are_read_in_the_order_they_are_named(tmp_path: Path) -> None:
    assert read_tables(stored(tmp_path, *RUNS)) == [make_table(run) for run in RUNS]


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Call every file large on two cores; return a file with the process that read each of them."""
    readers = tmp_path / "readers.txt"

    def read_and_sign(path: Path) -> Run:
        with readers.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return read_run(path)

    monkeypatch.setattr(reading, "LARGE_BYTES", 0)
    monkeypatch.setattr(reading, "read_run", read_and_sign)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1}, raising=False)
    return readers


forking = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
"""From Python 3.12 on, for a process with threads, as one with torch is."""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, one process reads all")
@forking
def test_large_runs_are_read_by_a_process_each_in_the_order_they_are_named(tmp_path: Path, large: Path) -> None:
    assert read_tables(stored(tmp_path, *RUNS)) == [make_table(run) for run in RUNS]
    assert len(set(large.read_text().split())) == 2


@forking
def test_of_large_runs_too_the_one_that_cannot_be_read_is_named(tmp_path: Path, large: Path) -> None:
    paths = stored(tmp_path, *RUNS)
    paths[1].write_text("no run\n")
    with pytest.raises(BadInputError, match=r"1\.jsonl is not a stored run"):
        read_tables(paths)
    assert large.exists()


@pytest.mark.parametrize("why", ["one file", "one small file", "too few cores"])
def test_where_processes_gain_nothing_one_reads_all(
    tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    paths = stored(tmp_path, *RUNS)
    if why == "one file":
        paths = paths[:1]
    elif why == "one small file":
        monkeypatch.setattr(reading, "LARGE_BYTES", min(path.stat().st_size for path in paths) + 1)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0}, raising=False)
    assert read_tables(paths) == [make_table(run) for run in RUNS[: len(paths)]]
    assert set(large.read_text().split()) == {str(os.getpid())}
