import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import click
import pytest
from bench_builders import (
    make_configuration,
    make_epochs,
    make_failure,
    make_header,
    make_machine,
    make_measurement,
    make_record,
    make_run,
)
from checkout import GOLDEN
from click.testing import CliRunner, Result
from stored_runs import side, store

from bench.cli import Commands
from bench.coding import to_json
from bench.commands.show import show_command
from bench.errors import BadInputError
from bench.records import Configuration, FailureKind, Peak, Run, TrialRecord, TrialWarning
from bench.tables.columns import COLUMNS, DROP_ORDER, RANK_MEANINGS
from bench.tables.fields import FIELDS
from bench.tables.layout import Format
from bench.tables.prices import parse_prices
from bench.tables.show import render_run
from bench.units import format_bytes, format_percent, format_rate, format_seconds

FORMATS: tuple[Format, ...] = ("table", "markdown", "csv", "json")

SMALL = make_configuration(model="mlp_512_256", layers=(784, 512, 256, 10))
LARGE = dataclasses.replace(SMALL, batch_size=1024)
ON_GPU = dataclasses.replace(LARGE, device="cuda")


def trained(
    configuration: Configuration, repeat: int, seconds: float, correct: int, *warnings: TrialWarning
) -> TrialRecord:
    measurement = make_measurement(epochs=make_epochs((seconds, seconds), (9_600, correct)))
    if configuration.device != "cpu":
        peak = Peak(bytes=93_000_000, method="torch.cuda.max_memory_allocated")
        measurement = dataclasses.replace(measurement, host_peak=None, device_allocated_peak=peak)
    return make_record(configuration, repeat, outcome=measurement, warnings=warnings)


def make_sweep() -> Run:
    """Three configurations with everything that calls for a note: failures, warnings, missing trials."""
    records = [
        trained(LARGE, 0, 1.25, 9_700),
        trained(SMALL, 0, 2.125, 9_785),
        trained(ON_GPU, 0, 0.08125, 9_771, TrialWarning.SLOW_FIRST_EPOCH),
        trained(SMALL, 1, 2.25, 9_775),
        make_record(LARGE, 1, outcome=make_failure(FailureKind.TIMEOUT, "no answer in 60 s")),
        trained(LARGE, 2, 1.28125, 9_712),
        trained(SMALL, 2, 2.1875, 9_790),
    ]
    return make_run([SMALL, LARGE, ON_GPU], 3, records=records)


