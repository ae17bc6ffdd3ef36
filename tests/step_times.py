"""Runs whose step times follow a known law, and what is fitted to them."""

import dataclasses
import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from bench_builders import (
    Change,
    make_configuration,
    make_epochs,
    make_measurement,
    make_record,
    make_run,
)

from bench.analysis.scaling import Coefficient, Fit, fit
from bench.analysis.scaling_models import label_runs, make_models
from bench.analysis.scaling_view import render_scaling, scaling_tables
from bench.analysis.size_series import Measured, size_series
from bench.records import Configuration, Measurement, Run, TrialRecord, TrialWarning
from bench.tables.layout import WordTable
from mnist_mlp.costs import training_bytes, training_flops

WIDTHS = (64, 128, 256, 512, 1024, 2048)
BATCHES = (16, 64, 256, 1024, 4096)
SAMPLES = 60_000

Law = Callable[[tuple[int, ...], float], float]
"""Layers and samples of a step → its seconds."""


def law(  # noqa: PLR0913 - what decides it
    overhead: float,
    rate: float,
    bandwidth: float = math.inf,
    sample: float = 0.0,
    *,
    optimizer: str = "adam",
    momentum: bool = False,
) -> Law:
    def seconds(layers: tuple[int, ...], batch: float) -> float:
        sweeps = training_bytes(layers, 0, optimizer=optimizer, momentum=momentum)
        return overhead + batch * training_flops(layers) / rate + sweeps / bandwidth + batch * sample

    return seconds


CPU = law(150e-6, 180e9, 45e9, 0.8e-6)


def configuration(width: int, batch: int, **changes: Change) -> Configuration:
    return make_configuration(layers=(784, width, 10), model=f"784-{width}-10", batch_size=batch, epochs=3, **changes)


def grid(
    seconds: Law, *, noise: float = 0.0, seed: int = 0, sizes: Sequence[tuple[int, int]] = (), **changes: Change
) -> Run:
    """Return a run of one trial a size, whose epochs take what `seconds` says, times lognormal noise."""
    random_ = random.Random(seed)  # noqa: S311 - no secret
    chosen = [configuration(*size, **changes) for size in sizes or tuple(itertools.product(WIDTHS, BATCHES))]
    records = []
    for each in chosen:
        steps = -(-SAMPLES // each.batch_size)
        epoch = steps * seconds(each.layers, SAMPLES / steps) * math.exp(random_.gauss(0, noise))
        records.append(make_record(each, outcome=make_measurement(epochs=make_epochs((epoch,) * 3))))
    return make_run(chosen, 1, records=records)


def measured_in(run: Run) -> Sequence[Measured]:
    (side,) = label_runs([run], [None])
    return side.measured


def fitted(run: Run) -> Fit:
    (series,) = size_series(measured_in(run))
    found = fit(series)
    assert found is not None
    return found


def overhead_of(one: Fit) -> Coefficient:
    assert one.overhead is not None
    return one.overhead


def merged(*runs: Run) -> Run:
    configurations = [each for run in runs for each in run.header.plan.configurations]
    return make_run(configurations, 1, records=[record for run in runs for record in run.records])


def as_json(*runs: Run) -> dict[str, Any]:
    sides = label_runs(runs, [None] * len(runs))
    document: dict[str, Any] = json.loads(render_scaling(sides, make_models(sides), "json", 80))
    return document


def tables_of(run: Run) -> list[WordTable]:
    return list(scaling_tables(make_models(label_runs([run], [None]))))


def slower(record: TrialRecord, times: float) -> TrialRecord:
    assert isinstance(record.outcome, Measurement)
    epochs = make_epochs((record.outcome.epoch_seconds * times,) * 3)
    return make_record(record.trial.configuration, outcome=make_measurement(epochs=epochs))


def disturbed(run: Run, count: int, times: float) -> Run:
    """Return `run` with its first `count` trials contaminated, which took `times` as long."""
    changed = [
        dataclasses.replace(slower(each, times), warnings=(TrialWarning.CONTAMINATION, TrialWarning.SPREAD))
        for each in run.records[:count]
    ]
    return dataclasses.replace(run, records=(*changed, *run.records[count:]))
