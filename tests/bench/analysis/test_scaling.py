"""Fitted step times: known coefficients come back, intervals hold, and the notes about them are true."""

import dataclasses
import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from bench_builders import make_failure, make_record, make_run
from numpy.typing import NDArray
from scipy import optimize, stats
from step_times import (
    BATCHES,
    CPU,
    as_json,
    configuration,
    fitted,
    grid,
    law,
    measured_in,
    merged,
    overhead_of,
    slower,
    tables_of,
)

from bench.analysis.scaling import Coefficient, fit
from bench.analysis.scaling_models import label_runs, make_models
from bench.analysis.scaling_view import scaling_tables
from bench.analysis.size_series import size_series
from bench.units import format_flops, format_seconds
from mnist_mlp.costs import training_flops


@pytest.mark.parametrize(("optimizer", "momentum"), [("adam", 0.0), ("sgd", 0.0), ("sgd", 0.9)])
def test_known_coefficients_come_back_though_last_batches_are_short(optimizer: str, momentum: float) -> None:
    known = law(150e-6, 180e9, 45e9, 0.8e-6, optimizer=optimizer, momentum=momentum > 0)
    one = fitted(grid(known, optimizer=optimizer, momentum=momentum))
    assert overhead_of(one).value == pytest.approx(150e-6, rel=1e-6)
    assert one.rate is not None
    assert one.rate.value == pytest.approx(180e9, rel=1e-6)
    assert one.bandwidth is not None
    assert one.bandwidth.value == pytest.approx(45e9, rel=1e-6)
    assert one.sample_seconds is not None
    assert one.sample_seconds.value == pytest.approx(0.8e-6, rel=1e-6)
    assert one.leave_one_out.largest < 1e-6
    assert one.r_squared == pytest.approx(1)


def test_a_term_that_is_not_in_the_data_is_left_out_or_nothing() -> None:
    one = fitted(grid(law(1e-3, 1e12), noise=0.05, seed=3))
    assert one.bandwidth is None or one.bandwidth.high == math.inf
    assert one.sample_seconds is None or one.sample_seconds.low == 0


def test_the_intervals_hold_what_they_promise() -> None:
    overhead = prediction = 0
    others = random.Random(1)  # noqa: S311 - no secret
    for seed in range(100):
        one = fitted(grid(law(150e-6, 180e9, 45e9), noise=0.08, seed=seed))
        overhead += overhead_of(one).low <= 150e-6 <= overhead_of(one).high
        layers = (784, 300, 10)
        again = law(150e-6, 180e9, 45e9)(layers, 100) * math.exp(others.gauss(0, 0.08))
        told = one.predict(layers, 100)
        prediction += told.low <= again <= told.high
    # 95 of 100 on average; fewer than 88 or all of 200 would each happen once in a thousand times at most.
    assert overhead >= 88
    assert prediction >= 88
    assert overhead + prediction < 200


def test_a_rate_of_noisy_times_is_not_too_high() -> None:
    # Relative to what was measured, short times would weigh more: the rates were 4 % too high, predictions 3 % too low.
    rates, predictions, covered = [], [], 0
    for seed in range(60):
        one = fitted(grid(law(150e-6, 180e9), noise=0.15, seed=seed))
        assert one.rate is not None
        rates.append(math.log(one.rate.value / 180e9))
        predictions.append(
            math.log(one.predict((784, 300, 10), 100).step_seconds / law(150e-6, 180e9)((784, 300, 10), 100))
        )
        covered += one.rate.low <= 180e9 <= one.rate.high
    assert abs(np.median(rates)) < 0.015
    assert abs(np.median(predictions)) < 0.015
    assert covered >= 53


