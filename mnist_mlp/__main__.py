"""``python -m mnist_mlp``."""

import signal
import sys

from mnist_mlp.streams import escape_missing_characters, open_closed_streams


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    # Before the command has started and after it has ended, Ctrl-C ends the process without a traceback.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # it is ignored in a script's background jobs
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    open_closed_streams()
    escape_missing_characters()
    try:
        from mnist_mlp.cli import cli  # noqa: PLC0415 - its import takes long enough for a Ctrl-C to arrive
    except ModuleNotFoundError as error:
        if error.name is None or "." in error.name:
            raise
        sys.stderr.write(
            f"mnist-mlp: the package {error.name!r} is not installed for this Python ({sys.executable}): write "
            "`uv run` before the command, or activate the project's environment\n"
        )
        sys.exit(2)

    cli(prog_name="mnist-mlp")


if __name__ == "__main__":
    main()
