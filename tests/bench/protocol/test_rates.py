"""Rates as values: which thread counts are measured, what holds for which precision and threads, what is refused."""

import dataclasses
from typing import Any

import pytest
from rates_builders import (
    UNKNOWN_POWER,
    make_bandwidth,
    make_idle_power,
    make_rates,
    make_thread_rates,
    make_transfers,
)

from bench.coding import from_json, to_json
from bench.errors import BadInputError
from bench.protocol.rates import (
    MAX_THREAD_COUNTS,
    DeviceRates,
    LayerRate,
    StepTime,
    flops_per_second,
    thread_counts,
)


@pytest.mark.parametrize(
    ("cores", "counts"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (6, (1, 2, 4, 6)),
        (8, (1, 2, 4, 8)),
        (32, (1, 2, 4, 8, 16, 32)),
        (256, (1, 4, 8, 32, 64, 256)),
    ],
)
def test_thread_counts_are_powers_of_two_and_all_cores(cores: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(cores) == counts


def test_thread_counts_rise_from_one_to_all_cores_and_are_few() -> None:
    for cores in range(1, 600):
        counts = thread_counts(cores)
        assert (counts[0], counts[-1]) == (1, cores)
        assert list(counts) == sorted(set(counts))
        assert len(counts) <= MAX_THREAD_COUNTS


def test_rates_survive_json() -> None:
    whole = make_rates(transfers=make_transfers(), idle_power=make_idle_power())
    for rates in (whole, make_rates(idle_power=UNKNOWN_POWER), make_rates(bandwidth=None, layers=(), steps=())):
        assert from_json(DeviceRates, to_json(rates)) == rates


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (make_rates(), {"square_flops_per_second": 0.0}),
        (make_rates(), {"threads": 0}),
        (make_bandwidth(), {"triad_bytes_per_second": -1.0}),
        (make_bandwidth(), {"array_bytes": 0}),
        (make_transfers()[0], {"bytes_per_second": 0.0}),
        (make_idle_power(), {"watts": 0.0}),
        (make_thread_rates(), {"triad_bytes_per_second": 0.0}),
        (LayerRate(width=1, batch_size=1, flops_per_second=1.0), {"flops_per_second": 0.0}),
        (StepTime(engine="eager", seconds=1.0), {"seconds": 0.0}),
    ],
)
def test_what_cannot_have_been_measured_is_refused(record: Any, change: dict[str, float]) -> None:  # noqa: ANN401 - any of the records
    with pytest.raises(BadInputError, match="above zero"):
        dataclasses.replace(record, **change)


def test_the_highest_rate_is_of_squares_or_layers_whichever_is_higher() -> None:
    assert make_rates().highest_flops_per_second == 4.2e11
    assert make_rates(square_flops_per_second=5e11).highest_flops_per_second == 5e11
    assert make_rates(layers=()).highest_flops_per_second == 4e11


def test_rates_of_products_are_those_of_the_requested_precision_and_threads() -> None:
    rates = make_rates(), make_rates(precision="bf16", square_flops_per_second=9e11)
    threads = make_thread_rates(1), make_thread_rates(2)
    assert list(flops_per_second(rates, threads, "fp32", 2)) == [4.2e11, 4.2e11]
    assert list(flops_per_second(rates, threads, "fp32", 1)) == [2.1e11]
    assert list(flops_per_second(rates, threads, "bf16", 2)) == [9e11]
    assert list(flops_per_second(rates, threads, "bf16", 1)) == []
    assert list(flops_per_second(rates, threads, "tf32", 2)) == []
    assert list(flops_per_second(rates, (), "fp32", None)) == [4.2e11]
    assert list(flops_per_second((), threads, "fp32", None)) == [2.1e11, 4.2e11]
