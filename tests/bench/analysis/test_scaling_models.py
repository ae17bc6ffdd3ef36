"""Models of several runs: their names, and the labels of the runs."""

import dataclasses

from bench_builders import Change, make_machine
from step_times import CPU, grid, law, merged

from bench.analysis.scaling_models import label_runs, make_models


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
