"""The only bridge from the harness to the workload: one process, one trial, measured where it runs.

The conversation, each line a request and its answer (`bench.protocol.messages`):

    describe                   → Description
    dataset name root          → DatasetReady
    prepare trial root [last]  → Prepared       settings, data, model; cold start; warm-up, undone again; products
    train epoch                → Trained        yardstick, the timed epoch, yardstick
    stretch epoch begin end    → Stretched      the timed batches begin to end of an epoch, nothing else
    evaluate                   → Evaluated
    finish                     → Finished       peaks; then the process ends
    peak device threads        → Peaked         the highest rate of fp32 matrix products
    rates device threads precision whole → DeviceRates   what the device can do
    selftest device threads dataset root → Checked   the self-test, in a process of its own

The ranks of a training part after a ``prepare`` with `last`, as they do after ``finish``.

A request that fails is answered with ``failure`` (the trial's end, with its kind) or ``bad_input`` (the caller's
mistake, with the message for the user). The process ends when the other end hangs up, whatever it is doing.
"""

import importlib
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.coding import from_json, to_json
from bench.protocol.channel import Channel, ChannelClosedError
from bench.protocol.messages import DatasetReady, Evaluated, Finished, Peaked, Prepared, Stretched, Trained
from bench.protocol.rates import DeviceRates
from bench.protocol.soundness import Checked
from bench.records import Configuration, Failure, FailureKind, Peak, Trial
from bench.worker.battery import runs_on_battery
from bench.worker.conditions import DeviceWatch, HostPressure, make_device_watch
from bench.worker.devices import Device
from bench.worker.energy import EnergyMeter, make_energy_meter
from bench.worker.fingerprint import describe
from bench.worker.meters import ContentionMeter, HostMemory, Yardstick
from bench.worker.settings import SettingsError, apply_precision, check_products
from bench.worker.timer import Timer
from mnist_mlp import data
from mnist_mlp.errors import EngineUnavailableError, WorkloadError
from mnist_mlp.model import forward_flops, parameter_count, training_flops
from mnist_mlp.ranks import ALONE, Ranks
from mnist_mlp.recipes import HYPERPARAMETERS, Recipe
from mnist_mlp.train import Score, Tally, Training

if TYPE_CHECKING:
    import torch

WARM_STEPS: Final = 8
"""Full batches of the rehearsal after the cold start, from which the time of a step is estimated too."""

DISPLACEMENT_BYTES: Final = 100_000
"""Below glibc's threshold of 128 KiB, from which on a block would get pages of its own and leave the heap as it is."""

_OUT_OF_MEMORY: Final = (
    "allocate memory",
    "out of memory",
    "ALLOC_FAILED",
    "bad_alloc",
    "OOM trying",
    "Invalid buffer size",
)
"""How RuntimeErrors report a lack of memory: torch's CPU allocator, CUDA's and MPS's, cuBLAS, C++, cuBLASLt, and MPS's
for a tensor larger than the largest that Metal allocates. The workload has such a list too, but the older revisions
that `ab` compares with do not."""


