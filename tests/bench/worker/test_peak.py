"""The peak: the best rate of all products counts, and the search ends where products take long."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from bench.worker import peak
from bench.worker.peak import REPEATS, SIZES, measure_peak
from bench.worker.timer import Timer

CPU = torch.device("cpu")


@pytest.fixture
def one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "mkl_is_held_back", lambda: False)


class Clock:
    """Tells times such that the products take `seconds`, one after the other."""

    def __init__(self, seconds: Iterator[float]) -> None:
        self._seconds = seconds
        self._now = 0.0
        self._starting = False
        self.products = 0

    def __call__(self) -> float:
        self._starting = not self._starting
        if not self._starting:
            self._now += next(self._seconds)
            self.products += 1
        return self._now


@pytest.mark.usefixtures("one_library")
def test_the_fastest_product_counts_and_a_long_one_ends_the_search() -> None:
    seconds = [0.002, *[0.001] * (REPEATS - 1), *[0.06] * REPEATS]
    clock = Clock(iter(seconds))
    rate = measure_peak(CPU, Timer(lambda: None, clock))
    assert rate == pytest.approx(max(2 * SIZES[0] ** 3 / 0.001, 2 * SIZES[1] ** 3 / 0.06))
    assert clock.products == len(seconds)


@pytest.mark.usefixtures("one_library")
def test_a_stall_does_not_lower_the_peak() -> None:
    undisturbed = measure_peak(CPU, Timer(lambda: None, Clock(itertools.repeat(0.06))))
    stalled = measure_peak(CPU, Timer(lambda: None, Clock(itertools.chain([9.0, 0.06, 9.0], itertools.repeat(0.06)))))
    assert [stalled, undisturbed] == pytest.approx([2 * SIZES[0] ** 3 / 0.06] * 2)


@pytest.mark.usefixtures("one_library")
def test_every_product_is_between_two_synchronisations() -> None:
    events: list[str] = []
    clock = Clock(itertools.repeat(1.0))

    def note() -> float:
        events.append("clock")
        return clock()

    measure_peak(CPU, Timer(lambda: events.append("synchronise"), note))
    assert events == ["synchronise", "clock"] * 2 * REPEATS


def test_where_the_engine_has_two_libraries_the_faster_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "mkl_is_held_back", lambda: True)
    monkeypatch.setattr(peak, "onednn_linear", lambda: lambda *_: None)
    seconds = [*[0.08] * REPEATS, *[0.06] * REPEATS]
    clock = Clock(iter(seconds))
    assert measure_peak(CPU, Timer(lambda: None, clock)) == pytest.approx(2 * SIZES[0] ** 3 / 0.06)
    assert clock.products == len(seconds)


@pytest.mark.usefixtures("one_library")
def test_sizes_that_do_not_fit_the_memory_are_left_out_but_the_first() -> None:
    for budget_bytes, sizes in ((0, 1), (4 * 4 * SIZES[1] ** 2, 2), (4 * 4 * SIZES[1] ** 2 - 1, 1)):
        clock = Clock(itertools.repeat(0.001))
        measure_peak(CPU, Timer(lambda: None, clock), budget_bytes=budget_bytes)
        assert clock.products == sizes * REPEATS


@pytest.mark.usefixtures("one_library")
def test_bf16_matrices_take_half_the_memory() -> None:
    clock = Clock(itertools.repeat(0.001))
    measure_peak(CPU, Timer(lambda: None, clock), dtype=torch.bfloat16, budget_bytes=4 * 2 * SIZES[1] ** 2)
    assert clock.products == 2 * REPEATS


def test_bf16_matrices_are_multiplied_by_torchs_ordinary_product_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "mkl_is_held_back", lambda: True)
    formats = []
    monkeypatch.setattr(torch, "mm", lambda left, _right, out: formats.append((left.dtype, out.dtype)))
    clock = Clock(itertools.repeat(0.06))
    rate = measure_peak(CPU, Timer(lambda: None, clock), dtype=torch.bfloat16)
    assert rate == pytest.approx(2 * SIZES[0] ** 3 / 0.06)
    assert formats == [(torch.bfloat16, torch.bfloat16)] * REPEATS
    assert clock.products == REPEATS


def test_a_real_peak_is_above_what_one_multiplication_at_a_time_could_reach() -> None:
    assert measure_peak(CPU, Timer(lambda: None)) > 1e9
