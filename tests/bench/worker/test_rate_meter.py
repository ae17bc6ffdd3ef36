"""What is counted and timed for each rate, by a scripted clock; and that real rates can be had."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.execution.conversation import measure_rates as launch_rates
from bench.execution.launcher import Launcher
from bench.protocol.rates import IdlePower, LayerRate, StepTime, TransferRate
from bench.records import Accelerator
from bench.worker import peak, rate_meter
from bench.worker.devices import Device
from bench.worker.energy import MIN_SECONDS, Counter, EnergyMeter
from bench.worker.limits import usable_memory_bytes
from bench.worker.rate_meter import (
    DEVICE_ARRAY_BYTES,
    HOST_ARRAY_BYTES,
    IDLE_SECONDS,
    IDLE_SLEEPS,
    LAYERS,
    MAX_ROUNDS,
    REPEATS,
    TINY,
    array_bytes,
    best_seconds,
    last_level_cache_bytes,
    layer_flops,
    layer_products,
    measure_bandwidth,
    measure_idle_power,
    measure_layers,
    measure_rates,
    measure_steps,
    measure_transfers,
    memory_budget_bytes,
    transfer_bytes,
)
from bench.worker.timer import Timer
from mnist_mlp.costs import training_flops
from mnist_mlp.train import Training

CPU = torch.device("cpu")
FLOAT = torch.float32
TRY = 2.0**-6
"""Seconds, exact in binary: longer than a try needs, so that it is one round, and shorter than what ends the layers."""

PLENTY = 2**40


class Clock:
    """Tells times such that each stretch between two readings takes the next of `seconds`."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = iter(seconds) if len(seconds) > 1 else itertools.repeat(*seconds)
        self._now = 0.0
        self._starting = False

    def __call__(self) -> float:
        self._starting = not self._starting
        if not self._starting:
            self._now += next(self._seconds)
        return self._now


def timer(*seconds: float) -> Timer:
    return Timer(lambda: None, Clock(*seconds))


class Work:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


# Timing


def test_the_best_try_counts_and_the_first_two_rounds_only_warm_up() -> None:
    work = Work()
    assert best_seconds(timer(0.001, 0.01, 0.5, 0.25, 0.125, 0.5, 2.0), work) == pytest.approx(0.125)
    assert work.count == 2 + REPEATS


def test_short_work_is_repeated_until_it_fills_a_try_and_its_time_is_of_one_round() -> None:
    work = Work()
    assert best_seconds(timer(0.25, 2.0**-12, *[2.0**-8] * REPEATS), work) == pytest.approx(2.0**-8 / 9)
    assert work.count == 2 + 9 * REPEATS  # 0.002 s hold 8.2 times 2^-12 s


@pytest.mark.parametrize("once", [0.0, 2.0**-30])
def test_work_that_takes_next_to_no_time_is_repeated_a_limited_number_of_times(once: float) -> None:
    work = Work()
    assert best_seconds(timer(0.25, once, *[0.5] * REPEATS), work) == 0.5 / MAX_ROUNDS
    assert work.count == 2 + MAX_ROUNDS * REPEATS


def test_every_time_is_between_two_synchronisations() -> None:
    events: list[str] = []
    clock = Clock(TRY)

    def logged_clock() -> float:
        events.append("clock")
        return clock()

    best_seconds(Timer(lambda: events.append("synchronise"), logged_clock), lambda: events.append("work"))
    assert events == ["synchronise", "clock", "work", "synchronise", "clock"] * (2 + REPEATS)


# Products


@pytest.fixture
def idle_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_meter, "layer_products", lambda *_: lambda: None)


@pytest.mark.usefixtures("idle_products")
def test_each_layers_rate_is_the_flops_of_three_products_over_the_time() -> None:
    assert list(measure_layers(CPU, FLOAT, timer(TRY), PLENTY)) == [
        LayerRate(width=width, batch_size=size, flops_per_second=6 * 784 * width * size / TRY) for width, size in LAYERS
    ]


@pytest.mark.usefixtures("idle_products")
def test_a_layer_that_takes_long_is_the_last_one() -> None:
    (layer,) = measure_layers(CPU, FLOAT, timer(0.0625), PLENTY)
    assert (layer.width, layer.batch_size) == LAYERS[0]


