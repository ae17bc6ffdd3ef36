"""Writing stored runs: new and resumed, beside other processes, and on a full disk."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from bench_builders import (
    make_failure,
    make_fingerprint,
    make_footer,
    make_machine,
    make_measurement,
    make_record,
    make_run,
)
from checkout import TESTS
from stored_runs import store as store_run

from bench.errors import BadInputError, ExitCode, StorageError
from bench.records import Run, TrialRecord
from bench.storage import runfile, store
from bench.storage.store import RunWriter, read_run

RECORDS: Final = (make_record(repeat=0), make_record(repeat=1, outcome=make_failure()), make_record(repeat=2))
RUN: Final = make_run(records=RECORDS)


def write_run(path: Path, run: Run = RUN) -> bytes:
    return store_run(run, path).read_bytes()


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    before = write_run(tmp_path / "run.jsonl")
    with pytest.raises(BadInputError, match=r"exists already.*--resume"):
        RunWriter.create(tmp_path / "run.jsonl", RUN.header)
    assert (tmp_path / "run.jsonl").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_an_empty_file_which_a_kill_can_leave_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").touch()
    with RunWriter.create(tmp_path / "run.jsonl", RUN.header) as writer:
        writer.append(RECORDS[0])
    assert read_run(tmp_path / "run.jsonl").records == RECORDS[:1]


def test_a_link_to_an_empty_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "run.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInputError, match="exists already"):
        RunWriter.create(tmp_path / "run.jsonl", RUN.header)


def test_a_header_that_could_not_be_read_back_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runfile, "MAX_LINE_BYTES", 100)
    with pytest.raises(BadInputError, match=r"a header of \d+ bytes cannot be stored, .*fewer configurations"):
        RunWriter.create(tmp_path / "run.jsonl", RUN.header)
    with pytest.raises(BadInputError, match="no line may exceed 100"):
        list(runfile.lines_of(RUN))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="cannot be written"):
        RunWriter.create(tmp_path / "file" / "run.jsonl", RUN.header)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (make_record(repeat=9), "is not in the plan"),
        (make_record(repeat=0), "is stored already"),
        (make_record(repeat=1, wall_seconds=float("nan")), "a trial cannot be stored: .*finite"),
        (make_record(repeat=1, wall_seconds="9"), "trial.wall_seconds must be a finite number"),
        (make_record(repeat=1, outcome=make_measurement(parameters=2**63)), "must be a 64-bit whole number"),
        (make_record(repeat=1, warnings=[]), "would be read back as a different value"),
    ],
)
def test_a_record_that_could_not_be_read_back_is_not_written(tmp_path: Path, record: TrialRecord, message: str) -> None:
    with RunWriter.create(tmp_path / "run.jsonl", RUN.header) as writer:
        writer.append(RECORDS[0])
        before = (tmp_path / "run.jsonl").read_bytes()
        with pytest.raises(BadInputError, match=message):
            writer.append(record)
        assert (tmp_path / "run.jsonl").read_bytes() == before
        writer.append(RECORDS[1])
    assert read_run(tmp_path / "run.jsonl").records == RECORDS[:2]


def test_resuming_removes_a_torn_last_line_and_continues(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    whole = write_run(path)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:-9])
    writer, stored = RunWriter.resume(path)
    with writer:
        assert stored.records == RECORDS[:1]
        assert len(stored.warnings) == 1
        assert path.read_bytes() == b"".join(lines[:2])
        with pytest.raises(BadInputError, match="stored already"):
            writer.append(RECORDS[0])
        for record in RECORDS[1:]:
            writer.append(record)
        writer.finish(make_footer(measured=2, failed=1))
    assert read_run(path) == dataclasses.replace(RUN, footer=make_footer(measured=2, failed=1))


def test_resuming_a_header_alone_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    before = write_run(path, dataclasses.replace(RUN, records=(), footer=None))
    RunWriter.resume(path)[0].close()
    assert path.read_bytes() == before


def test_the_last_footer_counts_and_none_when_trials_follow_it(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    interrupted = make_footer(complete=False, reason="interrupted", measured=1, missing=2)
    before = write_run(path, dataclasses.replace(RUN, records=RECORDS[:1], footer=interrupted))
    writer, stored = RunWriter.resume(path)
    with writer:
        assert (stored.footer, stored.warnings) == (interrupted, ())
        writer.append(RECORDS[1])
        assert read_run(path).footer is None
        writer.append(RECORDS[2])
        writer.finish(make_footer())
    assert read_run(path) == dataclasses.replace(RUN, footer=make_footer())
    assert path.read_bytes().startswith(before)


def test_trials_name_where_they_ran_and_each_place_is_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    here, there = make_fingerprint(), make_fingerprint(machine=make_machine(cpu_model="Fictional CPU 1"))
    with RunWriter.create(path, RUN.header) as writer:
        assert writer.fingerprint_number(here) == 0
        with pytest.raises(BadInputError, match="it refers to fingerprint 1, but only 1 precede it"):
            writer.append(dataclasses.replace(RECORDS[0], fingerprint=1))
        assert [writer.fingerprint_number(there), writer.fingerprint_number(there)] == [1, 1]
        writer.append(dataclasses.replace(RECORDS[0], fingerprint=1))
    writer, stored = RunWriter.resume(path)
    with writer:
        assert stored.fingerprints == (here, there)
        assert writer.fingerprint_number(there) == 1
        writer.append(RECORDS[1])
    run = read_run(path)
    assert [run.fingerprints[record.fingerprint] for record in run.records] == [there, here]
    assert path.read_bytes().count(b'{"fingerprint"') == 1


def test_what_cannot_be_resumed_is_refused_and_left_unlocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text("no run\n")
    with pytest.raises(BadInputError, match="is not a stored run"):
        RunWriter.resume(path)
    with pytest.raises(BadInputError, match="is not a stored run: it cannot be opened: No such file"):
        RunWriter.resume(tmp_path / "missing.jsonl")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(BadInputError, match="cannot be written: Permission denied"):
        RunWriter.resume(path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.jsonl"]


def test_an_exception_in_the_midst_of_a_write_leaves_no_part_of_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunWriter.create(tmp_path / "run.jsonl", RUN.header) as writer:
        writer.append(RECORDS[0])

        def interrupt(_descriptor: int) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupt)
            with pytest.raises(KeyboardInterrupt):
                writer.append(RECORDS[1])
        assert read_run(tmp_path / "run.jsonl").records == RECORDS[:1]
        writer.append(RECORDS[1])
    assert read_run(tmp_path / "run.jsonl").records == RECORDS[:2]


def test_an_interrupted_creation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):  # an open file would end the test with a ResourceWarning
        RunWriter.create(tmp_path / "run.jsonl", RUN.header)
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_cut_off_at_once_is_cut_off_by_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with RunWriter.create(tmp_path / "run.jsonl", RUN.header) as writer:
        writer.append(RECORDS[0])
        with monkeypatch.context() as patch:

            def fail_and_keep_failing(_descriptor: int) -> None:
                patch.setattr(writer, "_cut_back", fail)
                fail()

            patch.setattr(os, "fsync", fail_and_keep_failing)
            with pytest.raises(StorageError, match="Input/output error"):
                writer.append(RECORDS[1])
        assert len(read_run(tmp_path / "run.jsonl").records) == 2
        writer.finish(make_footer())
    assert read_run(tmp_path / "run.jsonl").records == RECORDS[:1]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_nothing_is_stored_where_no_one_would_find_it(
    tmp_path: Path,
    is_replaced: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    path = tmp_path / "run.jsonl"
    with RunWriter.create(path, RUN.header) as writer:
        path.rename(tmp_path / "moved.jsonl")
        if is_replaced:
            path.write_text("another file\n")
        with pytest.raises(StorageError, match="was removed, moved or replaced while it was being written"):
            writer.append(RECORDS[0])


def test_a_folder_that_cannot_be_synced_is_not_an_error(tmp_path: Path) -> None:
    store._sync_folder(tmp_path / "missing")  # noqa: SLF001 - no file system at hand refuses it


# Other processes

PRELUDE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from bench_builders import make_failure, make_footer, make_header, make_record
from bench.errors import BadInputError, StorageError
from bench.storage.store import RunWriter
path = Path(sys.argv[1])
"""

