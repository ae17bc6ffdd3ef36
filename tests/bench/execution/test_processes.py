import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import WorkerError
from bench.execution.processes import Log, describe_end, worker_environment
from bench.system.folders import ROOT


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "with exit status 0"),
        (3, "with exit status 3"),
        (-9, "by signal SIGKILL (often because the system ran out of memory)"),
        (-11, "by signal SIGSEGV"),
        (-200, "by signal 200"),
    ],
)
def test_end_of_a_process_is_described_in_words(status: int, words: str) -> None:
    assert describe_end(status) == words


def test_no_place_for_temporary_files_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_mode: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", no_room)
    with pytest.raises(WorkerError, match=r"cannot be created: No space left on device; .*TMPDIR"):
        Log()


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_reading_the_log_does_not_move_where_processes_print_to(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if platform == "win32":
        monkeypatch.delattr(os, "pread", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    log = Log()
    with log.file:
        for words in ("first", "second"):
            start = log.size()
            subprocess.run([sys.executable, "-c", f"print({words!r})"], stdout=log.file, check=True)  # noqa: S603 - our own words
            assert log.explain(start) == f"; its last output: {words}"
        assert log.explain(log.size()) == ", having printed nothing"
        assert log.size() == len(b"first\nsecond\n")


def test_the_last_output_is_the_last_line_with_words() -> None:
    log = Log()
    with log.file:
        log.file.write(b"exitcode: -9\n=====\n\n")
        log.file.flush()
        assert log.explain() == "; its last output: exitcode: -9"
        start = log.size()
        log.file.write(b"=====\n-----\n")
        log.file.flush()
        assert log.explain(start) == "; its last output: -----"
        log.file.write(b"a line\n" * 1000 + b"  last  \n")
        log.file.flush()
        assert log.explain(start) == "; its last output: last"


def test_workers_find_their_workload_then_this_bench_then_what_was_to_be_found_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without, copy = tmp_path / "without", tmp_path / "with"
    (copy / "bench").mkdir(parents=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert worker_environment()["PYTHONPATH"] == str(ROOT)
    monkeypatch.setenv("PYTHONPATH", "before")
    folders = [worker_environment(each)["PYTHONPATH"].split(os.pathsep) for each in (None, without, copy)]
    assert folders == [[str(ROOT), "before"], [str(without), str(ROOT), "before"], [str(copy), "before"]]
    assert worker_environment()["PYTHONSAFEPATH"] == "1"


def test_workers_compile_with_one_process_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    assert worker_environment()["TORCHINDUCTOR_COMPILE_THREADS"] == "1"
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "3")
    assert worker_environment()["TORCHINDUCTOR_COMPILE_THREADS"] == "3"


def test_workers_do_not_inherit_what_binds_threads_or_starts_fewer_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    policies = {"OMP_PROC_BIND": "true", "OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for name, value in policies.items():
        monkeypatch.setenv(name, value)
    code = "import os, torch; print(len(os.sched_getaffinity(0)), torch.get_num_threads() > 1)"
    done = subprocess.run([sys.executable, "-c", code], env=worker_environment(), capture_output=True, check=True)  # noqa: S603 - our own words
    cores = len(os.sched_getaffinity(0))
    assert done.stdout.split() == [str(cores).encode(), str(cores > 1).encode()]
    assert not worker_environment().keys() & policies.keys()
