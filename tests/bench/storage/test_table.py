import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bench_builders import (
    make_conditions,
    make_configuration,
    make_contention,
    make_energy,
    make_epoch,
    make_epochs,
    make_failure,
    make_fingerprint,
    make_machine,
    make_measurement,
    make_record,
    make_run,
    make_software,
)

from bench.errors import StorageError
from bench.records import Configuration, FailureKind, Measurement, Peak, Run, TrialRecord, TrialWarning
from bench.storage import table
from bench.storage.table import COLUMNS, Value, write_csv


def rows_of(run: Run) -> list[dict[str, Value]]:
    return [{column.name: column.value(run, record) for column in COLUMNS} for record in run.records]


def row_of(record: TrialRecord) -> dict[str, Value]:
    (row,) = rows_of(run_of([record]))
    return row


def run_of(records: Sequence[TrialRecord]) -> Run:
    return make_run([record.trial.configuration for record in records], repeats=1, records=records)


def test_a_row_has_every_column_in_order() -> None:
    assert list(row_of(make_record())) == [column.name for column in COLUMNS]


def test_column_names_are_unique_and_described() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert all(column.description for column in COLUMNS)


def test_every_field_of_the_configuration_has_its_column() -> None:
    assert {field.name for field in dataclasses.fields(Configuration)} <= {column.name for column in COLUMNS}


def test_a_row_says_where_its_trial_ran() -> None:
    elsewhere = make_fingerprint(machine=make_machine(cores_usable=2.0), software=make_software(torch="2.12.0"))
    run = dataclasses.replace(
        make_run(repeats=2, records=[make_record(), make_record(repeat=1, fingerprint=1)]),
        other_fingerprints=(elsewhere,),
    )
    rows = [(row["machine_id"], row["torch"]) for row in rows_of(run)]
    assert rows == [(run.header.machine.id, "2.11.0"), (elsewhere.machine.id, "2.12.0")]


def test_a_measured_trial_becomes_a_row_of_its_values() -> None:
    assert row_of(make_record(warnings=(TrialWarning.STALL, TrialWarning.CONTAMINATION))) == {
        "run_id": "0a1b2c3d",
        "machine_id": make_run().header.machine.id,
        "configuration_id": make_configuration().id,
        "device": "cpu",
        "model": "784-128-10",
        "layers": "784-128-10",
        "width": 128,
        "activation": "relu",
        "output": "logits",
        "loss": "cross_entropy",
        "optimizer": "adam",
        "learning_rate": 0.001,
        "schedule": "constant",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_size": 64,
        "test_batch_size": 1000,
        "epochs": 3,
        "transform": "mnist",
        "shuffle": True,
        "dataset": "mnist",
        "precision": "fp32",
        "engine": "eager",
        "pipeline": "resident",
        "workers": 0,
        "threads": 2,
        "repeat": 0,
        "seed": 42,
        "status": "measured",
        "failure_message": None,
        "started_at": "2026-11-21T03:15:30Z",
        "wall_seconds": 9.5,
        "epoch_seconds": 2.125,
        "throughput_per_second": 60_000 / 2.125,
        "cold_start_seconds": 0.0625,
        "warm_up_seconds": 0.5,
        "preparation_seconds": 0.75,
        "train_loss": 0.125,
        "train_accuracy": 0.96,
        "test_loss": 0.0875,
        "test_accuracy": 0.981,
        "seconds_to_97_percent": 4.25,
        "seconds_to_98_percent": 6.375,
        "host_baseline_bytes": 250_000_000,
        "host_peak_bytes": 400_000_000,
        "host_peak_method": "VmHWM",
        "device_allocated_peak_bytes": None,
        "device_allocated_peak_method": None,
        "device_reserved_peak_bytes": None,
        "device_reserved_peak_method": None,
        "forward_flops_per_sample": 203_264,
        "training_flops_per_sample": 408_832,
        "parameters": 101_770,
        "yardstick_seconds": 0.015625,
        "process_cpu_seconds": pytest.approx(11.7),
        "other_cpu_seconds": pytest.approx(0.15),
        "steal_seconds": pytest.approx(0.03),
        "involuntary_switches": 36,
        "warnings": "stall;contamination",
        "torch": "2.11.0",
        "python": "3.12.4",
        "energy_joules": None,
        "energy_seconds": None,
        "energy_method": None,
        "energy_reason": None,
        "joules_per_epoch": None,
        "samples_per_joule": None,
        "pressure_stall_seconds": None,
        "throttled_seconds": None,
        "load_average": None,
        "device_clock_hertz": None,
        "device_max_clock_hertz": None,
        "device_temperature_celsius": None,
        "device_clock_reasons": None,
        "device_other_processes": None,
        "world_size": 1,
        "exchange_share": None,
    }