def render_json(run: Run, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - the options of render_run
    return cast("dict[str, Any]", json.loads(render_run(run, format="json", **options), parse_constant=pytest.fail))


def table_rows(text: str, width: int) -> list[list[str]]:
    """Cut the rows out of a rendered table by the places of its rule's dashes."""
    lines = text.splitlines()
    (rule,) = (line for line in lines if line and set(line) <= {"-", " "})
    places = [match.span() for match in re.finditer("-+", rule)]
    below = lines[lines.index(rule) + 1 :]
    body = below[: below.index("")] if "" in below else below
    assert all(len(line) <= width for line in body)
    return [[line[start:end].strip() for start, end in places] for line in body]


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


# --- golden


@pytest.mark.parametrize(("format_", "width", "name"), [("table", 100, "txt"), ("markdown", 80, "md")])
def test_a_sweep_is_shown_exactly_so(format_: Format, width: int, name: str) -> None:
    golden = GOLDEN / f"show-table.{name}"
    assert render_run(make_sweep(), format=format_, width=width) + "\n" == golden.read_text(encoding="utf-8")


def test_a_narrow_table_is_shown_exactly_so() -> None:
    golden = GOLDEN / "show-table-80.txt"
    assert render_run(make_sweep()) + "\n" == golden.read_text(encoding="utf-8")


# --- one set of numbers


def test_every_cell_of_a_table_is_the_formatted_value_of_the_json() -> None:
    run = make_sweep()
    keys = list(COLUMNS)
    rows = render_json(run)["rows"]
    expected = [[COLUMNS[key].cell([row[field.key] for field in COLUMNS[key].fields]) for key in keys] for row in rows]
    assert table_rows(render_run(run, columns=keys, width=9_999), 9_999) == expected
    assert markdown_rows(render_run(run, format="markdown", columns=keys)) == expected


def test_default_cells_are_formatted_json_values_written_out() -> None:
    rows = render_json(make_sweep())["rows"]
    for cells, row in zip(table_rows(render_run(make_sweep(), width=100), 100), rows, strict=True):
        device, model, batch_size, time, rate, memory, accuracy, n = cells
        assert (device, model, batch_size) == (row["device"], row["model"], str(row["batch_size"]))
        assert time.split(" ±")[0] == format_seconds(row["epoch_seconds_median"])
        assert rate == format_rate(row["throughput_per_second_median"])
        assert memory == format_bytes(row["peak_memory_bytes"])
        assert accuracy.split(" ±")[0] == format_percent(row["test_accuracy_median"])
        if " ±" in accuracy:
            half = (row["test_accuracy_high"] - row["test_accuracy_low"]) / 2
            assert float(accuracy.split(" ±")[1]) == pytest.approx(half * 100, abs=0.005)
        assert n == f"{row['n']}+{row['failures']} failed" if row["failures"] else str(row["n"])


def test_csv_and_json_hold_the_same_raw_values() -> None:
    run = make_sweep()
    rows = render_json(run)["rows"]
    read = list(csv.DictReader(io.StringIO(render_run(run, format="csv"))))
    assert [list(row) for row in read] == [list(row) for row in rows] == [list(FIELDS)] * 3
    for got, want in zip(read, rows, strict=True):
        for key, value in want.items():
            if value is None:
                assert got[key] == ""
            elif isinstance(value, bool):
                assert got[key] == str(value).lower()
            elif isinstance(value, float):
                assert float(got[key]) == value
            else:
                assert got[key] == str(value)


def test_every_format_has_the_same_rows_in_the_same_order() -> None:
    run = make_sweep()
    options: dict[str, Any] = {
        "columns": ["batch_size", "device"],
        "sort": ["-batch_size", "-device"],
        "filters": ["model~mlp"],
    }
    expected = [["1024", "cuda"], ["1024", "cpu"], ["64", "cpu"]]
    assert table_rows(render_run(run, **options), 80) == expected
    assert markdown_rows(render_run(run, format="markdown", **options)) == expected
    assert list(csv.reader(io.StringIO(render_run(run, format="csv", **options)))) == [
        ["batch_size", "device"],
        *expected,
    ]
    assert [[str(value) for value in row.values()] for row in render_json(run, **options)["rows"]] == expected


def test_a_column_with_a_range_exports_the_values_it_is_made_of() -> None:
    text = render_run(make_sweep(), format="csv", columns=["epoch_seconds", "n"], filters=["batch_size=64"])
    assert text.splitlines() == [
        "epoch_seconds_median,epoch_seconds_low,epoch_seconds_high,epoch_seconds_n,n,failures",
        "2.1875,2.125,2.25,3,3,0",
    ]


def test_records_in_any_order_show_the_same() -> None:
    run = make_sweep()
    turned = dataclasses.replace(run, records=run.records[::-1])
    for format_ in FORMATS:
        assert render_run(turned, format=format_) == render_run(run, format=format_)


# --- json


def test_json_says_where_and_whether_all_was_measured() -> None:
    run = dataclasses.replace(make_sweep(), warnings=("line 9 is torn",))
    document = render_json(run)
    assert document["run_id"] == run.header.run_id
    assert document["machine"] == to_json(run.header.machine)
    assert document["software"] == to_json(run.header.software)
    assert document["complete"] is False
    assert document["failures"] == [{"kind": "timeout", "count": 1, "message": "no answer in 60 s"}]
    assert [(each["kind"], each["rows"]) for each in document["warnings"]] == [
        ("slow_first_epoch", 1),
        ("few_repeats", 2),
        ("file", None),
    ]
    assert document["warnings"][-1]["message"] == "line 9 is torn"
    assert render_json(make_run())["complete"] is True


def test_json_has_null_where_nothing_was_measured() -> None:
    run = make_run(repeats=1, records=[make_record(outcome=make_failure())])
    (row,) = render_json(run)["rows"]
    assert row["epoch_seconds_median"] is None
    assert (row["n"], row["failures"], row["failure_kinds"]) == (0, 1, "out_of_memory")


# --- width


def test_default_columns_of_a_typical_run_fit_eighty_characters() -> None:
    configurations = [
        dataclasses.replace(SMALL, model=name, batch_size=size)
        for name in ("mlp_128", "mlp_512_256")
        for size in (64, 512)
    ]
    text = render_run(make_run(configurations))
    assert len(table_rows(text, 80)) == 4
    assert "train" in text
    assert "left out" not in text


@pytest.mark.parametrize(
    ("width", "dropped"), [(200, 0), (87, 0), (86, 1), (78, 1), (77, 2), (68, 2), (67, 3), (20, 3)]
)
def test_a_narrow_terminal_drops_columns_in_the_stated_order_and_says_so(width: int, dropped: int) -> None:
    text = render_run(make_sweep(), width=width)
    told = re.sub(r"\s+", " ", text)
    if dropped:
        keys = [key for key in DROP_ORDER if key not in RANK_MEANINGS][:dropped]
        assert f"left out for lack of space: {', '.join(keys)}; widen the terminal" in told
    else:
        assert "left out" not in told
    assert len(table_rows(text, max(width, 60))[0]) == 8 - dropped


def test_no_varying_dimension_is_ever_dropped() -> None:
    configurations = [
        dataclasses.replace(SMALL, threads=threads, engine=engine) for threads, engine in ((1, "a"), (2, "b"))
    ]
    rows = table_rows(render_run(make_run(configurations), width=20), 70)
    assert [row[3:5] for row in rows if row[0]] == [["a", "1"], ["b", "2"]]  # cells too long go on below


def test_chosen_columns_are_never_dropped() -> None:
    keys = ["device", *DROP_ORDER, "model", "epoch_seconds_mean", "cold_start_seconds"]
    text = render_run(make_sweep(), columns=keys, width=20)
    assert len(table_rows(text, 120)[0]) == len(keys)


def test_notes_keep_within_the_width() -> None:
    for width in (60, 80, 100):
        lines = render_run(make_sweep(), width=width).splitlines()
        assert max(map(len, lines)) <= width


# --- odd input


def test_models_that_are_cut_alike_can_be_told_apart() -> None:
    lists = ["-".join(map(str, (*range(784, 770, -1), last, 10))) for last in (100, 200)]
    run = make_run([make_configuration(model=name) for name in lists])
    for format_ in ("table", "markdown"):
        text = render_run(run, format=format_)
        assert all(f" {name} " in text for name in lists)


def test_a_hostile_run_cannot_command_the_terminal() -> None:
    nasty = "\x1b[2J\x9b31m\r\n\u202e|x" + "y" * 500
    configuration = make_configuration(model=nasty, dataset=nasty)
    records = [make_record(configuration, outcome=make_failure(message=nasty))]
    run = dataclasses.replace(
        make_run([configuration], 2, records=records), header=make_header(run_id=nasty, name=nasty), warnings=(nasty,)
    )
    for format_ in FORMATS:
        text = render_run(run, format=format_)
        assert all(line.isprintable() for line in text.split("\n"))


def test_markdown_keeps_hostile_names_inside_their_cell() -> None:
    for name, shown in [("a|b", r"a\|b"), ("a\\|b", r"a\\\|b"), ("<b>[x](y)", r"\<b>\[x\](y)")]:
        configuration = make_configuration(model=name)
        text = render_run(make_run([configuration]), format="markdown", columns=["model", "n"])
        (row,) = (line for line in text.splitlines() if line.startswith("| ") and "model" not in line)
        assert row == f"| {shown} |   3 |" or row.replace(" ", "") == f"|{shown}|3|"


def test_nothing_to_show_is_said() -> None:
    run = make_run()
    nothing = ["batch_size>9999"]
    assert "no configuration to show" in render_run(run, filters=nothing)
    assert "no configuration to show" in render_run(run, format="markdown", filters=nothing)
    assert render_run(run, format="csv", columns=["n"], filters=nothing) == "n,failures"
    assert render_json(run, filters=nothing)["rows"] == []
    empty = dataclasses.replace(make_run(records=[]), footer=None)
    assert "3 of 3 trials missing" in render_run(empty)


@pytest.mark.parametrize("format_", FORMATS)
def test_bad_options_are_refused_in_every_format(format_: Format) -> None:
    for options in ({"columns": ["speed"]}, {"sort": ["speed"]}, {"filters": ["speed>1"]}, {"filters": ["n"]}):
        with pytest.raises(BadInputError, match=r"is unknown|is not a column"):
            render_run(make_run(), format=format_, **cast("Any", options))


def test_machines_without_accelerator_name_none() -> None:
    text = render_run(make_run(machine=make_machine(accelerators=())), width=120)
    assert "Fictional CPU 9000 (4 of 8 logical cores), 16.0 GiB memory, torch 2.11.0" in text


def test_showing_imports_neither_torch_nor_pandas_nor_numpy() -> None:
    script = "import sys, bench.tables.show\nprint(sorted({'torch', 'pandas', 'numpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run(  # noqa: S603 - our own interpreter and a fixed script
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60, cwd=Path.cwd()
    )
    assert done.stdout.strip() == "[]"


