"""Two commands at once: who comes second is told, may wait, and disturbs neither the first nor what is stored."""

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_campaign import GRID, TRIALS
from sandbox import HANG_SECONDS, Sandbox, until_told

from bench.storage.store import read_run

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals and processes of POSIX"),
]

LONG = (*GRID, "--epochs", "20")
"""Some seconds of trials, so that a second command finds the first still running."""


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.fixture
def first(sandbox: Sandbox) -> Iterator[subprocess.Popen[str]]:
    """A run that has stored its first trial and goes on."""
    with sandbox.start("run", *LONG, "--output", "first.jsonl") as process:
        until_told(process, 1)
        yield process
        process.kill()


def ends_well(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, errors
    return errors


def test_second_run_is_told_who_holds_the_device_and_how_to_wait(
    sandbox: Sandbox, first: subprocess.Popen[str]
) -> None:
    second = sandbox.run("run", *GRID, "--output", "second.jsonl")
    assert second.returncode == 2
    assert f"device cpu is in use by process {first.pid} since" in second.stderr
    assert "--wait 1h" in second.stderr
    assert not (sandbox.work / "second.jsonl").exists()
    ends_well(first)
    assert len(read_run(sandbox.work / "first.jsonl").records) == TRIALS


@pytest.mark.parametrize("arguments", [("ab", ".", "."), ("calibrate",)])
def test_other_measuring_commands_are_told_so_before_they_start_anything(
    sandbox: Sandbox, first: subprocess.Popen[str], arguments: tuple[str, ...]
) -> None:
    second = sandbox.run(*arguments, "--wait", "1s")
    assert second.returncode == 2
    assert f"device cpu is in use by process {first.pid} since" in second.stderr
    assert "waited 1 s" in second.stderr


def test_second_run_that_waits_goes_on_when_the_first_has_ended(sandbox: Sandbox, first: subprocess.Popen[str]) -> None:
    second = sandbox.run("run", *GRID, "--output", "second.jsonl", "--wait", "10m")
    assert second.returncode == 0, second.stderr
    assert f"device cpu is in use by process {first.pid}" in second.stderr
    assert "waiting for up to 600 s" in second.stderr
    assert "device cpu is free: continuing" in second.stderr
    ends_well(first)
    for name in ("first.jsonl", "second.jsonl"):
        assert len(read_run(sandbox.work / name).records) == TRIALS
    assert not sandbox.leftovers()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_wait_and_leaves_nothing(
    sandbox: Sandbox, first: subprocess.Popen[str], number: signal.Signals
) -> None:
    with sandbox.start("run", *GRID, "--output", "second.jsonl", "--wait", "10m") as second:
        assert second.stderr is not None
        assert "waiting for up to" in second.stderr.readline()
        second.send_signal(number)
        _, errors = second.communicate(timeout=HANG_SECONDS)
    assert second.returncode == 130
    assert f"interrupted by {number.name}" in errors
    assert not (sandbox.work / "second.jsonl").exists()
    ends_well(first)
    assert not sandbox.leftovers()
    assert not sandbox.survivors()


def test_lock_of_a_killed_run_is_taken_over_at_once(sandbox: Sandbox, first: subprocess.Popen[str]) -> None:
    first.kill()
    first.wait()
    assert any(path.suffix == ".lock" for path in sandbox.leftovers())
    second = sandbox.run("run", "--resume", "first.jsonl")
    assert second.returncode == 0, second.stderr
    assert not sandbox.leftovers()


def test_two_that_resume_one_run_do_not_both_write(sandbox: Sandbox, first: subprocess.Popen[str]) -> None:
    elsewhere = sandbox.folder / "other"
    elsewhere.mkdir()  # for locks of devices: only the file's own is in the way
    second = sandbox.run("run", "--resume", "first.jsonl", TMPDIR=str(elsewhere))
    assert second.returncode == 2
    assert f"first.jsonl is in use by process {first.pid}" in second.stderr
    assert "a stored run can have only one writer" in second.stderr
    ends_well(first)
    run = read_run(sandbox.work / "first.jsonl")
    assert len({record.trial for record in run.records}) == len(run.records) == TRIALS


def test_reader_sees_whole_trials_only_while_a_run_writes(sandbox: Sandbox, first: subprocess.Popen[str]) -> None:
    seen = []
    while first.poll() is None:
        run = read_run(sandbox.work / "first.jsonl")
        assert not [each for each in run.warnings if "cut off" not in each]
        seen.append(len(run.records))
    shown = sandbox.run("show", "first.jsonl")
    assert shown.returncode == 0, shown.stderr
    assert seen == sorted(seen)
    assert set(seen) >= {1, TRIALS - 1}
    assert all(later - earlier in {0, 1} for earlier, later in itertools.pairwise(seen))


STORE = """
import sys
from pathlib import Path
from mnist_mlp.files import store_files
for _ in range(100):
    store_files({name: bytes([ord(name)]) * 1_000_000 for name in "ab"}, Path(sys.argv[1]))
"""


def test_two_that_prepare_one_dataset_never_show_half_a_file(sandbox: Sandbox) -> None:
    folder = sandbox.work / "raw"
    command = [sys.executable, "-c", STORE, str(folder)]
    writers = [subprocess.Popen(command, env=sandbox.environment()) for _ in range(2)]  # noqa: S603 - our own words
    while any(writer.poll() is None for writer in writers):
        for name in "ab":
            path = folder / name
            if path.exists():
                assert path.read_bytes() == bytes([ord(name)]) * 1_000_000
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
