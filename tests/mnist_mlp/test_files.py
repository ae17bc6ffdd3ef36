"""Output files are checked beforehand and written whole."""

import os
from pathlib import Path

import pytest

from mnist_mlp.files import OutputError, check_writable_file, check_writable_folder, write_file


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
