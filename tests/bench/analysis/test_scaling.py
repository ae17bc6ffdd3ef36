"""Fitted step times: known coefficients come back, intervals hold, and the notes about them are true."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from bench_builders import (
    Change,
    make_epochs,
    make_failure,
    make_machine,
    make_measurement,
    make_record,
    make_run,
)
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from scipy import optimize, stats
from step_times import (
    BATCHES,
    CPU,
    SAMPLES,
    WIDTHS,
    Law,
    as_json,
    configuration,
    fitted,
    grid,
    law,
    measured_in,
    merged,
    overhead_of,
    tables_of,
)
from stored_runs import store

from bench.analysis import scaling_models
from bench.analysis.contenders import Contender, Measured, contenders
from bench.analysis.predictions import predict, render_prediction
from bench.analysis.scaling import Fit, fit
from bench.analysis.scaling_models import label_runs, make_models
from bench.analysis.scaling_view import render_scaling
from bench.cli import cli
from bench.records import Measurement, Run, TrialRecord, TrialWarning
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


def test_a_size_counts_once_by_the_geometric_mean_of_its_trials() -> None:
    times = [1.0, 2.0, 9.0]
    logs = np.log(times).tolist()
    measured = Measured(
        configuration=configuration(64, 600),
        train_samples=SAMPLES,
        log_seconds=logs,
        unflagged_log_seconds=logs[:2],
        warnings=(TrialWarning.STALL,),
    )
    ((observation,),) = (contender.observations for contender in contenders([measured]))
    assert observation.trials == 3
    assert observation.step_seconds == pytest.approx(18 ** (1 / 3) / 100)
    assert observation.flagged == 1
    assert observation.unflagged_step_seconds == pytest.approx(2 ** (1 / 2) / 100)


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
    seconds = np.array([each.step_seconds for each in one.contender.observations])
    sized = [each.configuration for each in one.contender.observations]
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
    assert left_out.median < left_out.largest


def slower(record: TrialRecord, times: float) -> TrialRecord:
    assert isinstance(record.outcome, Measurement)
    epochs = make_epochs((record.outcome.epoch_seconds * times,) * 3)
    return make_record(record.trial.configuration, outcome=make_measurement(epochs=epochs))


def test_contenders_differ_in_anything_but_their_sizes() -> None:
    run = merged(grid(CPU, threads=1), grid(CPU, threads=2), grid(CPU, engine="fused"))
    found = contenders(measured_in(run))
    assert [(c.configuration.engine, c.configuration.threads) for c in found] == [
        ("eager", 1),
        ("eager", 2),
        ("fused", 2),
    ]
    assert {len(c.observations) for c in found} == {30}


def test_settings_that_do_not_affect_step_time_make_no_other_contender() -> None:
    changed = grid(CPU, learning_rate=0.5, schedule="one_cycle", weight_decay=0.1, shuffle=False, test_batch_size=7)
    (found,) = contenders(measured_in(merged(grid(CPU), changed)))
    assert len(found.observations) == 60


def test_failed_trials_and_too_few_sizes_give_no_model() -> None:
    run = grid(CPU, sizes=[(64, 16), (128, 64), (256, 256), (512, 1024)])
    records = [*run.records[:3], make_record(run.records[3].trial.configuration, outcome=make_failure())]
    assert fit(contenders(measured_in(run))[0]) is not None
    assert fit(contenders(measured_in(make_run(run.header.plan.configurations, 1, records=records)))[0]) is None


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


def test_one_size_however_often_gives_no_model() -> None:
    chosen = [configuration(128, 64, learning_rate=rate) for rate in (0.1, 0.01, 0.001, 0.0001, 0.00001)]
    run = make_run(chosen, 1, records=[make_record(each) for each in chosen])
    (contender,) = contenders(measured_in(run))
    assert len(contender.observations) == 5
    assert fit(contender) is None


def test_half_performance_sizes_are_those_of_the_law() -> None:
    one = fitted(grid(law(1e-3, 1e12)))
    assert one.half_performance_flops == pytest.approx(1e9, rel=1e-4)
    layers = (784, 128, 10)
    assert one.half_performance_batch(layers) == pytest.approx(1e9 / training_flops(layers), rel=1e-4)


def overlapping(host: Law, device: Law) -> Law:
    """Return the law of an accelerator that works while the host issues what follows."""
    return lambda layers, batch: max(host(layers, batch), device(layers, batch))


HOST = law(350e-6, math.inf)
GPU = overlapping(HOST, law(0.0, 20e12, 1.5e12, 4e-9))
"""Launches decide the narrow models and small batches, arithmetic and traffic the others."""

GPU_SIZES = list(itertools.product((64, 256, 1024, 2048, 4096), (16, 256, 1024, 4096, 16384)))


def test_where_the_host_and_the_device_work_at_the_same_time_the_longer_one_counts() -> None:
    one = fitted(grid(GPU, device="cuda:0", sizes=GPU_SIZES))
    assert one.is_overlapped
    assert one.rate is not None
    assert one.bandwidth is not None
    assert one.sample_seconds is not None
    found = (one.rate.value, one.bandwidth.value, one.sample_seconds.value)
    assert overhead_of(one).value == pytest.approx(350e-6, rel=1e-6)
    assert found == pytest.approx((20e12, 1.5e12, 4e-9), rel=1e-4)
    assert one.leave_one_out.largest < 1e-6
    for width, batch in ((64, 64), (3000, 3000)):
        layers = (784, width, 10)
        assert one.predict(layers, batch).step_seconds == pytest.approx(GPU(layers, batch), rel=1e-6)
    # Half of the highest rate is reached while the overhead still decides.
    assert one.half_performance_flops == pytest.approx(350e-6 * 20e12 / 2, rel=1e-4)
    layers = (784, 64, 10)
    half = one.half_performance_batch(layers)
    assert half is not None
    slope = training_flops(layers) / 20e12 + 4e-9
    assert half / GPU(layers, half) == pytest.approx(0.5 / slope, rel=1e-4)


def test_of_noisy_times_that_overlap_the_intervals_hold_too() -> None:
    held = {"overhead": 0, "rate": 0, "again": 0}
    others = random.Random(1)  # noqa: S311 - no secret
    law_ = overlapping(HOST, law(0.0, 20e12))
    for seed in range(100):
        one = fitted(grid(law_, device="cuda:0", sizes=GPU_SIZES, noise=0.05, seed=seed))
        assert one.is_overlapped
        held["overhead"] += overhead_of(one).low <= 350e-6 <= overhead_of(one).high
        held["rate"] += one.rate is not None and one.rate.low <= 20e12 <= one.rate.high
        layers, batch = ((784, 100, 10), 100) if seed % 2 else ((784, 3000, 10), 8000)
        told = one.predict(layers, batch)
        held["again"] += told.low <= law_(layers, batch) * math.exp(others.gauss(0, 0.05)) <= told.high
    assert min(held.values()) >= 88, held  # see `test_the_intervals_hold_what_they_promise`


def test_additive_and_overlapping_forms_are_distinguished() -> None:
    added = law(60e-6, 20e12, 1.5e12)
    for seed in range(10):
        one = fitted(grid(added, device="cuda:0", sizes=GPU_SIZES, noise=0.05, seed=seed))
        assert not one.is_overlapped
    assert not fitted(grid(GPU, device="cpu", sizes=GPU_SIZES)).is_overlapped  # where the host is the device


def test_images_that_a_loader_decodes_are_the_hosts_work() -> None:
    law_ = overlapping(law(350e-6, math.inf, sample=2e-6), law(0.0, 2e12))
    one = fitted(grid(law_, device="cuda:0", pipeline="dataloader", sizes=GPU_SIZES))
    assert one.is_overlapped
    assert one.sample_seconds is not None
    assert one.sample_seconds.value == pytest.approx(2e-6, rel=1e-4)
    wide, narrow = (4096, 16384), (64, 16384)
    for width, batch in (wide, narrow):
        layers = (784, width, 10)
        assert one.predict(layers, batch).step_seconds == pytest.approx(law_(layers, batch), rel=1e-4)


def test_sizes_that_the_host_decides_alone_show_no_limit_to_the_rate() -> None:
    one = fitted(grid(HOST, device="cuda:0", noise=0.03, seed=1))
    assert not one.is_overlapped
    assert overhead_of(one).value == pytest.approx(350e-6, rel=0.05)


def test_overlap_is_reported_below_the_table_and_in_json() -> None:
    run = merged(
        grid(GPU, device="cuda:0", sizes=GPU_SIZES),
        grid(GPU, device="cuda:0", pipeline="dataloader", sizes=GPU_SIZES),
        grid(CPU),
    )
    notes = [note for note in tables_of(run)[0].notes if "work overlap;" in note]
    assert len(notes) == 2
    assert sum("overhead and its samples' time" in note for note in notes) == 1
    told = {(each["device"], each["is_overlapped"]) for each in as_json(run)["models"]}
    assert told == {("cuda:0", True), ("cpu", False)}


@pytest.mark.parametrize(("noise", "is_poor"), [(0.02, False), (1.5, True)])
def test_a_model_that_misses_left_out_sizes_is_not_to_be_relied_on(*, noise: float, is_poor: bool) -> None:
    run = grid(CPU, noise=noise, seed=1)
    (model,) = make_models(label_runs([run], [None]))
    assert (model.fit.leave_one_out.median > 0.2) is is_poor
    assert any("do not rely on this model" in note for note in tables_of(run)[0].notes) is is_poor


def test_prediction_outside_the_measured_sizes_is_called_extrapolated() -> None:
    models = make_models(label_runs([grid(CPU)], [None]))
    assert not predict(models, (784, 300, 10), 100)[0].is_extrapolated
    assert predict(models, (784, 300, 10), 5000)[0].is_extrapolated
    assert predict(models, (784, 4000, 10), 100)[0].is_extrapolated
    assert predict(models, (784, 300, 300, 10), 100)[0].is_extrapolated


def test_an_epoch_has_its_short_step_too() -> None:
    models = make_models(label_runs([grid(CPU)], [None]))
    (answer,) = predict(models, (784, 128, 10), 4096)
    (mean,) = predict(models, (784, 128, 10), SAMPLES // 15)
    assert answer.epoch_seconds == pytest.approx(15 * mean.step_seconds)
    assert answer.throughput_per_second == pytest.approx(SAMPLES / answer.epoch_seconds)
    (whole,) = predict(models, (784, 128, 10), SAMPLES)
    (beyond,) = predict(models, (784, 128, 10), 2 * SAMPLES)
    assert beyond.epoch_seconds == pytest.approx(whole.epoch_seconds) == pytest.approx(whole.step_seconds)


def test_a_batch_beyond_the_training_set_is_one_step_of_all_of_it() -> None:
    run = merged(grid(CPU, noise=0.05, seed=1), grid(law(1e-3, 1e12), noise=0.05, seed=2, engine="fused"))
    models = make_models(label_runs([run], [None]))
    whole, beyond = (predict(models, (784, 128, 10), batch) for batch in (SAMPLES, 100 * SAMPLES))
    assert [dataclasses.replace(each, batch_size=SAMPLES) for each in beyond] == list(whole)
    for each in beyond:
        assert each.step_seconds_low < each.step_seconds < each.step_seconds_high
        assert each.step_seconds == pytest.approx(each.epoch_seconds)
        assert each.times_fastest == pytest.approx(each.epoch_seconds / beyond[0].epoch_seconds)


def test_whether_a_batch_is_extrapolated_is_asked_of_its_size_as_it_is_given() -> None:
    sizes = list(itertools.product(WIDTHS, (16, 256, SAMPLES, 4 * SAMPLES)))
    models = make_models(label_runs([grid(CPU, sizes=sizes)], [None]))
    assert [predict(models, (784, 128, 10), times * SAMPLES)[0].is_extrapolated for times in (2, 8)] == [False, True]


@pytest.mark.parametrize("layout", ["table", "markdown", "csv", "json"])
def test_every_format_names_every_model(layout: str) -> None:
    sides = label_runs([merged(grid(CPU), grid(CPU, engine="fused"))], [None])
    models = make_models(sides)
    prediction = render_prediction(sides, models, ((784, 300, 10), 100), layout, 80)
    for text in (render_scaling(sides, models, layout, 80), prediction):
        assert "cpu eager" in text
        assert "cpu fused" in text


def test_json_holds_models_and_crossovers_unrounded() -> None:
    slow, fast = law(20e-6, 50e9), law(400e-6, 5e12)
    run = merged(grid(slow, device="cpu"), grid(fast, device="cuda:0"))
    document = as_json(run)
    assert [model["model"] for model in document["models"]] == ["cpu", "cuda:0"]
    assert document["models"][0]["rate_flops_per_second"] == pytest.approx(50e9)
    assert {each["batch_size"] for each in document["crossovers"]} == set(BATCHES)
    crossed = [each for each in document["crossovers"] if each["width"] is not None]
    assert {each["overtaken_by"] for each in crossed} == {"cuda:0"}


def test_numbers_in_names_say_what_they_count_and_are_in_order() -> None:
    run = merged(
        *(grid(CPU, world_size=ranks) for ranks in (10, 2, 1)),
        *(grid(CPU, optimizer="sgd", momentum=momentum, threads=1) for momentum in (0.0, 0.9)),
    )
    names = [model.name for model in make_models(label_runs([run], [None]))]
    assert [name for name in names if "adam" in name] == [
        f"cpu adam momentum 0.0 {ranks} 2 threads" for ranks in ("1 rank", "2 ranks", "10 ranks")
    ]
    assert {name for name in names if "sgd" in name} == {
        f"cpu sgd momentum {momentum} 1 rank 1 thread" for momentum in ("0.0", "0.9")
    }


def disturbed(run: Run, count: int, times: float) -> Run:
    """Return `run` with its first `count` trials contaminated, which took `times` as long."""
    changed = [
        dataclasses.replace(slower(each, times), warnings=(TrialWarning.CONTAMINATION, TrialWarning.SPREAD))
        for each in run.records[:count]
    ]
    return dataclasses.replace(run, records=(*changed, *run.records[count:]))


def test_flagged_trials_are_reported_with_the_predictions_without_them(tmp_path: Path) -> None:
    run = merged(disturbed(grid(CPU), 5, 3.0), grid(CPU, engine="fused"))
    told = "flagged: 5 of 60 trials were disturbed during measurement (contamination)"
    table, _ = tables_of(run)
    assert told in table.notes
    assert [(raw["trials"], raw["flagged"]) for raw in as_json(run)["models"]] == [(30, 5), (30, 0)]

    path = str(store(run, tmp_path / "run.jsonl"))
    size = ("--layers", "784-300-10", "--batch-size", "100")
    true = CPU((784, 300, 10), 100)
    eager, fused = sorted(json.loads(bench(path, *size, "--format", "json").stdout), key=lambda each: each["model"])
    assert eager["step_seconds"] > 1.01 * true
    assert eager["step_seconds_without_flagged"] == pytest.approx(true, rel=1e-6)
    assert fused["step_seconds_without_flagged"] == fused["step_seconds"]
    text = bench(path, *size, "--format", "markdown").stdout
    assert f"- {told}; step without them: cpu eager {format_seconds(true)}\n" in text


def test_disturbed_trials_without_which_nothing_changes_or_is_left_are_said_to_be_such() -> None:
    def note(run: Run) -> str:
        sides = label_runs([run], [None])
        return render_prediction(sides, make_models(sides), ((784, 300, 10), 100), "markdown", 80)

    assert "; every prediction is the same without them" in note(disturbed(grid(CPU), 2, 1.0))
    assert "; without them there are too few sizes for a model of cpu" in note(disturbed(grid(CPU), 27, 1.5))
    assert "flagged" not in note(grid(CPU))


def test_every_contender_is_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(merged(grid(CPU), grid(CPU, engine="fused", sizes=((16, 16), (16, 64)))), tmp_path / "run.jsonl")
    fitted_: list[str] = []

    def counting(contender: Contender) -> Fit | None:
        fitted_.append(contender.configuration.engine)
        return fit(contender)

    monkeypatch.setattr(scaling_models, "fit", counting)
    assert "with too few sizes to fit a model: cpu fused (2)" in bench(str(path)).stderr
    assert sorted(fitted_) == ["eager", "fused"]


def test_runs_of_two_machines_go_by_their_labels() -> None:
    runs = [grid(CPU), grid(law(1e-4, 1e12))]
    assert [model.name for model in make_models(label_runs(runs, ["old", "new"]))] == ["old cpu", "new cpu"]


# The command


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["predict", *arguments], prog_name="bench")


def test_contender_with_too_few_sizes_is_reported_as_left_out(tmp_path: Path) -> None:
    enough, few = grid(CPU), grid(CPU, sizes=((16, 16), (16, 64)))
    for name, run in (("enough", enough), ("few", few)):
        store(run, tmp_path / f"{name}.jsonl")
    done = bench(f"old={tmp_path / 'enough.jsonl'}", f"new={tmp_path / 'few.jsonl'}")
    assert done.exit_code == 0
    assert done.stderr == "bench: left out, with too few sizes to fit a model: new cpu (2)\n"
    assert not bench(str(tmp_path / "enough.jsonl")).stderr


def test_machines_of_several_runs_have_names_of_their_own() -> None:
    run = grid(CPU)
    other = make_machine(cpu_model="Fictional CPU 1")
    changes: tuple[dict[str, Change], ...] = ({}, {"machine": other}, {"run_id": "b0b0b0b0"})
    runs = [dataclasses.replace(run, header=dataclasses.replace(run.header, **each)) for each in changes]
    sides = label_runs(runs, [None] * 3)
    assert [side.label for side in sides] == [
        f"{run.header.run_id} {run.header.machine.id}",
        f"{run.header.run_id} {other.id}",
        "b0b0b0b0",
    ]


def test_the_command_predicts_a_size(tmp_path: Path) -> None:
    path = store(grid(CPU), tmp_path / "run.jsonl")
    done = bench(str(path), "--layers", "784-300-10", "--batch-size", "100", "--format", "json")
    assert done.exit_code == 0, done.output
    (answer,) = json.loads(done.stdout)
    assert answer["step_seconds"] == pytest.approx(CPU((784, 300, 10), 100), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layers", "784-300-10"], "--batch-size is missing"),
        (["--batch-size", "100"], "--layers is missing"),
        (["--layers", "784-x-10", "--batch-size", "100"], "784-x-10"),
        (["--layers", "784-300-10", "--batch-size", "0"], "use a whole number from 1"),
    ],
)
def test_a_wrong_size_is_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = bench(str(store(grid(CPU), tmp_path / "run.jsonl")), *arguments)
    assert done.exit_code == 2
    assert words in done.stderr


def test_too_few_sizes_are_refused_with_the_remedy(tmp_path: Path) -> None:
    done = bench(str(store(grid(CPU, sizes=[(64, 16), (128, 16)]), tmp_path / "run.jsonl")))
    assert done.exit_code == 2
    assert "too few sizes" in done.stderr
    assert "--widths" in done.stderr
