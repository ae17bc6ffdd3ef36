"""Crossovers: between which widths, at which batch sizes and for which layers one overtakes another."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bench_builders import (
    Change,
    make_configuration,
    make_epochs,
    make_measurement,
    make_record,
    make_run,
)
from step_times import CPU, SAMPLES, Law, as_json, grid, law, measured_in, merged, tables_of

from bench.analysis.crossover import crossover, is_worth_comparing
from bench.analysis.scaling import Fit, Prediction, fit
from bench.analysis.scaling_view import _undecided
from bench.analysis.size_series import size_series
from bench.records import Run
from mnist_mlp.recipes import scale_layers


@pytest.mark.parametrize("batch", [16, 256])
def test_crossover_is_where_the_laws_cross(batch: int) -> None:
    slow, fast = law(20e-6, 50e9), law(400e-6, 5e12)
    run = merged(grid(slow, device="cpu"), grid(fast, device="cuda:0"))
    cpu, cuda = (fit(each) for each in size_series(measured_in(run)))
    assert cpu is not None
    assert cuda is not None
    found = crossover(cuda, cpu, (784, 64, 10), batch, (8, 4096))
    assert found.first is cpu
    true = next(w for w in range(8, 4097) if fast((784, w, 10), batch) < slow((784, w, 10), batch))
    assert found.width == pytest.approx(true, rel=0.011)
    assert found.is_known == (True, True)


def test_a_batch_beyond_the_training_set_is_compared_as_the_step_that_is_trained() -> None:
    slow, fast = law(20e-6, 50e9), law(400e-3, 5e12)
    sizes = list(itertools.product((64, 256, 1024, 4096), (256, 4096, SAMPLES, 8 * SAMPLES)))
    run = merged(grid(slow, device="cpu", sizes=sizes), grid(fast, device="cuda:0", sizes=sizes))
    cpu, cuda = (fit(each) for each in size_series(measured_in(run)))
    assert cpu is not None
    assert cuda is not None
    whole, beyond = (crossover(cpu, cuda, (784, 64, 10), batch, (16, 4096)) for batch in (SAMPLES, 8 * SAMPLES))
    true = next(w for w in range(16, 4097) if fast((784, w, 10), SAMPLES) < slow((784, w, 10), SAMPLES))
    assert beyond.width == whole.width == pytest.approx(true, rel=0.011)


@pytest.mark.parametrize("crossing", range(9, 60))
def test_among_narrow_layers_the_crossover_is_exact(crossing: int) -> None:
    level = cast("Fit", Scripted(crossing - 0.5, 0.0))
    growing = cast("Fit", Growing())
    found = crossover(growing, level, (784, 64, 10), 64, (8, 64))
    assert (found.first, found.width) == (growing, crossing)


def test_an_uncertain_crossover_says_between_which_widths() -> None:
    slow, fast = law(20e-6, 50e9), law(400e-6, 5e12)
    run = merged(grid(slow, device="cpu", noise=0.1, seed=1), grid(fast, device="cuda:0", noise=0.1, seed=2))
    cpu, cuda = (fit(each) for each in size_series(measured_in(run)))
    assert cpu is not None
    assert cuda is not None
    found = crossover(cpu, cuda, (784, 64, 10), 64, (8, 4096))
    assert found.low is not None
    assert found.high is not None
    assert found.width is not None
    assert found.low < found.width < found.high
    true = next(w for w in range(8, 4097) if fast((784, w, 10), 64) < slow((784, w, 10), 64))
    assert found.low <= true <= found.high


class Scripted:
    """A fit that predicts a step of `seconds` for any size, with an interval of so many percent either way."""

    series = SimpleNamespace(step_samples=lambda batch_size: batch_size)

    def __init__(self, seconds: float, percent: float) -> None:
        self._prediction = Prediction(step_seconds=seconds, half=percent / 100)

    def predict(self, *_size: object) -> Prediction:
        return self._prediction


class Growing:
    """A fit that predicts, exactly, as many seconds as the first hidden layer has units."""

    series = Scripted.series

    def predict(self, layers: Sequence[int], _batch_size: int) -> Prediction:
        return Prediction(step_seconds=layers[1], half=0.0)


@pytest.mark.parametrize(("percent", "is_known"), [(6.0, True), (8.0, False)])
def test_errors_of_two_models_add_up_as_independent_ones_do(
    percent: float,
    is_known: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    first, second = (cast("Fit", Scripted(seconds, percent)) for seconds in (1.0, math.exp(0.10)))
    found = crossover(first, second, (784, 64, 10), 64, (8, 4096))
    assert found.is_known == (is_known, is_known)  # 10 % against the root of the sum of both squares


def test_a_width_for_which_one_model_shows_no_limit_is_undecided() -> None:
    unlimited, known = (cast("Fit", Scripted(1.0, percent)) for percent in (100_000.0, 1.0))
    assert unlimited.predict((784, 64, 10), 64).high == math.inf
    assert crossover(unlimited, known, (784, 64, 10), 64, (8, 4096)).is_open


def test_undecided_everywhere_is_distinguished_from_undecided_at_both_ends() -> None:
    run = merged(grid(CPU, noise=0.1, seed=1), grid(CPU, engine="fused", noise=0.1, seed=2))
    first, second = [each for each in map(fit, size_series(measured_in(run))) if each is not None]
    found = crossover(first, second, (784, 64, 10), 64, (64, 2048))
    assert found.is_open
    assert _undecided(found) == "everywhere"
    assert _undecided(dataclasses.replace(found, is_open=False)) == "near 64, near 2048"
    ends = dataclasses.replace(found, is_open=False, is_known=(True, True))
    assert (_undecided(ends), _undecided(dataclasses.replace(ends, low=70, high=80))) == ("", "70 and 80")


def test_one_that_is_never_overtaken_is_ahead_throughout() -> None:
    run = merged(grid(law(20e-6, 1e12), engine="fused"), grid(law(60e-6, 5e11)))
    fits = [each for each in map(fit, size_series(measured_in(run))) if each is not None]
    first, second = fits
    found = crossover(first, second, (784, 64, 10), 64, (64, 2048))
    assert found.first.series.configuration.engine == "fused"
    assert (found.width, found.low, found.high) == (None, None, None)


def test_pairs_differ_in_device_and_threads_or_in_one_thing() -> None:
    run = merged(
        grid(CPU, threads=2),
        grid(CPU, device="cuda:0", threads=1),
        grid(CPU, device="cuda:0", threads=1, engine="fused"),
    )
    fits = [each for each in map(fit, size_series(measured_in(run))) if each is not None]
    told = [
        tuple(f"{c.device} {c.engine}" for c in (a.series.configuration, b.series.configuration))
        for a, b in itertools.combinations(fits, 2)
        if is_worth_comparing(a, b)
    ]
    assert told == [("cpu eager", "cuda:0 eager"), ("cuda:0 eager", "cuda:0 fused")]


def deep(seconds: Law, shapes: Sequence[tuple[int, ...]], **changes: Change) -> Run:
    """Return a run of these hidden layers at three batch sizes."""
    layers = [(784, *hidden, 10) for hidden in shapes]
    chosen = [
        make_configuration(layers=each, model="-".join(map(str, each)), batch_size=batch, **changes)
        for each in layers
        for batch in (60, 600, 6000)
    ]
    times = [seconds(each.layers, each.batch_size) * SAMPLES / each.batch_size for each in chosen]
    records = [
        make_record(each, outcome=make_measurement(epochs=make_epochs((time,) * 3)))
        for each, time in zip(chosen, times, strict=True)
    ]
    return make_run(chosen, 1, records=records)


def crossed_at(document: dict[str, Any]) -> set[tuple[tuple[int, ...], int, int]]:
    found = document["crossovers"]
    return {(tuple(each["narrowest_layers"]), each["narrowest"], each["widest"]) for each in found}


SLOW, FAST = law(20e-6, 50e9), law(400e-6, 5e12)


def test_a_crossover_says_of_which_layers_it_is_where_there_are_several_shapes() -> None:
    shapes = ((64,), (512,), (64, 32), (512, 256), (64, 64), (512, 512))
    _, table = tables_of(merged(deep(SLOW, shapes), deep(FAST, shapes, engine="fused")))
    assert table.headers[0] == "narrowest"
    assert [row[0] for row in table.rows[::3]] == ["784-64-10", "784-64-32-10", "784-64-64-10"]
    assert any("narrowest:" in note for note in table.notes)
    for row in table.rows:
        layers, batch = tuple(map(int, row[0].split("-"))), int(row[3])
        scaled = [(width, scale_layers(layers, width)) for width in range(64, 513)]
        true = next((width for width, each in scaled if FAST(each, batch) < SLOW(each, batch)), 64)
        assert row[4] == "not up to 512" if true == 64 else true <= int(row[4]) <= 1.011 * true + 1
    _, alone = tables_of(merged(deep(SLOW, shapes[:2]), deep(FAST, shapes[:2], engine="fused")))
    assert alone.headers[0] == "faster when narrow"


def test_one_layer_more_is_another_shape_even_if_it_is_like_the_last() -> None:
    shapes = ((64,), (512,), (512, 10), (64, 1))
    assert crossed_at(as_json(merged(deep(SLOW, shapes), deep(FAST, shapes, engine="fused")))) == {
        ((784, 64, 10), 64, 512),
        ((784, 64, 1, 10), 64, 512),
    }


def test_layers_of_one_shape_are_scaled_alike_but_for_rounding() -> None:
    shapes = ((3, 1), (10, 3), (101, 35), (1000, 345))  # rounding 345 down to 101 and 10 gives 34.8 and 3.45
    assert crossed_at(as_json(merged(deep(SLOW, shapes), deep(FAST, shapes, engine="fused")))) == {
        ((784, 3, 1, 10), 3, 1000)
    }


def test_crossovers_are_looked_for_between_the_widths_that_both_measured() -> None:
    run = merged(deep(SLOW, ((16,), (64,), (256,))), deep(FAST, ((64,), (256,), (2048,)), engine="fused"))
    document = as_json(run)
    assert crossed_at(document) == {((784, 64, 10), 64, 256)}
    assert document["uncrossed"] == []


@pytest.mark.parametrize("theirs", [((512,), (2048,)), ((256,), (2048,))])
def test_pairs_without_a_common_range_of_widths_are_listed_without_a_crossover(
    theirs: Sequence[tuple[int, ...]],
) -> None:
    run = merged(deep(SLOW, ((64,), (256,))), deep(FAST, theirs, engine="fused"))
    assert as_json(run)["crossovers"] == []
    (table,) = tables_of(run)
    assert table.notes[-1] == (
        "no crossover can be computed for cpu eager and cpu fused of 784-2048-10: that takes a batch size and a range "
        "of widths that both measured"
    )


@pytest.mark.parametrize(("count", "more"), [(5, ": that takes"), (6, " and 1 more: that takes")])
def test_of_many_pairs_without_a_crossover_five_are_listed(count: int, more: str) -> None:
    shapes = [(64, 8 * place) for place in range(1, count + 1)]
    note = tables_of(merged(deep(SLOW, shapes), deep(FAST, shapes, engine="fused")))[-1].notes[-1]
    assert note.count("cpu eager and cpu fused of 784-64-") == 5
    assert f" of 784-64-40-10{more}" in note