def test_intervals_are_those_of_linear_regression_of_log_times() -> None:
    # Of four sizes only overhead and arithmetic can be fitted; these batches share an epoch equally.
    sizes, layers, batch = [(64, 60), (64, 1000), (512, 60), (512, 1000)], (784, 1024, 10), 4000
    run = grid(law(150e-6, 180e9), noise=0.05, seed=1, sizes=sizes)
    one = fitted(run)
    assert one.terms == ("overhead", "arithmetic")
    seconds = np.array([each.step_seconds for each in one.series.observations])
    sized = [each.configuration for each in one.series.observations]
    gigaflops = [each.batch_size * training_flops(each.layers) / 1e9 for each in sized]
    rows = np.stack([np.ones(4), gigaflops], axis=1)

    def misfit(logs: NDArray[np.float64]) -> float:
        return float((np.log(rows @ np.exp(logs) / seconds) ** 2).sum())

    found = optimize.minimize(misfit, np.log([1e-4, 5e-3]), tol=1e-14)
    coefficients = np.exp(found.x)
    errors = np.log(rows @ coefficients / seconds)
    relative = rows / (rows @ coefficients)[:, None]
    inverse = np.linalg.inv(relative.T @ relative)
    variance = float((errors**2).sum()) / 2
    t = stats.t.isf(0.025, 2)

    assert one.r_squared == pytest.approx(1 - float(errors @ errors) / (4 * np.log(seconds).var()))

    widths = t * np.sqrt(variance * np.diag(inverse))
    lows, highs = coefficients - widths, coefficients + widths
    assert (overhead_of(one).low, overhead_of(one).high) == pytest.approx((max(0.0, lows[0]), highs[0]), rel=1e-5)
    assert one.rate is not None
    assert lows[1] > 0
    assert (one.rate.low, one.rate.high) == pytest.approx((1e9 / highs[1], 1e9 / lows[1]), rel=1e-5)

    row = np.array([1.0, batch * training_flops(layers) / 1e9])
    told, expected = one.predict(layers, batch), float(row @ coefficients)
    half = t * math.sqrt(variance * (1 + float(row @ inverse @ row) / expected**2))
    assert told.step_seconds == pytest.approx(expected, rel=1e-5)
    assert (told.low, told.high) == pytest.approx((expected * math.exp(-half), expected * math.exp(half)), rel=1e-5)


def test_a_left_out_size_is_predicted_without_its_own_time() -> None:
    run = grid(CPU)
    odd = configuration(2048, 16)
    records = [slower(each, 3.0) if each.trial.configuration == odd else each for each in run.records]
    left_out = fitted(make_run(run.header.plan.configurations, 1, records=records)).leave_one_out
    assert left_out.worst == odd
    assert left_out.largest == pytest.approx(1 - 1 / 3)  # the others tell the true time exactly
    assert left_out.median < 0.05  # the mean is nearly twice that


def test_failed_trials_and_too_few_sizes_give_no_model() -> None:
    run = grid(CPU, sizes=[(64, 16), (128, 64), (256, 256), (512, 1024)])
    records = [*run.records[:3], make_record(run.records[3].trial.configuration, outcome=make_failure())]
    assert fit(size_series(measured_in(run))[0]) is not None
    assert fit(size_series(measured_in(make_run(run.header.plan.configurations, 1, records=records)))[0]) is None


def test_terms_that_the_sizes_cannot_tell_apart_are_not_fitted_together() -> None:
    one_width = fitted(grid(CPU, noise=0.02, sizes=[(128, 2**power) for power in range(4, 13)]))
    assert "traffic" not in one_width.terms
    one_batch = fitted(grid(CPU, noise=0.02, sizes=[(2**power, 256) for power in range(3, 12)]))
    assert "input" not in one_batch.terms
    for one in (one_width, one_batch):
        assert math.isfinite(one.r_squared)


ONE_WIDTH = [(128, 2**power) for power in range(4, 13)]
ONE_BATCH = [(2**power, 256) for power in range(3, 12)]


@pytest.mark.parametrize(
    ("sizes", "why"),
    [(ONE_WIDTH, "a single width"), (ONE_BATCH, "a single batch size"), ([*ONE_BATCH, (64, 600)], "these sizes")],
)
def test_coefficients_that_the_sizes_cannot_separate_are_unknown(sizes: Sequence[tuple[int, int]], why: str) -> None:
    run = grid(CPU, noise=0.02, sizes=sizes)
    one = fitted(run)
    assert (one.overhead, one.rate, one.bandwidth, one.sample_seconds) == (None,) * 4
    assert one.half_performance_flops is None
    assert one.predict((784, 128, 10), 256).step_seconds == pytest.approx(CPU((784, 128, 10), 256), rel=0.1)
    (table,) = tables_of(run)
    assert list(table.rows[0][1:5]) == ["unknown"] * 4
    assert f"unknown: {why} cannot separate the terms" in table.notes[-1]
    (raw,) = as_json(run)["models"]
    assert {raw[f"{key}{end}"] for key in ("overhead_seconds", "sample_seconds") for end in ("", "_low", "_high")} == {
        None
    }


def test_one_width_tells_its_own_half_performance_batch_and_one_batch_size_none() -> None:
    layers = (784, 128, 10)
    true = CPU(layers, 0) / (CPU(layers, 1) - CPU(layers, 0))
    assert fitted(grid(CPU, sizes=ONE_WIDTH)).half_performance_batch(layers) == pytest.approx(true, rel=1e-4)
    assert fitted(grid(CPU, sizes=ONE_WIDTH)).half_performance_batch((784, 64, 10)) is None
    assert fitted(grid(CPU, sizes=ONE_BATCH)).half_performance_batch(layers) is None


