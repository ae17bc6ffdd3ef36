import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from bench.errors import BadInputError
from bench.system import locks
from bench.system.locks import FileLock, HeldError, Patience, device_locks, require_free

if TYPE_CHECKING:
    from collections.abc import Callable

HOLD = """
import sys
from pathlib import Path
from bench.system.locks import device_locks
with device_locks(["cpu"], Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold_in_another_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(  # noqa: S603 - this interpreter, and our own code
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_learns_who_holds_the_device_and_gets_it_afterwards(tmp_path: Path) -> None:
    with hold_in_another_process(tmp_path / "locks") as process:
        message = rf"device cpu is in use by process {process.pid} since 20\d\d-.*Z; .*wait until it ends"
        with pytest.raises(BadInputError, match=f"{message} \\(--wait 1h\\), or stop it$"):
            device_locks(["cpu"], tmp_path / "locks").__enter__()
        process.communicate(timeout=60)
    with device_locks(["cpu"], tmp_path / "locks"):
        pass


def test_a_killed_holder_leaves_nothing_locked(tmp_path: Path) -> None:
    with hold_in_another_process(tmp_path / "locks") as process:
        process.kill()
    with device_locks(["cpu"], tmp_path / "locks"):
        pass
    assert list((tmp_path / "locks").iterdir()) == []


def open_files() -> int:
    """How many files this process has open, whose number is limited."""
    return psutil.Process().num_fds()


def test_different_devices_do_not_exclude_each_other(tmp_path: Path) -> None:
    with device_locks(["cpu"], tmp_path), device_locks(["cuda"], tmp_path), device_locks(["cuda:1"], tmp_path):
        pass


def test_a_device_without_index_is_the_one_with_index_zero(tmp_path: Path) -> None:
    with device_locks(["cuda"], tmp_path), pytest.raises(BadInputError, match="device cuda is in use"):
        device_locks(["cuda:0"], tmp_path).__enter__()


@pytest.mark.parametrize(
    ("visible", "device", "physical"),
    [
        ("1", "cuda", "1"),
        ("3, 2", "cuda:1", "2"),
        ("GPU-5a1b,GPU-77", "cuda:1", "GPU-77"),
        ("1", "cpu", "0"),
        ("", "cuda:1", "1"),
        ("1", "cuda:4", "4"),  # there is none: the device itself will be refused
        ("../x,1", "cuda", "0"),
    ],
)
def test_a_device_is_locked_as_the_one_that_it_is_where_all_are_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, device: str, physical: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with device_locks([device], tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [f"device-{device.partition(':')[0]}-{physical}.lock"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,1")  # which CUDA takes for one
    with device_locks(["cuda:0", "cuda:1"], tmp_path):
        pass


def test_one_device_under_two_numbers_excludes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with device_locks(["cuda:1"], tmp_path):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
        with device_locks(["cuda:1"], tmp_path):
            pass
        with pytest.raises(HeldError, match="device cuda is in use"):
            device_locks(["cuda:0"], tmp_path).__enter__()


@pytest.mark.parametrize("named", ["GPU-5a1b-77", "GPU-5a1b"])
def test_a_device_named_by_its_uuid_and_by_its_number_excludes_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    def by_uuid() -> contextlib.AbstractContextManager[None]:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        return device_locks(["cuda"], tmp_path, uuids={"cuda:0": "5a1b-77"})

    def by_number() -> contextlib.AbstractContextManager[None]:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        return device_locks(["cpu", "cuda:1"], tmp_path, uuids={"cuda:0": "5a1b-66", "cuda:1": "5a1b-77"})

    with by_uuid(), pytest.raises(HeldError, match="device cuda:1 is in use"):
        by_number().__enter__()
    with by_uuid():
        pass
    with by_number(), pytest.raises(HeldError, match="device cuda is in use"):
        by_uuid().__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_uuid_that_is_no_file_name_is_left_out(tmp_path: Path) -> None:
    with device_locks(["cuda"], tmp_path, uuids={"cuda:0": "../x"}):
        assert [path.name for path in tmp_path.iterdir()] == ["device-cuda-0.lock"]


def test_locks_of_several_devices_are_all_taken_or_none(tmp_path: Path) -> None:
    with (
        device_locks(["cuda:1"], tmp_path),
        pytest.raises(BadInputError, match="device cuda:1 is in use"),
        device_locks(["cuda:1", "cpu"], tmp_path),
    ):
        pass
    with device_locks(["cuda:1", "cpu", "cuda:0", "cuda"], tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {
            "device-cpu-0.lock",
            "device-cuda-0.lock",
            "device-cuda-1.lock",
        }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["", "CPU", "cuda:", "cuda:-1", "../x", "cuda:1:2", "cuda:99999", "cpu\n"])
def test_an_invalid_device_name_is_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(BadInputError, match="is not a device name"), device_locks([device], tmp_path):
        pass


def test_the_default_folder_is_the_users_own_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with device_locks(["cpu"]):
        (folder,) = tmp_path.iterdir()
        assert folder.name == f"mnist-mlp-bench-{os.geteuid()}"
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInputError, match="is not a folder"), device_locks(["cpu"], tmp_path / "locks"):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    for mode in (0o777, 0o720, 0o702):
        (tmp_path / "locks").chmod(mode)
        with pytest.raises(BadInputError, match=rf"mode {mode:o}.*belongs to you"):
            device_locks(["cpu"], tmp_path / "locks").__enter__()


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(BadInputError, match="belongs to user"), device_locks(["cpu"], tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"cannot be created: No such file.*TMPDIR"):
        device_locks(["cpu"], tmp_path / "missing" / "locks").__enter__()


def test_no_folder_for_temporary_files_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    with pytest.raises(BadInputError, match=r"No usable temporary directory found; make room, or set TMPDIR"):
        device_locks(["cpu"]).__enter__()


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "device-cpu-0.lock").symlink_to(tmp_path / "target")
    with pytest.raises(BadInputError, match="cannot be opened"):
        device_locks(["cpu"], tmp_path).__enter__()
    assert (tmp_path / "target").read_text() == "precious"


def test_a_file_system_without_locks_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_descriptor: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks, "_lock", no_locks)
    opened = open_files()
    with pytest.raises(
        BadInputError, match=r"not implemented; use a writable folder on a file system that supports locks"
    ):
        device_locks(["cpu"], tmp_path).__enter__()
    assert open_files() == opened


def test_a_lock_file_removed_between_opening_and_locking_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.lock"
    lock = locks._lock  # noqa: SLF001 - the moment between the two system calls is nowhere else
    calls = []

    def lock_after_removal(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        lock(descriptor)

    monkeypatch.setattr(locks, "_lock", lock_after_removal)
    opened = open_files()
    held = FileLock.acquire(path, "x", "wait")
    assert len(calls) == 2
    with pytest.raises(BadInputError, match="x is in use"):
        FileLock.acquire(path, "x", "wait")
    assert open_files() == opened + 1
    held.release()
    assert open_files() == opened


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid":"x","since":"y"}', b'{"pid":3}', b"\xff"])
def test_a_holder_that_has_not_said_who_it_is_is_another_process(tmp_path: Path, content: bytes) -> None:
    held = FileLock.acquire(tmp_path / "x.lock", "x", "wait")
    (tmp_path / "x.lock").write_bytes(content)
    with pytest.raises(BadInputError, match="x is in use by another process; wait"):
        FileLock.acquire(tmp_path / "x.lock", "x", "wait")
    held.release()


def test_a_holder_whose_file_cannot_be_read_is_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = FileLock.acquire(tmp_path / "x.lock", "x", "wait")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(HeldError, match="x is in use by another process; wait"):
        FileLock.acquire(tmp_path / "x.lock", "x", "wait")
    held.release()


def test_what_a_killed_holder_wrote_is_not_part_of_who_holds_the_lock_now(tmp_path: Path) -> None:
    (tmp_path / "x.lock").write_text('{"pid":4194304,"since":"2026-01-01T00:00:00Z"} and more')
    held = FileLock.acquire(tmp_path / "x.lock", "x", "wait")
    with pytest.raises(HeldError, match=f"x is in use by process {os.getpid()} since"):
        FileLock.acquire(tmp_path / "x.lock", "x", "wait")
    held.release()


def test_a_full_disk_does_not_keep_a_device_from_being_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        held = FileLock.acquire(tmp_path / "x.lock", "x", "wait")
    with pytest.raises(HeldError, match=r"x is in use by another process; wait$"):
        FileLock.acquire(tmp_path / "x.lock", "x", "wait")
    held.release()


def test_a_lock_file_is_removed_on_windows_which_removes_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, close, closed = Path.unlink, os.close, list[int]()

    def close_noted(descriptor: int) -> None:
        close(descriptor)
        closed.append(descriptor)

    def unlink_closed(path: Path) -> None:
        if not closed:
            raise PermissionError(errno.EACCES, "the file is open")
        unlink(path)

    lock = FileLock.acquire(tmp_path / "x.lock", "x", "wait")
    monkeypatch.setattr(os, "close", close_noted)
    monkeypatch.setattr(Path, "unlink", unlink_closed)
    with monkeypatch.context() as windows:
        windows.setattr(sys, "platform", "win32")
        lock.release()
    assert not (tmp_path / "x.lock").exists()


def test_a_lock_may_be_released_twice_and_its_file_may_be_gone(tmp_path: Path) -> None:
    held = FileLock.acquire(tmp_path / "x.lock", "x", "wait")
    held.path.unlink()
    held.release()
    FileLock.acquire(tmp_path / "x.lock", "x", "wait").release()
    held.release()
    assert list(tmp_path.iterdir()) == []


class FakeTime:
    """A clock that only sleeping moves; `at` says what happens at which second."""

    def __init__(self) -> None:
        self.seconds = self.start = 500.0
        self.told: list[str] = []
        self.at: dict[int, Callable[[], None]] = {}

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.at.pop(int(self.passed), lambda: None)()

    @property
    def passed(self) -> float:
        return self.seconds - self.start

    def patience(self, seconds: float) -> Patience:
        return Patience(seconds=seconds, notify=self.told.append, clock=lambda: self.seconds, sleep=self.sleep)


def test_a_held_device_is_waited_for_and_taken_as_soon_as_it_is_free(tmp_path: Path) -> None:
    time = FakeTime()
    held = FileLock.acquire(tmp_path / "device-cpu-0.lock", "device cpu", "wait")
    time.at[130] = held.release
    with device_locks(["cpu"], tmp_path, patience=time.patience(3600)), pytest.raises(HeldError):
        FileLock.acquire(tmp_path / "device-cpu-0.lock", "device cpu", "wait")
    assert time.passed == 130
    # Once at the beginning, then once a minute, then that it goes on.
    assert len(time.told) == 4
    assert f"device cpu is in use by process {os.getpid()} since" in time.told[0]
    assert "waiting for up to 3600 s" in time.told[0]
    assert "up to 3480 s" in time.told[2]
    assert time.told[3] == "device cpu is free: continuing"


def test_waiting_ends_with_the_same_error_as_not_waiting(tmp_path: Path) -> None:
    time = FakeTime()
    with (
        device_locks(["cuda:1"], tmp_path),
        pytest.raises(HeldError, match=r"device cuda:1 is in use by process .*--wait 1h.*; waited 2.5 s"),
        device_locks(["cpu", "cuda:1"], tmp_path, patience=time.patience(2.5)),
    ):
        pass
    assert time.passed == 2.5
    assert list(tmp_path.iterdir()) == []


def test_a_free_device_is_taken_without_waiting_or_notice(tmp_path: Path) -> None:
    time = FakeTime()
    with device_locks(["cpu"], tmp_path, patience=time.patience(10)):
        pass
    assert (time.passed, time.told) == (0, [])


def test_an_interruption_while_waiting_leaves_no_lock_of_ours(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    time = FakeTime()
    time.at[3] = interrupt
    with (
        device_locks(["cuda"], tmp_path),
        pytest.raises(KeyboardInterrupt),
        device_locks(["cpu", "cuda"], tmp_path, patience=time.patience(60)),
    ):
        pass
    with device_locks(["cpu", "cuda"], tmp_path):
        pass


def test_of_all_devices_the_cpu_must_be_free_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    require_free(["auto"], Patience())
    with device_locks(["cpu"]), pytest.raises(HeldError, match="device cpu is in use"):
        require_free(["auto", "cuda"], Patience())
    with device_locks(["cpu"]):
        require_free(["cuda", "CPU", "../x"], Patience())


def test_a_device_that_must_be_free_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    time = FakeTime()
    with contextlib.ExitStack() as held:
        held.enter_context(device_locks(["cpu"]))
        time.at[7] = held.close
        require_free(["cpu"], time.patience(60))
    assert time.passed == 7


def test_several_devices_are_locked_in_one_order_however_they_are_named(tmp_path: Path) -> None:
    time = FakeTime()
    devices = [f"cuda:{number}" for number in range(8)]
    files: list[str] = []
    time.at[1] = lambda: files.extend(path.name for path in tmp_path.iterdir())
    with device_locks(["cuda:5"], tmp_path), pytest.raises(HeldError, match="cuda:5"):
        device_locks(reversed(devices), tmp_path, patience=time.patience(2)).__enter__()
    assert sorted(files) == [f"device-cuda-{number}.lock" for number in range(6)]
