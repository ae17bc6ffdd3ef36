"""Comparing two devices, engines or thread counts: of two runs, or of one run whose trials were measured in turn."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from bench_builders import make_configuration, make_machine
from click.testing import CliRunner, Result
from stored_runs import side, store

from bench.cli import cli
from bench.records import Configuration, Run
from mnist_mlp.recipes import layers_text

pytestmark = pytest.mark.usefixtures("elsewhere")


WIDTHS = (16, 64, 256, 1024)


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["compare", *arguments], prog_name="bench")


def as_json(*arguments: str) -> Any:  # noqa: ANN401 - parsed JSON
    done = compare(*arguments, "--format", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def sizes(**changes: Any) -> list[Configuration]:  # noqa: ANN401 - changes of any field
    return [
        make_configuration(model=f"784-{width}-10", layers=(784, width, 10), batch_size=batch, **changes)
        for width in WIDTHS
        for batch in (16, 1024)
    ]


def seconds(configuration: Configuration, overhead: float, rate: float) -> float:
    steps = 60_000 / configuration.batch_size
    return steps * overhead + 60_000 * 6 * configuration.weights / rate


def two_devices(**header: Any) -> Run:  # noqa: ANN401 - changes of any field
    """A CPU that is soon at work, and an accelerator that is soon done."""
    cpu = {each: seconds(each, 20e-6, 50e9) for each in sizes()}
    cuda = {each: seconds(each, 300e-6, 5e12) for each in sizes(device="cuda:0", threads=1)}
    return side({**cpu, **cuda}, header=header)


def test_two_devices_of_one_run_are_compared_without_drift() -> None:
    store(two_devices(), Path("a.jsonl"))
    document = as_json("a.jsonl", "a.jsonl", "--between", "device=cpu,cuda")
    rows = document["rows"]
    assert len(rows) == len(WIDTHS) * 2
    verdicts = {(row["layers"], row["batch_size"]): row["time_verdict"] for row in rows}
    assert verdicts["784-16-10", 16] == "slower"
    assert verdicts["784-1024-10", 1024] == "faster"
    said = compare("a.jsonl", "a.jsonl", "--between", "device=cpu,cuda").stdout
    assert "hardware comparison" in said
    assert "no machine drift lies between them" in " ".join(said.split())
    assert "include a drift" not in said


def test_without_a_candidate_both_values_are_of_the_same_run() -> None:
    store(two_devices(), Path("a.jsonl"))
    both = ("--between", "device=cpu,cuda")
    said = compare("a.jsonl", *both).stdout
    assert said == compare("a.jsonl", "a.jsonl", *both).stdout
    assert said.count("\nrun ") == 1
    assert "baseline: run" not in said
    alone = compare("a.jsonl")
    assert alone.exit_code == 2
    assert "name a second run, or two values of one dimension" in alone.stderr


@pytest.mark.parametrize("repeats", [1, 8])
def test_equal_values_of_two_configurations_are_two_measurements(repeats: int) -> None:
    chosen = [make_configuration(threads=threads) for threads in (1, 2)]
    store(side(dict.fromkeys(chosen, 2.0), repeats=repeats), Path("a.jsonl"))
    (row,) = as_json("a.jsonl", "a.jsonl", "--between", "threads=1,2")["rows"]
    for quantity, interval in (("time", "time_ratio"), ("accuracy", "test_accuracy_difference")):
        assert "the same measurements" not in row[f"{quantity}_reason"]
        if repeats == 1:
            assert row[f"{quantity}_verdict"] == "inconclusive"
        else:
            assert row[f"{interval}_low"] < row[interval] < row[f"{interval}_high"]


def test_long_layers_are_named_whole_or_as_they_are_shown() -> None:
    deep, deeper = ((784, *[128] * count, 10) for count in (20, 21))
    chosen = [make_configuration(model=layers_text(each), layers=each) for each in (deep, deeper)]
    store(side(dict.fromkeys(chosen, 2.0)), Path("a.jsonl"))
    whole = as_json("a.jsonl", "a.jsonl", "--between", f"model={layers_text(deep)},{layers_text(deeper)}")
    shown = as_json("a.jsonl", "a.jsonl", "--between", "model=784-20x128-10,784-21x128-10")
    assert len(whole["rows"]) == 1
    assert whole["rows"] == shown["rows"]


def test_a_comparison_of_devices_says_where_one_overtakes_the_other() -> None:
    store(two_devices(), Path("a.jsonl"))
    said = compare("a.jsonl", "a.jsonl", "--between", "device=cpu,cuda:0").stdout
    assert "from width: width of the first hidden layer" in said
    found = re.search(r"^cpu +cuda:0 +16 +(\d+)", said, flags=re.MULTILINE)
    assert found is not None
    # 16 samples: the overheads differ by 280 µs, the time of a multiply-add by almost all of the CPU's.
    assert int(found[1]) == pytest.approx(280e-6 / (16 * 6 * 794 * (1 / 50e9 - 1 / 5e12)), rel=0.02)


def test_comparison_of_two_machines_lists_crossovers() -> None:
    store(side({each: seconds(each, 20e-6, 50e9) for each in sizes()}), Path("a.jsonl"))
    other = {"machine": make_machine(cpu_model="Another CPU")}
    store(
        side({each: seconds(each, 300e-6, 5e12) for each in sizes()}, run_id="b0b0b0b0", header=other), Path("b.jsonl")
    )
    said = compare("small=a.jsonl", "large=b.jsonl").stdout
    assert "small cpu" in said
    assert "large cpu" in said


def test_too_few_sizes_leave_the_crossovers_out() -> None:
    chosen = {make_configuration(): 2.0, make_configuration(device="cuda:0"): 1.0}
    store(side(chosen), Path("a.jsonl"))
    done = compare("a.jsonl", "a.jsonl", "--between", "device=cpu,cuda")
    assert done.exit_code == 0
    assert "faster" in done.stdout
    assert "from width" not in done.stdout


def test_comparison_of_engines_is_not_a_hardware_comparison() -> None:
    store(side({make_configuration(): 2.0, make_configuration(engine="fused"): 1.0}), Path("a.jsonl"))
    said = compare("a.jsonl", "a.jsonl", "--between", "engine=eager,fused").stdout
    assert said.startswith("comparison:")
    assert "eager / fused" in said
    (row,) = as_json("a.jsonl", "a.jsonl", "--between", "engine=eager,fused")["rows"]
    assert (row["engine"], row["candidate_engine"]) == ("eager", "fused")
    assert "candidate_device" not in row
    header, values = csv.reader(
        compare("a.jsonl", "a.jsonl", "--between", "engine=eager,fused", "--format", "csv").stdout.splitlines()
    )
    assert dict(zip(header, values, strict=True))["candidate_engine"] == "fused"


def test_pipelines_are_compared_whatever_their_workers() -> None:
    loading = make_configuration(pipeline="dataloader", workers=2)
    store(side({make_configuration(): 1.0, loading: 2.0}), Path("a.jsonl"))
    (row,) = as_json("a.jsonl", "a.jsonl", "--between", "pipeline=resident,dataloader")["rows"]
    assert row["time_verdict"] == "slower"


@pytest.mark.parametrize(
    "text", ["model=784-128-10,784-512-10", "layers=784-128-10,784-512-10", "width=128,512", "optimizer=adam,sgd"]
)
def test_models_are_compared_whatever_their_hyperparameters(text: str) -> None:
    wide = make_configuration(model="784-512-10", layers=(784, 512, 10), optimizer="sgd", loss="nll")
    store(side({make_configuration(): 1.0, wide: 2.0}), Path("a.jsonl"))
    (row,) = as_json("a.jsonl", "a.jsonl", "--between", text)["rows"]
    assert (row["model"], row["candidate_model"], row["time_verdict"]) == ("784-128-10", "784-512-10", "slower")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("device", "write it like device=cpu,cuda"),
        ("device=cpu", "write it like device=cpu,cuda"),
        ("device=cpu,cpu", "write it like device=cpu,cuda"),
        ("device=cpu,,cuda", "write it like device=cpu,cuda"),
        ("devise=cpu,cuda", "did you mean 'device'?"),
        ("device=cpu,mps", "it has cpu, cuda:0"),
    ],
)
def test_a_wrong_dimension_or_value_is_refused(text: str, words: str) -> None:
    store(two_devices(), Path("a.jsonl"))
    done = compare("a.jsonl", "a.jsonl", "--between", text)
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.output


def test_configurations_that_differ_in_more_than_the_dimension_are_incomparable() -> None:
    store(side({make_configuration(): 2.0, make_configuration(device="cuda:0", batch_size=256): 1.0}), Path("a.jsonl"))
    done = compare("a.jsonl", "a.jsonl", "--between", "device=cpu,cuda")
    assert done.exit_code == 5
    assert "batch_size" in done.stderr
