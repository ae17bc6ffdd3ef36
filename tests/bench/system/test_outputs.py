import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import pytest
from bench_builders import make_header
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BadInputError, StorageError
from bench.storage.references import run_path
from bench.system.outputs import (
    STEP_SUMMARY,
    append_step_summary,
    is_empty,
    remove_abandoned,
    require_writable,
    require_writable_folder,
    require_writable_json,
    say,
    windows_problem,
    write_atomically,
)


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run[1].csv"
    write_atomically(path, "whole")
    for name in (".run[1].csv.0a1b2c3d.tmp", ".run1.csv.0a1b2c3d.tmp", ".run[1].csv.lock", "run[1].csv.tmp"):
        (tmp_path / name).touch()
    remove_abandoned(path)
    left = {each.name for each in tmp_path.iterdir()}
    assert left == {"run[1].csv", ".run1.csv.0a1b2c3d.tmp", ".run[1].csv.lock", "run[1].csv.tmp"}


def test_a_name_too_long_for_the_temporary_file_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    require_writable(tmp_path / ("n" * 241))
    with pytest.raises(BadInputError, match="File name too long; choose a shorter name"):
        require_writable(tmp_path / ("n" * 242))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_or_a_device_is_refused_instead_of_being_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(BadInputError, match="it is not an ordinary file; name another"):
            require_writable(tmp_path / name)


def test_a_file_in_a_folder_that_is_missing_or_read_only_is_refused_and_so_is_a_link_to_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, link = tmp_path / "there", tmp_path / "link.json"
    with pytest.raises(BadInputError, match=r"there is not a writable folder; name another file$"):
        require_writable(there / "real.json")
    there.mkdir()
    (there / "real.json").touch()
    link.symlink_to(there / "real.json")
    monkeypatch.setattr(os, "access", lambda folder, _mode: folder != there)
    for path in (there / "new.json", link):
        with pytest.raises(BadInputError, match=r"there is not a writable folder; name another file$"):
            require_writable(path)
    require_writable(tmp_path / "new.json")


def test_a_symbolic_link_is_followed_instead_of_being_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    require_writable(link)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    (tmp_path / "there" / ".real.json.0a1b2c3d.tmp").touch()
    remove_abandoned(link)
    assert [each.name for each in (tmp_path / "there").iterdir()] == ["real.json"]


def test_a_file_that_cannot_be_written_to_its_end_leaves_the_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    def pieces() -> Iterator[str]:
        yield "new"
        raise OSError(28, "No space left on device")

    (tmp_path / "run.csv").write_text("old")
    with pytest.raises(StorageError, match="No space left on device; an earlier file there is unchanged"):
        write_atomically(tmp_path / "run.csv", pieces())
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("run.csv", "old")]


@pytest.mark.parametrize(
    ("platform", "remedy"), [("win32", "close the program that has it open"), ("linux", "make room")]
)
def test_a_file_that_cannot_be_replaced_is_probably_open_elsewhere_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, remedy: str
) -> None:
    def refuse(_self: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match=f"Access is denied; .* unchanged: {remedy}, or choose another place"):
        write_atomically(tmp_path / "run.csv", "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_only_an_ordinary_file_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "full").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    found = {name: is_empty(tmp_path / name) for name in ("empty", "link", "full", "pipe", "missing")}
    assert [name for name, empty in found.items() if empty] == ["empty"]


def test_a_json_file_must_be_writable_and_no_stored_run(tmp_path: Path) -> None:
    require_writable_json(None)
    require_writable_json(tmp_path / "a.json")
    with pytest.raises(BadInputError, match="named like a stored run"):
        require_writable_json(tmp_path / "a.jsonl")
    with pytest.raises(BadInputError, match="it is a folder"):
        require_writable_json(tmp_path)


def test_a_folder_is_made_with_its_parents_and_refused_where_no_file_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        require_writable_folder(tmp_path / "new" / "plots")
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="is not a writable folder: it is a file; name another one"):
        require_writable_folder(tmp_path / "file")

    def read_only(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(BadInputError, match="is not a writable folder: Read-only file system"):
        require_writable_folder(tmp_path)


class Full(io.StringIO):
    """A stream that nothing can be written to; it notes how often it was tried."""

    tried = 0

    def write(self, _text: str) -> int:
        self.tried += 1
        raise OSError(28, "No space left on device")


def test_messages_that_cannot_be_written_are_given_up_for_their_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, log, broken = io.StringIO(), Full(), Full()
    monkeypatch.setattr(sys, "stderr", errors)
    say("lost", stream=log)
    say("kept")
    assert errors.getvalue() == "kept\n"
    monkeypatch.setattr(sys, "stderr", broken)
    say("lost", stream=sys.stderr)
    say("lost")
    sys.stderr.close()  # which leads nowhere now
    assert broken.tried == 1


def test_a_summary_is_appended_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STEP_SUMMARY, "")
    assert append_step_summary("nothing") is None
    monkeypatch.setenv(STEP_SUMMARY, str(tmp_path / "summary.md"))
    for markdown in ("one", "two"):
        assert append_step_summary(markdown) is None
    assert (tmp_path / "summary.md").read_text() == "one\n\ntwo\n\n"


def test_a_missing_folder_holds_nothing_to_remove(tmp_path: Path) -> None:
    remove_abandoned(tmp_path / "missing" / "run.csv")


@pytest.mark.parametrize(
    "path",
    [
        *("NUL", "nul.json", r"C:\runs\Con.jsonl", "COM1.csv", "lpt².txt", "aux .json", "CONIN$"),
        *("run:1.jsonl", "a?.json", "a*b.json", 'say "hi".json", "a<b.json', "a\tb.json"),
        *("run.", "run.json ", "runs. /run.json", "x/.../run.json"),
    ],
)
def test_a_name_that_windows_takes_for_another_is_refused_there(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert windows_problem(PureWindowsPath(path)) is not None
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(BadInputError, match=r"on Windows|Windows removes"):
        require_writable(Path(path))


@pytest.mark.parametrize(
    "path", [r"C:\runs\run.jsonl", "../run 1.jsonl", "./conrad.json", "com10.csv", ".run.csv.lock", "nul-1.json", "C:x"]
)
def test_an_ordinary_name_is_one_on_windows_too(path: str) -> None:
    assert windows_problem(PureWindowsPath(path)) is None


@given(st.from_regex(r"\w[\w.+-]{0,47}", fullmatch=True) | st.sampled_from(["CON", "nul.", "a..", "com1.x"]))
def test_every_name_that_a_run_may_have_makes_a_file_name_that_windows_takes_as_it_is(name: str) -> None:
    path = run_path(Path("results"), make_header(name=name))
    for each in (path, path.with_suffix(".csv"), path.with_name(f".{path.name}.lock")):
        assert windows_problem(PureWindowsPath(each)) is None
    assert len(path.name) < 128
