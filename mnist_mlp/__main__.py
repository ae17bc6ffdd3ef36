"""``python -m mnist_mlp``."""

from mnist_mlp.cli import cli


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    cli(prog_name="mnist-mlp")


if __name__ == "__main__":
    main()