@pytest.mark.usefixtures("idle_products")
def test_layers_that_do_not_fit_the_memory_are_left_out() -> None:
    width, size = LAYERS[1]
    fits = 4 * (2 * size * 784 + 2 * 784 * width + 3 * size * width)
    assert len(list(measure_layers(CPU, FLOAT, timer(TRY), fits))) == 2
    assert len(list(measure_layers(CPU, FLOAT, timer(TRY), fits - 1))) == 1
    assert len(list(measure_layers(CPU, torch.bfloat16, timer(TRY), fits // 2))) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_products_are_as_many_flops_as_are_counted(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(rate_meter, "suits_onednn", lambda *_: False)
    multiply = layer_products(12, 6, CPU, dtype)
    with FlopCounterMode(display=False) as counter:
        multiply()
    assert counter.get_total_flops() == layer_flops(12, 6) == 6 * 784 * 12 * 6


def test_onednns_products_are_those_too_where_the_fused_engine_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def linear(left: torch.Tensor, right: torch.Tensor, *_others: object) -> None:
        shapes.append((left.shape[0], right.shape[0], left.shape[1]))
        assert left.shape[1] == right.shape[1]
        assert left.is_contiguous()

    monkeypatch.setattr(rate_meter, "suits_onednn", lambda *_: True)
    monkeypatch.setattr(rate_meter, "onednn_linear", lambda: linear)
    layer_products(12, 6, CPU, FLOAT)()
    assert shapes == [(6, 12, 784), (12, 784, 6), (6, 784, 12)]
    assert sum(2 * rows * columns * depth for rows, columns, depth in shapes) == layer_flops(12, 6)


def test_bf16_products_are_never_onednns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_meter, "suits_onednn", lambda *_: True)
    with FlopCounterMode(display=False) as counter:
        layer_products(12, 6, CPU, torch.bfloat16)()
    assert counter.get_total_flops() == layer_flops(12, 6)


def test_the_size_of_the_weights_decides_about_onednn_as_in_the_fused_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[torch.Size, int]] = []

    def suits(weights: torch.Tensor, size: int) -> bool:
        asked.append((weights.shape, size))
        return False

    monkeypatch.setattr(rate_meter, "suits_onednn", suits)
    layer_products(12, 6, CPU, FLOAT)
    assert asked == [((12, 784), 6)]


# Memory


def test_copy_counts_two_arrays_and_triad_three(monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[torch.Tensor] = []
    add = torch.add

    def note(*arguments: Any, **options: Any) -> torch.Tensor:  # noqa: ANN401 - those of torch.add
        sums.append(add(*arguments, **options))
        return sums[-1]

    monkeypatch.setattr(torch, "add", note)
    bandwidth = measure_bandwidth(CPU, timer(*[TRY] * (2 + REPEATS), *[2 * TRY] * (2 + REPEATS)), 4003)
    assert bandwidth.array_bytes == 4000
    assert bandwidth.copy_bytes_per_second == 2 * 4000 / TRY
    assert bandwidth.triad_bytes_per_second == 3 * 4000 / (2 * TRY)
    assert torch.equal(sums[-1], torch.full((1000,), 4.0))  # 1 + 3 · 1


def test_arrays_are_far_larger_than_the_caches_but_within_the_budget() -> None:
    assert array_bytes(PLENTY, on_host=True, cache_bytes=2**23) == HOST_ARRAY_BYTES
    assert array_bytes(PLENTY, on_host=True, cache_bytes=2**28) == 2**30
    assert array_bytes(3000, on_host=True, cache_bytes=2**28) == 1000
    assert array_bytes(PLENTY, on_host=False) == DEVICE_ARRAY_BYTES
    assert array_bytes(3000, on_host=False) == 1000


def test_the_last_level_caches_are_added_up_each_once(tmp_path: Path) -> None:
    assert last_level_cache_bytes(tmp_path) is None
    for processor, (index, level, size) in itertools.product(
        range(4), ((0, 1, "32K"), (2, 2, "512K"), (3, 3, "8192K"))
    ):
        folder = tmp_path / f"cpu{processor}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        shared = f"{processor // 2 * 2}-{processor // 2 * 2 + 1}" if level == 3 else str(processor)
        for name, value in (("level", str(level)), ("size", size), ("shared_cpu_list", shared)):
            (folder / name).write_text(f"{value}\n")
    (tmp_path / "cpu0" / "cache" / "index9").mkdir()  # a cache without any file
    unknown = tmp_path / "cpu0" / "cache" / "index8"
    unknown.mkdir()
    for name, value in (("level", "4"), ("size", "unknown"), ("shared_cpu_list", "0")):
        (unknown / name).write_text(f"{value}\n")
    assert last_level_cache_bytes(tmp_path) == 2 * 8 * 2**20


def test_the_budget_is_a_tenth_of_the_devices_memory_or_else_of_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    own = (
        Accelerator(device="cuda:0", name="GPU A", memory_bytes=8 * 2**30),
        Accelerator(device="mps", name="GPU B", memory_bytes=None),
    )
    monkeypatch.setattr(rate_meter, "list_accelerators", lambda: own)
    assert memory_budget_bytes("cuda:0") == 8 * 2**30 // 10
    assert memory_budget_bytes("mps") == memory_budget_bytes("cpu") == usable_memory_bytes() // 10


# Transfers


def test_transfers_are_both_ways_pageable_and_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_meter, "pinned_bytes", lambda size: torch.ones(size, dtype=torch.uint8))
    tries = [TRY * factor for factor in (1, 2, 4, 8) for _ in range(2 + REPEATS)]
    assert list(measure_transfers(CPU, timer(*tries), 4096)) == [
        TransferRate(to_device=to_device, pinned=pinned, bytes_per_second=4096 / (TRY * factor))
        for factor, pinned, to_device in ((1, False, True), (2, False, False), (4, True, True), (8, True, False))
    ]


def test_the_first_transfer_writes_to_the_device_and_the_second_reads_from_it() -> None:
    rates = measure_transfers(torch.device("meta"), timer(TRY), 4096)  # which can be written to, but not read
    assert next(rates).to_device
    with pytest.raises(NotImplementedError, match="meta"):
        next(rates)


def test_where_memory_cannot_be_pinned_no_such_rate_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Need to provide pin_memory allocator to use pin memory.")

    monkeypatch.setattr(torch.Tensor, "pin_memory", refuse)
    assert [rate.pinned for rate in measure_transfers(CPU, timer(TRY), 4096)] == [False, False]


@pytest.mark.parametrize(("host_bytes", "budget_bytes", "size_bytes"), [(PLENTY, 3000, 1000), (60_000, PLENTY, 2000)])
def test_a_transfer_fits_both_sides(
    monkeypatch: pytest.MonkeyPatch, host_bytes: int, budget_bytes: int, size_bytes: int
) -> None:
    monkeypatch.setattr(rate_meter, "usable_memory_bytes", lambda: host_bytes)
    assert transfer_bytes(budget_bytes) == size_bytes
    monkeypatch.setattr(rate_meter, "usable_memory_bytes", lambda: PLENTY)
    assert transfer_bytes(PLENTY) == HOST_ARRAY_BYTES


# Steps


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(rate_meter, "STEPS", 4)
    return 4


def test_a_steps_time_is_the_median_stretch_over_its_steps(few_steps: int) -> None:
    stretches = [9.0, *[0.5] * 4, *[0.25] * 4, 7.0]  # the first is warm-up
    assert list(measure_steps(CPU, "fp32", timer(*stretches, *[1.0] * len(stretches)))) == [
        StepTime(engine="eager", seconds=0.5 / few_steps),
        StepTime(engine="fused", seconds=1.0 / few_steps),
    ]


def test_a_step_whose_overhead_is_measured_computes_next_to_nothing() -> None:
    assert training_flops(TINY.layers) * TINY.batch_size < 500_000


@pytest.mark.usefixtures("few_steps")
def test_only_engines_that_have_the_precision_are_timed() -> None:
    assert [step.engine for step in measure_steps(CPU, "bf16", timer(1.0))] == ["eager"]


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(("precision", "engines"), [("fp32", ["eager", "fused"]), ("bf16", ["eager"])])
def test_the_steps_are_of_the_engine_and_the_precision_that_they_are_reported_for(
    monkeypatch: pytest.MonkeyPatch, precision: str, engines: list[str]
) -> None:
    trained: list[tuple[str, str]] = []

    def make(*arguments: Any, engine: str = "", precision: str = "", **others: Any) -> Training:  # noqa: ANN401 - a training's
        trained.append((engine, precision))
        return Training(*arguments, engine=engine, precision=precision, **others)

    monkeypatch.setattr(rate_meter, "Training", make)
    assert [step.engine for step in measure_steps(CPU, precision, timer(1.0))] == engines
    assert trained == [(engine, precision) for engine in engines]


# Power


def energy_meter(*counts: int) -> EnergyMeter:
    """Return a meter whose counter of microjoules reads `counts`, one after the other."""
    readings = iter(counts)
    counter = Counter(
        method="RAPL package", tick_seconds=0.001, joules_per_count=1e-6, ranges=(None,), read=lambda: (next(readings),)
    )
    return EnergyMeter(counter)


def test_idle_power_is_the_energy_of_a_sleep_over_its_time() -> None:
    slept: list[float] = []
    meter = energy_meter(1_000_000, 9_000_000, 9_000_000, 17_000_000)
    idle = measure_idle_power(CPU, lambda _device: meter, slept.append, Clock(4.0))
    assert idle == IdlePower(watts=2.0, method="RAPL package", reason="")
    assert slept == [IDLE_SECONDS] * 2
    assert IDLE_SECONDS >= MIN_SECONDS


def falling(*watts: float) -> EnergyMeter:
    """Return a meter of sleeps of 4 s by the clock, each at the next of `watts`."""
    ends = list(itertools.accumulate(round(4_000_000 * each) for each in watts))
    return energy_meter(*itertools.chain.from_iterable(itertools.pairwise([0, *ends])))


def test_idle_power_is_waited_for_until_the_device_has_settled() -> None:
    slept: list[float] = []
    meter = falling(200.0, 150.0, 110.0, 100.0, 98.0, 20.0)
    idle = measure_idle_power(CPU, lambda _device: meter, slept.append, Clock(4.0))
    assert idle.watts == pytest.approx(98.0)
    assert len(slept) == 5


def test_a_device_whose_power_rises_has_not_settled() -> None:
    idle = measure_idle_power(CPU, lambda _device: falling(50.0, 100.0, 101.0), lambda _seconds: None, Clock(4.0))
    assert idle.watts == pytest.approx(101.0)


def test_a_device_is_open_while_it_idles_as_it_is_while_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch, "empty", lambda *_, device: events.append(f"open {device}"))
    meter = falling(50.0, 50.0)
    measure_idle_power(
        torch.device("cuda:1"), lambda _device: meter, lambda _seconds: events.append("sleep"), Clock(4.0)
    )
    assert events == ["open cuda:1", "sleep", "sleep"]


def test_a_device_that_never_settles_has_no_idle_power() -> None:
    slept: list[float] = []
    meter = falling(*(100.0 * 0.9**number for number in range(IDLE_SLEEPS)))
    idle = measure_idle_power(CPU, lambda _device: meter, slept.append, Clock(4.0))
    assert idle.watts is None
    assert "never settled" in idle.reason
    assert len(slept) == IDLE_SLEEPS


def test_without_a_counter_there_is_no_sleep_and_the_reason_is_given() -> None:
    slept: list[float] = []
    idle = measure_idle_power(CPU, lambda _device: EnergyMeter(None, "RAPL: no such thing"), slept.append)
    assert idle == IdlePower(watts=None, method="", reason="RAPL: no such thing")
    assert slept == []


def test_a_counter_that_does_not_advance_measures_no_power() -> None:
    idle = measure_idle_power(CPU, lambda _device: energy_meter(5, 5), lambda _seconds: None, Clock(4.0))
    assert idle == IdlePower(watts=None, method="", reason="RAPL package: the counter fails or does not advance")


# All of it


class FakeBackend:
    """Stands for the module of a device that is not the host."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def synchronize(self) -> None:
        self._events.append("synchronise")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Leave out what takes long or needs a real device; return what was asked of it."""
    asked: list[tuple[str, Any]] = []

    def steps(device: torch.device, precision: str, _timer: Timer) -> Iterator[StepTime]:
        asked.append((device.type, precision))
        yield StepTime(engine="eager", seconds=1.0)

    def transfers(device: torch.device, _timer: Timer, size_bytes: int) -> Iterator[TransferRate]:
        asked.append((device.type, size_bytes))
        yield TransferRate(to_device=True, pinned=False, bytes_per_second=1.0)

    monkeypatch.setattr(rate_meter, "measure_steps", steps)
    monkeypatch.setattr(rate_meter, "measure_transfers", transfers)
    monkeypatch.setattr(peak, "mkl_is_held_back", lambda: False)
    monkeypatch.setattr(peak, "SIZES", (8, 16))
    monkeypatch.setattr(rate_meter, "LAYERS", ((4, 2),))
    return asked


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> tuple[Device, list[str]]:
    """Return a device that is not the host, whose tensors hold nothing, and what happens to it."""
    events: list[str] = []
    monkeypatch.setattr(torch, "get_device_module", lambda _kind: FakeBackend(events))
    return Device("meta"), events


def test_an_accelerator_is_synchronised_around_each_time_and_has_transfers(
    quick: list[tuple[str, Any]], elsewhere: tuple[Device, list[str]]
) -> None:
    device, events = elsewhere
    clock = Clock(TRY)

    def logged_clock() -> float:
        events.append("clock")
        return clock()

    rates = measure_rates(device, precision="fp32", threads=3, whole=True, clock=logged_clock, budget_bytes=3000)
    assert events == ["synchronise", "clock"] * (len(events) // 2)
    assert (rates.precision, rates.threads) == ("fp32", 3)
    assert rates.square_flops_per_second == 2 * 8**3 / TRY  # three matrices of 16 by 16 do not fit 3000 bytes either
    assert rates.layers == ()  # none fits 3000 bytes
    assert rates.bandwidth is not None
    assert rates.bandwidth.array_bytes == 1000
    assert [step.engine for step in rates.steps] == ["eager"]
    assert len(rates.transfers) == 1
    assert rates.idle_power == IdlePower(watts=None, method="", reason="no energy counter is known for meta")
    assert quick == [("meta", "fp32"), ("meta", 1000)]


def test_an_accelerators_arrays_are_larger_than_its_own_caches(
    quick: list[tuple[str, Any]], elsewhere: tuple[Device, list[str]]
) -> None:
    device, _ = elsewhere
    rates = measure_rates(device, precision="fp32", threads=1, whole=False, clock=Clock(TRY), budget_bytes=PLENTY)
    assert rates.bandwidth is not None
    assert rates.bandwidth.array_bytes == DEVICE_ARRAY_BYTES
    assert (rates.transfers, quick) == ((), [])


@pytest.mark.usefixtures("quick")
def test_other_precisions_multiply_in_their_own_format_and_measure_no_memory(
    monkeypatch: pytest.MonkeyPatch, elsewhere: tuple[Device, list[str]]
) -> None:
    formats: set[torch.dtype] = set()
    multiply = torch.mm

    def note(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> None:
        formats.update((left.dtype, right.dtype, out.dtype))
        multiply(left, right, out=out)

    monkeypatch.setattr(torch, "mm", note)
    device, _ = elsewhere
    for precision, expected in (("tf32", torch.float32), ("bf16", torch.bfloat16)):
        formats.clear()
        rates = measure_rates(device, precision=precision, threads=1, whole=True, clock=Clock(TRY), budget_bytes=PLENTY)
        assert formats == {expected}
        assert [layer.width for layer in rates.layers] == [4]
        assert rates.bandwidth is None
        assert rates.transfers == ()
        assert rates.idle_power is None


def test_the_host_has_no_transfers(quick: list[tuple[str, Any]]) -> None:
    device = Device("cpu")
    rates = measure_rates(device, precision="fp32", threads=1, whole=True, clock=Clock(TRY), budget_bytes=300_000)
    assert rates.transfers == ()
    assert quick == [("cpu", "fp32")]


def test_of_a_thread_count_only_squares_and_bandwidth_are_measured(quick: list[tuple[str, Any]]) -> None:
    device = Device("cpu")
    rates = measure_rates(device, precision="fp32", threads=1, whole=False, clock=Clock(TRY), budget_bytes=3000)
    assert (rates.layers, rates.steps, rates.transfers, rates.idle_power) == ((), (), (), None)
    assert rates.bandwidth is not None
    assert quick == []


# For real


def test_a_real_process_measures_one_threads_rates(launcher: Launcher) -> None:
    rates = launch_rates(launcher, "cpu", precision="fp32", threads=1, whole=False, timeout_seconds=120)
    assert (rates.precision, rates.threads) == ("fp32", 1)
    assert rates.square_flops_per_second > 1e9
    assert rates.bandwidth is not None
    assert rates.bandwidth.triad_bytes_per_second > 1e8


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_real_process_measures_all_rates_of_the_cpu(launcher: Launcher, precision: str) -> None:
    rates = launch_rates(launcher, "cpu", precision=precision, threads=2, whole=True, timeout_seconds=300)
    assert 1 <= len(rates.layers) <= len(LAYERS)
    assert rates.highest_flops_per_second >= max(layer.flops_per_second for layer in rates.layers) > 1e8
    assert [step.engine for step in rates.steps] == (["eager"] if precision == "bf16" else ["eager", "fused"])
    assert all(1e-7 < step.seconds < 1 for step in rates.steps)
    assert (rates.bandwidth is None) is (rates.idle_power is None) is (precision == "bf16")
    assert rates.idle_power is None or (rates.idle_power.watts is None) is (rates.idle_power.reason != "")
    assert rates.transfers == ()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_accelerator_has_all_rates(launcher: Launcher) -> None:
    rates = launch_rates(launcher, "cuda:0", precision="fp32", threads=1, whole=True, timeout_seconds=300)
    assert [step.engine for step in rates.steps] == ["eager", "fused", "graph"]
    assert len(rates.layers) == len(LAYERS)
    assert [(rate.pinned, rate.to_device) for rate in rates.transfers] == [
        (False, True),
        (False, False),
        (True, True),
        (True, False),
    ]
