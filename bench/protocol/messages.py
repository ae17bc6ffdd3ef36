"""The worker's answers. Requests are small objects ``{"do": …}``; `bench.worker.session` shows the conversation."""

from dataclasses import dataclass, field

from bench.coding import LATER
from bench.records import (
    Contention,
    DeviceConditions,
    Energy,
    Exchange,
    Failure,
    Peak,
    RankRecord,
    Settings,
    Trial,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReady:
    """Answer to ``dataset``: the dataset is available and verified."""

    sha256: str
    train_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Answer to ``prepare``: the trial is ready for its first epoch. Fields as in `bench.records.Measurement`.

    `step_seconds` is the time of one warm training step; it is used for estimates, never as a result.
    """

    settings: Settings
    dataset_sha256: str
    parameters: int
    forward_flops_per_sample: int
    training_flops_per_sample: int
    train_samples: int
    step_seconds: float
    preparation_seconds: float
    cold_start_seconds: float
    warm_up_seconds: float
    host_baseline_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Answer to ``train``: one epoch is finished. Fields as in `bench.records.EpochRecord`."""

    train_seconds: float
    train_samples: int
    train_loss: float
    train_correct: int | None
    yardstick_seconds: float
    contention: Contention
    device_conditions: DeviceConditions | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretched:
    """Answer to ``stretch``: some batches of an epoch are finished. `train_loss` is their mean loss during training."""

    train_seconds: float
    train_samples: int
    train_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Answer to ``evaluate``. Fields as in `bench.records.EpochRecord`."""

    test_samples: int
    test_loss: float
    test_correct: int | None
    evaluation_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaked:
    """Answer to ``peak``: see `bench.worker.peak.measure_peak`."""

    flops_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Answer to ``finish``: peaks and energy over all epochs. Fields as in `bench.records.Measurement`."""

    host_peak: Peak | None
    device_allocated_peak: Peak | None
    device_reserved_peak: Peak | None
    energy: Energy | None
    energy_reason: str
    ranks: tuple[RankRecord, ...] = field(default=(), metadata=LATER)
    exchange: Exchange | None = field(default=None, metadata=LATER)
    on_battery: bool | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """Answer to ``await``: the next trial that this rank takes part in; None if there are no more."""

    trial: Trial | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Answer to ``join``: the trial is over for this rank; `failure` is None if it succeeded."""

    failure: Failure | None
