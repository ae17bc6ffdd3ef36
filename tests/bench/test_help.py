"""The help of every command: its examples, its width, and how little it imports."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bench_builders import make_run
from click.testing import CliRunner
from command_line_runs import bench, python_path
from stored_runs import store

from bench.cli import cli

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ((), "python -m bench run --devices cpu,cuda --batch-sizes 64,1024"),
        (("run",), "python -m bench run --resume 1a2b3c4d"),
        (("show",), 'python -m bench show latest --filter "batch_size>=256" --format csv'),
    ],
)
def test_help_has_its_examples_a_line_each(command: tuple[str, ...], example: str) -> None:
    result = bench(*command, "--help")
    assert result.exit_code == 0
    assert f"  {example}" in result.stdout.splitlines()
    assert "130 interrupted" in " ".join(result.stdout.split())


def test_help_says_all_that_an_exit_code_of_a_command_can_mean() -> None:
    text = " ".join(bench("devices", "--help").stdout.split())
    assert "2 bad usage or input, 4 the worker did not start, or a result could not be written, 70 a bug" in text


@pytest.mark.parametrize("command", ["", *cli.commands])
def test_help_of_every_command_has_examples_and_exit_codes_and_fits_80_columns(command: str) -> None:
    result = CliRunner().invoke(cli, [*command.split(), "--help"], prog_name="bench", terminal_width=80)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert any(line.startswith(f"  python -m bench {command}".rstrip()) for line in lines)
    is_gate = command in {"", "check", "ab"}
    assert f"Exit codes: 0 {'pass, 1 regression' if is_gate else ''}" in result.stdout
    assert ("1 regression" in result.stdout) == is_gate
    assert max(map(len, lines)) <= 80, max(lines, key=len)


def test_examples_in_the_help_are_lines_that_a_shell_understands() -> None:
    examples = re.findall(r"python -m bench (.*)", cli.help or "")
    for name, command in cli.commands.items():
        own = re.findall(r"python -m bench (.*)", command.help or "")
        assert all(shlex.split(example)[0] == name for example in own)
        examples += own
    for example in examples:
        name, *arguments = shlex.split(example, comments=True)
        cli.commands[name].make_context(name, arguments)


CHECK_IMPORTS = """
import sys
from bench.cli import cli
try:
    cli(sys.argv[1:], prog_name="bench")
finally:
    heavy = {"torch", "torchvision", "pandas", "scipy", "numpy", "rich"} & set(sys.modules)
    print("imported:", sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("show", "run.jsonl")])
def test_help_and_show_import_nothing_heavy(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    store(make_run(), tmp_path / "run.jsonl")
    command = [sys.executable, "-c", CHECK_IMPORTS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=python_path())  # noqa: S603 - our own words
    assert "imported: []" in done.stderr


def test_help_shows_default_durations_as_they_are_written() -> None:
    for command, default in (("run", "1h"), ("plan", "1h"), ("ab", "1h"), ("calibrate", "10m"), ("selftest", "10m")):
        assert f"[default: {default}]" in " ".join(bench(command, "--help").stdout.split())
