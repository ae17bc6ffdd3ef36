"""The harness's errors and exit codes. Each message states the value, the rule that it broke and the remedy."""

import enum


class ExitCode(enum.IntEnum):
    """The meaning of the process's exit status, the same for every command."""

    PASS = 0
    REGRESSION = 1
    BAD_INPUT = 2
    INCONCLUSIVE = 3
    FAILED_TRIAL = 4
    INCOMPARABLE = 5
    DEFECT = 70  # as in sysexits.h; Python's own 1 would be taken for a regression
    INTERRUPTED = 130


class BenchError(Exception):
    """Base of every error that `bench` raises on purpose; `exit_code` is the command's exit code."""

    exit_code = ExitCode.BAD_INPUT


class BadInputError(BenchError):
    """An argument, a name or a file from the user breaks a rule."""


class IncomparableError(BenchError):
    """Two things that were to be combined or compared have different machines, software or data."""

    exit_code = ExitCode.INCOMPARABLE


class WorkerError(BenchError):
    """The worker process could not start or violated the protocol, outside any trial."""

    exit_code = ExitCode.FAILED_TRIAL


class HostError(WorkerError):
    """The worker host could not start: its Python cannot import torch or something else that it needs."""


class NodesLostError(WorkerError):
    """No remaining node of a cluster can run the remaining trials; every finished trial is stored."""


class StorageError(BenchError):
    """A result could not be written; everything stored before is intact."""

    exit_code = ExitCode.FAILED_TRIAL


class InterruptedRunError(BenchError):
    """SIGINT, SIGTERM or SIGHUP ended the command; every finished trial is stored."""

    exit_code = ExitCode.INTERRUPTED
