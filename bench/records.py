"""What the harness measures and stores, as frozen values. No torch, no pandas, no input or output.

Names carry units: seconds, bytes and counts are SI base units, unrounded; accuracies are kept as correct counts. What
was not measured is None, never 0. `bench.coding` turns every type here into JSON and back.
"""

import enum
import hashlib
import itertools
import math
import statistics
from dataclasses import dataclass, field, fields
from typing import Final

from bench.coding import LATER, dumps

SCHEMA_VERSION: Final = 4
"""Version of the stored format. History: 1, the first; 2, `Configuration.schedule`; 3, energy and conditions; 4, files
of several machines (`Fingerprint`), of parts of a plan (`Division`), and of trainings by several ranks.

Each reads all before it: a file of an earlier version as it is, and a configuration keeps its id, see
`bench.coding.LATER`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One point of the grid: everything that decides what is trained and how, except the seed.

    `world_size` processes, its ranks, train one model together. `batch_size` is that of all of them, `threads` those of
    each, and `device` the first one's: the others take the devices of its kind that follow.
    """

    device: str
    model: str
    layers: tuple[int, ...]
    activation: str
    output: str
    loss: str
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    test_batch_size: int
    epochs: int
    transform: str
    shuffle: bool
    dataset: str
    precision: str
    engine: str
    pipeline: str
    workers: int
    threads: int
    schedule: str = field(default="constant", metadata=LATER)
    world_size: int = field(default=1, metadata=LATER)

    @property
    def width(self) -> int | None:
        """Units of the first hidden layer; None without one."""
        return self.layers[1] if len(self.layers) > 2 else None  # noqa: PLR2004 - input and output alone are two

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices that its ranks use, of one machine: those of accelerators from the first on."""
        kind = self.device.partition(":")[0]
        if kind == "cpu" or self.world_size == 1:
            return (self.device,)
        return tuple(f"{kind}:{index}" for index in range(self.world_size))

    @property
    def weights(self) -> int:
        """Entries of all weight matrices: multiply-adds of one sample's forward pass."""
        return sum(inputs * outputs for inputs, outputs in itertools.pairwise(self.layers))

    @property
    def id(self) -> str:
        """A ``c`` and 11 hexadecimal digits of the SHA-256 of this value as JSON: equal for equal configurations.

        The letter keeps readers of CSV from taking it for a number.
        """
        return f"c{hashlib.sha256(dumps(self).encode()).hexdigest()[:11]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One configuration to be trained once, with one seed, in one fresh process. `repeat` counts from 0."""

    configuration: Configuration
    seed: int
    repeat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run sets out to do: every configuration `repeats` times.

    Repeat r of a configuration trains with seed ``seed + r``, so that the same seeds are used throughout.
    """

    configurations: tuple[Configuration, ...]
    repeats: int
    seed: int

    @property
    def trial_count(self) -> int:
        """How many trials that makes."""
        return len(self.configurations) * self.repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One accelerator of a machine. `memory_bytes` is its total memory, None where it shares the host's."""

    device: str
    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The hardware a run was measured on. It names no host, user or path.

    `cores_usable` is the logical cores this process may use at once, after affinity and cgroup quota: it can be a
    fraction. `memory_bytes` is the host's memory after the cgroup's limit.
    """

    architecture: str
    cpu_model: str
    cores_logical: int
    cores_usable: float
    memory_bytes: int
    operating_system: str
    accelerators: tuple[Accelerator, ...]

    @property
    def id(self) -> str:
        """A short readable name: architecture, usable cores, and 8 digits of the hash of all stable fields."""
        # Memory differs a little from boot to boot. Steps of the square root of 2 have no border near a usual size.
        memory_step = round(2 * math.log2(self.memory_bytes))
        names = [accelerator.name for accelerator in self.accelerators]
        stable = (self.architecture, self.cpu_model, self.cores_usable, memory_step, names)
        return f"{self.architecture}-{self.cores_usable:g}c-{hashlib.sha256(dumps(stable).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """The software a run was measured with. `git_commit` and `git_dirty` are of the tree that holds the workload."""

    python: str
    torch: str
    torchvision: str | None
    numpy: str
    cuda: str | None
    driver: str | None
    blas: str | None
    operating_system_release: str
    workload: str
    harness: str
    git_commit: str | None
    git_dirty: bool | None

    def differences(self, other: "Software") -> tuple[str, ...]:
        """Return in words in what `other` is different, but for what is a machine's: its driver and its kernel."""
        return tuple(
            f"{member.name} is {getattr(other, member.name)!r}, not {getattr(self, member.name)!r}"
            for member in fields(self)
            if member.name not in {"driver", "operating_system_release"}
            and getattr(other, member.name) != getattr(self, member.name)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The machine and the software that trials were measured with."""

    machine: Machine
    software: Software


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """Whether a device can be used here. `reason` says why not (empty where it can); `description` is its name."""

    device: str
    available: bool
    description: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a worker says of the place it runs in."""

    machine: Machine
    software: Software
    devices: tuple[DeviceStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Global settings of the trial's process, as read back from torch after they were set."""

    threads: int
    float32_matmul_precision: str
    tf32_matmul: bool
    tf32_cudnn: bool
    flush_denormal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """A highest amount of memory during training, and how it was measured."""

    bytes: int
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What the device drew in the epochs' training windows: joules, the windows' seconds, and how it was measured.

    Idle power and other programs' work are part of it. The windows are a little longer than the epochs' train seconds.
    """

    joules: float
    seconds: float
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConditions:
    """The worse of two samples, right before and right after an epoch, in each respect: clock, heat, reasons, others.

    Clocks are of the streaming multiprocessors, but for samples of an idle GPU, on the CPU of its fastest usable core.
    `clock_reasons` are NVML's names for why the clock is not higher, see `bench.worker.conditions.CLOCK_REASONS`; none
    of them may apply. `other_processes` counts other programs that have a context to compute on the device.
    """

    clock_hertz: float | None
    max_clock_hertz: float | None
    temperature_celsius: float | None
    clock_reasons: tuple[str, ...] | None
    other_processes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """What disturbed a stretch of work. `steal_seconds` and `other_cpu_seconds` are sums over cores.

    Those are the cores that the trial was bound to, where it was to some and is one process, else all of the machine.
    `process_cpu_seconds` counts all threads of the trial but not its DataLoader workers. `other_cpu_seconds` is CPU
    time that anything else used meanwhile, those workers included. `pressure_stall_seconds` is the time
    in which any task of the machine waited for a core, `throttled_seconds` how long the cgroups' CPU quotas held back
    this process, a sum over all cores, `load_average` that of the minute before.
    """

    process_cpu_seconds: float
    other_cpu_seconds: float | None
    steal_seconds: float | None
    involuntary_switches: int | None
    pressure_stall_seconds: float | None = field(default=None, metadata=LATER)
    throttled_seconds: float | None = field(default=None, metadata=LATER)
    load_average: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch. Train figures are taken while the weights move, so a train loss is the epoch's mean.

    `train_seconds` is the synchronised time of the epoch with its input pipeline and without evaluation.
    `yardstick_seconds` is the time of a fixed matrix product, half before and half after the epoch. The correct counts
    are None where labels are noise (dataset ``synthetic``).
    """

    train_seconds: float
    train_samples: int
    train_loss: float
    train_correct: int | None
    test_samples: int
    test_loss: float
    test_correct: int | None
    evaluation_seconds: float
    yardstick_seconds: float
    contention: Contention
    device_conditions: DeviceConditions | None = field(default=None, metadata=LATER)

    @property
    def test_accuracy(self) -> float | None:
        """Share of the test images classified correctly after this epoch; None where labels are noise."""
        return None if self.test_correct is None else self.test_correct / self.test_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRecord:
    """What one rank of a training measured: its own epochs' train seconds and its own peaks.

    `host` tells the trial's hosts apart, counted from 0; `machine` is the host's `Machine.id`.
    """

    host: int
    machine: str
    device: str
    train_seconds: tuple[float, ...]
    host_peak: Peak | None
    device_allocated_peak: Peak | None
    device_reserved_peak: Peak | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Seconds of the slowest rank for `steps` training steps, several times: with exchange of gradients and without.

    Taken by turns, after the last epoch. Without it no rank waits for another, so waiting for the slowest one is part
    of the difference.
    """

    steps: int
    together_seconds: tuple[float, ...]
    apart_seconds: tuple[float, ...]

    @property
    def share(self) -> float:
        """Share of a step's time that goes into the exchange of gradients and into waiting for it."""
        return 1 - sum(self.apart_seconds) / sum(self.together_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one trial measured; raw values only, statistics are recomputed from them.

    `preparation_seconds` is loading data and building the model, `cold_start_seconds` the first training step with
    all lazy initialisation, `warm_up_seconds` all rehearsal before the first epoch, cold start included.
    `host_baseline_bytes` is resident memory after the imports and before any data; `host_peak` is above it.
    `energy_reason` says why `energy` is None; it is empty where energy was measured, or came before energy was.

    Of several ranks, every time is the slowest one's, `host_baseline_bytes`, `host_peak`, energy and what is counted
    are sums, device peaks those of the rank with the largest; `ranks` has each one's own, by rank. `exchange` is None,
    and `ranks` empty, where one process trained.
    """

    epochs: tuple[EpochRecord, ...]
    settings: Settings
    dataset_sha256: str
    parameters: int
    forward_flops_per_sample: int
    training_flops_per_sample: int
    preparation_seconds: float
    cold_start_seconds: float
    warm_up_seconds: float
    host_baseline_bytes: int | None
    host_peak: Peak | None
    device_allocated_peak: Peak | None
    device_reserved_peak: Peak | None
    energy: Energy | None = field(default=None, metadata=LATER)
    energy_reason: str = field(default="", metadata=LATER)
    ranks: tuple[RankRecord, ...] = field(default=(), metadata=LATER)
    exchange: Exchange | None = field(default=None, metadata=LATER)

    @property
    def epoch_seconds(self) -> float:
        """Median of the epochs' train seconds: the trial's one value in every comparison of time."""
        return statistics.median(epoch.train_seconds for epoch in self.epochs)

    @property
    def throughput_per_second(self) -> float:
        """Training samples per second, at the median epoch time."""
        return self.epochs[0].train_samples / self.epoch_seconds

    @property
    def joules_per_epoch(self) -> float | None:
        """Mean energy of an epoch's training, idle power included; None where unmeasured."""
        return None if self.energy is None else self.energy.joules / len(self.epochs)

    @property
    def samples_per_joule(self) -> float | None:
        """Training samples per joule over all epochs; None where unmeasured."""
        if self.energy is None or self.energy.joules <= 0:
            return None
        return sum(epoch.train_samples for epoch in self.epochs) / self.energy.joules

    @property
    def test_accuracy(self) -> float | None:
        """Test accuracy after the final epoch (never the best one); None where labels are noise."""
        return self.epochs[-1].test_accuracy

    def seconds_to_accuracy(self, target: float) -> float | None:
        """Return training seconds until test accuracy first reaches `target` (a fraction); None if it never does."""
        elapsed = 0.0
        for epoch in self.epochs:
            elapsed += epoch.train_seconds
            if epoch.test_accuracy is not None and epoch.test_accuracy >= target:
                return elapsed
        return None


class FailureKind(enum.StrEnum):
    """Why a trial has no measurement."""

    OUT_OF_MEMORY = "out_of_memory"
    CRASH = "crash"
    TIMEOUT = "timeout"
    NON_FINITE_LOSS = "non_finite_loss"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A trial that ended without a measurement."""

    kind: FailureKind
    message: str


class TrialWarning(enum.StrEnum):
    """Everything a trial, or the repeats of a configuration, can be warned about: see `bench.warning_rules`."""

    SLOW_FIRST_EPOCH = "slow_first_epoch"
    STALL = "stall"
    CONTAMINATION = "contamination"
    EPOCHS_SLOWING_DOWN = "epochs_slowing_down"
    THROTTLED = "throttled"
    DEVICE_SHARED = "device_shared"
    SPREAD = "spread"
    FEW_REPEATS = "few_repeats"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A finished trial. `started_at` is UTC in ISO 8601; `wall_seconds` runs from asking for a process to its end.

    `fingerprint` says where it ran: which of its run's `fingerprints`, 0 being the header's.
    """

    trial: Trial
    outcome: Measurement | Failure
    warnings: tuple[TrialWarning, ...]
    started_at: str
    wall_seconds: float
    fingerprint: int = field(default=0, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One part of a divided plan: its number from 1, the run that carried it out, how many configurations it has."""

    number: int
    run_id: str
    configurations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The complete plan that a run is a part of, and which of its `shards` the run holds, by ascending number.

    `plan_id` identifies the complete plan (`bench.planning.shards`), which has this many `configurations`. The run's
    own plan holds those of the shards in `held`, shard by shard.
    """

    plan_id: str
    configurations: int
    shards: int
    held: tuple[Shard, ...]

    @property
    def missing(self) -> tuple[int, ...]:
        """The numbers of the shards that are not held."""
        held = {shard.number for shard in self.held}
        return tuple(number for number in range(1, self.shards + 1) if number not in held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """First line of a stored run. `command` holds the arguments without paths' parents, `created_at` is UTC.

    `machine` and `software` are those of every trial that names no other fingerprint. `division` is None where the plan
    is no part of a larger one.
    """

    schema_version: int
    run_id: str
    name: str
    created_at: str
    command: tuple[str, ...]
    plan: Plan
    machine: Machine
    software: Software
    division: Division | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """Written each time a run stops in good order. `reason` is ``complete``, ``interrupted``, ``budget`` or ``merged``.

    `wall_seconds` is of the command that stops here, from its start, import of torch included but waiting for devices
    not; the counts are of the whole file. Of a merged run they are held against the complete plan, and the seconds are
    the sum of its trials'.
    """

    complete: bool
    reason: str
    measured: int
    failed: int
    missing: int
    wall_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stored run as read back. `warnings` tells, in words, what was wrong with the file but could be lived with.

    `other_fingerprints` are those of the lines beyond the header.
    """

    header: Header
    records: tuple[TrialRecord, ...]
    footer: Footer | None
    warnings: tuple[str, ...] = field(default=())
    other_fingerprints: tuple[Fingerprint, ...] = field(default=())

    @property
    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """Where the trials ran; a record's `fingerprint` is a place in here."""
        return (Fingerprint(machine=self.header.machine, software=self.header.software), *self.other_fingerprints)
