import getpass
import re
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from bench.system.folders import ROOT
from bench.system.redaction import redact


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "Jane Doe" / "café"
    (folder / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("MNIST_MLP_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(folder / "work")
    return folder


def test_data_root_current_folder_and_home_become_placeholders(home: Path) -> None:
    root = home / "data sets"
    message = f"data root {str(root)!r} has no {root}/MNIST/raw: see {home}/notes and {home}/work/plan"
    assert (
        redact(message, root) == "data root '<data root>' has no <data root>/MNIST/raw: see ~/notes and <folder>/plan"
    )


def test_a_relative_data_root_is_found_by_its_absolute_path(home: Path) -> None:
    assert redact(f"{home}/work/sets/MNIST is damaged", Path("sets")) == "<data root>/MNIST is damaged"


def test_the_data_root_of_the_environment_counts_where_none_is_given(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_MLP_DATA", str(home / "sets"))
    assert redact(f"no file {home}/sets/MNIST") == "no file <data root>/MNIST"


@pytest.mark.parametrize(("name", "placeholder"), [("XDG_CACHE_HOME", "<cache>"), ("HOME", "~"), ("USERPROFILE", "~")])
def test_folders_named_by_the_environment_have_placeholders(
    home: Path, name: str, placeholder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it is written there, as Python writes it, as the system does, and with all slashes forward.
    folder = f"{home}/a\\b//c"
    monkeypatch.setenv(name, folder)
    message = f"{folder}/x, {folder!r}, {home}/a\\b/c/x and {home}/a/b/c/x"
    assert redact(message) == f"{placeholder}/x, '{placeholder}', {placeholder}/x and {placeholder}/x"


@pytest.mark.usefixtures("home")
def test_the_harness_and_python_have_placeholders() -> None:
    message = redact(f"{ROOT}/bench/cli.py and {sys.prefix}/lib/x.py")
    assert message == "<bench>/bench/cli.py and <python>/lib/x.py"


def test_a_folder_is_found_by_the_path_to_it_and_by_the_one_that_links_lead_to(home: Path) -> None:
    (home / "there").mkdir()
    (home / "work" / "link").symlink_to(home / "there")
    message = f"{home}/work/link/a is {home}/there/a"
    assert redact(message, Path("link")) == "<data root>/a is <data root>/a"


def test_a_home_that_is_the_root_is_no_folder_of_anybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert redact("7 / 2 of x") == "7 / 2 of x"


def test_a_folder_whose_name_only_begins_alike_is_another_one(home: Path) -> None:
    assert "<data root>" not in redact(f"{home}-old is full", home)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("File '/opt/jane/lib/x.py', line 3", "File '…/x.py', line 3"),
        ("cannot open /srv/jane/sets/a.bin: denied", "cannot open …/a.bin: denied"),
        (r"cannot open C:\Users\jane\a.bin", "cannot open …/a.bin"),
        ("cannot open file:///home/jane/a/b", "cannot open file://…/b"),
        ("cannot open file://server/jane/b", "cannot open file://…/b"),
        ("cannot open file:///C:/Users/jane/b", "cannot open file://…/b"),
        (r"cannot open \\server\share\jane\x: denied", "cannot open …/x: denied"),
        (repr(r"\\server\share\jane\x"), "'…/x'"),
        ("cannot open //server/share/x, nor //home/jane/x", "cannot open …/x, nor …/x"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("7 // 2, C:// and file:///x", "7 // 2, C:// and file:///x"),
        ("1/2 of 3 GiB/s, and/or more; 0.5 s/epoch", "1/2 of 3 GiB/s, and/or more; 0.5 s/epoch"),
        ("RuntimeError: shapes (3, 4) and (5, 6)", "RuntimeError: shapes (3, 4) and (5, 6)"),
    ],
)
def test_other_paths_keep_their_last_name_and_other_text_is_unchanged(message: str, expected: str) -> None:
    assert redact(message) == expected


def test_names_of_user_and_host_are_replaced_as_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "jdoe")
    monkeypatch.setattr(socket, "gethostname", lambda: "darkstar.example.org")
    message = redact("jdoe on darkstar.example.org, called darkstar, but not jdoes nor darkstars")
    assert message == "<user> on <host>, called <host>, but not jdoes nor darkstars"


@pytest.mark.parametrize("name", ["root", "user", "localhost", "Data", "x", ""])
def test_names_that_tell_nothing_are_words_like_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: name)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert redact("the root of user x at localhost, Data") == "the root of user x at localhost, Data"


@pytest.mark.parametrize("error", [OSError, KeyError, ImportError])
def test_no_current_folder_no_temporary_one_and_no_name_of_the_user_are_no_obstacle(
    home: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> str:
        raise error("no such user")

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    (home / "work").rmdir()
    assert re.fullmatch(r"~/x", redact(f"{home}/x"))
