"""Talks to worker processes and turns every way in which a trial can end into a `TrialRecord`."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from bench.coding import from_json, to_json
from bench.errors import BadInputError, WorkerError
from bench.execution.launcher import Launcher
from bench.execution.processes import HOST_START_SECONDS, Process
from bench.protocol.channel import ChannelClosedError, ChannelTimeoutError, ProtocolError
from bench.protocol.messages import DatasetReady, Evaluated, Finished, Peaked, Prepared, Trained
from bench.protocol.rates import DeviceRates
from bench.records import Configuration, Description, EpochRecord, Failure, FailureKind, Measurement, Trial, TrialRecord
from bench.system.redaction import redact
from bench.warning_rules import trial_warnings

T = TypeVar("T")


class TrialFailedError(Exception):
    """The trial ended without a measurement."""

    def __init__(self, failure: Failure) -> None:
        """Keep the failure to record."""
        super().__init__(failure.message)
        self.failure = failure


class Worker:
    """A conversation with one worker process: typed requests, with one time limit for all of them together."""

    def __init__(
        self, process: Process, *, timeout_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the time limit."""
        self._process = process
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._deadline = clock() + timeout_seconds

    def ask(self, answer_type: type[T], request: Mapping[str, Any]) -> T:
        """Send `request` and return its answer.

        Raises:
            TrialFailedError: the process reported a failure, died, did not answer in time or broke the protocol.
            BadInputError: the process rejected the request.
        """
        try:
            self._process.channel.send(request)
            message = self._process.channel.receive(max(0.0, self._deadline - self._clock()))
            if "failure" in message:
                raise TrialFailedError(self._decode(Failure, message, "failure"))
            if "bad_input" in message:
                raise BadInputError(self._decode(str, message, "bad_input"))
            return self._decode(answer_type, message, "answer")
        except ChannelTimeoutError:
            self._process.kill()
            limit = f"the trial's {self._timeout_seconds:g} s"
            what = f"no answer to {request.get('do')!r} within {limit}: allow more time with --timeout"
            raise self._failed(FailureKind.TIMEOUT, what) from None
        except ChannelClosedError:
            self._process.kill()
            what = f"the trial's process ended {self._process.wait()}{self._process.last_output()}"
            raise self._failed(FailureKind.CRASH, what) from None
        except ProtocolError as error:
            self._process.kill()
            raise self._failed(FailureKind.CRASH, f"the trial's process violated the protocol: {error}") from error

    @staticmethod
    def _decode(answer_type: type[T], message: Mapping[str, Any], member: str) -> T:
        try:
            return from_json(answer_type, message.get(member), member)
        except BadInputError as error:
            raise ProtocolError(str(error)) from error

    @staticmethod
    def _failed(kind: FailureKind, message: str) -> TrialFailedError:
        return TrialFailedError(Failure(kind=kind, message=message))

    def end(self) -> None:
        """Kill the process, whatever it is doing, and wait until it is gone."""
        self._process.kill()
        self._process.wait()


def ask_once(
    launcher: Launcher, answer_type: type[T], request: Mapping[str, Any], *, timeout_seconds: float, ranks: int = 1
) -> T:
    """Send one request to a fresh process, or to one of several `ranks`, and end it.

    Raises:
        TrialFailedError, BadInputError: see `Worker.ask`.
    """
    worker = Worker(launcher.start(ranks), timeout_seconds=timeout_seconds)
    try:
        return worker.ask(answer_type, request)
    finally:
        worker.end()


def describe_place(launcher: Launcher) -> Description:
    """Ask a fresh process which machine, software and devices this is."""
    return _ask_outside_trial(launcher, Description, {"do": "describe"})


def _ask_outside_trial(
    launcher: Launcher,
    answer_type: type[T],
    request: Mapping[str, Any],
    *,
    timeout_seconds: float = HOST_START_SECONDS,
    remedy: str = "",
) -> T:
    try:
        return ask_once(launcher, answer_type, request, timeout_seconds=timeout_seconds)
    except TrialFailedError as error:
        what = f"failed: {error}"
        if error.failure.kind is FailureKind.TIMEOUT:  # the error's own message is about a trial
            what = f"did not answer {request['do']!r} within {timeout_seconds:g} s{remedy}"
        raise WorkerError(f"the worker process {what}") from error


def preparation_seconds(timeout_seconds: float) -> float:
    """Return how long preparing a dataset may take if a trial may take `timeout_seconds`.

    A download over a slow link takes long and cannot be continued, so a short limit for trials must not end it.
    """
    return max(HOST_START_SECONDS, timeout_seconds)


def prepare_dataset(launcher: Launcher, name: str, root: Path | None, *, timeout_seconds: float) -> DatasetReady:
    """Have a fresh process make the dataset available in the data root, once, before the first trial needs it.

    `timeout_seconds` is a trial's limit, see `preparation_seconds`.
    """
    return _ask_outside_trial(
        launcher,
        DatasetReady,
        {"do": "dataset", "name": name, "root": root_text(root)},
        timeout_seconds=preparation_seconds(timeout_seconds),
        remedy=": allow more time with --timeout",
    )


