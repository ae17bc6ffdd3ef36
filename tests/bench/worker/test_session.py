"""The worker's side of the conversation, in this process and over a real socket, with the real training."""

import dataclasses
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_builders import make_conditions, make_configuration, make_energy

from bench.coding import from_json, to_json
from bench.protocol.channel import Channel, ChannelClosedError
from bench.protocol.messages import DatasetReady, Evaluated, Finished, Peaked, Prepared, Stretched, Trained
from bench.protocol.rates import DeviceRates
from bench.records import Configuration, Description, Energy, Failure, FailureKind, Peak, Settings, Trial
from bench.worker import session as worker
from bench.worker.conditions import DeviceWatch, HostPressure
from bench.worker.devices import Device
from bench.worker.meters import ContentionMeter, HostMemory, Yardstick, machine_cpu_seconds
from bench.worker.settings import SettingsError, apply_precision
from bench.worker.timer import Timer
from mnist_mlp import data
from mnist_mlp.errors import EngineUnavailableError, WorkloadError
from mnist_mlp.ranks import Ranks
from mnist_mlp.recipes import HYPERPARAMETERS, RECIPES, Recipe
from mnist_mlp.train import Score, Tally, Training

THREADS = torch.get_num_threads()
TINY = make_configuration(
    model="784-8-10", layers=(784, 8, 10), batch_size=4096, epochs=2, dataset="synthetic", threads=THREADS
)


@pytest.fixture
def session() -> Iterator[worker.Session]:
    yield worker.Session()
    torch.set_num_threads(THREADS)


def prepare(configuration: Configuration = TINY, seed: int = 3) -> dict[str, Any]:
    trial = Trial(configuration=configuration, seed=seed, repeat=0)
    return {"do": "prepare", "trial": to_json(trial), "root": None}


def ask(session: worker.Session, kind: type[Any], request: dict[str, Any]) -> Any:  # noqa: ANN401 - one of the answers
    answer = session.answer(request)
    assert "answer" in answer, answer
    return from_json(kind, answer["answer"])


def failure_of(session: worker.Session, request: dict[str, Any]) -> Failure:
    answer = session.answer(request)
    assert "failure" in answer, answer
    return from_json(Failure, answer["failure"])


def test_a_trial_is_displaced_in_memory_by_its_seed(session: worker.Session) -> None:
    sizes = [len(worker.displace(seed)) for seed in range(20)]
    assert len(set(sizes)) == len(sizes)
    assert sizes == [len(worker.displace(seed)) for seed in range(20)]
    ask(session, Prepared, prepare(seed=7))
    assert len(session._displacement) == sizes[7]  # noqa: SLF001 - it works by being there


def test_a_trial_trains_on_the_device_that_is_its_processs_own(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "own_device", {"cuda:0": "cpu"}.__getitem__)
    ask(session, Prepared, prepare(dataclasses.replace(TINY, device="cuda:0")))