def test_undetected_coefficient_is_shown_as_the_end_of_its_interval() -> None:
    tiny = law(2e-6, 180e9, 45e9, 0.8e-6)
    sizes = list(itertools.product((64, 256, 1024), (16, 256, 4096)))
    runs = [grid(tiny, noise=0.08, seed=seed, sizes=sizes) for seed in range(60)]
    fits = list(map(fitted, runs))
    unseen = [(run, one) for run, one in zip(runs, fits, strict=True) if overhead_of(one).value == 0]
    assert len(unseen) > 15  # 25 of 60 on average
    # 57 of 60 on average at least; fewer than 50 would happen once in a thousand times at most.
    assert sum(overhead_of(one).low <= 2e-6 <= overhead_of(one).high for one in fits) >= 50

    run, one = unseen[0]
    assert one.half_performance_flops is None
    (table,) = tables_of(run)
    assert table.rows[0][1] == f"<{format_seconds(overhead_of(one).high)}"
    assert "<, >: not detected; the number is the end of the 95 % interval" in table.notes
    assert "half-performance size: none, the data show no overhead" in table.notes[-1]
    (raw,) = as_json(run)["models"]
    assert (raw["overhead_seconds"], raw["overhead_seconds_low"]) == (0, 0)
    assert raw["overhead_seconds_high"] == overhead_of(one).high > 0


def test_a_rate_that_was_not_seen_to_have_a_limit_has_the_lower_end_of_its_interval() -> None:
    runs = [grid(law(1e-3, math.inf), noise=0.1, seed=seed) for seed in range(20)]
    run, one = next((run, one) for run in runs if (one := fitted(run)).rate and one.rate.value == math.inf)
    assert one.rate is not None
    assert 0 < one.rate.low < math.inf
    (table,) = tables_of(run)
    assert table.rows[0][2] == f">{format_flops(one.rate.low)}/s"
    assert "half-performance size: none, the data show no limit to the rate" in table.notes[-1]
    (raw,) = as_json(run)["models"]
    assert [raw[f"rate_flops_per_second{end}"] for end in ("", "_low", "_high")] == [None, one.rate.low, None]


def test_a_rate_without_an_upper_end_is_shown_with_the_distance_to_its_lower_one() -> None:
    (model,) = make_models(label_runs([grid(CPU)], [None]))
    rate = Coefficient(value=4e11, low=1e11, high=math.inf)
    unlimited = dataclasses.replace(model, fit=dataclasses.replace(model.fit, rate=rate))
    (table, *_) = scaling_tables([unlimited])
    assert table.rows[0][2] == "400 GFLOP/s ±75 %"


def test_one_size_however_often_gives_no_model() -> None:
    chosen = [configuration(128, 64, learning_rate=rate) for rate in (0.1, 0.01, 0.001, 0.0001, 0.00001)]
    run = make_run(chosen, 1, records=[make_record(each) for each in chosen])
    (series,) = size_series(measured_in(run))
    assert len(series.observations) == 5
    assert fit(series) is None


def test_half_performance_sizes_are_those_of_the_law() -> None:
    one = fitted(grid(law(1e-3, 1e12)))
    assert one.half_performance_flops == pytest.approx(1e9, rel=1e-4)
    layers = (784, 128, 10)
    assert one.half_performance_batch(layers) == pytest.approx(1e9 / training_flops(layers), rel=1e-4)


@pytest.mark.parametrize(("noise", "is_poor"), [(0.02, False), (1.5, True)])
def test_a_model_that_misses_left_out_sizes_is_not_to_be_relied_on(*, noise: float, is_poor: bool) -> None:
    run = grid(CPU, noise=noise, seed=1)
    (model,) = make_models(label_runs([run], [None]))
    assert (model.fit.leave_one_out.median > 0.2) is is_poor
    assert any("do not rely on this model" in note for note in tables_of(run)[0].notes) is is_poor


def test_json_holds_models_and_crossovers_unrounded() -> None:
    slow, fast = law(20e-6, 50e9), law(400e-6, 5e12)
    run = merged(grid(slow, device="cpu"), grid(fast, device="cuda:0"))
    document = as_json(run)
    assert [model["model"] for model in document["models"]] == ["cpu", "cuda:0"]
    assert document["models"][0]["rate_flops_per_second"] == pytest.approx(50e9)
    assert {each["batch_size"] for each in document["crossovers"]} == set(BATCHES)
    crossed = [each for each in document["crossovers"] if each["width"] is not None]
    assert {each["overtaken_by"] for each in crossed} == {"cuda:0"}
