"""The values that the harness measures and stores, as frozen types. No torch, no pandas, no input or output.

Names include units: seconds, bytes and counts are SI base units, unrounded; accuracies are stored as counts of correct
answers. What was not measured is None, never 0. `bench.coding` converts every type here to JSON and back.
"""

import enum
import hashlib
import itertools
import math
import statistics
from dataclasses import dataclass, field, fields
from typing import Final

from bench.coding import LATER, dumps

SCHEMA_VERSION: Final = 5
"""Version of the stored format. History: 1, the first; 2, `Configuration.schedule`; 3, energy and conditions; 4, files
with several machines (`Fingerprint`), with parts of a plan (`Division`), and with trainings by several ranks; 5,
`Software.variables` and `Measurement.on_battery`.

Each version reads the files of all earlier ones unchanged, and configurations keep their ids: see `bench.coding.LATER`.
"""


def kind_of(device: str) -> str:
    """Return the kind of a device: ``cuda`` for ``cuda:1``."""
    return device.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One point of the grid: everything that determines what is trained and how, except the seed.

    `world_size` processes, the ranks, train one model together. `batch_size` is for all of them together, `threads` for
    each, and `device` is the first one's; the others use the following devices of its kind.
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
        """All devices of one machine that its ranks use; accelerators are numbered from 0."""
        kind = kind_of(self.device)
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

        The letter prevents CSV readers from taking it for a number.
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
    """What a run is to measure: every configuration `repeats` times.

    Repeat r of every configuration trains with seed ``seed + r``.
    """

    configurations: tuple[Configuration, ...]
    repeats: int
    seed: int

    @property
    def trial_count(self) -> int:
        """The number of trials."""
        return len(self.configurations) * self.repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One accelerator of a machine. `memory_bytes` is its total memory, None where it shares the host's."""

    device: str
    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The hardware that a run was measured on, without the names of host, user or folders.

    `cores_usable` is the number of logical cores that this process may use at once, given affinity and cgroup quota; it
    can be a fraction. `memory_bytes` is the host's memory or the cgroup's limit, whichever is less.
    """

    architecture: str
    cpu_model: str
    cores_logical: int
    cores_usable: float
    memory_bytes: int
    operating_system: str
    accelerators: tuple[Accelerator, ...]

    @property
    def whole_cores(self) -> int:
        """How many threads a trial may use: `cores_usable` without its fraction, but at least one."""
        return max(1, int(self.cores_usable))

    @property
    def id(self) -> str:
        """A short readable name: architecture, usable cores, and 8 digits of the hash of all stable fields."""
        # Memory differs a little from boot to boot. Steps of the square root of 2 have no boundary near a usual size.
        memory_step = round(2 * math.log2(self.memory_bytes))
        names = [accelerator.name for accelerator in self.accelerators]
        stable = (self.architecture, self.cpu_model, self.cores_usable, memory_step, names)
        return f"{self.architecture}-{self.cores_usable:g}c-{hashlib.sha256(dumps(stable).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """The software that a run was measured with. `git_commit` and `git_dirty` refer to the workload's source tree.

    `variables` are those of the environment that change how torch computes (`bench.worker.fingerprint.VARIABLES`), as
    ``NAME=value`` with commas between them; None if none is set, or the file is older.
    """

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
    variables: str | None = field(default=None, metadata=LATER)

    def differences(self, other: "Software") -> tuple[str, ...]:
        """Return in words how `other` differs, except for what belongs to a machine: its driver and its kernel."""
        return tuple(
            f"{member.name} is {getattr(other, member.name)!r}, not {getattr(self, member.name)!r}"
            for member in fields(self)
            if member.name not in {"driver", "operating_system_release"}
            and getattr(other, member.name) != getattr(self, member.name)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The machine and software that trials were measured with."""

    machine: Machine
    software: Software


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """Whether a device can be used here. `reason` says why not (empty if it can); `description` is its name.

    `uuid` identifies the hardware, whatever number it has in this process; empty if unknown.
    """

    device: str
    available: bool
    description: str
    reason: str
    uuid: str = field(default="", metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a worker reports about where it runs.

    `default_threads` is how many threads torch takes there by itself, at most the usable cores: as a rule one for each
    physical core, on Apple silicon for each fast one (`at::intraop_default_num_threads`, `mkl_get_max_threads`).
    """

    machine: Machine
    software: Software
    devices: tuple[DeviceStatus, ...]
    default_threads: int

    @property
    def uuids(self) -> dict[str, str]:
        """The UUID of each device for which it is known."""
        return {status.device: status.uuid for status in self.devices if status.uuid}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Global settings of the trial's process, read back from torch after they were set."""

    threads: int
    float32_matmul_precision: str
    tf32_matmul: bool
    tf32_cudnn: bool
    flush_denormal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The highest amount of memory during training, and how it was measured."""

    bytes: int
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """The device's energy in the epochs' training windows: joules, the windows' seconds, and how it was measured.

    It includes idle power and the work of other programs. The windows are slightly longer than the train seconds.
    """

    joules: float
    seconds: float
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConditions:
    """For each field the worse of two samples, one right before and one right after an epoch.

    Clocks are those of the streaming multiprocessors, without samples of an idle GPU; on the CPU, that of the fastest
    usable core. `clock_reasons` are NVML's names for why the clock is not higher, possibly none: see
    `bench.worker.conditions.CLOCK_REASONS`. `other_processes` counts other programs with a compute context on the
    device.
    """

    clock_hertz: float | None
    max_clock_hertz: float | None
    temperature_celsius: float | None
    clock_reasons: tuple[str, ...] | None
    other_processes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """What disturbed a stretch of work. `steal_seconds` and `other_cpu_seconds` are sums over cores.

    These are the cores that the trial was bound to, if it was and is a single process, otherwise all of the machine's.
    `process_cpu_seconds` counts all threads of the trial except its DataLoader workers. `other_cpu_seconds` is the CPU
    time of everything else, including those workers. `pressure_stall_seconds` is the time during which any task of the
    machine waited for a core, `throttled_seconds` how long cgroup CPU quotas held this process back, summed over all
    cores, and `load_average` that of the minute before.
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
    """One epoch. Train figures are taken while the weights change, so the train loss is the epoch's mean.

    `train_seconds` is the synchronised time of the epoch including its input pipeline, without evaluation.
    `yardstick_seconds` is the time of a fixed matrix product, half before and half after the epoch. The correct counts
    are None if labels are noise (dataset ``synthetic``).
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
    def train_accuracy(self) -> float | None:
        """Share of the training samples classified correctly while the weights change; None if labels are noise."""
        return None if self.train_correct is None else self.train_correct / self.train_samples

    @property
    def test_accuracy(self) -> float | None:
        """Share of the test images classified correctly after this epoch; None if labels are noise."""
        return None if self.test_correct is None else self.test_correct / self.test_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRecord:
    """What one rank of a training measured: its own epochs' train seconds and its own peaks.

    `host` numbers the trial's hosts from 0; `machine` is the host's `Machine.id`.
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
    """The slowest rank's seconds for `steps` training steps, several times: with exchange of gradients and without.

    Both are measured alternately after the last epoch. Without exchange no rank waits for another, so the difference
    includes waiting for the slowest one.
    """

    steps: int
    together_seconds: tuple[float, ...]
    apart_seconds: tuple[float, ...]

    @property
    def share(self) -> float:
        """Share of a step's time spent on the exchange of gradients and on waiting for it."""
        return 1 - sum(self.apart_seconds) / sum(self.together_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The raw values that one trial measured; statistics are always recomputed from them.

    `preparation_seconds` is for loading data and building the model, `cold_start_seconds` for the first training step
    with all lazy initialisation, and `warm_up_seconds` for everything rehearsed before the first epoch, cold start
    included. `host_baseline_bytes` is resident memory after the imports and before any data; `host_peak` is counted
    above it. `energy_reason` says why `energy` is None; it is empty if energy was measured, and in files that are older
    than energy measurements. `on_battery` says whether the machine ran from its battery when the trial ended; None
    means that it has none, or that the system does not tell.

    With several ranks, every time is the slowest rank's; `host_baseline_bytes`, `host_peak`, energy and counts are
    sums; device peaks are those of the rank with the largest. `ranks` has each rank's own values, by rank. If only one
    process trained, `exchange` is None and `ranks` is empty.
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
    on_battery: bool | None = field(default=None, metadata=LATER)

    @property
    def epoch_seconds(self) -> float:
        """Median of the epochs' train seconds: the trial's single value in every comparison of time."""
        return statistics.median(epoch.train_seconds for epoch in self.epochs)

    @property
    def throughput_per_second(self) -> float:
        """Training samples per second, at the median epoch time."""
        return self.epochs[0].train_samples / self.epoch_seconds

    @property
    def joules_per_epoch(self) -> float | None:
        """Mean energy of an epoch's training, idle power included; None if not measured."""
        return None if self.energy is None else self.energy.joules / len(self.epochs)

    @property
    def samples_per_joule(self) -> float | None:
        """Training samples per joule over all epochs; None if not measured."""
        if self.energy is None or self.energy.joules <= 0:
            return None
        return sum(epoch.train_samples for epoch in self.epochs) / self.energy.joules

    @property
    def test_accuracy(self) -> float | None:
        """Test accuracy after the final epoch (never the best one); None if labels are noise."""
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
    """All warnings about a trial or about the repeats of a configuration: see `bench.warning_rules`."""

    SLOW_FIRST_EPOCH = "slow_first_epoch"
    STALL = "stall"
    CONTAMINATION = "contamination"
    EPOCHS_SLOWING_DOWN = "epochs_slowing_down"
    THROTTLED = "throttled"
    DEVICE_SHARED = "device_shared"
    ON_BATTERY = "on_battery"
    SPREAD = "spread"
    FEW_REPEATS = "few_repeats"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A finished trial. `started_at` is UTC in ISO 8601; `wall_seconds` is from requesting a process to its end.

    `fingerprint` says where it ran, as an index into its run's `fingerprints`; 0 is the header's.
    """

    trial: Trial
    outcome: Measurement | Failure
    warnings: tuple[TrialWarning, ...]
    started_at: str
    wall_seconds: float
    fingerprint: int = field(default=0, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One part of a divided plan: its number from 1, the run that executed it, and its number of configurations."""

    number: int
    run_id: str
    configurations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """The complete plan that a run is a part of, and which of its `shards` the run contains, by ascending number.

    `plan_id` identifies the complete plan (`bench.planning.shards`), which has this many `configurations`. The run's
    own plan contains those of the shards in `held`, shard by shard.
    """

    plan_id: str
    configurations: int
    shards: int
    held: tuple[Shard, ...]

    @property
    def missing(self) -> tuple[int, ...]:
        """The numbers of the shards that the run does not contain."""
        held = {shard.number for shard in self.held}
        return tuple(number for number in range(1, self.shards + 1) if number not in held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """First line of a stored run. `command` has the arguments without the folders of paths; `created_at` is UTC.

    `machine` and `software` are those of every trial that does not refer to another fingerprint. `division` is None if
    the plan is not a part of a larger one.
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

    `wall_seconds` is the time of the command that stops here, including the import of torch but not the wait for
    devices; the counts are for the whole file. In a merged run the counts refer to the complete plan, and the seconds
    are the sum over its trials.
    """

    complete: bool
    reason: str
    measured: int
    failed: int
    missing: int
    wall_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stored run that was read. `warnings` describes problems of the file that did not prevent reading it.

    `other_fingerprints` are those in lines after the header.
    """

    header: Header
    records: tuple[TrialRecord, ...]
    footer: Footer | None
    warnings: tuple[str, ...] = ()
    other_fingerprints: tuple[Fingerprint, ...] = ()

    @property
    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """Where the trials ran; a record's `fingerprint` is an index into these."""
        return (Fingerprint(machine=self.header.machine, software=self.header.software), *self.other_fingerprints)

    @property
    def lost_trials(self) -> int:
        """How many trials the footer counts that are no longer in the file, because lines of it were deleted."""
        return 0 if self.footer is None else max(0, self.footer.measured + self.footer.failed - len(self.records))

    @property
    def is_complete(self) -> bool:
        """Whether it completed its plan, and the whole plan if it is a shard."""
        division = self.header.division
        is_whole = division is None or not division.missing
        return self.footer is not None and self.footer.complete and not self.lost_trials and is_whole
