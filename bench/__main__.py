"""``python -m bench``."""

import io
import signal
import sys

from mnist_mlp.streams import open_closed_streams


def main() -> None:
    """Run the command line; ends the process with one of `bench.errors.ExitCode`."""
    open_closed_streams()
    # Until the command has begun, and after it has ended, Ctrl-C has nothing to store: it ends the process, silently.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of a script's job in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks is shown by its number, rather than ending the command.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    from bench.cli import cli  # noqa: PLC0415 - it takes long enough to import for a Ctrl-C to come meanwhile
    from bench.errors import ExitCode  # noqa: PLC0415 - likewise
    from bench.system.outputs import nowhere  # noqa: PLC0415 - likewise

    try:
        cli(prog_name="bench")
    except OSError:  # wrong usage, of which click could not tell: on standard error nothing can be written
        sys.stderr = nowhere()
        sys.exit(ExitCode.BAD_INPUT)


if __name__ == "__main__":
    main()
