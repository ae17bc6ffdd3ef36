"""Models of several runs: their names, and the labels of the runs."""

import csv
import dataclasses
import io
import json

import pytest
from bench_builders import Change, make_configuration, make_machine
from step_times import CPU, grid, law, merged

from bench.analysis.scaling_models import label_runs, make_models, require_models
from bench.analysis.scaling_view import render_scaling
from bench.errors import BadInputError


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


def test_runs_of_two_machines_go_by_their_labels() -> None:
    runs = [grid(CPU), grid(law(1e-4, 1e12))]
    assert [model.name for model in make_models(label_runs(runs, ["old", "new"]))] == ["old cpu", "new cpu"]


def test_a_given_label_stays_where_other_runs_need_their_ids() -> None:
    run, ids = grid(CPU), ("a0a0a0a0", "b0b0b0b0", "c0c0c0c0")
    runs = [dataclasses.replace(run, header=dataclasses.replace(run.header, run_id=run_id)) for run_id in ids]
    assert [side.label for side in label_runs(runs, ["old", None, None])] == ["old", "b0b0b0b0", "c0c0c0c0"]


def test_a_run_of_several_machines_that_allows_no_model_is_named_once() -> None:
    parts = [grid(CPU, sizes=[(64, 16)]), grid(CPU, sizes=[(128, 16)])]
    with pytest.raises(BadInputError, match=rf"model of step times \(run {parts[0].header.run_id}\): "):
        require_models(label_runs(parts, [None, None]))


START = "the machine below the window, measured in the "


def test_names_are_not_cut_at_what_tells_two_models_apart() -> None:
    settings: dict[str, Change] = {"optimizer": "sgd", "engine": "compiled", "pipeline": "dataloader"}
    run = merged(*(grid(CPU, **settings, precision="bf16", momentum=momentum) for momentum in (0.0, 0.9)))
    names = [model.name for model in make_models(label_runs([run, grid(CPU)], [f"{START}morning", "new"]))]
    assert sorted(names) == [
        "new cpu adam momentum 0.0 fp32 eager resident",
        *(f"{START[:39]}… cpu sgd momentum {momentum} bf16 compiled dataloader" for momentum in ("0.0", "0.9")),
    ]


def test_long_labels_are_in_full_where_only_their_ends_differ() -> None:
    labels = [f"{START}{time}" for time in ("morning", "evening")]
    assert [side.label for side in label_runs([grid(CPU)] * 2, labels)] == labels
    assert [side.label for side in label_runs([grid(CPU)] * 2, [labels[0], "new"])] == [f"{START[:39]}…", "new"]


def test_json_and_csv_hold_all_settings_in_which_models_can_differ() -> None:
    changes: tuple[dict[str, Change], ...] = (
        {},
        {"pipeline": "dataloader", "workers": 3},
        {"world_size": 2},
        {"dataset": "fashion-mnist"},
        {"loss": "nll"},
        {"optimizer": "sgd", "momentum": 0.9},
    )
    models = make_models(label_runs([merged(*(grid(CPU, **each) for each in changes))], [None]))
    blank, rows = make_configuration(), json.loads(render_scaling([], models, "json", 80))["models"]
    told = [{name: row[name] for each in changes for name in each} for row in rows]
    for each in changes:
        expected = {name: getattr(blank, name) for every in changes for name in every} | each
        assert told.count(expected) == 1
    exported = csv.DictReader(io.StringIO(render_scaling([], models, "csv", 80)))
    assert [{name: row[name] for name in each} for row, each in zip(exported, told, strict=True)] == [
        {name: str(value) for name, value in each.items()} for each in told
    ]


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