def _out_of_memory(error: BaseException | None) -> BaseException | None:
    """Return `error` or the one behind it that reports a lack of memory: a graph capture hides it behind its own."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
            return error
        error = error.__context__
    return None


class TrialError(Exception):
    """The trial cannot go on; carries the `Failure` to report."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        """Store the failure."""
        super().__init__(message)
        self.failure = Failure(kind=kind, message=message)


class Session:
    """The worker's side of one conversation. `RankSession` overrides what one rank of several does differently."""

    ranks: Ranks = ALONE

    def __init__(self) -> None:
        """Record how much memory the imports alone take."""
        self._host_memory = HostMemory()
        self._host_peak: Peak | None = None
        self._allocated_peak: Peak | None = None
        self._reserved_peak: Peak | None = None
        self._energy = EnergyMeter(None, "no trial was prepared")
        self._epoch_order: tuple[int, torch.Tensor] | None = None  # of the epoch that `_stretch` trained last
        # `_prepare` sets the others.
        self._displacement: bytearray
        self._device: Device
        self._timer: Timer
        self._is_accuracy_meaningful: bool
        self._training: Training
        self._yardstick: Yardstick
        self._contention: ContentionMeter
        self._pressure: HostPressure
        self._watch: DeviceWatch

    def own_device(self, first: str) -> str:
        """Return the device that this process trains on; `first` is the trial's, which the first rank uses."""
        return first

    def meet(self) -> None:
        """Wait until all ranks are here."""

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what `request` asks; return the answer as JSON values. No exception leaves this method."""
        try:
            return {"answer": to_json(self._handle(request))}
        except (SettingsError, EngineUnavailableError) as error:
            return {"failure": to_json(_failure(FailureKind.UNSUPPORTED, error))}
        except WorkloadError as error:
            return {"bad_input": str(error)}
        except TrialError as error:
            return {"failure": to_json(error.failure)}
        except Exception as error:  # noqa: BLE001 - the trial's boundary: whatever goes wrong becomes its Failure
            lack = _out_of_memory(error)
            kind = FailureKind.CRASH if lack is None else FailureKind.OUT_OF_MEMORY
            return {"failure": to_json(_failure(kind, lack or error))}

    def _handle(self, request: Mapping[str, Any]) -> object:
        handlers: dict[str, Callable[[], object]] = {
            "describe": describe,
            "dataset": lambda: _prepare_dataset(request["name"], _root(request)),
            "prepare": lambda: self._prepare(from_json(Trial, request["trial"]), _root(request)),
            "train": lambda: self._train(request["epoch"]),
            "stretch": lambda: self._stretch(request["epoch"], request["begin"], request["end"]),
            "evaluate": self._evaluate,
            "peak": lambda: _measure_peak(request["device"], request["threads"]),
            "rates": lambda: _measure_rates(request),
            "selftest": lambda: _self_test(request),
            "finish": self._finish,
        }
        handler = handlers.get(str(request.get("do")))
        if handler is None:
            raise TrialError(FailureKind.CRASH, f"the worker knows no request {request.get('do')!r}")
        return handler()

    def _prepare(self, trial: Trial, root: Path | None) -> Prepared:
        configuration = trial.configuration
        start = time.perf_counter()
        self._displacement = displace(trial.seed)
        self._device = Device(self.own_device(configuration.device))
        self._timer = Timer(self._device.synchronise)
        settings = apply_precision(configuration.precision, configuration.threads)
        dataset = data.load(configuration.dataset, root)
        self._is_accuracy_meaningful = configuration.dataset != "synthetic"
        self._training = Training(
            recipe_of(configuration),
            dataset,
            device=self._device.torch_device,
            seed=trial.seed,
            pipeline=configuration.pipeline,
            engine=configuration.engine,
            precision=configuration.precision,
            workers=configuration.workers,
            root=root,
            ranks=self.ranks,
        )
        self._device.synchronise()
        prepared = time.perf_counter()
        cold_start_seconds, step_seconds = self._warm_up()
        warm = time.perf_counter()
        # Not earlier: it would initialise libraries whose initialisation belongs to the cold start.
        check_products(configuration.precision, self._device.torch_device)
        self._make_meters()
        return Prepared(
            settings=settings,
            dataset_sha256=dataset.sha256,
            parameters=parameter_count(configuration.layers),
            forward_flops_per_sample=forward_flops(configuration.layers),
            training_flops_per_sample=training_flops(configuration.layers),
            train_samples=self._training.train_samples,
            step_seconds=step_seconds,
            preparation_seconds=prepared - start,
            cold_start_seconds=cold_start_seconds,
            warm_up_seconds=warm - prepared,
            host_baseline_bytes=self._host_memory.baseline_bytes,
        )

    def _make_meters(self) -> None:
        device = self._device.torch_device
        self._yardstick = Yardstick(device, self._timer)
        self._contention = ContentionMeter(whole_machine=self.ranks.world_size > 1)
        self._pressure = HostPressure()
        self._watch = make_device_watch(device)
        self._energy = make_energy_meter(device)

    def _warm_up(self) -> tuple[float, float]:
        """Train and evaluate with every batch shape, then undo it; return the seconds of a first and of a warm step."""
        training, device = self._training, self._device
        untrained = training.snapshot()
        one_batch = training.order(0)[: training.recipe.batch_size]
        cold = self._timer.seconds(lambda: training.train(one_batch))
        order = training.rehearsal_order(WARM_STEPS)
        training.train(order, after_step=device.sample).read()
        training.evaluate().read()
        warm = self._timer.seconds(lambda: training.train(order))
        training.restart(untrained)
        device.synchronise()
        return cold, warm / math.ceil(len(order) / training.recipe.batch_size)

    def _train(self, epoch: int) -> Trained:
        training, device = self._training, self._device
        yardstick_seconds = self._yardstick.seconds()
        # The meters are nested, so that an inner one does not measure what an outer one costs.
        self._watch.start()
        self._pressure.start()
        device.reset_peak()
        self._host_memory.reset_peak()
        self._energy.start()
        device.synchronise()
        self.meet()
        self._contention.start()
        tally, train_seconds = self._timer.run(lambda: training.train(training.order(epoch)))
        contention = self._contention.stop()
        self._energy.stop()
        contention = self._pressure.stop(contention)
        conditions = self._watch.stop()
        self._note_peaks()
        yardstick_seconds += self._yardstick.seconds()
        score = tally.read()
        self._check_finite("train loss", score, epoch)
        return Trained(
            train_seconds=train_seconds,
            train_samples=score.samples,
            train_loss=score.loss,
            train_correct=score.correct if self._is_accuracy_meaningful else None,
            yardstick_seconds=yardstick_seconds,
            contention=contention,
            device_conditions=conditions,
        )

    def _stretch(self, epoch: int, begin: int, end: int) -> Stretched:
        """Time the batches `begin` to `end` of `epoch`; the first stretch's time includes drawing the epoch's order."""
        training, batch_size = self._training, self._training.recipe.batch_size

        def train() -> Tally:
            if self._epoch_order is None or self._epoch_order[0] != epoch:
                self._epoch_order = epoch, training.order(epoch)
            return training.train(self._epoch_order[1][begin * batch_size : end * batch_size])

        tally, train_seconds = self._timer.run(train)
        score = tally.read()
        self._check_finite("train loss", score, epoch)
        return Stretched(train_seconds=train_seconds, train_samples=score.samples, train_loss=score.loss)

    def _evaluate(self) -> Evaluated:
        score, evaluation_seconds = self._timer.run(lambda: self._training.evaluate().read())
        self._check_finite("test loss", score, None)
        return Evaluated(
            test_samples=score.samples,
            test_loss=score.loss,
            test_correct=score.correct if self._is_accuracy_meaningful else None,
            evaluation_seconds=evaluation_seconds,
        )

    def _finish(self) -> Finished:
        energy, energy_reason = self._energy.result()
        return Finished(
            host_peak=self._host_peak,
            device_allocated_peak=self._allocated_peak,
            device_reserved_peak=self._reserved_peak,
            energy=energy,
            energy_reason=energy_reason,
            on_battery=runs_on_battery(),
        )

    def _note_peaks(self) -> None:
        self._host_peak = _larger(self._host_peak, self._host_memory.peak())
        self._allocated_peak = _larger(self._allocated_peak, self._device.allocated_peak())
        self._reserved_peak = _larger(self._reserved_peak, self._device.reserved_peak())

    def _check_finite(self, what: str, score: Score, epoch: int | None) -> None:
        if not math.isfinite(score.loss):
            where = "" if epoch is None else f" in epoch {epoch + 1}"
            rate = self._training.recipe.learning_rate
            raise TrialError(
                FailureKind.NON_FINITE_LOSS, f"{what} became {score.loss}{where} at learning rate {rate:g}: lower it"
            )


def displace(seed: int) -> bytearray:
    """Return a block of memory that shifts what is allocated after it by an amount drawn from `seed`.

    Trials inherit their host's memory layout, which alone makes training faster or slower by several percent
    (docs/measuring.md). Shifted by its seed, each repeat has its own layout, while the two arms of a pair, which have
    the same seed, still share one.
    """
    return bytearray(random.Random(seed).randrange(DISPLACEMENT_BYTES))  # noqa: S311 - not a secret


def recipe_of(configuration: Configuration) -> Recipe:
    """Return the recipe in `configuration` as this process's `mnist_mlp` defines recipes."""
    return Recipe(name=configuration.model, **{name: getattr(configuration, name) for name in HYPERPARAMETERS})


