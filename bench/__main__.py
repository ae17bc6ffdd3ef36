"""``python -m bench``."""

import signal
import sys

from mnist_mlp.streams import escape_missing_characters, nowhere, open_closed_streams


def main() -> None:
    """Run the command line; ends the process with one of `bench.errors.ExitCode`."""
    open_closed_streams()
    # Before the command has started and after it has ended, nothing has to be stored: Ctrl-C ends the process silently.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # it is ignored in a script's background jobs
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    escape_missing_characters()
    from bench.cli import cli  # noqa: PLC0415 - its import takes long enough for a Ctrl-C to arrive
    from bench.errors import ExitCode  # noqa: PLC0415 - likewise

    try:
        cli(prog_name="bench")
    except OSError:  # wrong usage that click could not report, because standard error cannot be written to
        sys.stderr = nowhere()
        sys.exit(ExitCode.BAD_INPUT)


if __name__ == "__main__":
    main()
