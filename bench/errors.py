"""Errors of the harness and its exit codes. Each message states the value, the rule it broke and the remedy."""

import enum


class ExitCode(enum.IntEnum):
    """What the process's exit status means; the same for every command."""

    PASS = 0
    REGRESSION = 1
    BAD_INPUT = 2
    INCONCLUSIVE = 3
    FAILED_TRIAL = 4
    INCOMPARABLE = 5
    DEFECT = 70  # as sysexits.h has it: Python's own 1 would be taken for a regression
    INTERRUPTED = 130


class BenchError(Exception):
    """Base of every error that `bench` raises on purpose; `exit_code` is what the command ends with."""

    exit_code = ExitCode.BAD_INPUT


class BadInputError(BenchError):
    """An argument, a name or a file from outside breaks a stated rule."""


class IncomparableError(BenchError):
    """Two things that were to be put together were measured on different machines, software or data."""

    exit_code = ExitCode.INCOMPARABLE


class WorkerError(BenchError):
    """The worker process could not start or did not keep to the protocol, outside any trial."""

    exit_code = ExitCode.FAILED_TRIAL


class NodesLostError(WorkerError):
    """The nodes of a cluster that are left cannot run the trials that are left; every finished trial is stored."""


class StorageError(BenchError):
    """A measurement could not be written; what was stored before is intact."""

    exit_code = ExitCode.FAILED_TRIAL


class InterruptedRunError(BenchError):
    """SIGINT, SIGTERM or SIGHUP ended the command; every finished trial is stored."""

    exit_code = ExitCode.INTERRUPTED
