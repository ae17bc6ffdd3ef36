"""``python -m bench``."""

from bench.cli import cli


def main() -> None:
    """Run the command line; ends the process with one of `bench.errors.ExitCode`."""
    cli(prog_name="bench")


if __name__ == "__main__":
    main()
