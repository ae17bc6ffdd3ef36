import os
from pathlib import Path

import pytest

from mnist_mlp.data import default_root
from mnist_mlp.data.storage import ABANDONED_SECONDS, store_files
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.paths import expanded

HOME = {"HOME": "/home/me"}


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", HOME, "/home/me/.cache/mnist-mlp"),
        ("linux", HOME | {"XDG_CACHE_HOME": "/cache"}, "/cache/mnist-mlp"),
        ("linux", {"XDG_CACHE_HOME": "/cache"}, "/cache/mnist-mlp"),
        ("linux", HOME | {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/mnist-mlp"),
        ("linux", HOME | {"XDG_CACHE_HOME": ""}, "/home/me/.cache/mnist-mlp"),
        ("darwin", HOME | {"XDG_CACHE_HOME": "/cache"}, "/home/me/Library/Caches/mnist-mlp"),
        ("win32", HOME | {"LOCALAPPDATA": "C:/Users/me/AppData/Local"}, "C:/Users/me/AppData/Local/mnist-mlp"),
        ("linux", HOME | {"MNIST_MLP_DATA": "here"}, "here"),
        ("win32", {"MNIST_MLP_DATA": "here"}, "here"),
        ("linux", HOME | {"MNIST_MLP_DATA": ""}, "/home/me/.cache/mnist-mlp"),
    ],
)
def test_default_root_follows_the_variables_of_the_platform(
    platform: str, environ: dict[str, str], expected: str
) -> None:
    assert default_root(environ, platform) == Path(expected)


@pytest.mark.parametrize(
    ("platform", "environ", "variable"),
    [("linux", {}, "HOME"), ("linux", {"HOME": ""}, "HOME"), ("darwin", {}, "HOME"), ("win32", HOME, "LOCALAPPDATA")],
)
def test_missing_home_is_an_error_with_remedies(platform: str, environ: dict[str, str], variable: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"^{variable} is not set.*--data-root or MNIST_MLP_DATA"):
        default_root(environ, platform)


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


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/a") == default_root({"MNIST_MLP_DATA": "~/a"}) == Path("/home/me/a")
    assert expanded(Path("b/~")) == Path("b/~")
    assert expanded("~old.png") == Path("~old.png")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does without a home
    with pytest.raises(InvalidValueError, match="there is no home folder for ~: write the whole path"):
        expanded("~/a")