def _prepare_dataset(name: str, root: Path | None) -> DatasetReady:
    dataset = data.load(name, root)
    return DatasetReady(sha256=dataset.sha256, train_samples=len(dataset.train_labels))


def _measure_peak(name: str, threads: int) -> Peaked:
    from bench.worker.peak import measure_peak  # noqa: PLC0415 - trials need none of it

    device = Device(name)
    apply_precision("fp32", threads)
    check_products("fp32", device.torch_device)
    return Peaked(flops_per_second=measure_peak(device.torch_device, Timer(device.synchronise)))


def _measure_rates(request: Mapping[str, Any]) -> DeviceRates:
    from bench.worker.rate_meter import measure_rates  # noqa: PLC0415 - trials need none of it

    device, threads, precision = Device(request["device"]), request["threads"], request["precision"]
    apply_precision(precision, threads)
    rates = measure_rates(device, precision=precision, threads=threads, whole=request["whole"])
    check_products(precision, device.torch_device)  # last: idle power is measured before the device does any work
    return rates


def _self_test(request: Mapping[str, Any]) -> Checked:
    from bench.worker.selftest import check_device  # noqa: PLC0415 - trials need none of it

    return check_device(request["device"], request["threads"], request["dataset"], _root(request), Session)


def _root(request: Mapping[str, Any]) -> Path | None:
    return None if request["root"] is None else Path(request["root"])


def _failure(kind: FailureKind, error: BaseException) -> Failure:
    return Failure(kind=kind, message=f"{type(error).__name__}: {error}".splitlines()[0][:500])


def _larger(one: Peak | None, other: Peak | None) -> Peak | None:
    peaks = [peak for peak in (one, other) if peak is not None]
    return max(peaks, key=lambda peak: peak.bytes, default=None)


def serve(channel: Channel) -> None:
    """Answer requests until ``finish`` is answered or the other end hangs up."""
    session = Session()
    try:
        while True:
            request = channel.receive()
            channel.send(session.answer(request))
            if request.get("do") == "finish":
                return
    except ChannelClosedError:
        return


def take_standard_streams() -> tuple[int, int]:
    """Return descriptors of standard input and output that nothing else in this process reads or prints to."""
    reader, writer = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return reader, writer


def import_all(modules: Iterable[str]) -> None:
    """Import what a trial needs, before a session notes how much memory imports take."""
    for module in modules:
        importlib.import_module(module)


def main() -> None:
    """Serve one conversation over standard input and output (where processes are spawned, not forked).

    The arguments are modules to import first.
    """
    reader, writer = take_standard_streams()
    import_all(sys.argv[1:])
    serve(Channel(os.fdopen(reader, "rb"), os.fdopen(writer, "wb"), on_close=lambda: os._exit(1)))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
