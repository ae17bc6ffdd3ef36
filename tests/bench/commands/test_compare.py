"""The commands `compare` and `check` on files: references, exit codes, what they print and write, what they refuse."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click
import pytest
from bench_builders import make_configuration, make_failure, make_footer, make_machine, make_record, make_run
from click.testing import CliRunner, Result
from report_pages import varied
from stored_runs import side, store, trial, with_records

from bench.cli import Commands
from bench.commands.compare import check_command, compare_command
from bench.commands.options import Share, split_label
from bench.records import SCHEMA_VERSION, Run

pytestmark = pytest.mark.usefixtures("elsewhere", "no_ci_job")


@pytest.fixture
def no_ci_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@click.group(cls=Commands)
def commands() -> None:
    """The two commands as `bench` has them."""


commands.add_command(compare_command)
commands.add_command(check_command)


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(commands, arguments, prog_name="bench")


def write(baseline: Run, candidate: Run) -> None:
    store(baseline, Path("a.jsonl"))
    store(candidate, Path("b.jsonl"))


def other(seconds: float = 2.0, **changes: Any) -> Run:  # noqa: ANN401 - changes of any field
    return side((seconds,), **{"run_id": "b0b0b0b0"} | changes)


def write_rounds(path: str, benchmarks: dict[str, list[float]], *, cpu: str = "Fictional CPU 9000") -> None:
    document = {
        "machine_info": {"python_version": "3.12.4", "cpu": {"brand_raw": cpu}},
        "commit_info": {"id": "0123abcd", "dirty": False},
        "benchmarks": [{"fullname": name, "stats": {"data": data}} for name, data in benchmarks.items()],
        "datetime": path,
        "version": "5.1.0",
    }
    Path(path).write_text(json.dumps(document), encoding="utf-8")


def ended(result: Result, exit_code: int, *words: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    said = " ".join(result.output.split())
    for word in words:
        assert word in said


def test_compare_prints_and_ends_with_0_even_where_something_is_slower() -> None:
    write(side(), other(9.0))
    ended(bench("compare", "a.jsonl", "b.jsonl"), 0, "slower", "4.500")


def test_references_are_paths_run_ids_latest_and_labels() -> None:
    store(side(), Path("results/m/a.jsonl"))
    store(other(header={"created_at": "2026-11-22T00:00:00Z"}), Path("results/m/b.jsonl"))
    ended(bench("compare", "0a1b", "latest"), 0, "comparison: b0b0b0b0 against the baseline 0a1b2c3d")
    ended(bench("compare", "old=0a1b", "new one=results/m/b.jsonl"), 0, "comparison: new one against the baseline old")
    Path("results").rename("elsewhere")
    ended(bench("compare", "0a1b", "latest", "--results", "elsewhere"), 0)


def test_label_is_the_text_before_the_first_equals_sign() -> None:
    assert split_label("a=b=c.jsonl") == ("a", "b=c.jsonl")
    assert split_label("=c.jsonl") == (None, "=c.jsonl")
    assert split_label("latest") == (None, "latest")
    Path("x=1.jsonl").touch()
    assert split_label("x=1.jsonl") == (None, "x=1.jsonl")


@pytest.mark.parametrize("layout", ["table", "markdown", "csv", "json"])
def test_every_format_is_printed(layout: str) -> None:
    write(side(), other(2.6))
    ended(bench("compare", "a.jsonl", "b.jsonl", "--format", layout, "--only-changed"), 0)


def test_nothing_in_common_ends_with_5_and_names_the_nearest_difference() -> None:
    write(side(), side({make_configuration(epochs=5): 2.0}, run_id="b0b0b0b0"))
    ended(bench("compare", "a.jsonl", "b.jsonl"), 5, "differ, baseline / candidate, in epochs: 3 / 5")


def test_the_same_file_twice_is_the_same() -> None:
    write(side(), other())
    ended(bench("compare", "a.jsonl", "a.jsonl"), 0, "same", "the same run")


def test_the_profile_of_the_machine_is_looked_up_in_the_results_folder() -> None:
    write(side(), other())
    ended(bench("compare", "a.jsonl", "b.jsonl"), 0, "assumed until python -m bench calibrate")
    folder = Path("results/machines")
    folder.mkdir(parents=True)
    (folder / f"{side().header.machine.id}.json").write_text("{}", encoding="utf-8")
    ended(bench("compare", "a.jsonl", "b.jsonl"), 2, "machine profile")


def test_files_of_pytest_benchmark_are_compared_by_name() -> None:
    quick, slow = [0.001 * (1 + i / 1000) for i in range(50)], [0.003 * (1 + i / 1000) for i in range(50)]
    write_rounds("a.json", {"t.py::f[64]": quick, "t.py::g": quick, "t.py::gone": quick})
    write_rounds("b.json", {"t.py::g": quick, "t.py::f[64]": slow, "t.py::new": slow})
    result = bench("compare", "a.json", "b.json")
    ended(result, 0, "t.py::f[64] 3.000", "slower", "not independent trials", "only in the baseline (1): t.py::gone")
    assert "accuracy" not in result.output
    assert "ratio: of geometric means over the rounds\n" in result.output
    rows = json.loads(bench("compare", "a.json", "b.json", "--format", "json").stdout)["rows"]
    assert [(row["benchmark"], row["time_verdict"]) for row in rows] == [
        ("t.py::f[64]", "slower"),
        ("t.py::g", "inconclusive"),
    ]
    assert rows[0]["baseline_n"] == 50


def test_a_thousand_rounds_do_not_make_a_small_difference_sure() -> None:
    write_rounds("a.json", {"t.py::f": [0.001, 0.00101] * 500})
    write_rounds("b.json", {"t.py::f": [0.0012, 0.00121] * 500})
    ended(bench("compare", "a.json", "b.json"), 0, "inconclusive")


def test_rounds_against_themselves_are_the_same_and_other_processors_are_hardware() -> None:
    write_rounds("a.json", {"t.py::f": [0.001]})
    write_rounds("b.json", {"t.py::f": [0.001]}, cpu="Y9")
    write_rounds("unknown.json", {"t.py::f": [0.001]}, cpu="")
    ended(bench("compare", "a.json", "a.json"), 0, "same", "the same file")
    ended(bench("compare", "a.json", "b.json"), 0, "hardware comparison", "Y9")
    unknown = bench("compare", "a.json", "unknown.json")
    ended(unknown, 0, "cpu: Fictional CPU 9000 / unknown")
    assert "hardware comparison" not in unknown.output


def test_a_file_of_rounds_that_says_nothing_of_its_machine_says_so() -> None:
    write_rounds("a.json", {"t.py::f": [0.001]})
    bare = {"machine_info": {}, "benchmarks": json.loads(Path("a.json").read_text())["benchmarks"]}
    Path("bare.json").write_text(json.dumps(bare), encoding="utf-8")
    ended(bench("compare", "a.json", "bare.json"), 0, "candidate: machine and date unknown")


def test_a_run_and_a_file_of_pytest_benchmark_are_two_kinds() -> None:
    write(side(), other())
    write_rounds("a.json", {"t.py::f": [0.001]})
    ended(bench("compare", "a.jsonl", "a.json"), 2, "name two stored runs")
    ended(bench("check", "a.json", "a.json"), 2, "use python -m bench compare")


def test_check_passes_equal_accuracy() -> None:
    write(side(), other())
    result = bench("check", "a.jsonl", "b.jsonl", "--gate", "accuracy")
    ended(result, 0, "pass: cpu 784-128-10 batch 64, test accuracy", "n 8/8", "detectable from")
    assert result.stdout.splitlines()[-1] == "verdict: pass (1 check passed)"


def test_check_passes_time_that_is_so_much_less_that_no_drift_explains_it() -> None:
    write(side(), other(1.0))
    ended(bench("check", "a.jsonl", "b.jsonl"), 0, "verdict: pass")


def test_check_ends_with_1_for_a_regression() -> None:
    write(side(), other(9.0, correct=9_000))
    ended(bench("check", "a.jsonl", "b.jsonl"), 1, "verdict: regression")
    ended(bench("check", "a.jsonl", "b.jsonl", "--gate", "accuracy", "--min-accuracy", "95%"), 1, "below")


def test_check_ends_with_3_where_it_cannot_tell() -> None:
    write(side(), other(2.1))
    ended(bench("check", "a.jsonl", "b.jsonl"), 3, "verdict: inconclusive", "next: python -m bench ab")


def test_check_ends_with_3_for_a_run_that_was_cut_off() -> None:
    write(side(), other())
    lines = Path("b.jsonl").read_bytes().splitlines(keepends=True)
    Path("b.jsonl").write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    ended(
        bench("check", "a.jsonl", "b.jsonl", "--gate", "accuracy"), 3, "the candidate run is incomplete", "was cut off"
    )


def test_check_ends_with_4_for_a_failed_trial() -> None:
    good = other()
    failed = with_records(
        good, [*good.records[:-1], make_record(repeat=7, outcome=make_failure())], make_footer(measured=7, failed=1)
    )
    write(side(), failed)
    ended(bench("check", "a.jsonl", "b.jsonl"), 4, "verdict: failed", "out_of_memory")


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (other(header={"machine": make_machine(cpu_model="Y9")}), "--gate accuracy"),
        (other(dataset_sha256="f" * 64), "the datasets differ"),
        (side({make_configuration(epochs=1): 2.0}, run_id="b0b0b0b0"), "python -m bench run --preset quick"),
    ],
)
def test_check_ends_with_5_for_incomparable_runs(candidate: Run, words: str) -> None:
    write(side(), candidate)
    ended(bench("check", "a.jsonl", "b.jsonl"), 5, "verdict: incomparable", words)


@pytest.mark.parametrize("command", ["compare", "check"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _lines: [], "it is empty"),
        (lambda lines: [b"not json\n", *lines[1:]], "first line"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], "is stored already"),
        (lambda lines: [lines[0], lines[1].replace(b'"test_loss":0.0875', b'"test_loss":NaN'), *lines[2:]], "NaN"),
        (lambda lines: [lines[0], lines[1][:60] + b"\n", *lines[2:]], "line 2"),
        (
            lambda lines: [
                lines[0].replace(b'"schema_version":%d' % SCHEMA_VERSION, b'"schema_version":99'),
                *lines[1:],
            ],
            "99",
        ),
    ],
)
def test_a_broken_file_is_refused_on_either_side(command: str, spoil: Any, words: str) -> None:  # noqa: ANN401 - a lambda
    write(side(), other())
    lines = Path("b.jsonl").read_bytes().splitlines(keepends=True)
    Path("bad.jsonl").write_bytes(b"".join(spoil(lines)))
    for pair in (("bad.jsonl", "a.jsonl"), ("a.jsonl", "bad.jsonl")):
        ended(bench(command, *pair), 2, words)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-slowdown", "0.5pp"),
        ("--max-slowdown", "ten"),
        ("--max-slowdown", "-10%"),
        ("--max-slowdown", "0%"),
        ("--max-slowdown", "nan"),
        ("--max-slowdown", "1e1%"),
        ("--max-accuracy-drop", "10%"),
        ("--max-accuracy-drop", "100pp"),
        ("--min-accuracy", "0.5pp"),
        ("--min-accuracy", "900%"),
        ("--min-accuracy", "0.97"),  # perhaps 97 %
        ("--max-slowdown", "0.05"),
        ("--gate", "none"),
        ("--gate", "time", "--min-accuracy", "90%"),
    ],
)
def test_invalid_limit_is_refused(arguments: tuple[str, ...]) -> None:
    write(side(), other())
    ended(bench("check", "a.jsonl", "b.jsonl", *arguments), 2)


@pytest.mark.parametrize(("gate", "limit"), [("time", "--max-accuracy-drop"), ("accuracy", "--max-slowdown")])
def test_limit_of_a_quantity_that_is_not_gated_is_refused(gate: str, limit: str) -> None:
    write(side(), other())
    ended(
        bench("check", "a.jsonl", "b.jsonl", "--gate", gate, limit, "1"), 2, f"{limit} does nothing with --gate {gate}"
    )


def test_limits_are_taken_in_percent_and_points() -> None:
    write(side(), other(1.0, correct=9_720))
    result = bench(
        "check", "a.jsonl", "b.jsonl", "--max-slowdown", "20%", "--max-accuracy-drop", "2.5pp", "--json", "v.json"
    )
    ended(result, 0)
    limits = json.loads(Path("v.json").read_text(encoding="utf-8"))["limits"]
    assert limits["max_slowdown"] == pytest.approx(0.2)
    assert limits["max_accuracy_drop"] == pytest.approx(0.025)
    assert Share().convert("1", None, None) == 0.01


def test_json_holds_the_whole_judgement_and_nothing_else_is_left_behind() -> None:
    write(side(), other(9.0))
    before = set(Path().iterdir())
    Path("v.json").write_text("old", encoding="utf-8")
    ended(bench("check", "a.jsonl", "b.jsonl", "--json", "v.json"), 1)
    assert {path.name for path in set(Path().iterdir()) - before} == {"v.json"}
    document = json.loads(Path("v.json").read_text(encoding="utf-8"))
    assert (document["verdict"], document["exit_code"]) == ("regression", 1)
    assert [finding["verdict"] for finding in document["findings"]] == ["regression", "pass"]
    assert document["findings"][0]["configuration"]["batch_size"] == 64
    assert document["baseline"]["command"] == ["run", "--preset", "quick"]


def test_json_does_not_replace_a_stored_run() -> None:
    write(side(), other(9.0))
    before = store(side(run_id="cccccccc"), Path("c.jsonl")).read_bytes()
    ended(bench("check", "a.jsonl", "b.jsonl", "--json", "c.jsonl"), 2, "c.jsonl is named like a stored run")
    assert Path("c.jsonl").read_bytes() == before


@pytest.mark.parametrize("path", [".", "missing/v.json", "a.jsonl/v.json"])
def test_a_place_that_cannot_be_written_is_found_before_judging(path: str) -> None:
    write(side(), other(9.0))
    result = bench("check", "a.jsonl", "b.jsonl", "--json", path)
    ended(result, 2, "cannot be written")
    assert result.stdout == ""


def test_the_judgement_is_never_written_over_a_run_it_judges() -> None:
    write(side(), other(9.0))
    before = Path("a.jsonl").read_bytes()
    ended(bench("check", "a.jsonl", "b.jsonl", "--json", "a.jsonl"), 2, "a.jsonl")
    assert Path("a.jsonl").read_bytes() == before


def test_the_summary_of_a_ci_job_gets_the_verdict_appended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    write(side(), other(9.0))
    ended(bench("check", "a.jsonl", "b.jsonl"), 1)
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("before\n### check of b0b0b0b0 against 0a1b2c3d")
    assert "| regression" in text


def test_a_summary_that_cannot_be_written_changes_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    write(side(), other(9.0))
    result = bench("check", "a.jsonl", "b.jsonl")
    ended(result, 1, "verdict: regression")
    assert "GITHUB_STEP_SUMMARY" in result.stderr


def test_run_is_refused_as_candidate_for_itself() -> None:
    write(side(), other())
    ended(bench("check", "a.jsonl", "a.jsonl"), 2, "the same run")


def test_hostile_text_in_a_baseline_stays_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    evil = "\x1b]0;x\x07|<b>`rm`"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "s.md"))
    header = {"command": ("run", evil), "name": evil, "machine": make_machine(cpu_model=evil)}
    good = side({make_configuration(model=evil): 2.0}, header=header, repeats=2)
    records = [
        trial(make_configuration(model=evil)),
        make_record(make_configuration(model=evil), 1, outcome=make_failure(message=evil)),
    ]
    candidate = side({make_configuration(model=evil): 2.0}, repeats=2, run_id="b0b0b0b0")
    write(good, with_records(candidate, records))
    result = bench("check", f"{evil}=a.jsonl", "b.jsonl", "--json", "v.json")
    ended(result, 4)
    for text in (result.output, (tmp_path / "s.md").read_text(encoding="utf-8"), Path("v.json").read_text("utf-8")):
        assert "\x1b" not in text
        assert "\x07" not in text
    assert "\\|\\<b>" in (tmp_path / "s.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("layout", ["table", "markdown", "csv", "json"])
def test_prices_of_both_sides_add_costs_to_every_format(layout: str) -> None:
    write(side(), other(2.6))
    prices = ("--price-per-hour", "baseline=2.5,candidate=0.5")
    ended(bench("compare", "a.jsonl", "b.jsonl", "--format", layout, *prices), 0, "cost", "0.26")
    ended(bench("compare", "a.jsonl", "b.jsonl", "--format", layout, "--price-per-hour", "cpu=3"), 0, "cost")


@pytest.mark.parametrize(
    ("price", "words"),
    [
        ("free", "--price-per-hour 'free' contains 'free', which is not a price above 0: write a number above 0"),
        ("baseline=2", "must have a price for each side"),
        ("cuda=2", "names 'cuda', but nothing ran on it: name 'cpu'"),
    ],
)
def test_invalid_price_is_refused(price: str, words: str) -> None:
    write(side(), other())
    ended(bench("compare", "a.jsonl", "b.jsonl", "--price-per-hour", price), 2, words)


def test_rounds_of_pytest_benchmark_have_no_cost() -> None:
    write_rounds("a.json", {"t.py::f": [0.001]})
    write_rounds("b.json", {"t.py::f": [0.001]})
    ended(bench("compare", "a.json", "b.json", "--price-per-hour", "1"), 2, "which pytest-benchmark files do not hold")


def test_compare_of_a_torn_run_says_so(tmp_path: Path) -> None:
    path = store(make_run(), tmp_path / "run.jsonl")
    path.write_bytes(path.read_bytes()[:-30])
    result = bench("compare", str(path), str(path))
    assert result.exit_code == 0, result.output
    assert result.stderr.count("was cut off") == 2


@pytest.mark.parametrize("layout", ["json", "csv"])
def test_nothing_follows_what_programs_read(tmp_path: Path, layout: str) -> None:
    run = varied(batch_sizes=(16, 256, 4096), widths=(64, 256, 1024))
    machine = make_machine(cpu_model="Another CPU")
    other = dataclasses.replace(run, header=dataclasses.replace(run.header, run_id="ffff0000", machine=machine))
    paths = [str(store(each, tmp_path / f"{place}.jsonl")) for place, each in enumerate((run, other))]
    assert "misfit" in bench("compare", *paths).stdout
    text = bench("compare", *paths, "--format", layout).stdout
    assert json.loads(text) if layout == "json" else len(text.splitlines()) == 1 + 9


def test_a_value_is_not_compared_with_itself() -> None:
    write(make_run(), make_run())
    result = bench("compare", "a.jsonl", "b.jsonl", "--between", "device=cpu,cpu")
    assert result.exit_code == 2
    assert "is not a dimension with two different values" in result.stderr


@pytest.mark.parametrize("name", ["a.csv", "b.csv"])
def test_a_judgement_does_not_overwrite_either_run(name: str) -> None:
    write(make_run(), make_run())
    for stem in ("a", "b"):
        Path(f"{stem}.jsonl").rename(f"{stem}.csv")
    result = bench("check", "a.csv", "b.csv", "--json", name)
    assert result.exit_code == 2
    assert "would overwrite a run to be judged" in result.stderr
