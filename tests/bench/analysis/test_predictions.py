"""Predictions of a step and of an epoch for sizes that were not measured."""

import csv
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Iterator

import pytest
from bench_builders import make_configuration, make_epochs, make_measurement, make_record, make_run
from step_times import CPU, SAMPLES, WIDTHS, configuration, disturbed, grid, law, merged

from bench.analysis.predictions import predict, render_prediction
from bench.analysis.scaling_models import label_runs, make_models
from bench.analysis.scaling_view import render_scaling
from bench.analysis.size_series import Measured
from bench.records import Run
from mnist_mlp.recipes import layers_text


def test_prediction_outside_the_measured_sizes_is_called_extrapolated() -> None:
    models = make_models(label_runs([grid(CPU)], [None]))
    assert not predict(models, (784, 300, 10), 100)[0].is_extrapolated
    assert predict(models, (784, 300, 10), 5000)[0].is_extrapolated
    assert predict(models, (784, 4000, 10), 100)[0].is_extrapolated
    assert predict(models, (784, 300, 300, 10), 100)[0].is_extrapolated


def test_the_layers_of_deep_models_do_not_widen_the_text() -> None:
    chosen = [
        make_configuration(model=layers_text(layers), layers=layers, batch_size=batch)
        for layers in ((784, *[width] * 20, 10) for width in (64, 256, 1024))
        for batch in (16, 256, 4096)
    ]
    records = [
        make_record(each, outcome=make_measurement(epochs=make_epochs((CPU(each.layers, each.batch_size),) * 3)))
        for each in chosen
    ]
    sides = label_runs([make_run(chosen, 1, records=records)], [None])
    models = make_models(sides)
    shown = render_scaling(sides, models, "table", 80)
    answered = render_prediction(sides, models, (chosen[0].layers, 100), "table", 80)
    assert "784-20x64-10, batch 100: predicted" in answered
    assert max(map(len, [*shown.splitlines(), *answered.splitlines()])) <= 80


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
        assert each.step_seconds_high is not None
        assert each.step_seconds_low < each.step_seconds < each.step_seconds_high
        assert each.step_seconds == pytest.approx(each.epoch_seconds)
        assert each.times_fastest == pytest.approx(each.epoch_seconds / beyond[0].epoch_seconds)


def test_whether_a_batch_is_extrapolated_is_asked_of_its_size_as_it_is_given() -> None:
    sizes = list(itertools.product(WIDTHS, (16, 256, SAMPLES, 4 * SAMPLES)))
    models = make_models(label_runs([grid(CPU, sizes=sizes)], [None]))
    assert [predict(models, (784, 128, 10), times * SAMPLES)[0].is_extrapolated for times in (2, 8)] == [False, True]


def test_far_outside_the_measured_sizes_the_interval_has_no_upper_end() -> None:
    sizes = tuple(itertools.product((16, 32), (16, 64)))
    sides = label_runs([grid(law(60e-6, 2e13), noise=0.05, seed=1, sizes=sizes)], [None])
    models, far = make_models(sides), ((784, 4096, 10), 4096)
    (answer,) = predict(models, *far)
    assert answer.is_extrapolated
    assert (answer.step_seconds_low, answer.step_seconds_high) == (0, None)
    assert answer.step_seconds == pytest.approx(60e-6, rel=0.1)

    (raw,) = json.loads(render_prediction(sides, models, far, "json", 80))
    assert raw["step_seconds_high"] is None
    (row,) = csv.DictReader(io.StringIO(render_prediction(sides, models, far, "csv", 80)))
    assert row["step_seconds_high"] == ""
    text = render_prediction(sides, models, far, "markdown", 80)
    assert "| 0 s to no limit |" in text
    assert "would fall\n- no limit: the data show none\n" in text
    assert "extrapolated, so no more than a guess: cpu;" in text


def test_only_models_of_other_sizes_are_said_to_guess() -> None:
    narrow = [(width, batch) for width in (64, 128) for batch in (16, 256, 4096)]
    sides = label_runs([merged(grid(CPU), grid(CPU, engine="fused", sizes=narrow))], [None])
    models = make_models(sides)
    beyond_one = render_prediction(sides, models, ((784, 512, 10), 64), "markdown", 80)
    assert "extrapolated, so no more than a guess: cpu fused;" in beyond_one
    assert "extrapolated" not in render_prediction(sides, models, ((784, 100, 10), 64), "markdown", 80)


def test_steps_of_different_numbers_of_samples_are_compared_per_sample() -> None:
    (side,) = label_runs([grid(CPU)], [None])
    sides = [dataclasses.replace(side, measured=[*side.measured, *measured_digits()])]
    models, size = make_models(sides), ((784, 128, 10), 4096)
    mnist, digits = predict(models, *size)
    assert [(each.model, each.step_samples) for each in (mnist, digits)] == [("cpu mnist", 4096), ("cpu digits", 1437)]
    assert digits.step_seconds < mnist.step_seconds
    assert mnist.times_fastest == 1
    assert digits.times_fastest == pytest.approx(CPU(size[0], 1437) / 1437 / (CPU(*size) / 4096))
    text = render_prediction(sides, models, size, "markdown", 80)
    assert "- times fastest: time per sample of the step" in text
    assert "- a step is all training samples, which are fewer than the batch size: cpu digits (1437)\n" in text
    assert "fewer than the batch size" not in render_prediction(sides, models, (size[0], 1437), "markdown", 80)


def measured_digits() -> Iterator[Measured]:
    """Yield what was measured with the 1437 training samples of digits."""
    for width, batch in itertools.product(WIDTHS, (16, 64, 256, 1437)):
        chosen, steps = configuration(width, batch, dataset="digits"), -(-1437 // batch)
        logs = (math.log(steps * CPU(chosen.layers, 1437 / steps)),)
        yield Measured(
            configuration=chosen, train_samples=1437, log_seconds=logs, unflagged_log_seconds=logs, warnings=()
        )


@pytest.mark.parametrize("layout", ["table", "markdown", "csv", "json"])
def test_every_format_names_every_model(layout: str) -> None:
    sides = label_runs([merged(grid(CPU), grid(CPU, engine="fused"))], [None])
    models = make_models(sides)
    prediction = render_prediction(sides, models, ((784, 300, 10), 100), layout, 80)
    for text in (render_scaling(sides, models, layout, 80), prediction):
        assert "cpu eager" in text
        assert "cpu fused" in text


def test_disturbed_trials_without_which_nothing_changes_or_is_left_are_said_to_be_such() -> None:
    def note(run: Run) -> str:
        sides = label_runs([run], [None])
        return render_prediction(sides, make_models(sides), ((784, 300, 10), 100), "markdown", 80)

    assert "; every prediction is the same without them" in note(disturbed(grid(CPU), 2, 1.0))
    assert "; without them there are too few sizes for a model of cpu" in note(disturbed(grid(CPU), 27, 1.5))
    assert "flagged" not in note(grid(CPU))
