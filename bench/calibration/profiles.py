"""Machine profiles: how finely one machine can measure, from its own calibrations.

A profile, ``results/machines/<machine id>.json``, holds the raw values of the last calibrations; every figure is
recomputed from them. A figure for which there are too few values is None.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bench import coding
from bench.errors import BadInputError, StorageError
from bench.protocol.rates import DeviceRates, ThreadRates, flops_per_second
from bench.records import Configuration, Machine, Software
from bench.stats.student import t_quantile
from bench.system.outputs import write_atomically

SCHEMA_VERSION: Final = 4
"""Version of the stored format. 1: the first; 2: added `DeviceSession.peak_flops_per_second`; 3: added its `rates` and
`thread_rates`; 4: `Software.variables`. Each version reads all earlier ones, see `coding.LATER`."""

FOLDER: Final = "machines"
"""Subfolder of the folder of stored runs."""

MAX_SESSIONS: Final = 50
"""Sessions kept: about a year's for a machine that is calibrated weekly."""

MIN_PAIRS: Final = 3
"""A/A pairs that a floor needs. Two leave one degree of freedom, whose 95 % interval is ±13 standard errors."""

MIN_SESSIONS: Final = 3
"""Sessions that a drift needs, for the same reason."""

MIN_SEEDS: Final = 3
"""Seeds that a standard deviation needs: two may well classify equally many test images correctly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSession:
    """What one calibration measured on one device; raw values only.

    `aa_log_ratios` holds one value for each process pair: ln(candidate time / baseline time) of identical arms. The
    next tuples hold one value for each full trial of `configuration`, whose seed is at the same place in `seeds`: its
    median epoch time, its final test accuracy (a fraction), its median yardstick time. `peak_flops_per_second` holds
    one value for each process that measured it (`bench.worker.peak`), none in version 1 of the format. `rates` holds
    one value for each precision, `thread_rates` one for each thread count, none on accelerators; both are empty in
    versions 1 and 2.

    Raises:
        BadInputError: a value cannot have been measured.
    """

    device: str
    threads: int
    configuration: Configuration
    aa_log_ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    epoch_seconds: tuple[float, ...]
    test_accuracies: tuple[float, ...]
    yardstick_seconds: tuple[float, ...]
    peak_flops_per_second: tuple[float, ...] = field(default=(), metadata=coding.LATER)
    rates: tuple[DeviceRates, ...] = field(default=(), metadata=coding.LATER)
    thread_rates: tuple[ThreadRates, ...] = field(default=(), metadata=coding.LATER)

    def __post_init__(self) -> None:
        """Refuse values that would make nonsense of every figure derived from them."""
        lengths = {len(values) for values in (self.seeds, self.epoch_seconds, self.test_accuracies)}
        if lengths != {len(self.yardstick_seconds)} or 0 in lengths:
            raise BadInputError(f"a calibration of {self.device} must hold as many values as seeds, and at least one")
        if min(*self.epoch_seconds, *self.yardstick_seconds, *self.peak_flops_per_second) <= 0:
            raise BadInputError(f"a calibration of {self.device} holds a time or rate that is not above zero")
        if not all(0 <= accuracy <= 1 for accuracy in self.test_accuracies):
            raise BadInputError(f"a calibration of {self.device} holds an accuracy outside 0 to 1")

    def highest_flops_per_second(self, precision: str, threads: int) -> float | None:
        """Return the highest rate of products measured at `precision` with `threads` threads; None without any.

        On an accelerator the number of threads does not matter: the host's threads take no part in its products.
        """
        of_threads = threads if self.device == "cpu" else None
        found = list(flops_per_second(self.rates, self.thread_rates, precision, of_threads))
        if precision == "fp32" and of_threads in {self.threads, None}:
            found += self.peak_flops_per_second
        return max(found, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One calibration. `created_at` is UTC in ISO 8601, `wall_seconds` its whole duration without waiting for locks."""

    created_at: str
    software: Software
    wall_seconds: float
    devices: tuple[DeviceSession, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFigures:
    """What a profile says about one device. Deviations are standard deviations, for times of their logarithms.

    `sessions` counts those that can be combined with the newest one (see `MachineProfile`); `epoch_seconds` and
    `yardstick_seconds` are medians over the newest session's trials, `rates` and `thread_rates` are that session's.
    `peak_flops_per_second` is what utilisation is relative to, at fp32 with `threads`.
    """

    device: str
    threads: int
    sessions: int
    pairs: int
    ab_floor: float | None
    pair_deviation: float | None
    seeds: int
    accuracy_deviation: float | None
    epoch_seconds: float
    epoch_deviation: float | None
    drift_deviation: float | None
    yardstick_seconds: float
    peak_flops_per_second: float | None
    rates: tuple[DeviceRates, ...]
    thread_rates: tuple[ThreadRates, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineProfile:
    """The calibrations of one machine, oldest first.

    Sessions are combined only if they measured the same configuration with the same thread count, torch, CUDA, BLAS and
    workload version as the device's newest one.
    """

    schema_version: int
    machine: Machine
    sessions: tuple[Session, ...]

    def ab_floor(self, device: str) -> float | None:
        """Return the largest systematic difference between identical arms that is still credible, as a log ratio.

        It is the end farther from 0 of the mean's two-sided 95 % interval over the newest session's n process pairs,
        |mean| + t(0.975, n - 1) · s / √n, by Student's t. None with fewer than 3 pairs.
        """
        sessions = self._alike(device)
        ratios = sessions[-1].aa_log_ratios if sessions else ()
        n = len(ratios)
        if n < MIN_PAIRS:
            return None
        return abs(statistics.fmean(ratios)) + t_quantile(n - 1) * statistics.stdev(ratios) / math.sqrt(n)

    def drift_deviation(self, device: str) -> float | None:
        """Return the standard deviation, over sessions, of ln(the session's median epoch time); None below 3 sessions.

        It covers only the drift between the sessions that were measured: for three within an hour, that of an hour.
        """
        medians = [math.log(statistics.median(session.epoch_seconds)) for session in self._alike(device)]
        return statistics.stdev(medians) if len(medians) >= MIN_SESSIONS else None

    def drift_freedom(self, device: str) -> int | None:
        """Return the degrees of freedom of `drift_deviation`, one less than its sessions; None below 3 sessions."""
        sessions = len(self._alike(device))
        return sessions - 1 if sessions >= MIN_SESSIONS else None

    def accuracy_deviation(self, device: str) -> float | None:
        """Return the standard deviation of final test accuracy (a fraction) from seed to seed; None below 3 seeds.

        A seed that was trained more than once counts once, by its mean: repeating it says nothing about other seeds.
        """
        accuracies = list(self._accuracies(device).values())
        return statistics.stdev(accuracies) if len(accuracies) >= MIN_SEEDS else None

    def _accuracies(self, device: str) -> dict[int, float]:
        """Return each seed's mean test accuracy."""
        found: dict[int, list[float]] = {}
        for session in self._alike(device):
            for seed, accuracy in zip(session.seeds, session.test_accuracies, strict=True):
                found.setdefault(seed, []).append(accuracy)
        return {seed: statistics.fmean(accuracies) for seed, accuracies in found.items()}

    def peak_flops_per_second(self, device: str, precision: str, threads: int, software: Software) -> float | None:
        """Return the highest rate of products that any session measured: squares, layers, thread scaling.

        A busy machine only lowers rates, so a session never lowers the peak. Sessions with another torch, CUDA or BLAS
        than `software` do not count. None if no session measured this precision with this number of threads.
        """
        rates = (
            measured.highest_flops_per_second(precision, threads)
            for used, measured in self._measured(device)
            if _libraries(used) == _libraries(software)
        )
        return max((rate for rate in rates if rate is not None), default=None)

    def unused_seed(self) -> int:
        """Return the first seed above all that were trained: new seeds say more about the spread than repeated ones."""
        used = [seed for session in self.sessions for device in session.devices for seed in device.seeds]
        return max(used, default=-1) + 1

    def figures(self, device: str) -> DeviceFigures | None:
        """Return what is known of `device`; None if it was never calibrated."""
        sessions = self._alike(device)
        if not sessions:
            return None
        software, newest = self._measured(device)[-1]
        return DeviceFigures(
            device=device,
            threads=newest.threads,
            sessions=len(sessions),
            pairs=len(newest.aa_log_ratios),
            ab_floor=self.ab_floor(device),
            pair_deviation=_deviation(newest.aa_log_ratios),
            seeds=len(self._accuracies(device)),
            accuracy_deviation=self.accuracy_deviation(device),
            epoch_seconds=statistics.median(newest.epoch_seconds),
            epoch_deviation=_deviation(tuple(map(math.log, newest.epoch_seconds))),
            drift_deviation=self.drift_deviation(device),
            yardstick_seconds=statistics.median(newest.yardstick_seconds),
            peak_flops_per_second=self.peak_flops_per_second(device, "fp32", newest.threads, software),
            rates=newest.rates,
            thread_rates=newest.thread_rates,
        )

    def with_session(self, machine: Machine, session: Session) -> "MachineProfile":
        """Return this profile with `session` appended, the oldest ones beyond `MAX_SESSIONS` left out.

        `machine` is the same one as described today.
        """
        return replace(
            self, schema_version=SCHEMA_VERSION, machine=machine, sessions=(*self.sessions, session)[-MAX_SESSIONS:]
        )

    def _alike(self, device: str) -> list[DeviceSession]:
        """Return the calibrations of `device` that may be combined, oldest first."""
        every = self._measured(device)
        return [measured for software, measured in every if _decisive(software, measured) == _decisive(*every[-1])]

    def _measured(self, device: str) -> list[tuple[Software, DeviceSession]]:
        """Return every calibration of `device` with the software it used, oldest first."""
        return [
            (each.software, measured)
            for each in self.sessions
            for measured in each.devices
            if measured.device == device
        ]


def _decisive(software: Software, measured: DeviceSession) -> tuple[object, ...]:
    """Return what decides times and accuracies besides the machine: calibrations that differ in it do not mix."""
    return (
        measured.configuration,
        measured.threads,
        *_libraries(software),
        software.workload,
    )


def _libraries(software: Software) -> tuple[object, ...]:
    """Return the libraries on which rates of products depend, and what variables make of them."""
    return software.torch, software.cuda, software.blas, software.variables


def _deviation(values: tuple[float, ...]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def peak_rate_of(profile: MachineProfile | None, software: Software) -> Callable[[Configuration], float | None]:
    """Return a function from a configuration to the highest FLOP/s reached there by `software`'s torch, CUDA and BLAS.

    Without a profile it returns None for every configuration.
    """
    if profile is None:
        return lambda _: None
    return lambda c: profile.peak_flops_per_second(c.device, c.precision, c.threads, software)


def new_profile(machine: Machine) -> MachineProfile:
    """Return the profile of a machine that was never calibrated."""
    return MachineProfile(schema_version=SCHEMA_VERSION, machine=machine, sessions=())


def profile_path(machine_id: str, results: Path) -> Path:
    """Return the path of a machine's profile.

    Raises:
        BadInputError: `machine_id` is not a plain file name.
    """
    if Path(machine_id).name != machine_id or "\\" in machine_id:
        raise BadInputError(
            f"machine id {machine_id!r} is not a file name: it comes from a file that bench did not write"
        )
    return results / FOLDER / f"{machine_id}.json"


def load_profile(machine_id: str, results: Path) -> MachineProfile | None:
    """Return the profile of the machine `machine_id` in the folder `results`; None if there is none.

    Raises:
        BadInputError: it cannot be read, is broken, has a newer schema, or belongs to another machine.
    """
    path = profile_path(machine_id, results)
    remedy = "restore it, or move it away and run: python -m bench calibrate"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInputError(f"machine profile {path} cannot be read: {error.strerror}; {remedy}") from error
    try:
        data = coding.loads(text)
        _check_version(data)
        profile = coding.from_json(MachineProfile, data, "profile")
    except _NewerError as error:  # nothing is broken: the newer bench still reads it
        raise BadInputError(f"machine profile {path}: {error}; use a newer bench, or another --results") from error
    except BadInputError as error:
        raise BadInputError(f"machine profile {path}: {error}; {remedy}") from error
    if profile.machine.id != machine_id:
        raise BadInputError(
            f"machine profile {path} belongs to machine {profile.machine.id}: a profile holds for one machine; {remedy}"
        )
    return profile


class _NewerError(BadInputError):
    """A later version of the format."""


def _check_version(data: Any) -> None:  # noqa: ANN401 - parsed JSON has no narrower type
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise _NewerError(f"schema version {version} is newer than {SCHEMA_VERSION}, the newest known here")
    if type(version) is not int or version < 1:
        raise BadInputError(f"schema version {version!r} is unknown")


def save_profile(profile: MachineProfile, results: Path) -> Path:
    """Write `profile` to its path in `results` atomically: a reader sees the old file or the complete new one.

    Raises:
        StorageError: it cannot be written; an existing profile is left unchanged.
    """
    path = profile_path(profile.machine.id, results)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent} cannot be made: {error.strerror}; choose another --results") from error
    write_atomically(path, coding.dumps(profile) + "\n")
    return path