# --- flagged trials


def test_flagged_trials_can_be_shown_filtered_and_sorted_by() -> None:
    run = make_sweep()
    assert table_rows(
        render_run(run, columns=["device", "flagged"], sort=["-flagged"], filters=["flagged<=1"]), 80
    ) == [
        ["cuda", "1"],
        ["cpu", "0"],
        ["cpu", "0"],
    ]
    assert [row["flagged"] for row in render_json(run, filters=["flagged>=1"])["rows"]] == [1]
    assert "flagged,unflagged_epoch_seconds\n1,\n" in (
        render_run(run, format="csv", columns=["flagged", "unflagged_epoch_seconds"], filters=["device=cuda"]) + "\n"
    )


def test_the_legend_says_what_flagged_trials_do_to_the_epoch_time() -> None:
    records = [trained(SMALL, repeat, seconds, 9_700) for repeat, seconds in enumerate((1.0, 1.0))]
    records += [trained(SMALL, repeat, 4.0, 9_700, TrialWarning.STALL) for repeat in (2, 3)]
    text = render_run(make_run([SMALL], 4, records=records), width=200)
    assert "cpu mlp_512_256 batch 64: 2 of 4 trials flagged; 2.50 s with them, 1.00 s without" in text


# --- cost


@pytest.mark.parametrize("format_", ["table", "markdown"])
def test_costs_are_the_last_columns_and_said_to_be_of_training_time_only(format_: Format) -> None:
    text = render_run(make_sweep(), format=format_, width=140, prices=parse_prices("cpu=3.6,cuda=36"))
    rows = table_rows(text, 140) if format_ == "table" else markdown_rows(text)
    assert [row[-2:] for row in rows] == [["0.00219", ""], ["0.00127", ""], ["0.000813", ""]]
    assert "cost: training time only" in text
    assert "price per hour: cpu 3.6, cuda 36" in " ".join(text.split())
    assert "cost" not in render_run(make_sweep(), format=format_)


