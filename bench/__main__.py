"""``python -m bench``."""

import signal
import sys
import traceback
from typing import NoReturn

from bench.errors import ExitCode


def main() -> None:
    """Run the command line; ends the process with one of `bench.errors.ExitCode`."""
    try:
        from mnist_mlp.streams import escape_missing_characters, nowhere, open_closed_streams  # noqa: PLC0415 - see below

        open_closed_streams()
        # Before the command has started and after it has ended, nothing has to be stored: Ctrl-C ends the process
        # silently.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # it is ignored in a script's background jobs
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        escape_missing_characters()
        from bench.cli import cli  # noqa: PLC0415 - its import takes long enough for a Ctrl-C to arrive
    except Exception as error:  # noqa: BLE001 - Python would end with 1, which means regression
        _refuse(error)

    try:
        cli(prog_name="bench")
    except OSError:  # wrong usage that click could not report, because standard error cannot be written to
        sys.stderr = nowhere()
        sys.exit(ExitCode.BAD_INPUT)


def _refuse(error: Exception) -> NoReturn:
    """End the process, because importing it failed."""
    package = error.name if isinstance(error, ModuleNotFoundError) else None
    if package is not None and "." not in package and package not in {"bench", "mnist_mlp"}:
        sys.stderr.write(
            f"bench: the package {package!r} is not installed for this Python ({sys.executable}): write "
            "`uv run` before the command, or activate the project's environment\n"
        )
        sys.exit(ExitCode.BAD_INPUT)
    traceback.print_exception(error)
    sys.stderr.write("bench: it cannot be imported, so there is no verdict: repair what the error above names\n")
    sys.exit(ExitCode.DEFECT)


if __name__ == "__main__":
    main()
