import os
import sys
from pathlib import Path, PureWindowsPath

import pytest
from bench_builders import make_header
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BadInputError
from bench.storage.references import run_path
from bench.system.outputs import remove_abandoned, require_writable, windows_problem, write_atomically


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
