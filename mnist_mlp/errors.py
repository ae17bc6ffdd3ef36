"""Errors of the workload. Each message states the value, the rule that it broke and the remedy."""

from typing import Final

_OUT_OF_MEMORY: Final = (
    "allocate memory",
    "out of memory",
    "ALLOC_FAILED",
    "bad_alloc",
    "OOM trying",
    "Invalid buffer size",
)
"""Words in the RuntimeErrors of torch's CPU allocator, of CUDA and MPS, cuBLAS, C++, cuBLASLt, and of MPS for a tensor
larger than the largest that Metal allocates."""


class WorkloadError(Exception):
    """Base class of all errors that `mnist_mlp` raises on purpose."""


class InvalidValueError(WorkloadError):
    """An argument, a name, a layer list or another value from outside breaks a rule."""


class DatasetUnavailableError(WorkloadError):
    """No source could supply the dataset; the message says why each one failed."""


class CorruptDatasetError(WorkloadError):
    """A dataset file has the wrong format, size or SHA-256."""


class EngineUnavailableError(WorkloadError):
    """An engine turned out not to work on this machine, which could not be known before trying it."""


class NonFiniteLossError(WorkloadError):
    """The loss became infinite or not a number: the training has diverged."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that there was not enough memory, on the host or on a device."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)
