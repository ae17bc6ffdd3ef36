"""`bench show`: the same numbers in every format, and what it refuses."""

import csv
import io
import json
from pathlib import Path

import pytest
from bench_builders import make_run
from command_line_runs import bench, refused
from stored_runs import store

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_show_gives_the_same_numbers_in_all_formats(tmp_path: Path) -> None:
    path = str(store(make_run(), tmp_path / "run.jsonl"))
    rows = json.loads(bench("show", path, "--format", "json").stdout)["rows"]
    table = list(csv.DictReader(io.StringIO(bench("show", path, "--format", "csv").stdout)))
    assert [float(row["epoch_seconds_median"]) for row in table] == [row["epoch_seconds_median"] for row in rows]
    for layout in ("table", "markdown"):
        text = bench("show", path, "--format", layout).stdout
        for row in rows:
            assert f"{row['test_accuracy_median']:.2%}".replace("%", " %") in text


def test_show_selects_sorts_and_filters(tmp_path: Path) -> None:
    path = str(store(make_run(), tmp_path / "run.jsonl"))
    result = bench("show", path, "--columns", "device,batch_size", "--sort", "-batch_size", "--format", "csv")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "device,batch_size"
    refused(bench("show", path, "--columns", "devise"), "did you mean", "device")
    refused(bench("show", path, "--filter", "batch_size>=many"), "many")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"a,b\n1,2\n", b"\x00\xff" * 100, b'{"header":{"schema_version":99}}\n']
)
def test_show_of_something_other_than_a_run_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_bytes(content)
    refused(bench("show", str(path)), "odd.jsonl")


def test_show_of_a_torn_run_shows_the_rest_and_says_so(tmp_path: Path) -> None:
    path = store(make_run(), tmp_path / "run.jsonl")
    path.write_bytes(path.read_bytes()[:-30])
    result = bench("show", str(path))
    assert result.exit_code == 0
    assert "bench: " in result.stderr


def test_show_without_any_run_says_how_to_make_one() -> None:
    refused(bench("show"), "python -m bench run")


@pytest.mark.parametrize("option", ["--claims", "--taxes", "--ranks"])
@pytest.mark.parametrize(
    "other", [("--sort", "n"), ("--columns", "n"), ("--filter", "n>0"), ("--price-per-hour", "2"), None]
)
def test_a_table_of_its_own_takes_no_options_of_another(
    tmp_path: Path, option: str, other: tuple[str, ...] | None
) -> None:
    path = str(store(make_run(), tmp_path / "run.jsonl"))
    others = other or ({"--claims": "--taxes", "--taxes": "--ranks", "--ranks": "--claims"}[option],)
    refused(bench("show", path, option, *others), "is a separate table")