def test_a_narrow_table_keeps_its_costs() -> None:
    text = render_run(make_sweep(), prices=parse_prices("1"))
    assert "left out for lack of space: throughput_per_second_median" in re.sub(r"\s+", " ", text)
    assert all(row[-2] for row in table_rows(text, 80))


def test_exports_hold_the_price_the_costs_and_how_many_trials_they_are_of() -> None:
    for columns in (None, ["device"]):
        rows = render_json(make_sweep(), prices=parse_prices("cpu=3.6"), columns=columns)["rows"]
        assert [row["price_per_hour"] for row in rows] == [3.6, 3.6, None]
        assert [row["cost_per_epoch"] for row in rows] == [pytest.approx(0.0021875), pytest.approx(0.001265625), None]
        assert [(row["cost_to_98_percent"], row["seconds_to_98_percent_n"]) for row in rows] == [(None, None)] * 3
    assert "cost_per_epoch" not in render_json(make_sweep())["rows"][0]


@click.group(cls=Commands)
def commands() -> None:
    """The command as `bench` has it."""


commands.add_command(show_command)


def show(path: Path, *options: str) -> Result:
    return CliRunner().invoke(commands, ["show", str(path), *options], prog_name="bench")


def test_the_command_takes_a_price(tmp_path: Path) -> None:
    path = store(make_sweep(), tmp_path / "run.jsonl")
    for price in ("2.5", "cuda=2.5,cpu=0.1", "cpu=1"):
        result = show(path, "--price-per-hour", price)
        assert result.exit_code == 0, result.output
        assert "training time only" in result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--price-per-hour", "0"), "is not a price above 0: write a number above 0 without a currency"),
        (("--price-per-hour", ""), "is not a price above 0"),
        (("--price-per-hour", "mps=1"), "names 'mps', but nothing ran on it: name"),
        (("--price-per-hour", "baseline=1,candidate=2"), "a single run does not have"),
        (("--price-per-hour", "1", "--taxes"), "leave out --columns, --sort, --filter, --price-per-hour"),
        (("--price-per-hour", "1", "--claims"), "leave out --columns, --sort, --filter, --price-per-hour"),
    ],
)
def test_command_refuses_invalid_prices(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    result = show(store(make_sweep(), tmp_path / "run.jsonl"), *options)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_costs_are_shown_sorted_and_filtered_by_where_a_price_is_known() -> None:
    fast, slow = make_configuration(batch_size=256), make_configuration(batch_size=64)
    run = side({slow: 4.0, fast: 2.0}, repeats=3)
    prices = parse_prices("3.6")
    text = render_run(run, format="json", sort=("cost_per_epoch",), prices=prices)
    costs = [row["cost_per_epoch"] for row in json.loads(text)["rows"]]
    assert costs == sorted(costs)
    assert len(costs) == 2
    columns, filters = ("batch_size", "cost_per_epoch"), ("cost_per_epoch<0.003",)
    text = render_run(run, format="csv", columns=columns, filters=filters, prices=prices)
    assert [line.split(",")[0] for line in text.splitlines()] == ["batch_size", "256"]
    table = render_run(run, columns=("cost_per_epoch", "batch_size"), prices=prices)
    assert table.split("\n\n")[1].count("epoch") == 1
    with pytest.raises(BadInputError, match="'cost_per_epoch' needs a price: add --price-per-hour"):
        render_run(run, sort=("-cost_per_epoch",))
