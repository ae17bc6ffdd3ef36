"""Errors of the workload: each message states the value, the rule it broke and the remedy."""

from typing import Final

_OUT_OF_MEMORY: Final = ("allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc", "OOM trying")
"""What RuntimeErrors say for want of memory: torch's CPU allocator, CUDA's and MPS's, cuBLAS's, C++'s, cuBLASLt's."""


class WorkloadError(Exception):
    """Base of every error that `mnist_mlp` raises on purpose."""


class InvalidValueError(WorkloadError):
    """A value from outside (an argument, a name, a layer list) breaks a stated rule."""


class DatasetUnavailableError(WorkloadError):
    """No source could supply the dataset; the message names each one tried and why it failed."""


class CorruptDatasetError(WorkloadError):
    """A dataset file is not what it should be: wrong format, size or SHA-256."""


class EngineUnavailableError(WorkloadError):
    """An engine turned out not to work on this machine, which only trying could show."""


class NonFiniteLossError(WorkloadError):
    """The loss became infinite or not a number: the training has diverged."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that there was not enough memory, on the host or on a device."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)
