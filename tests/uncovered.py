"""Environments for commands of which coverage is not measured."""

from collections.abc import Mapping


def without_coverage(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` for a command that does not measure coverage, even if this process does.

    Measuring it takes memory and needs a disk that works. And a command that is sent a signal could hang: the exception
    of its signal handler can leave coverage's lock held, which coverage then waits for.
    """
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE")}
