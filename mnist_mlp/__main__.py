"""``python -m mnist_mlp``."""

import signal

from mnist_mlp.streams import escape_missing_characters, open_closed_streams


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    # Before the command has started and after it has ended, Ctrl-C ends the process without a traceback.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # it is ignored in a script's background jobs
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    open_closed_streams()
    escape_missing_characters()
    from mnist_mlp.cli import cli  # noqa: PLC0415 - its import takes long enough for a Ctrl-C to arrive

    cli(prog_name="mnist-mlp")


if __name__ == "__main__":
    main()