def test_columns_keep_their_places_as_new_ones_are_added_at_the_end() -> None:
    names = [column.name for column in COLUMNS]
    assert names[:3] == ["run_id", "machine_id", "configuration_id"]
    assert names.index("python") < names.index("energy_joules")


def in_conditions(**contention: float | None) -> TrialRecord:
    """A trial of three epochs whose energy and conditions were measured, the last epoch's device excepted."""
    conditions = (
        make_conditions(clock_hertz=1.5e9, temperature_celsius=60.0, clock_reasons=("sw_power_cap",)),
        make_conditions(clock_hertz=1.2e9, temperature_celsius=71.0, clock_reasons=("hw_slowdown", "sw_power_cap")),
        None,
    )
    held = {"pressure_stall_seconds": 0.5, "throttled_seconds": 0.25, "load_average": 1.5} | contention
    loads = (held["load_average"], 0.5, None)
    epochs = tuple(
        make_epoch(device_conditions=each, contention=make_contention(**(held | {"load_average": load})))
        for each, load in zip(conditions, loads, strict=True)
    )
    return make_record(outcome=make_measurement(epochs=epochs, energy=make_energy()))


def test_energy_and_conditions_have_their_columns() -> None:
    row = row_of(in_conditions())
    first, end = (list(row).index(name) for name in ("energy_joules", "world_size"))
    assert dict(list(row.items())[first:end]) == {
        "energy_joules": 480.0,
        "energy_seconds": 6.375,
        "energy_method": "NVML total energy counter",
        "energy_reason": None,
        "joules_per_epoch": 160.0,
        "samples_per_joule": 375.0,
        "pressure_stall_seconds": 1.5,
        "throttled_seconds": 0.75,
        "load_average": 1.5,
        "device_clock_hertz": 1.2e9,
        "device_max_clock_hertz": 1.98e9,
        "device_temperature_celsius": 71.0,
        "device_clock_reasons": "sw_power_cap;hw_slowdown",
        "device_other_processes": 0,
    }


def test_energy_that_was_not_measured_has_its_reason() -> None:
    row = row_of(make_record(outcome=make_measurement(energy_reason="RAPL: none here")))
    assert (row["energy_joules"], row["energy_reason"]) == (None, "RAPL: none here")


def test_a_failed_trial_has_a_status_and_a_message_and_no_measured_value() -> None:
    row = row_of(make_record(outcome=make_failure(FailureKind.TIMEOUT, "60 s were not enough")))
    assert (row["status"], row["failure_message"]) == ("timeout", "60 s were not enough")
    first = list(row).index("epoch_seconds")
    last = list(row).index("warnings")
    assert set(list(row.values())[first:last]) == {None}


def test_accuracies_on_labels_of_noise_are_none() -> None:
    epochs = tuple(dataclasses.replace(epoch, train_correct=None) for epoch in make_epochs((1.0,), (None,)))
    row = row_of(make_record(outcome=make_measurement(epochs=epochs)))
    names = ("train_accuracy", "test_accuracy", "seconds_to_97_percent", "seconds_to_98_percent")
    assert [row[name] for name in names] == [None] * 4


def test_a_sum_that_lacks_one_epoch_is_none() -> None:
    unknown = make_contention(steal_seconds=None, involuntary_switches=None)
    row = row_of(make_record(outcome=make_measurement(epochs=(make_epoch(), make_epoch(contention=unknown)))))
    assert (row["steal_seconds"], row["involuntary_switches"]) == (None, None)
    assert row["process_cpu_seconds"] == pytest.approx(7.8)


def test_a_model_without_hidden_layer_has_no_width() -> None:
    row = row_of(make_record(make_configuration(layers=(784, 10))))
    assert (row["layers"], row["width"]) == ("784-10", None)


