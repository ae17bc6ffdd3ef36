"""Calibration: measures and stores how finely this machine can measure, for each device, on a reference configuration.

It measures three things. Identical arms in live process pairs (A/A) show what difference `ab` would report where there
is none. Full trials with different seeds show how much accuracy varies from seed to seed and how long an epoch takes
today. The device's rates (`bench.protocol.rates`), at each precision and on the CPU for several thread counts, bound
how fast training could be. To measure something else of a device, add a field to
`bench.calibration.profiles.DeviceSession` and fill it in `_Calibration.measure_device`.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

from bench.ab.pairs import ArmFailedError, PairRecord, measure_pair
from bench.calibration.profiles import (
    DeviceSession,
    MachineProfile,
    Session,
    load_profile,
    new_profile,
    profile_path,
    save_profile,
)
from bench.errors import BadInputError, BenchError, ExitCode, InterruptedRunError
from bench.execution.conversation import (
    TrialFailedError,
    describe_place,
    measure_peak,
    measure_rates,
    prepare_dataset,
    run_trial,
)
from bench.execution.launcher import Launcher
from bench.planning.plan import Request, choose_devices, make_plan
from bench.protocol.rates import DeviceRates, ThreadRates, thread_counts
from bench.records import Configuration, Failure, FailureKind, Measurement, Trial, TrialRecord, TrialWarning
from bench.system.interrupts import Interrupts
from bench.system.locks import IMPATIENT, Patience, device_locks
from bench.system.outputs import remove_abandoned
from bench.units import format_count, format_flops, format_seconds
from bench.warning_rules import ADVICE
from mnist_mlp.recipes import PRECISIONS
from mnist_mlp.support import why_unsupported

DATASET: Final = "mnist"
REFERENCE: Final = Request(models=("784-128-10",), batch_sizes=(256,), epochs=3, repeats=1, dataset=DATASET)
"""Small enough for a minute in total, large enough that a step is not all overhead."""


class CalibrationError(BenchError):
    """A trial failed while calibrating; the profile is unchanged."""

    exit_code = ExitCode.FAILED_TRIAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to calibrate, how thoroughly, and where to store it. `timeout_seconds` is for one trial or pair.

    `patience` is how long to wait for locks that another calibration or run holds.
    """

    devices: tuple[str, ...]
    pairs: int
    seeds: int
    results: Path
    data_root: Path | None
    timeout_seconds: float
    patience: Patience = IMPATIENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A stored calibration: the profile's file and content, and the devices of this session."""

    path: Path
    profile: MachineProfile
    devices: tuple[str, ...]


def calibrate(
    options: Options,
    launchers: tuple[Launcher, Launcher],
    interrupts: Interrupts,
    progress: Callable[[str], None],
    measure: Callable[..., PairRecord] = measure_pair,
) -> Calibrated:
    """Calibrate each device and append the session to the machine's profile.

    `progress` is called with a line for each measurement. The two launchers share one worker host, as those of
    `ab` do for two versions of the code. `measure` has the signature of `bench.ab.pairs.measure_pair`.

    Raises:
        BadInputError: a device is missing or in use, or the profile is broken or cannot be written.
        CalibrationError: a trial failed; the profile is unchanged.
        InterruptedRunError: Ctrl-C, SIGTERM or SIGHUP; the profile is unchanged.
    """
    start = time.perf_counter()
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    place = describe_place(launchers[0])
    devices = choose_devices(options.devices, place.devices)
    path, patience = profile_path(place.machine.id, options.results), options.patience
    asked = time.perf_counter()
    with _profile_lock(path, patience), device_locks(devices, uuids=place.uuids, patience=patience):
        start += time.perf_counter() - asked  # waiting for another measurement is not part of this one
        profile = load_profile(place.machine.id, options.results) or new_profile(place.machine)
        prepare_dataset(launchers[0], DATASET, options.data_root, timeout_seconds=options.timeout_seconds)
        cores = place.machine.whole_cores
        plan = make_plan(REFERENCE, devices=devices, cores=cores, default_threads=place.default_threads)
        calibration = _Calibration(
            options=options, launchers=launchers, cores=cores, progress=progress, measure=measure
        )
        try:
            measured = tuple(calibration.measure_device(each, profile.unused_seed()) for each in plan.configurations)
        except InterruptedRunError as interruption:
            raise InterruptedRunError(f"{interruption}: nothing of this calibration is stored") from None
        with interrupts.shield():
            profile = profile.with_session(
                place.machine,
                Session(
                    created_at=created_at,
                    software=place.software,
                    wall_seconds=time.perf_counter() - start,
                    devices=measured,
                ),
            )
            remove_abandoned(path)
            save_profile(profile, options.results)
    return Calibrated(path=path, profile=profile, devices=devices)


