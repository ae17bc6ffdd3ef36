"""The tidy table of a stored run: one flat row per trial with the columns `COLUMNS`, and its CSV.

Values are unrounded SI base units; what was not measured is None in a row and an empty cell in the CSV.
"""

import csv
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Final, Literal

from bench.records import (
    DeviceConditions,
    Failure,
    Fingerprint,
    Measurement,
    Run,
    TrialRecord,
)
from bench.system.outputs import write_atomically
from mnist_mlp.recipes import layers_text

MEASURED: Final = "measured"
"""Status of a trial that has a measurement; any other status is the kind of its failure."""

Value = str | int | float | bool | None

_FORMULA_STARTS: Final = ("=", "+", "-", "@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. `dtype` is pandas' name for its type; ``Int64`` and ``Float64`` can have empty cells."""

    name: str
    dtype: Literal["string", "boolean", "Int64", "Float64"]
    description: str
    value: Callable[[Run, TrialRecord], Value]


def table_of(path: Path) -> Path:
    """Return where the table of the stored run at `path` is: beside it."""
    return path.with_suffix(".csv")


def run_id_of(table: Path) -> str | None:
    """Return the id of the run whose first trial `table` shows; None if it is not such a table, or has no trials."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            return next(rows, {}).get(COLUMNS[0].name)
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


_ROWS_AT_ONCE: Final = 4096
"""Rows of one data frame. A row takes kilobytes there, and a merged run can have 100 000 of them."""


def write_csv(run: Run, path: Path) -> None:
    """Write the rows of `run` to `path` as CSV in UTF-8, atomically: readers see either the old file or the new one.

    ``pandas.read_csv(path)`` gives numbers as numbers and text as text; whole numbers with empty cells become floats,
    and a float's last digit may differ without ``float_precision="round_trip"``. Text cells are safe in spreadsheets:
    unprintable characters (including line ends) become spaces, and a text that would be taken for a formula (it starts
    with = + - or @) gets a leading single quote. Only `failure_message` can contain such text.

    Raises:
        StorageError: it cannot be written; an earlier file at `path` is unchanged.
    """
    write_atomically(path, _csv_pieces(run))


def _csv_pieces(run: Run) -> Iterator[str]:
    import pandas as pd  # noqa: PLC0415 - pandas takes half a second to import

    types = {column.name: column.dtype for column in COLUMNS}
    for first in range(0, max(len(run.records), 1), _ROWS_AT_ONCE):  # once without trials, for the header
        rows = [
            [_harmless(column.value(run, record)) for column in COLUMNS]
            for record in run.records[first : first + _ROWS_AT_ONCE]
        ]
        frame = pd.DataFrame(rows, columns=list(types), dtype=object).astype(types)
        yield frame.to_csv(index=False, header=first == 0, lineterminator="\n")


def _harmless(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    text = value
    if not value.isprintable():
        text = "".join(character if character.isprintable() else " " for character in value)
    text = text.strip()
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _text(name: str, description: str, value: Callable[[Run, TrialRecord], str | None]) -> Column:
    return Column(name=name, dtype="string", description=description, value=value)


def _configured(name: str, dtype: Literal["string", "boolean", "Int64", "Float64"], description: str) -> Column:
    """Return the column of a field of the configuration."""

    def value(_run: Run, record: TrialRecord) -> Value:
        field: Value = getattr(record.trial.configuration, name)
        return field

    return Column(name=name, dtype=dtype, description=description, value=value)


def _measured(
    name: str,
    dtype: Literal["string", "Int64", "Float64"],
    description: str,
    get: Callable[[Measurement], Value] | None = None,
) -> Column:
    """Return a column with `get` of each measurement, by default its field `name`; empty if the trial failed."""
    taken = get or attrgetter(name)

    def value(_run: Run, record: TrialRecord) -> Value:
        return taken(record.outcome) if isinstance(record.outcome, Measurement) else None

    return Column(name=name, dtype=dtype, description=description, value=value)


def _part(member: str, field: str, dtype: Literal["string", "Int64", "Float64"], description: str) -> Column:
    """Return the column of a field of a member of the measurement; empty if that member is None."""

    def get(measurement: Measurement) -> Value:
        part = getattr(measurement, member)
        value: Value = None if part is None else getattr(part, field)
        return value

    return _measured(f"{member}_{field}", dtype, description, get)


def _peak(member: str, what: str) -> tuple[Column, Column]:
    """Return the columns of a peak and of how it was measured."""
    how = f"how {member}_bytes was measured"
    return _part(member, "bytes", "Int64", what), _part(member, "method", "string", how)


def _summed(name: str, dtype: Literal["Int64", "Float64"], description: str) -> Column:
    """Return the column of a field of `Contention`, summed over the epochs; empty if an epoch lacks it."""

    def get(measurement: Measurement) -> Value:
        parts = [getattr(epoch.contention, name) for epoch in measurement.epochs]
        return None if None in parts else sum(parts)

    return _measured(name, dtype, description, get)


def _extreme(
    name: str,
    dtype: Literal["Int64", "Float64"],
    description: str,
    choose: Callable[[Iterable[float]], float],
    field: str,
) -> Column:
    """Return the column with the extreme value of a field of `DeviceConditions` over the epochs."""

    def get(measurement: Measurement) -> Value:
        known = [each for sample in _conditions(measurement) if (each := getattr(sample, field)) is not None]
        return choose(known) if known else None

    return _measured(name, dtype, description, get)


def _conditions(measurement: Measurement) -> list[DeviceConditions]:
    return [epoch.device_conditions for epoch in measurement.epochs if epoch.device_conditions is not None]


def _clock_reasons(measurement: Measurement) -> str | None:
    """Return every reason once, in the order in which they occurred; None if there were none."""
    names = (name for sample in _conditions(measurement) for name in sample.clock_reasons or ())
    return ";".join(dict.fromkeys(names)) or None


def _status(record: TrialRecord) -> str:
    return record.outcome.kind.value if isinstance(record.outcome, Failure) else MEASURED


def _fingerprint(run: Run, record: TrialRecord) -> Fingerprint:
    return run.fingerprints[record.fingerprint]


COLUMNS: Final[tuple[Column, ...]] = (
    _text("run_id", "the run's random id", lambda run, _: run.header.run_id),
    _text("machine_id", "short name of the hardware", lambda run, record: _fingerprint(run, record).machine.id),
    _text("configuration_id", "hash of the configuration", lambda _, record: record.trial.configuration.id),
    _configured("device", "string", "device trained on"),
    _configured("model", "string", "name of the recipe, or its layers"),
    _text(
        "layers", "units of each layer, input first", lambda _, record: layers_text(record.trial.configuration.layers)
    ),
    _configured("width", "Int64", "units of the first hidden layer; empty without one"),
    _configured("activation", "string", "between the layers"),
    _configured("output", "string", "what the model returns"),
    _configured("loss", "string", "loss function"),
    _configured("optimizer", "string", "optimizer"),
    _configured("learning_rate", "Float64", "per step, the highest of a schedule"),
    _configured("schedule", "string", "how the learning rate moves"),
    _configured("momentum", "Float64", "of the optimizer, 0 without"),
    _configured("weight_decay", "Float64", "of the optimizer, 0 without"),
    _configured("batch_size", "Int64", "training samples a step"),
    _configured("test_batch_size", "Int64", "test samples at once"),
    _configured("epochs", "Int64", "passes over the training set"),
    _configured("transform", "string", "name of the scaling of the pixels"),
    _configured("shuffle", "boolean", "whether each epoch has its own order"),
    _configured("dataset", "string", "name of the data set"),
    _configured("precision", "string", "number format of the arithmetic"),
    _configured("engine", "string", "how a training step is executed"),
    _configured("pipeline", "string", "where batches come from"),
    _configured("workers", "Int64", "DataLoader processes"),
    _configured("threads", "Int64", "threads of torch in the trial's process, or in each rank's"),
    Column(name="repeat", dtype="Int64", description="from 0", value=lambda _, record: record.trial.repeat),
    Column(name="seed", dtype="Int64", description="of all randomness", value=lambda _, record: record.trial.seed),
    _text("status", f"{MEASURED}, or the kind of failure", lambda _, record: _status(record)),
    _text(
        "failure_message",
        "why there is no measurement",
        lambda _, record: record.outcome.message if isinstance(record.outcome, Failure) else None,
    ),
    _text("started_at", "UTC, ISO 8601", lambda _, record: record.started_at),
    Column(
        name="wall_seconds",
        dtype="Float64",
        description="s, from asking for a process to its end",
        value=lambda _, record: record.wall_seconds,
    ),
    _measured("epoch_seconds", "Float64", "s, median training time of an epoch, without evaluation"),
    _measured("throughput_per_second", "Float64", "training samples/s at the median epoch time"),
    _measured("cold_start_seconds", "Float64", "s, first training step"),
    _measured("warm_up_seconds", "Float64", "s, all rehearsal, cold start included"),
    _measured("preparation_seconds", "Float64", "s, loading data and building the model"),
    _measured("train_loss", "Float64", "mean of the final epoch", lambda m: m.epochs[-1].train_loss),
    _measured(
        "train_accuracy",
        "Float64",
        "fraction, final epoch, while the weights move",
        lambda m: m.epochs[-1].train_accuracy,
    ),
    _measured("test_loss", "Float64", "after the final epoch", lambda m: m.epochs[-1].test_loss),
    _measured("test_accuracy", "Float64", "fraction, after the final epoch"),
    *(
        _measured(
            f"seconds_to_{percent}_percent",
            "Float64",
            f"s of training until test accuracy first reaches {percent} %; empty if it never does",
            partial(Measurement.seconds_to_accuracy, target=percent / 100),
        )
        for percent in (97, 98)
    ),
    _measured("host_baseline_bytes", "Int64", "bytes resident before any data"),
    *_peak("host_peak", "bytes, highest resident memory above the baseline"),
    *_peak("device_allocated_peak", "bytes, most in live tensors"),
    *_peak("device_reserved_peak", "bytes, most held by the caching allocator"),
    _measured("forward_flops_per_sample", "Int64", "FLOPs of one sample's forward pass"),
    _measured("training_flops_per_sample", "Int64", "FLOPs of one sample's training"),
    _measured("parameters", "Int64", "trainable numbers of the model"),
    _measured(
        "yardstick_seconds",
        "Float64",
        "s, median over the epochs of a fixed matrix product's time",
        lambda m: statistics.median(epoch.yardstick_seconds for epoch in m.epochs),
    ),
    _summed("process_cpu_seconds", "Float64", "s, CPU time of the trial's threads, sum over the epochs"),
    _summed("other_cpu_seconds", "Float64", "s, CPU time of everything else on its cores, sum over the epochs"),
    _summed("steal_seconds", "Float64", "s, CPU time that the hypervisor gave to others, sum over the epochs"),
    _summed("involuntary_switches", "Int64", "how often a thread of the trial was made to wait, sum over the epochs"),
    _text(
        "warnings", "what the trial is warned about, joined by ;", lambda _, record: ";".join(record.warnings) or None
    ),
    _text("torch", "version of torch", lambda run, record: _fingerprint(run, record).software.torch),
    _text("python", "version of Python", lambda run, record: _fingerprint(run, record).software.python),
    _part("energy", "joules", "Float64", "J that the device drew, sum over the epochs, idle power included"),
    _part("energy", "seconds", "Float64", "s in which energy_joules was counted"),
    _part("energy", "method", "string", "how energy_joules was measured"),
    _measured("energy_reason", "string", "why energy_joules is empty", lambda m: m.energy_reason or None),
    _measured("joules_per_epoch", "Float64", "J, mean over the epochs"),
    _measured("samples_per_joule", "Float64", "training samples/J over all epochs"),
    _summed(
        "pressure_stall_seconds", "Float64", "s in which any task of the machine waited for a core, sum over the epochs"
    ),
    _summed("throttled_seconds", "Float64", "s that CPU quotas held the trial back, sum over cores and epochs"),
    _measured(
        "load_average",
        "Float64",
        "of the minute before an epoch, the highest",
        lambda m: max(
            (load for epoch in m.epochs if (load := epoch.contention.load_average) is not None), default=None
        ),
    ),
    _extreme("device_clock_hertz", "Float64", "Hz beside the epochs, the lowest", min, "clock_hertz"),
    _extreme("device_max_clock_hertz", "Float64", "Hz that the device can reach", max, "max_clock_hertz"),
    _extreme(
        "device_temperature_celsius",
        "Float64",
        "degrees Celsius beside the epochs, the highest",
        max,
        "temperature_celsius",
    ),
    _measured("device_clock_reasons", "string", "why the clock was not higher, joined by ;", _clock_reasons),
    _extreme(
        "device_other_processes",
        "Int64",
        "other programs that compute on the device, the most beside an epoch",
        max,
        "other_processes",
    ),
    _configured("world_size", "Int64", "ranks: processes that train one model together"),
    _measured(
        "exchange_share",
        "Float64",
        "fraction of a step that goes into exchanging gradients between ranks",
        lambda m: None if m.exchange is None else m.exchange.share,
    ),
)
"""The tidy table's columns, in order."""