def test_pandas_reads_the_csv_back_with_the_right_types_in_one_line(tmp_path: Path) -> None:
    peak = Peak(bytes=2**40 + 1, method="max_memory_allocated")
    measured = in_conditions().outcome
    assert isinstance(measured, Measurement)
    outcome = dataclasses.replace(measured, device_allocated_peak=peak, device_reserved_peak=peak)
    warned = make_record(outcome=outcome, warnings=(TrialWarning.SPREAD,))
    failed = make_record(make_configuration(batch_size=128), outcome=make_failure())
    write_csv(run_of([warned]), tmp_path / "complete.csv")
    write_csv(run_of([warned, failed]), tmp_path / "mixed.csv")

    complete = pd.read_csv(tmp_path / "complete.csv")
    mixed = pd.read_csv(tmp_path / "mixed.csv")

    kinds = {"string": "OU", "boolean": "b", "Int64": "i", "Float64": "f"}
    for column in COLUMNS:
        # Empty here, and nothing says that an empty column is text.
        if column.name not in {"failure_message", "energy_reason"}:
            assert np.asarray(complete[column.name]).dtype.kind in kinds[column.dtype], column.name
    assert mixed["failure_message"][1] == "9 GiB wanted, 8 GiB free"
    assert mixed["device_allocated_peak_bytes"][0] == 2**40 + 1
    assert mixed["epoch_seconds"].isna().tolist() == [False, True]
    assert mixed["batch_size"].dtype == "int64"


def test_the_columns_types_given_to_pandas_read_an_all_digit_id_as_text(tmp_path: Path) -> None:
    write_csv(make_run(run_id="00000017"), tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv", dtype={column.name: column.dtype for column in COLUMNS})
    assert table["run_id"].tolist() == ["00000017"] * 3
    assert [str(table[column.name].dtype) for column in COLUMNS] == [column.dtype for column in COLUMNS]


def test_floats_in_the_csv_are_unrounded(tmp_path: Path) -> None:
    seconds = 0.1 + 0.2
    write_csv(
        run_of([make_record(outcome=make_measurement(epochs=make_epochs((seconds,), (9_900,))))]),
        tmp_path / "table.csv",
    )
    with (tmp_path / "table.csv").open(newline="") as file:
        (cells,) = csv.DictReader(file)
    assert float(cells["epoch_seconds"]) == seconds
    assert float(cells["throughput_per_second"]) == 60_000 / seconds
    assert cells["device_allocated_peak_bytes"] == ""
    assert cells["learning_rate"] == "0.001"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r\n@", " ="])
def test_text_that_a_spreadsheet_would_compute_is_quoted(tmp_path: Path, start: str) -> None:
    write_csv(run_of([make_record(outcome=make_failure(message=f"{start}1+1"))]), tmp_path / "table.csv")
    assert pd.read_csv(tmp_path / "table.csv")["failure_message"][0] == f"'{start.strip()}1+1"


def test_a_message_of_many_lines_stays_in_one_line_of_the_csv(tmp_path: Path) -> None:
    message = 'Traceback:\n  "x",\r\n\x00\ud800 end'
    write_csv(run_of([make_record(outcome=make_failure(message=message))]), tmp_path / "table.csv")
    assert len((tmp_path / "table.csv").read_bytes().splitlines()) == 2
    assert pd.read_csv(tmp_path / "table.csv")["failure_message"][0] == 'Traceback:   "x",     end'


def test_a_run_without_trials_is_a_csv_of_the_column_names(tmp_path: Path) -> None:
    write_csv(make_run(records=[]), tmp_path / "table.csv")
    assert list(pd.read_csv(tmp_path / "table.csv")) == [column.name for column in COLUMNS]


def test_a_csv_written_in_pieces_is_the_csv_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(repeats=5)
    write_csv(run, tmp_path / "at_once.csv")
    monkeypatch.setattr(table, "_ROWS_AT_ONCE", 2)
    write_csv(run, tmp_path / "in_pieces.csv")
    assert (tmp_path / "in_pieces.csv").read_bytes() == (tmp_path / "at_once.csv").read_bytes()
    assert len(pd.read_csv(tmp_path / "in_pieces.csv")) == 5


def test_an_older_csv_is_replaced_at_once_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with path.open() as reader:
        write_csv(make_run(), path)
        assert reader.read() == "old"
    assert len(pd.read_csv(path)) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_csv_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(StorageError, match=r"table\.csv cannot be written"):
        write_csv(make_run(), tmp_path / "table.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
