"""Output files are checked beforehand and written whole."""

import errno
import os
from pathlib import Path

import pytest

from mnist_mlp.files import (
    ABANDONED_SECONDS,
    OutputError,
    check_writable_file,
    check_writable_folder,
    store_files,
    write_file,
)


def test_missing_folders_are_made_and_the_check_leaves_nothing_in_them(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "model.pth"
    check_writable_file(path)
    assert list((tmp_path / "a" / "b").iterdir()) == []
    write_file(path, b"content")
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def test_folder_device_and_read_only_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked.csv"
    locked.touch()
    check_writable_file(locked)
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(OutputError, match="is a folder or a device"):
            check_writable_file(path)
    # As for every user except the superuser, who may run the tests.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="read-only"):
        check_writable_file(locked)


def test_file_in_place_of_a_folder_is_refused_as_such(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    refusal = "cannot be a folder, because it is a file or lies in one: name another path"
    for folder in (file, file / "plots", file / "plots" / "more"):
        with pytest.raises(OutputError, match=refusal):
            check_writable_folder(folder)
    for path in (file / "model.pth", file / "models" / "model.pth"):
        with pytest.raises(OutputError, match=refusal):
            check_writable_file(path)


@pytest.mark.parametrize("length", [300, 245])
def test_name_that_is_too_long_once_it_is_written_is_refused_beforehand(tmp_path: Path, length: int) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        check_writable_file(tmp_path / ("n" * length))


def test_file_that_cannot_even_be_looked_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # As it is in another user's folder for all but the superuser.
    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)  # from Python 3.14 a file that cannot be looked for is not there
    with pytest.raises(OutputError, match="Permission denied"):
        check_writable_file(tmp_path / "model.pth")


def test_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    target, link = tmp_path / "kept" / "model.pth", tmp_path / "latest.pth"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_files_are_stored_in_a_folder_that_is_made_for_them(tmp_path: Path) -> None:
    store_files({"a": b"1", "b": b""}, tmp_path / "x" / "y")
    assert {path.name: path.read_bytes() for path in (tmp_path / "x" / "y").iterdir()} == {"a": b"1", "b": b""}


def test_stored_file_replaces_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"older and longer")
    store_files({"a": b"new"}, tmp_path)
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with (tmp_path / "a").open("rb") as reader:
        store_files({"a": b"new"}, tmp_path)
        assert reader.read() == b"old"


def test_failed_write_leaves_nothing_temporary_behind(tmp_path: Path) -> None:
    (tmp_path / "a" / "occupied").mkdir(parents=True)
    with pytest.raises(OSError, match="a"):
        store_files({"a": b"new"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_that_is_open_on_windows_needs_no_replacement_by_the_same_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "Access is denied")

    (tmp_path / "a").write_bytes(b"content")
    monkeypatch.setattr(Path, "replace", refuse)
    store_files({"a": b"content"}, tmp_path)
    for name in ("a", "b"):
        with pytest.raises(PermissionError):
            store_files({name: b"other content"}, tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"content")]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_stored_files_are_readable_by_whomever_the_umask_allows(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    store_files({"a": b"new"}, tmp_path)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_half_written_files_are_removed_after_a_day(tmp_path: Path) -> None:
    old, young, other = (tmp_path / f".{name}.tmp" for name in ("a.7-00000000", "a.8-00000000", "b.7-00000000"))
    for path in (old, young, other):
        path.touch()
    long_ago = young.stat().st_mtime - ABANDONED_SECONDS - 60
    for path in (old, other):
        os.utime(path, (long_ago, long_ago))
    store_files({"a": b"whole"}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a", young.name, other.name}
