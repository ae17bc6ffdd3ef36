"""Errors of the workload: each message states the value, the rule it broke and the remedy."""


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
