"""``python -m bench``."""

import signal
import sys
import traceback

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
    except Exception:  # noqa: BLE001 - Python would end with 1, which means regression
        traceback.print_exc()
        sys.stderr.write(
            "bench: it cannot be imported, so there is no verdict: if a package is missing, write `uv run` before the "
            "command or activate the project's environment; otherwise repair what the error above names\n"
        )
        sys.exit(ExitCode.DEFECT)

    try:
        cli(prog_name="bench")
    except OSError:  # wrong usage that click could not report, because standard error cannot be written to
        sys.stderr = nowhere()
        sys.exit(ExitCode.BAD_INPUT)


if __name__ == "__main__":
    main()
