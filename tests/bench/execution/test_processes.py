import os
import subprocess
import sys

import pytest

from bench.errors import WorkerError
from bench.execution.processes import Log, describe_end, worker_environment


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (3, "exit status 3"), (-9, "SIGKILL"), (-11, "SIGSEGV"), (-200, "200")]
)
def test_end_of_a_process_is_described_in_words(status: int, words: str) -> None:
    assert words in describe_end(status)


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


def test_workers_do_not_inherit_what_binds_threads_or_starts_fewer_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OMP_PROC_BIND", "true"), ("OMP_THREAD_LIMIT", "1"), ("OMP_NUM_THREADS", "3")):
        monkeypatch.setenv(name, value)
    code = "import os, torch; print(len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])"
    done = subprocess.run([sys.executable, "-c", code], env=worker_environment(), capture_output=True, check=True)  # noqa: S603 - our own words
    assert done.stdout.split() == [str(len(os.sched_getaffinity(0))).encode(), b"3"]
    assert not worker_environment().keys() & {"OMP_PROC_BIND", "OMP_THREAD_LIMIT"}
