"""Step times on an accelerator, where the host's work and the device's overlap or add up."""

import itertools
import math
import random

import numpy as np
import pytest
from step_times import CPU, Law, as_json, fitted, grid, law, merged, overhead_of, tables_of

from bench.analysis.step_forms import Form, Matrix, Solution, search, solve
from mnist_mlp.costs import training_flops


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


@pytest.mark.parametrize(("width", "batches"), [(4096, (4096, 16384)), (64, (16, 64))])
def test_the_side_that_waits_adds_nothing_to_the_interval(width: int, batches: tuple[int, int]) -> None:
    one = fitted(grid(overlapping(HOST, law(0.0, 20e12)), device="cuda:0", sizes=GPU_SIZES, noise=0.05, seed=1))
    assert one.terms == ("overhead", "arithmetic")
    less, more = (one.predict((784, width, 10), batch).half for batch in batches)
    assert less == pytest.approx(more)  # one coefficient alone decides both


def test_of_all_divisions_between_host_and_device_the_one_that_fits_best_is_found() -> None:
    random_, differing = np.random.default_rng(1), 0
    sizes = list(itertools.product((64, 512, 4096), (16, 512, 16384)))
    work = np.array([training_flops((784, width, 10)) * float(batch) for width, batch in sizes])
    rows = np.stack([np.ones(len(sizes)), work, [float(width) for width, _ in sizes]], axis=1)
    form = Form(terms=("overhead", "arithmetic", "traffic"), host=frozenset({"overhead"}))
    exact = form.seconds(rows, np.array([350e-6, 5e-14, 3e-7])).max(axis=1)
    divisions = [(work.argsort().argsort() >= first).astype(np.intp) for first in range(1, len(sizes))]
    for _ in range(30):
        seconds = exact * np.exp(0.5 * random_.standard_normal(len(sizes)))

        def misfit(solution: Solution, seconds: Matrix = seconds) -> float:
            return float((np.log(form.seconds(rows, solution.coefficients).max(axis=1) / seconds) ** 2).sum())

        found = [misfit(search(form, rows, seconds, division)) for division in divisions]
        assert misfit(solve(form, rows, seconds, work)) == pytest.approx(min(found))
        differing += max(found) > 1.05 * min(found)
    assert differing > 5  # a search from anywhere would not do


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
