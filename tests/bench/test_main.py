"""`python -m bench` as a process: before the command has begun, and where a terminal cannot show everything."""

import importlib
import io
import signal
import subprocess
import sys

import pytest
from heeded_signals import heeded

from bench.errors import ExitCode
from bench.execution.processes import worker_environment


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself these signals there")
def test_ctrl_c_before_the_command_has_started_ends_it_without_a_traceback() -> None:
    program = """
import builtins, os, signal
from bench import __main__
really = builtins.__import__
def interrupt(name, *arguments, **keywords):
    if name == "bench.cli":
        os.kill(os.getpid(), signal.SIGINT)
    return really(name, *arguments, **keywords)
builtins.__import__ = interrupt
__main__.main()
"""
    with heeded():
        done = subprocess.run(  # noqa: S603 - our own words
            [sys.executable, "-c", program], env=worker_environment(), capture_output=True, text=True, check=False
        )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def run_without(module: str, error: str, program: str = "bench") -> subprocess.CompletedProcess[str]:
    """Run the command line `program` where importing `module` raises `error`."""
    text = f"""
import builtins
from {program} import __main__
really = builtins.__import__
def breaking(name, *arguments, **keywords):
    if name == {module!r} or name.startswith({module!r} + "."):
        raise {error}
    return really(name, *arguments, **keywords)
builtins.__import__ = breaking
__main__.main()
"""
    return subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", text], env=worker_environment(), capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("broken", ["mnist_mlp", "mnist_mlp.recipes", "click"])
@pytest.mark.parametrize(
    "error", ["NameError('recipe')", "ModuleNotFoundError('no', name='mnist_mlp.x')", "ImportError('libc', name='x')"]
)
def test_code_that_cannot_be_imported_is_a_defect_and_no_regression(broken: str, error: str) -> None:
    done = run_without(broken, error)
    assert done.returncode == ExitCode.DEFECT
    *above, last = done.stderr.splitlines()
    assert above[0] == "Traceback (most recent call last):"
    assert above[-1].startswith(error.partition("(")[0])
    assert "there is no verdict" in last


@pytest.mark.parametrize("program", ["bench", "mnist_mlp"])
def test_a_forgotten_environment_is_told_without_a_traceback(program: str) -> None:
    done = run_without("click", "ModuleNotFoundError('no', name='click')", program)
    assert done.returncode == ExitCode.BAD_INPUT
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{program.replace('_', '-')}: the package 'click' is not installed for this Python (")
    assert line.endswith("write `uv run` before the command, or activate the project's environment")


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself these signals there")
def test_ctrl_c_that_is_ignored_stays_so() -> None:
    program = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from bench import __main__, cli
cli.cli = lambda prog_name: os.kill(os.getpid(), signal.SIGINT)
__main__.main()
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, env=worker_environment(), check=False).returncode == 0  # noqa: S603 - our own words


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell's words")
@pytest.mark.parametrize(("closing", "output"), [("<&-", b"0."), ("1>&-", b""), ("2>&-", b"0."), ("<&- >&- 2>&-", b"")])
@pytest.mark.parametrize("package", ["bench", "mnist_mlp"])
def test_closed_standard_streams_lead_nowhere(package: str, closing: str, output: bytes) -> None:
    program = f"""
import os, sys
from {package} import __main__, cli
def command(prog_name):
    with open(os.devnull) as file:
        assert file.fileno() > 2
    assert not sys.stdout.isatty() and not sys.stderr.isatty()
    print("0.", end="", flush=True)
cli.cli = __main__.cli = command
__main__.main()
"""
    shell = ["/bin/sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", program]
    done = subprocess.run(shell, env=worker_environment(), capture_output=True, check=False)  # noqa: S603 - our own words
    assert (done.returncode, done.stdout, done.stderr) == (0, output, b"")


@pytest.mark.parametrize("package", ["bench", "mnist_mlp"])
def test_characters_that_the_encoding_lacks_are_shown_by_number(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    monkeypatch.setattr(f"{package}.cli.cli", lambda prog_name: print(prog_name, "größe", flush=True))  # noqa: T201 - as a command
    try:
        importlib.import_module(f"{package}.__main__").main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert buffer.getvalue() == f"{package.replace('_', '-')} gr\\xf6\\xdfe\n".encode()