def test_the_peak_is_measured_of_products_that_were_checked_and_waited_for(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def measure(_device: torch.device, timer: Timer) -> float:
        timer.synchronise()
        return 1e11

    monkeypatch.setattr(worker, "check_products", lambda precision, _device: events.append(precision))
    monkeypatch.setattr(Device, "synchronise", lambda _self: events.append("wait"))
    monkeypatch.setattr("bench.worker.peak.measure_peak", measure)
    ask(session, Peaked, {"do": "peak", "device": "cpu", "threads": 1})
    assert events == ["fp32", "wait"]


def test_the_peak_is_measured_with_the_threads_asked_for(session: worker.Session) -> None:
    peaked = ask(session, Peaked, {"do": "peak", "device": "cpu", "threads": 1})
    assert peaked.flops_per_second > 0
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", ["digits", pytest.param("mnist", marks=pytest.mark.mnist)])
def test_measured_training_is_bit_for_bit_the_training_without_the_harness(session: worker.Session, name: str) -> None:
    configuration = dataclasses.replace(TINY, dataset=name, batch_size=512)
    prepared = ask(session, Prepared, prepare(configuration))
    measured = []
    for epoch in range(2):
        trained = ask(session, Trained, {"do": "train", "epoch": epoch})
        evaluated = ask(session, Evaluated, {"do": "evaluate"})
        measured.append((trained.train_loss, trained.train_correct, evaluated.test_loss, evaluated.test_correct))

    dataset = data.load(name)
    training = Training(worker.recipe_of(configuration), dataset, device=torch.device("cpu"), seed=3)
    plain = []
    for epoch in range(2):
        train, test = training.train(training.order(epoch)).read(), training.evaluate().read()
        plain.append((train.loss, train.correct, test.loss, test.correct))
    assert measured == plain
    assert prepared.dataset_sha256 == dataset.sha256
    assert prepared.parameters == 784 * 8 + 8 + 8 * 10 + 10
    assert prepared.training_flops_per_sample == 2 * (2 * 784 * 8) + 3 * (2 * 8 * 10)


def test_an_epochs_order_is_drawn_in_its_first_stretch_alone(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    order = Training.order

    def note(training: Training, epoch: int) -> torch.Tensor:
        drawn.append(epoch)
        return order(training, epoch)

    ask(session, Prepared, prepare())
    monkeypatch.setattr(Training, "order", note)
    for epoch, begin in ((0, 0), (0, 1), (1, 0), (1, 1)):
        ask(session, Stretched, {"do": "stretch", "epoch": epoch, "begin": begin, "end": begin + 1})
    assert drawn == [0, 1]


def test_stretches_train_on_the_batches_of_their_own_epoch(session: worker.Session) -> None:
    ask(session, Prepared, prepare())
    training = Training(worker.recipe_of(TINY), data.load("synthetic"), device=torch.device("cpu"), seed=3)
    for epoch, begin, end in ((0, 0, 2), (1, 0, 1), (1, 1, 2)):
        asked = {"do": "stretch", "epoch": epoch, "begin": begin, "end": end}
        order = training.order(epoch)[begin * TINY.batch_size : end * TINY.batch_size]
        assert ask(session, Stretched, asked).train_loss == training.train(order).read().loss


@pytest.mark.parametrize(("engine", "precision"), [("fused", "fp32"), ("eager", "bf16")])
def test_engine_and_precision_of_the_configuration_are_those_trained_with(
    session: worker.Session, engine: str, precision: str
) -> None:
    ask(session, Prepared, prepare(dataclasses.replace(TINY, engine=engine, precision=precision)))
    measured = ask(session, Trained, {"do": "train", "epoch": 0}).train_loss
    losses = {}
    for names in (("eager", "fp32"), (engine, precision)):
        training = Training(
            worker.recipe_of(TINY),
            data.load("synthetic"),
            device=torch.device("cpu"),
            seed=3,
            engine=names[0],
            precision=names[1],
        )
        losses[names] = training.train(training.order(0)).read().loss
    assert measured == losses[engine, precision] != losses["eager", "fp32"]


def test_training_is_built_from_every_field_of_the_trial(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[object] = []

    def build(recipe: Recipe, dataset: data.Dataset, **keywords: object) -> None:
        built.extend((recipe, dataset.sha256, keywords))
        raise WorkloadError("seen enough")

    monkeypatch.setattr(worker, "Training", build)
    session.ranks = Ranks(rank=1, world_size=2)
    configuration = dataclasses.replace(TINY, pipeline="dataloader", workers=3, engine="fused", precision="bf16")
    assert session.answer(prepare(configuration, seed=5) | {"root": str(tmp_path)}) == {"bad_input": "seen enough"}
    assert built == [
        worker.recipe_of(configuration),
        data.load("synthetic").sha256,
        {
            "device": torch.device("cpu"),
            "seed": 5,
            "pipeline": "dataloader",
            "engine": "fused",
            "precision": "bf16",
            "workers": 3,
            "root": tmp_path,
            "ranks": session.ranks,
        },
    ]


def test_data_are_loaded_from_the_folder_asked_for(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(name: str, root: Path | None) -> None:
        raise WorkloadError(f"no {name} in {root}")

    monkeypatch.setattr(data, "load", refuse)
    for request in (prepare(), {"do": "dataset", "name": "synthetic"}):
        assert session.answer(request | {"root": str(tmp_path)}) == {"bad_input": f"no synthetic in {tmp_path}"}


def test_engine_that_fails_on_this_machine_is_unsupported_and_not_bad_input(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EngineUnavailableError("torch.compile failed (no headers)")

    monkeypatch.setattr(Training, "train", fail)
    failure = failure_of(session, prepare())
    assert failure.kind is FailureKind.UNSUPPORTED
    assert "no headers" in failure.message


def test_accuracy_of_noise_is_never_reported(session: worker.Session) -> None:
    ask(session, Prepared, prepare())
    assert ask(session, Trained, {"do": "train", "epoch": 0}).train_correct is None
    assert ask(session, Evaluated, {"do": "evaluate"}).test_correct is None


def test_times_and_peaks_are_measured_and_plausible(session: worker.Session) -> None:
    prepared = ask(session, Prepared, prepare())
    trained = ask(session, Trained, {"do": "train", "epoch": 0})
    finished = ask(session, Finished, {"do": "finish"})
    assert 0 < prepared.cold_start_seconds < prepared.warm_up_seconds
    assert prepared.train_samples == 60_000
    assert prepared.forward_flops_per_sample == 2 * (784 * 8 + 8 * 10)
    assert prepared.host_baseline_bytes is None or prepared.host_baseline_bytes > 0
    assert 0 < prepared.step_seconds * 15 < 10 * trained.train_seconds
    assert trained.train_samples == 60_000
    assert trained.yardstick_seconds > 0
    assert trained.contention.process_cpu_seconds > 0
    assert finished.host_peak is not None
    assert finished.host_peak.bytes > 47_000_000  # the training images are resident
    assert finished.device_allocated_peak is None  # there is no device but the host


def test_warm_up_covers_every_shape_and_times_a_cold_step_first_and_warm_ones_last(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    now, pending = 1024.0, 0.0  # the device works while the host goes on: only who waits for it sees its time pass
    seconds = iter([8.0, 16.0, 4.5])
    make_training = Training

    def wait(_device: Device | None = None) -> None:
        nonlocal now, pending
        now, pending = now + pending, 0.0

    def build(*arguments: Any, **keywords: Any) -> Training:  # noqa: ANN401 - a training's
        nonlocal pending
        pending += 64.0
        return make_training(*arguments, **keywords)

    def restart(*_: object) -> None:
        nonlocal pending
        pending += 1.0
        log.append("restart")

    class Unread:
        def read(self) -> None:
            wait()
            log.append("read")

    def train(_training: Training, order: torch.Tensor, *, after_step: Callable[[], None] | None = None) -> Unread:
        nonlocal pending
        pending += next(seconds)
        sampled = " with samples of memory" if after_step == session._device.sample else ""  # noqa: SLF001 - the device's own
        log.append(f"train {len(order)}{sampled}")
        return Unread()

    def evaluate(_training: Training) -> Unread:
        nonlocal pending
        pending += 32.0
        log.append("evaluate")
        return Unread()

    monkeypatch.setattr(Training, "train", train)
    monkeypatch.setattr(Training, "evaluate", evaluate)
    monkeypatch.setattr(Training, "restart", restart)
    monkeypatch.setattr(worker, "Training", build)
    monkeypatch.setattr(Device, "synchronise", wait)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(worker, "Timer", lambda synchronise: Timer(synchronise, lambda: now))
    prepared = ask(session, Prepared, prepare())
    short = 60_000 % 4096
    rehearsal = f"train {8 * 4096 + short}"
    assert log == [
        "train 4096",
        f"{rehearsal} with samples of memory",
        "read",
        "evaluate",
        "read",
        rehearsal,
        "restart",
    ]
    assert (prepared.cold_start_seconds, prepared.step_seconds) == (8.0, 4.5 / 9)
    assert prepared.preparation_seconds == 64
    assert prepared.warm_up_seconds == 8 + 16 + 32 + 4.5 + 1


def test_an_epoch_is_timed_between_waits_for_the_device_and_all_meters_are_around_that(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    def logged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: object, **keywords: object) -> object:
            log.append(name)
            return function(*arguments, **keywords)

        return call

    class Meter:
        start = logged("energy", lambda _self: None)
        stop = logged("energy's end", lambda _self: None)

        def result(self) -> tuple[Energy, str]:
            return make_energy(), ""

    monkeypatch.setattr(worker, "make_energy_meter", lambda _device: Meter())
    yardstick = iter([9.0, *[0.25, 0.5] * 2])  # its first time is a warm-up
    monkeypatch.setattr(Yardstick, "seconds", logged("yardstick", lambda _self: next(yardstick)))
    monkeypatch.setattr(Device, "reset_peak", logged("device's peak", Device.reset_peak))
    monkeypatch.setattr(Device, "synchronise", logged("wait", Device.synchronise))
    monkeypatch.setattr(worker.Session, "meet", logged("other ranks", worker.Session.meet))
    monkeypatch.setattr(HostMemory, "reset_peak", logged("host's peak", HostMemory.reset_peak))
    monkeypatch.setattr(HostMemory, "peak", logged("peaks are read", HostMemory.peak))
    monkeypatch.setattr(DeviceWatch, "start", logged("conditions", DeviceWatch.start))
    monkeypatch.setattr(DeviceWatch, "stop", logged("conditions' end", DeviceWatch.stop))
    monkeypatch.setattr(HostPressure, "start", logged("pressure", HostPressure.start))
    monkeypatch.setattr(HostPressure, "stop", logged("pressure's end", HostPressure.stop))
    monkeypatch.setattr(ContentionMeter, "start", logged("contention", ContentionMeter.start))
    monkeypatch.setattr(ContentionMeter, "stop", logged("contention's end", ContentionMeter.stop))
    monkeypatch.setattr(Training, "order", logged("order", Training.order))
    monkeypatch.setattr(Training, "train", logged("train", Training.train))
    monkeypatch.setattr(Training, "evaluate", logged("evaluation", Training.evaluate))
    monkeypatch.setattr(Tally, "read", logged("score", Tally.read))
    monkeypatch.setattr(worker, "Timer", lambda wait: Timer(wait, logged("clock", time.perf_counter)))
    ask(session, Prepared, prepare())
    log.clear()
    for epoch in range(2):
        assert ask(session, Trained, {"do": "train", "epoch": epoch}).yardstick_seconds == 0.75
    before = ["yardstick", "conditions", "pressure", "device's peak", "host's peak", "energy", "wait", "other ranks"]
    timed = ["contention", "wait", "clock", "order", "train", "wait", "clock", "contention's end"]
    after = ["energy's end", "pressure's end", "conditions' end", "peaks are read", "yardstick", "score"]
    assert log == [*before, *timed, *after] * 2
    finished = ask(session, Finished, {"do": "finish"})
    assert (finished.energy, finished.energy_reason) == (make_energy(), "")


def test_energy_is_measured_or_the_reason_given(session: worker.Session) -> None:
    ask(session, Prepared, prepare())
    ask(session, Trained, {"do": "train", "epoch": 0})
    finished = ask(session, Finished, {"do": "finish"})
    assert (finished.energy is None) == bool(finished.energy_reason)


@pytest.mark.skipif(Path("/sys/class/powercap/intel-rapl:0").exists(), reason="has a counter")
def test_without_a_counter_energy_is_none_and_the_reason_names_it(session: worker.Session) -> None:
    ask(session, Prepared, prepare())
    ask(session, Trained, {"do": "train", "epoch": 0})
    finished = ask(session, Finished, {"do": "finish"})
    assert finished.energy is None
    assert finished.energy_reason.startswith("RAPL: ")


def test_conditions_are_sampled_around_the_epoch(session: worker.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = iter([make_conditions(temperature_celsius=70.0), make_conditions(temperature_celsius=80.0)])
    monkeypatch.setattr(worker, "make_device_watch", lambda _device: DeviceWatch(lambda: next(samples)))
    ask(session, Prepared, prepare())
    trained = ask(session, Trained, {"do": "train", "epoch": 0})
    assert trained.device_conditions == make_conditions(temperature_celsius=80.0)
    if hasattr(os, "getloadavg") and machine_cpu_seconds() is not None:
        assert trained.contention.load_average is not None


def test_an_evaluation_ends_when_its_score_is_known(session: worker.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(session, Prepared, prepare())
    now = [0.0]

    def read(_self: Tally) -> Score:
        now[0] += 5.0
        return Score(samples=10, loss=1.0, correct=5)

    monkeypatch.setattr(Tally, "read", read)
    session._timer = Timer(lambda: None, lambda: now[0])  # noqa: SLF001 - a clock that only the reading moves
    assert ask(session, Evaluated, {"do": "evaluate"}).evaluation_seconds == 5.0


def test_peaks_are_the_largest_of_all_epochs(session: worker.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(session, Prepared, prepare())

    def script(meter: type, name: str, *sizes: int) -> None:
        peaks = (Peak(bytes=size, method="scripted") for size in sizes)
        monkeypatch.setattr(meter, name, lambda _self: next(peaks))

    script(Device, "allocated_peak", 5, 9, 7)
    script(Device, "reserved_peak", 15, 19, 17)
    script(HostMemory, "peak", 25, 29, 27)
    for epoch in range(3):
        ask(session, Trained, {"do": "train", "epoch": epoch})
    finished = ask(session, Finished, {"do": "finish"})
    peaks = (finished.device_allocated_peak, finished.device_reserved_peak, finished.host_peak)
    assert [peak.bytes for peak in peaks] == [9, 19, 29]


def test_loss_that_is_no_number_any_more_is_a_failure_that_names_the_learning_rate(session: worker.Session) -> None:
    ask(session, Prepared, prepare(dataclasses.replace(TINY, optimizer="sgd", learning_rate=1e30)))
    failure = failure_of(session, {"do": "train", "epoch": 4})
    assert failure.kind is FailureKind.NON_FINITE_LOSS
    assert "epoch 5" in failure.message
    assert "1e+30" in failure.message


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "asked", [{"do": "train", "epoch": 0}, {"do": "stretch", "epoch": 0, "begin": 0, "end": 1}, {"do": "evaluate"}]
)
def test_a_loss_that_is_not_finite_is_a_failure_wherever_it_is_read(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], loss: float
) -> None:
    ask(session, Prepared, prepare())
    monkeypatch.setattr(Tally, "read", lambda _self: Score(samples=1, loss=loss, correct=0))
    failure = failure_of(session, asked)
    assert failure.kind is FailureKind.NON_FINITE_LOSS
    assert f"{'test' if asked['do'] == 'evaluate' else 'train'} loss became {loss}" in failure.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError("no room"), FailureKind.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 TB"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("MPS backend out of memory"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("Invalid buffer size: 74.51 GiB"), FailureKind.OUT_OF_MEMORY),  # MPS: beyond Metal's largest
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("OOM trying to allocate workspace for cublaslt"), FailureKind.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 TiB"), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("std::bad_alloc"), FailureKind.OUT_OF_MEMORY),
        (SettingsError("TF32 stays on"), FailureKind.UNSUPPORTED),
        (ZeroDivisionError("a bug"), FailureKind.CRASH),
    ],
)
def test_exception_in_a_request_becomes_the_failure_it_means(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: FailureKind
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(data, "load", fail)
    failure = failure_of(session, prepare())
    assert failure.kind is kind
    assert str(error) in failure.message


@pytest.mark.parametrize("error", [RuntimeError("first line\nsecond line"), RuntimeError("long " * 1000)])
def test_a_failures_message_is_one_line_of_bounded_length(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(data, "load", fail)
    message = failure_of(session, prepare()).message
    assert message == f"RuntimeError: {error}".partition("\n")[0][:500]


def test_a_lack_of_memory_is_reported_even_if_what_it_interrupts_fails_in_another_way(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 TiB")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(data, "load", fail)
    failure = failure_of(session, prepare())
    assert failure.kind is FailureKind.OUT_OF_MEMORY
    assert "Tried to allocate 9 TiB" in failure.message


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_products_are_checked_when_the_cold_start_is_over_and_refuse_the_trial(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    events: list[str] = []
    warm_up = worker.Session._warm_up  # noqa: SLF001 - what the check must not come before

    def set_up(precision: str, threads: int) -> Settings:
        events.append(f"set {precision}")
        return apply_precision(precision, threads)

    def note(session: worker.Session) -> tuple[float, float]:
        events.append("warm-up")
        return warm_up(session)

    def refuse(precision: str, _device: torch.device) -> None:
        events.append(precision)
        raise SettingsError("TF32 stays on")

    monkeypatch.setattr(worker, "apply_precision", set_up)
    monkeypatch.setattr(worker.Session, "_warm_up", note)
    monkeypatch.setattr(worker, "check_products", refuse)
    asked = prepare(dataclasses.replace(TINY, precision=precision))
    assert failure_of(session, asked).kind is FailureKind.UNSUPPORTED
    assert events == [f"set {precision}", "warm-up", precision]


@pytest.mark.parametrize("world_size", [1, 2])
def test_cpu_time_is_counted_on_the_whole_machine_if_other_ranks_train_there_too(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    asked: list[bool] = []

    def become_ranks(*_: object) -> None:  # after the training was built, which would connect to the others
        session.ranks = Ranks(rank=0, world_size=world_size)

    def make(*, whole_machine: bool) -> ContentionMeter:
        asked.append(whole_machine)
        return ContentionMeter(whole_machine=whole_machine)

    monkeypatch.setattr(worker, "check_products", become_ranks)
    monkeypatch.setattr(worker, "ContentionMeter", make)
    ask(session, Prepared, prepare())
    assert asked == [world_size > 1]


@pytest.mark.parametrize("asked_for_all", [True, False])
def test_no_product_warms_the_device_before_its_rates_are_measured(
    session: worker.Session, monkeypatch: pytest.MonkeyPatch, *, asked_for_all: bool
) -> None:
    events: list[str] = []

    def measure(_device: Device, *, precision: str, threads: int, whole: bool) -> DeviceRates:
        assert whole == asked_for_all
        events.append("rates")
        return DeviceRates(precision=precision, threads=threads, square_flops_per_second=1e11)

    monkeypatch.setattr("bench.worker.rate_meter.measure_rates", measure)
    monkeypatch.setattr(worker, "apply_precision", lambda *settings: events.append(f"set {settings}"))
    monkeypatch.setattr(worker, "check_products", lambda precision, _device: events.append(precision))
    request = {"do": "rates", "device": "cpu", "threads": 3, "precision": "bf16", "whole": asked_for_all}
    ask(session, DeviceRates, request)
    assert events == ["set ('bf16', 3)", "rates", "bf16"]


def test_unknown_request_is_a_failure_and_not_silence(session: worker.Session) -> None:
    assert "dance" in failure_of(session, {"do": "dance"}).message


def test_a_dataset_request_returns_hash_and_size(session: worker.Session) -> None:
    ready = ask(session, DatasetReady, {"do": "dataset", "name": "synthetic", "root": None})
    assert (ready.train_samples, len(ready.sha256)) == (60_000, 64)


def test_what_the_workload_refuses_is_bad_input_with_its_message(session: worker.Session, tmp_path: Path) -> None:
    answer = session.answer({"do": "dataset", "name": "emnist", "root": str(tmp_path)})
    assert "emnist" in answer["bad_input"]


def test_description_of_the_place_is_complete(session: worker.Session) -> None:
    place = ask(session, Description, {"do": "describe"})
    assert place.devices[0].device == "cpu"
    assert place.software.torch == torch.__version__


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_survives_the_way_through_a_configuration(name: str) -> None:
    recipe = RECIPES[name]
    fields = {field: getattr(recipe, field) for field in HYPERPARAMETERS}
    rebuilt = worker.recipe_of(dataclasses.replace(TINY, model=name, **fields))
    assert rebuilt == dataclasses.replace(recipe, claims=(), departures="", seed=None)


def test_conversation_over_a_socket_ends_after_finish() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        serving = threading.Thread(
            target=lambda: worker.serve(Channel(theirs.makefile("rb"), theirs.makefile("wb"))), daemon=True
        )
        serving.start()
        channel = Channel(ours.makefile("rb"), ours.makefile("wb"))
        channel.send({"do": "dance"})
        assert "failure" in channel.receive(60)
        channel.send({"do": "finish"})
        assert "answer" in channel.receive(60)
        serving.join(timeout=60)
        assert not serving.is_alive()
        channel.close()


def test_conversation_ends_when_the_peer_hangs_up() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        serving = threading.Thread(
            target=lambda: worker.serve(Channel(theirs.makefile("rb"), theirs.makefile("wb"))), daemon=True
        )
        serving.start()
        ours.close()
        serving.join(timeout=60)
        assert not serving.is_alive()


def test_hanging_up_is_an_error_only_for_the_side_that_waits() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        channel = Channel(ours.makefile("rb"), ours.makefile("wb"))
        theirs.close()
        with pytest.raises(ChannelClosedError):
            channel.receive(60)
        channel.close()
