"""Disks that are full, read-only, failing or gone: a clear error, exit 2 or 4, and what was stored before is whole."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_builders import make_footer, make_header, make_plan, make_record
from kill_campaign import GRID, TRIALS
from sandbox import HANG_SECONDS, SHELL, Sandbox, told, until_told

from bench.errors import StorageError
from bench.storage.runfile import encode
from bench.storage.store import RunWriter, read_run

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts of Linux"),
]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path / "a place with blanks, ö")


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def run_with_files_up_to(sandbox: Sandbox, size: int) -> subprocess.CompletedProcess[str]:
    """Run where no file can grow beyond `size` bytes, as with a quota or a full disk."""
    return sandbox.run("run", *GRID, "--output", "runs/run.jsonl", before=(sys.executable, "-c", LIMITED, str(size)))


def whole_size() -> int:
    """Return about how many bytes a run of a header and one trial takes."""
    return len(encode(make_header(plan=make_plan()))) + len(encode(make_record()))


def test_disk_that_is_full_before_the_header_leaves_no_file(sandbox: Sandbox) -> None:
    done = run_with_files_up_to(sandbox, 512)
    assert done.returncode == 4, done.stderr
    assert "cannot be written: File too large; make room, or choose another place" in done.stderr
    assert "Traceback" not in done.stderr
    assert not sandbox.stored()
    assert not sandbox.leftovers()


@pytest.mark.parametrize("trials", [1.5, 3.2])
def test_disk_that_fills_during_a_run_keeps_what_was_told_and_resume_completes_it(
    sandbox: Sandbox, trials: float
) -> None:
    header = 3_000  # about; two configurations are in it
    done = run_with_files_up_to(sandbox, header + int(trials * len(encode(make_record()))))
    assert done.returncode == 4, done.stderr
    assert "make room or repair the disk, then continue with --resume" in done.stderr
    assert "Traceback" not in done.stderr
    before = read_run(sandbox.work / "runs" / "run.jsonl")
    assert not before.warnings  # no torn line
    assert 0 < len(before.records) == len(told(done.stderr)) < TRIALS
    assert not sandbox.leftovers()
    resumed = sandbox.run("run", "--resume", "runs/run.jsonl")
    assert resumed.returncode == 0, resumed.stderr
    after = read_run(sandbox.work / "runs" / "run.jsonl")
    assert after.records[: len(before.records)] == before.records
    assert len(after.records) == TRIALS


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory at `folder`, where that is permitted."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:  # noqa: S603 - ours
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", str(folder)], check=True)  # noqa: S603 - our own words


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with mounted(tmp_path / "disk", "size=64k") as folder:
        yield folder


def test_full_file_system_keeps_every_whole_line(small_disk: Path) -> None:
    plan = make_plan(repeats=100)
    stored: list[object] = []

    def fill(writer: RunWriter) -> None:
        for repeat in range(100):
            writer.append(make_record(repeat=repeat))
            stored.append(make_record(repeat=repeat))

    with RunWriter.create(small_disk / "run.jsonl", make_header(plan=plan)) as writer:
        with pytest.raises(StorageError, match="No space left on device"):
            fill(writer)
        assert list(read_run(writer.path).records) == stored != []


def test_run_on_a_file_system_that_fills_ends_and_is_completed_when_there_is_room(sandbox: Sandbox) -> None:
    with mounted(sandbox.work / "runs", "size=12k") as disk:
        done = sandbox.run("run", *GRID, "--output", "runs/run.jsonl")
        assert done.returncode == 4, done.stderr
        assert "cannot be stored: No space left on device; everything before it is intact" in done.stderr
        assert "Traceback" not in done.stderr
        before = read_run(disk / "run.jsonl")
        assert 0 < len(before.records) == len(told(done.stderr)) < TRIALS
        assert not sandbox.leftovers()
        subprocess.run(["/bin/mount", "-o", "remount,size=1m", str(disk)], check=True)  # noqa: S603 - our own words
        resumed = sandbox.run("run", "--resume", "runs/run.jsonl")
        assert resumed.returncode == 0, resumed.stderr
        after = read_run(disk / "run.jsonl")
        assert after.records[: len(before.records)] == before.records
        assert len(after.records) == TRIALS


@pytest.mark.parametrize("output", ["runs", "runs/run.jsonl", "runs/new/run.jsonl"])
def test_read_only_file_system_is_refused_before_anything_starts(sandbox: Sandbox, output: str) -> None:
    with mounted(sandbox.work / "runs", "ro"):
        done = sandbox.run("run", *GRID, "--output", output)
    assert done.returncode == 2, done.stderr
    assert "not a writable folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert not told(done.stderr)


def test_every_fsync_that_fails_is_told_and_what_was_stored_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.fsync
    for failing in range(5):  # header, folder, two trials, footer
        calls = 0

        def fsync(descriptor: int, failing: int = failing) -> None:
            nonlocal calls
            calls += 1
            if calls == failing + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            really(descriptor)

        path = tmp_path / f"{failing}.jsonl"
        written: list[object] = []

        def write(path: Path = path, written: list[object] = written) -> None:
            with RunWriter.create(path, make_header(plan=make_plan())) as writer:
                written.append("header")
                for repeat in range(2):
                    writer.append(make_record(repeat=repeat))
                    written.append(make_record(repeat=repeat))
                writer.finish(make_footer())

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            if failing == 1:  # of the folder: file systems without it are none the worse
                write()
            else:
                with pytest.raises(StorageError, match="Input/output error"):
                    write()
        assert path.exists() == bool(written)
        if written:
            assert list(read_run(path).records) == written[1:]
        assert not list(tmp_path.glob(".*"))


def test_folder_that_disappears_ends_the_run_at_the_next_trial(sandbox: Sandbox) -> None:
    with sandbox.start("run", *GRID, "--output", "runs/run.jsonl") as process:
        until_told(process, 1)
        shutil.rmtree(sandbox.work / "runs")
        _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 4
    assert "was removed, moved or replaced while it was being written" in errors
    assert "Traceback" not in errors
    assert len(told(errors)) < TRIALS - 1
    assert not sandbox.survivors()
    assert not sandbox.leftovers()


def test_file_that_is_moved_away_is_left_as_it_was(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "run.jsonl", tmp_path / "elsewhere.jsonl"
    with RunWriter.create(path, make_header(plan=make_plan())) as writer:
        writer.append(make_record())
        path.rename(elsewhere)
        with pytest.raises(StorageError, match="was removed, moved or replaced"):
            writer.append(make_record(repeat=1))
        elsewhere.rename(path)
        writer.append(make_record(repeat=1))
    assert list(read_run(path).records) == [make_record(), make_record(repeat=1)]


@pytest.mark.parametrize("output", ["/proc/nowhere/run.jsonl", "/dev/full/run.jsonl", "/dev/null", "/proc/self/runs"])
def test_place_that_takes_no_files_is_refused_before_anything_starts(sandbox: Sandbox, output: str) -> None:
    done = sandbox.run("run", *GRID, "--output", output)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not told(done.stderr)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() == 0, reason="root may write to read-only folders")
def test_read_only_folder_is_refused_before_anything_starts(sandbox: Sandbox) -> None:
    (sandbox.work / "runs").mkdir(mode=0o500)
    done = sandbox.run("run", *GRID, "--output", "runs")
    assert done.returncode == 2
    assert "not a writable folder" in done.stderr


def test_folder_in_the_tables_place_is_refused_before_the_run_goes_on(sandbox: Sandbox) -> None:
    sandbox.run("run", *GRID, "--output", "runs/run.jsonl", "--budget", "0.1s")
    table = sandbox.work / "runs" / "run.csv"
    table.mkdir()
    done = sandbox.run("run", "--resume", "runs/run.jsonl")
    assert done.returncode == 2
    assert "run.csv, where this run's table would be written, exists already" in done.stderr
    table.rmdir()
    assert sandbox.run("run", "--resume", "runs/run.jsonl").returncode == 0
    run = read_run(sandbox.work / "runs" / "run.jsonl")
    assert run.footer is not None
    assert run.footer.complete
    assert not sandbox.leftovers()


def test_no_place_for_temporary_files_is_an_error_with_a_remedy(sandbox: Sandbox) -> None:
    """Every folder that could be it is too full to take even a test of it."""
    shutil.rmtree(sandbox.temporary)
    done = run_with_files_up_to(sandbox, 0)
    assert done.returncode == 2, done.stderr
    assert "there is no folder for temporary files" in done.stderr
    assert "TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_cannot_be_written_loses_no_trial(sandbox: Sandbox, stream: str) -> None:
    descriptor = {"stdout": 1, "stderr": 2}[stream]
    full = (*SHELL, f'exec "$@" {descriptor}> /dev/full', "sh")
    done = sandbox.run("run", *GRID, "--output", "runs/run.jsonl", before=full)
    run = read_run(sandbox.work / "runs" / "run.jsonl")
    assert len(run.records) == TRIALS
    assert "Traceback" not in done.stderr
    if stream == "stdout":
        assert done.returncode == 4  # not 1, which would be a regression
        assert "the output cannot be written: No space left on device" in done.stderr
        assert "the run is stored in runs/run.jsonl" in done.stderr
    else:
        assert done.returncode == 0
