"""`bench predict`: what it prints, and what it refuses."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from step_times import CPU, as_json, disturbed, grid, merged, tables_of
from stored_runs import store

from bench.analysis import scaling_models
from bench.analysis.scaling import Fit, fit
from bench.analysis.size_series import SizeSeries
from bench.cli import cli
from bench.records import Run
from bench.units import format_seconds


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


def test_every_series_is_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(merged(grid(CPU), grid(CPU, engine="fused", sizes=((16, 16), (16, 64)))), tmp_path / "run.jsonl")
    fitted_: list[str] = []

    def counting(series: SizeSeries) -> Fit | None:
        fitted_.append(series.configuration.engine)
        return fit(series)

    monkeypatch.setattr(scaling_models, "fit", counting)
    assert "with too few sizes to fit a model: cpu fused (2)" in bench(str(path)).stderr
    assert sorted(fitted_) == ["eager", "fused"]


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["predict", *arguments], prog_name="bench")


def with_id(run: Run, run_id: str) -> Run:
    return dataclasses.replace(run, header=dataclasses.replace(run.header, run_id=run_id))


def test_series_with_too_few_sizes_is_reported_as_left_out(tmp_path: Path) -> None:
    enough, few = grid(CPU), with_id(grid(CPU, sizes=((16, 16), (16, 64))), "b0b0b0b0")
    for name, run in (("enough", enough), ("few", few)):
        store(run, tmp_path / f"{name}.jsonl")
    done = bench(f"old={tmp_path / 'enough.jsonl'}", f"new={tmp_path / 'few.jsonl'}")
    assert done.exit_code == 0
    assert done.stderr == "bench: left out, with too few sizes to fit a model: new cpu (2)\n"
    assert not bench(str(tmp_path / "enough.jsonl")).stderr


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


def test_a_run_given_twice_is_refused(tmp_path: Path) -> None:
    run = grid(CPU)
    path = store(run, tmp_path / "run.jsonl")
    other = store(with_id(run, "b0b0b0b0"), tmp_path / "other.jsonl")
    for references in ((str(path), str(path)), (f"old={path}", str(other), f"new={path}")):
        done = bench(*references)
        assert done.exit_code == 2
        assert f"run {run.header.run_id} is given twice" in done.stderr
        assert "leave one of them out" in done.stderr
    assert bench(str(path), str(other)).exit_code == 0


def test_too_few_sizes_are_refused_with_the_remedy(tmp_path: Path) -> None:
    done = bench(str(store(grid(CPU, sizes=[(64, 16), (128, 16)]), tmp_path / "run.jsonl")))
    assert done.exit_code == 2
    assert "too few sizes" in done.stderr
    assert "--widths" in done.stderr