def measure_peak(launcher: Launcher, configuration: Configuration, timeout_seconds: float) -> float:
    """Have a fresh process measure the highest fp32 FLOP/s of this configuration's device with its threads.

    Raises:
        TrialFailedError: it could not.
    """
    request = {"do": "peak", "device": configuration.device, "threads": configuration.threads}
    return ask_once(launcher, Peaked, request, timeout_seconds=timeout_seconds).flops_per_second


def measure_rates(  # noqa: PLR0913 - what decides rates
    launcher: Launcher, device: str, *, precision: str, threads: int, whole: bool, timeout_seconds: float
) -> DeviceRates:
    """Have a fresh process measure the rates of `device` at `precision` with `threads` threads.

    Unless `whole` is set, only what depends on the thread count is measured: see `bench.worker.rate_meter`.

    Raises:
        TrialFailedError: it could not.
    """
    request = {"do": "rates", "device": device, "precision": precision, "threads": threads, "whole": whole}
    return ask_once(launcher, DeviceRates, request, timeout_seconds=timeout_seconds)


def root_text(root: Path | None) -> str | None:
    """Return the data root for a request, as an absolute path, because the worker may run in another folder."""
    return None if root is None else str(root.resolve())


def prepare_request(trial: Trial, root: Path | None) -> dict[str, Any]:
    """Return the request to prepare `trial`."""
    return {"do": "prepare", "trial": to_json(trial), "root": root_text(root)}


def storable(failure: Failure, root: Path | None) -> Failure:
    """Return `failure` without this machine's paths and names, as it may be stored and published."""
    return Failure(kind=failure.kind, message=redact(failure.message, root))


def probe_trial(launcher: Launcher, trial: Trial, *, root: Path | None, timeout_seconds: float) -> Prepared:
    """Prepare `trial` in a fresh process and go no further; return the process's answer.

    Raises:
        TrialFailedError: it could not be prepared.
    """
    request, ranks = {**prepare_request(trial, root), "last": True}, trial.configuration.world_size
    return ask_once(launcher, Prepared, request, timeout_seconds=timeout_seconds, ranks=ranks)


def run_trial(
    launcher: Launcher,
    trial: Trial,
    *,
    root: Path | None,
    timeout_seconds: float,
    on_epoch: Callable[[EpochRecord], None] = lambda _epoch: None,
) -> TrialRecord:
    """Run all epochs of `trial` in a fresh process; return its record, whatever happened.

    `on_epoch` is called between epochs, outside all timing.
    """
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    start = time.perf_counter()
    worker = Worker(launcher.start(trial.configuration.world_size), timeout_seconds=timeout_seconds)
    outcome: Measurement | Failure
    try:
        outcome = _measure(worker, trial, root, on_epoch)
    except TrialFailedError as error:
        outcome = storable(error.failure, root)
    except BadInputError as error:
        outcome = storable(Failure(kind=FailureKind.UNSUPPORTED, message=str(error)), root)
    finally:
        worker.end()
    return TrialRecord(
        trial=trial,
        outcome=outcome,
        warnings=trial_warnings(outcome, trial.configuration) if isinstance(outcome, Measurement) else (),
        started_at=started_at,
        wall_seconds=time.perf_counter() - start,
    )


def _measure(worker: Worker, trial: Trial, root: Path | None, on_epoch: Callable[[EpochRecord], None]) -> Measurement:
    prepared = worker.ask(Prepared, prepare_request(trial, root))
    epochs = []
    for number in range(trial.configuration.epochs):
        trained = worker.ask(Trained, {"do": "train", "epoch": number})
        evaluated = worker.ask(Evaluated, {"do": "evaluate"})
        epochs.append(
            EpochRecord(
                train_seconds=trained.train_seconds,
                train_samples=trained.train_samples,
                train_loss=trained.train_loss,
                train_correct=trained.train_correct,
                test_samples=evaluated.test_samples,
                test_loss=evaluated.test_loss,
                test_correct=evaluated.test_correct,
                evaluation_seconds=evaluated.evaluation_seconds,
                yardstick_seconds=trained.yardstick_seconds,
                contention=trained.contention,
                device_conditions=trained.device_conditions,
            )
        )
        on_epoch(epochs[-1])
    finished = worker.ask(Finished, {"do": "finish"})
    return Measurement(
        epochs=tuple(epochs),
        settings=prepared.settings,
        dataset_sha256=prepared.dataset_sha256,
        parameters=prepared.parameters,
        forward_flops_per_sample=prepared.forward_flops_per_sample,
        training_flops_per_sample=prepared.training_flops_per_sample,
        preparation_seconds=prepared.preparation_seconds,
        cold_start_seconds=prepared.cold_start_seconds,
        warm_up_seconds=prepared.warm_up_seconds,
        host_baseline_bytes=prepared.host_baseline_bytes,
        host_peak=finished.host_peak,
        device_allocated_peak=finished.device_allocated_peak,
        device_reserved_peak=finished.device_reserved_peak,
        energy=finished.energy,
        energy_reason=finished.energy_reason,
        ranks=finished.ranks,
        exchange=finished.exchange,
        on_battery=finished.on_battery,
    )