@contextlib.contextmanager
def _profile_lock(path: Path, patience: Patience) -> Iterator[None]:
    """Lock the machine's profile, so that no calibration is lost; fail now if its folder cannot be written to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{path.parent} cannot be made: {error.strerror}; choose another --results") from error
    lock = patience.acquire(
        path.with_name(f".{path.name}.lock"),
        f"machine profile {path}",
        "two calibrations at once disturb each other's timings: wait until that one ends",
    )
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calibration:
    """One calibration: what all of its measurements share."""

    options: Options
    launchers: tuple[Launcher, Launcher]
    cores: int
    progress: Callable[[str], None]
    measure: Callable[..., PairRecord]

    def measure_device(self, configuration: Configuration, first_seed: int) -> DeviceSession:
        """Measure pairs and trials alternately, so that both are spread over the same minute."""
        options, ratios, trials, peaks = self.options, list[float](), list[Measurement](), list[float]()
        warnings: set[TrialWarning] = set()
        for number in range(max(options.pairs, options.seeds)):
            if number < options.pairs:
                ratios.append(self._log_ratio(configuration, number))
                percent = 100 * math.expm1(ratios[-1])
                self.progress(f"{configuration.device}: A/A pair {number + 1} of {options.pairs}: {percent:+.1f} %")
            if number < options.seeds:
                record, measurement = self._trial(configuration, first_seed + number)
                trials.append(measurement)
                warnings.update(record.warnings)
                peaks.append(self._peak(configuration))
                seconds = format_seconds(measurement.epoch_seconds)
                self.progress(f"{configuration.device}: trial {number + 1} of {options.seeds}: {seconds} an epoch")
        rates, thread_rates = self._rates(configuration), self._thread_rates(configuration)
        for warning in sorted(warnings):
            self.progress(f"{configuration.device}: {warning}: {ADVICE[warning]}")
        return DeviceSession(
            device=configuration.device,
            threads=configuration.threads,
            configuration=configuration,
            aa_log_ratios=tuple(ratios),
            seeds=tuple(range(first_seed, first_seed + options.seeds)),
            epoch_seconds=tuple(trial.epoch_seconds for trial in trials),
            test_accuracies=tuple(trial.test_accuracy for trial in trials if trial.test_accuracy is not None),
            yardstick_seconds=tuple(median(epoch.yardstick_seconds for epoch in trial.epochs) for trial in trials),
            peak_flops_per_second=tuple(peaks),
            rates=rates,
            thread_rates=thread_rates,
        )

    def _log_ratio(self, configuration: Configuration, number: int) -> float:
        try:
            pair = self.measure(
                *self.launchers,
                configuration,
                seed=number,  # decides which arm begins: each does in half of the pairs
                root=self.options.data_root,
                timeout_seconds=self.options.timeout_seconds,
            )
        except ArmFailedError as error:
            raise _nothing_stored(f"A/A pair {number + 1} on {configuration.device}: {error}") from error
        return pair.log_ratio

    def _trial(self, configuration: Configuration, seed: int) -> tuple[TrialRecord, Measurement]:
        record = run_trial(
            self.launchers[0],
            Trial(configuration=configuration, seed=seed, repeat=0),
            root=self.options.data_root,
            timeout_seconds=self.options.timeout_seconds,
        )
        if isinstance(record.outcome, Measurement):
            return record, record.outcome
        raise _failed(f"the trial with seed {seed} on {configuration.device}", record.outcome)

    def _peak(self, configuration: Configuration) -> float:
        try:
            return measure_peak(self.launchers[0], configuration, self.options.timeout_seconds)
        except TrialFailedError as error:
            raise _failed(f"measuring the peak of {configuration.device}", error.failure) from error

    def _rates(self, configuration: Configuration) -> tuple[DeviceRates, ...]:
        """Return the device's rates at each precision; one that does not take effect is reported and omitted."""
        device, threads, found = configuration.device, configuration.threads, list[DeviceRates]()
        for precision in PRECISIONS:
            if why_unsupported(device=device, engine="eager", precision=precision, pipeline="resident") is not None:
                continue
            try:
                found.append(self._rates_at(device, precision, threads, whole=True))
            except TrialFailedError as error:
                if precision == "fp32" or error.failure.kind != FailureKind.UNSUPPORTED:
                    raise _rates_failed(device, precision, threads, error) from error
                self.progress(f"{device}: no rates at {precision}: {error}")
        return tuple(found)

    def _thread_rates(self, configuration: Configuration) -> tuple[ThreadRates, ...]:
        """Return the CPU's rates with 1, 2, 4, … threads up to all usable cores; none for an accelerator."""
        device, found = configuration.device, list[ThreadRates]()
        for threads in thread_counts(self.cores) if device == "cpu" else ():
            try:
                rates = self._rates_at(device, "fp32", threads, whole=False)
            except TrialFailedError as error:
                raise _rates_failed(device, "fp32", threads, error) from error
            if rates.bandwidth is not None:
                found.append(
                    ThreadRates(
                        threads=threads,
                        square_flops_per_second=rates.square_flops_per_second,
                        triad_bytes_per_second=rates.bandwidth.triad_bytes_per_second,
                    )
                )
        return tuple(found)

    def _rates_at(self, device: str, precision: str, threads: int, *, whole: bool) -> DeviceRates:
        rates = measure_rates(
            self.launchers[0],
            device,
            precision=precision,
            threads=threads,
            whole=whole,
            timeout_seconds=self.options.timeout_seconds,
        )
        rate = f"{format_flops(rates.highest_flops_per_second)}/s"
        self.progress(f"{device}: rates at {precision} with {format_count(threads, 'thread')}: up to {rate}")
        return rates


def _rates_failed(device: str, precision: str, threads: int, error: TrialFailedError) -> CalibrationError:
    what = f"measuring the rates of {device} at {precision} with {format_count(threads, 'thread')}"
    return _failed(what, error.failure)


def _failed(what: str, failure: Failure) -> CalibrationError:
    return _nothing_stored(f"{what} failed: {failure.kind}: {failure.message}")


def _nothing_stored(what: str) -> CalibrationError:
    return CalibrationError(f"{what}. Nothing of this calibration is stored: remove the cause and calibrate again")
