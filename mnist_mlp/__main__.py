"""``python -m mnist_mlp``."""

from mnist_mlp.cli import cli
from mnist_mlp.streams import open_closed_streams


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    open_closed_streams()
    cli(prog_name="mnist-mlp")


if __name__ == "__main__":
    main()
