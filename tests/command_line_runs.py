"""The command line of `bench`, run in this process."""

from click.testing import CliRunner, Result

from bench.cli import cli


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="bench")


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr


def python_path() -> dict[str, str]:
    from bench.execution.processes import worker_environment  # noqa: PLC0415 - only here

    return worker_environment()
