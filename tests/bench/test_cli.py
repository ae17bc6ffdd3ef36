"""What all commands have in common: arguments and outputs that are of no use, and errors of their own."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import click
import pytest
from bench_builders import make_run
from command_line_runs import bench, python_path, refused
from stored_runs import store

from bench.cli import cli
from bench.commands.options import DATA_ROOT
from bench.errors import ExitCode
from mnist_mlp.paths import NamedPath

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.usefixtures("worker")
def test_devices_are_listed_with_reasons() -> None:
    result = bench("devices")
    assert result.exit_code == 0
    assert "no driver" in result.stdout
    assert json.loads(bench("devices", "--format", "json").stdout)[0]["device"] == "cpu"


LONG = "x" * 300
"""Longer than any file system's names."""


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--dry-run", "--output", f"{LONG}.jsonl"),
        ("show", "--results", LONG),
        ("merge", "latest", "--output", f"{LONG}.jsonl"),
        ("report", "latest", "--output", f"{LONG}.html"),
        ("check", "latest", "latest", "--json", LONG),
    ],
)
def test_a_name_that_no_file_can_have_is_bad_input(arguments: tuple[str, ...]) -> None:
    refused(bench(*arguments), "File name too long")


def test_a_name_that_no_folder_can_have_is_bad_input() -> None:
    refused(bench("list", "--results", LONG), LONG)  # from Python 3.14 such a folder is one that is not there


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("show", "nope"), 2), (("show", "--nope"), 2), (("list", "--results", "."), 0)],
)
def test_what_cannot_be_said_on_standard_error_changes_no_exit_code(arguments: tuple[str, ...], code: int) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - no file
        command = [sys.executable, "-m", "bench", *arguments]
        done = subprocess.run(command, stderr=full, check=False, env=python_path())  # noqa: S603 - our own words
    assert done.returncode == code


@pytest.fixture(params=["full", "unread"])
def useless(request: pytest.FixtureRequest) -> Iterator[TextIO]:
    """A place to write to that takes nothing."""
    if request.param == "full":
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full here")
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    stream = os.fdopen(descriptor, "w", closefd=False)
    yield stream
    os.close(descriptor)
    with contextlib.suppress(OSError):
        stream.close()


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("show", "--help"), ("show", "run.jsonl")])
def test_a_result_that_cannot_be_written_is_an_error_and_never_a_verdict(
    useless: TextIO, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    store(make_run(), tmp_path / "run.jsonl")
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "bench", *arguments],
        stdout=useless,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=python_path(),
    )
    assert done.returncode == 4
    assert re.fullmatch(
        r"bench: the output cannot be written: (No space left on device; .*|Broken pipe)\n", done.stderr
    )


@pytest.mark.usefixtures("worker")
def test_a_run_whose_table_cannot_be_written_says_where_it_is_stored(
    useless: TextIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", useless)
        with pytest.raises(SystemExit) as ended:
            cli(["run", "--output", "run.jsonl"], prog_name="bench")
        sys.stdout.close()  # what was put in place of it
    assert ended.value.code == 4
    assert capsys.readouterr().err.endswith("; the run is stored in run.jsonl\n")


def test_a_refusal_of_the_system_is_not_called_one_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("bench.storage.references.resolve", refuse)
    result = bench("show")
    assert result.exit_code == 4
    assert result.stderr == "bench: the operating system refused a request: Too many open files\n"


def test_a_bug_is_reported_as_one_and_never_as_a_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.storage.references.resolve", lambda *_: 1 // 0)
    result = bench("show")
    assert result.exit_code == ExitCode.DEFECT
    assert "ZeroDivisionError" in result.stderr
    assert "bug in bench, not a verdict" in result.stderr


def test_no_type_of_click_is_subscripted_because_older_versions_cannot() -> None:
    root = Path(__file__).resolve().parents[2]
    sources = [path for package in ("bench", "mnist_mlp") for path in (root / package).rglob("*.py")]
    assert [path for path in sources if re.search(r"\bclick\.(Choice|Path|ParamType)\[", path.read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        ("run", "--output", ""),
        ("run", "--data-root", ""),
        ("run", "--name", ""),
        ("run", "--preset", ""),
        ("run", "--dry-run", "--name="),
        ("plan", "--preset", ""),
        ("plan", "--data-root", ""),
        ("merge", "s1.jsonl", "--output", ""),
        ("show", "latest", "--results", ""),
        ("report", "latest", "--output", ""),
        ("export", "latest", "--plots", ""),
        ("check", "a", "b", "--json", ""),
        ("calibrate", "--data-root", ""),
    ],
)
@pytest.mark.usefixtures("no_worker")
def test_an_empty_argument_is_refused_and_never_means_a_default(line: tuple[str, ...]) -> None:
    result = bench(*line)
    assert result.exit_code == 2, result.output
    assert "''" in result.stderr
    assert list(Path().iterdir()) == []


def test_every_path_of_a_command_is_refused_if_it_is_empty() -> None:
    types = [parameter.type for command in cli.commands.values() for parameter in command.params]
    assert {type(each) for each in types if isinstance(each, click.Path)} == {NamedPath}


def test_every_command_tells_of_a_data_root_that_it_creates() -> None:
    options = [each for command in cli.commands.values() for each in command.params if each.name == "data_root"]
    assert len(options) == 5
    assert all(option.callback is DATA_ROOT for option in options)