WRITE_AND_WAIT = """
with RunWriter.create(path, make_header()) as writer:
    writer.append(make_record(repeat=0))
    print("held", flush=True)
    sys.stdin.read()
"""

FILL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit(50)
try:
    RunWriter.create(path, make_header())
except StorageError as error:
    print(error)
assert list(path.parent.iterdir()) == []
limit(1_000_000)
with RunWriter.create(path, make_header()) as writer:
    writer.append(make_record(repeat=0))
    before = path.read_bytes()
    limit(len(before) + 100)
    try:
        writer.append(make_record(repeat=1))
    except StorageError as error:
        print(error)
    assert path.read_bytes() == before
    limit(1_000_000)
    writer.append(make_record(repeat=1, outcome=make_failure()))
"""


def start(code: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + code, str(path), str(TESTS)]
    # S603: the command is this interpreter with our own code
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own words


def test_a_second_writer_learns_who_is_writing_and_a_reader_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with start(WRITE_AND_WAIT, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        message = f"is in use by process {process.pid} since 20.*; a stored run can have only one writer"
        (tmp_path / "link.jsonl").symlink_to(path)
        for name in (path, tmp_path / "link.jsonl"):
            with pytest.raises(BadInputError, match=message):
                RunWriter.resume(name)
        with pytest.raises(BadInputError, match=message):
            RunWriter.create(path, RUN.header)
        assert read_run(path).records == RECORDS[:1]
        process.communicate(timeout=60)
    RunWriter.resume(path)[0].close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.jsonl", "run.jsonl"]


def test_a_killed_writer_leaves_a_readable_file_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with start(WRITE_AND_WAIT, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
    assert read_run(path).records == RECORDS[:1]
    writer, stored = RunWriter.resume(path)
    with writer:
        assert stored.records == RECORDS[:1]
        writer.append(RECORDS[1])
    assert [file.name for file in tmp_path.iterdir()] == ["run.jsonl"]


def test_a_full_disk_keeps_what_was_stored_and_lets_the_writer_go_on(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with start(FILL, path) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    header, record = output.splitlines()
    assert header.endswith("run.jsonl cannot be written: File too large; make room, or choose another place")
    assert "cannot be stored: File too large; everything before it is intact: make room" in record
    assert read_run(path).records == RECORDS[:2]


def test_a_storage_error_counts_as_a_failed_trial() -> None:
    assert StorageError.exit_code == ExitCode.FAILED_TRIAL
