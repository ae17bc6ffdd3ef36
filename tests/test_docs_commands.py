"""Every command and every piece of Python in the documents works as it stands there.

What reads stored runs is executed on stored runs. What measures is executed with scripted workers instead of those that
would take minutes, or a GPU: `tests/bench/test_end_to_end.py` and `nox -s package` run such commands with real ones.
"""

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest
from bench_builders import make_machine
from checkout import ROOT
from click.testing import CliRunner
from docs_commands import PAGES, Command, blocks, commands
from fake_worker import Request
from rates_builders import RatesLauncher
from stored_runs import store

from bench.cli import cli as bench_cli
from bench.coding import to_json
from bench.protocol.messages import Stretched
from bench.protocol.soundness import Check, Checked, Outcome
from bench.records import Configuration, DeviceStatus, Run
from bench.storage.store import read_run
from mnist_mlp import Trainer
from mnist_mlp.cli import cli as workload_cli

COMMANDS: Final = [command for page in PAGES for command in commands(page)]
GROUPS: Final = {"bench": bench_cli, "mnist_mlp": workload_cli}

EXEMPT: Final = {
    ("python3", "-m", "pip", "install", "uv"): "installs what runs these tests",
    ("pytest", "-m", "not slow"): "these tests",
    ("python", "-m", "pytest", "-m", "faults", "tests/faults"): "these tests",
    ("mv", "accuracy.jsonl", "accuracy.csv", "results/baselines/"): "no command of ours",
    ("eval", "$(_BENCH_COMPLETE=bash_source bench)"): "tests/bench/commands/test_completion.py completes",
    ("eval", "$(_BENCH_COMPLETE=zsh_source bench)"): "likewise",
    ("_BENCH_COMPLETE=fish_source", "bench"): "likewise",
    ("source",): "fish's own",
    ("uv", "venv", "../new-torch"): "no command of ours",
    ("uv", "pip", "install", "--python", "../new-torch/bin/python", ".", "torch==2.15.0", "torchvision"): "likewise",
}

MNIST_SHA256: Final = "d0a3eec1f5a454401d758fdbf15b9b0163a7034963586d671960c180b97e2c1a"
"""Of the stored runs' dataset."""

CHEAPER: Final = {"train": ("--dataset", "digits", "--epochs", "1"), "data": ("--dataset", "digits")}
"""What is added to a command of the workload's that would train, or look for MNIST."""

CHEAPER_PYTHON: Final = {
    'Trainer("mlp_512_256"': 'Trainer("784-16-10", dataset="digits"',
    "Trainer(recipe": 'Trainer(recipe, dataset="digits"',
}
"""What is put in the place of a training that takes long, or looks for MNIST."""

ARMS: Final = re.compile(r"rev:[\w./~^-]+|python:[\w./-]+")
"""Arms that are not here; `tests/bench/ab/test_arms.py` opens such ones."""


def of_this_project(command: Command) -> tuple[str, tuple[str, ...]] | None:
    """Return the package that the command runs and its arguments."""
    for package in GROUPS:
        arguments = command.after("python", "-m", package)
        if arguments is not None:
            return package, arguments
    return None


READY: Final = [command for command in COMMANDS if of_this_project(command)]
OTHERS: Final = [command for command in COMMANDS if not of_this_project(command)]


@pytest.mark.parametrize("command", READY, ids=str)
def test_command_has_options_and_arguments_that_the_command_line_takes(command: Command) -> None:
    package, arguments = of_this_project(command) or ("", ())
    verb, *rest = arguments
    group = GROUPS[package]
    if verb.startswith("-"):
        assert verb in {"--version", "--help"}
    elif rest or not command.inline:  # a verb by itself is a name
        with click.Context(group) as parent:
            group.commands[verb].make_context(verb, list(rest), parent=parent)
    else:
        assert verb in group.commands


@pytest.mark.parametrize(
    "command",
    # A cluster is not here: `nox -s ray` runs such commands on one.
    [command for command in READY if not command.inline and "--on" not in command.words],
    ids=str,
)
def test_command_of_a_shell_block_works(command: Command, sandbox: Path) -> None:
    package, arguments = of_this_project(command) or ("", ())
    if package == "mnist_mlp":
        arguments += CHEAPER.get(arguments[0], ())
    elif "--output" in arguments:
        (sandbox / arguments[arguments.index("--output") + 1]).unlink(missing_ok=True)
    arguments = tuple("." if ARMS.fullmatch(word) else word for word in arguments)
    result = CliRunner().invoke(GROUPS[package], arguments, prog_name=package)
    assert isinstance(result.exception, SystemExit | None), result.exception
    # What check says of these runs, which are not meant to pass, is no matter here: only that it can say it.
    assert result.exit_code in ({0, 1, 3, 5} if arguments[0] == "check" else {0}), result.output


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_command_that_is_not_ours_alone_names_what_exists_or_is_exempt(command: Command) -> None:
    if command.words in EXEMPT:
        return
    session = command.after("uv", "tool", "run", "nox")
    if session is not None:
        names = session[session.index("-s") + 1 :][:1] if "-s" in session else ()
        noxfile = (ROOT / "noxfile.py").read_text()
        assert [name for name in names if f"\ndef {name}(session" not in noxfile] == []
        return
    script = ROOT / command.words[1]
    assert command.words[0] == "python", "neither checked nor exempt"
    options = [word for word in command.words[2:] if word.startswith("--")]
    source = script.read_text()
    assert [option for option in options if f'"{option}"' not in source] == []


def test_no_exemption_is_left_over() -> None:
    assert EXEMPT.keys() - {command.words for command in COMMANDS} == set()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
@pytest.mark.usefixtures("sandbox")
def test_python_of_a_page_runs_in_its_order(page: Path) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        for module in re.findall(r"^import (duckdb|pandas)\b", block, flags=re.MULTILINE):
            pytest.importorskip(module)
        for dear, cheap in CHEAPER_PYTHON.items():
            block = block.replace(dear, cheap)  # noqa: PLW2901 - the same, on less
        exec(compile(block, page.name, "exec"), names)  # noqa: S102 - our own words


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sql")], ids=lambda page: page.name)
@pytest.mark.usefixtures("sandbox")
def test_sql_of_a_page_answers(page: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    assert all(duckdb.sql(block).fetchall() for block in blocks(page, "sql"))


@pytest.mark.usefixtures("sandbox")
def test_pandas_and_duckdb_find_the_medians_that_show_prints() -> None:
    duckdb = pytest.importorskip("duckdb")
    page = ROOT / "docs" / "results-format.md"
    run = "results/reference/x86_64-2c-1e6182e1/scaling.jsonl"
    shown = CliRunner().invoke(bench_cli, ["show", run, "--filter", "engine=eager", "--format", "json"])
    expected = {
        (row["width"], row["batch_size"]): row["epoch_seconds_median"] for row in json.loads(shown.stdout)["rows"]
    }
    assert len(expected) == 30
    asked = next(block for block in blocks(page, "sql") if "median(epoch_seconds)" in block)
    assert {(width, batch): seconds for width, batch, seconds in duckdb.sql(asked).fetchall()} == expected
    names: dict[str, Any] = {}
    exec(next(block for block in blocks(page, "python") if "read_csv" in block), names)  # noqa: S102 - our own words
    medians = names["measured"].groupby(["width", "batch_size"]).epoch_seconds.median()
    assert medians.to_dict() == pytest.approx(expected)


# Where they are executed


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the documents' commands name."""
    folder = tmp_path_factory.mktemp("prepared")
    for published in ("reference", "baselines", "machines", "peers"):
        shutil.copytree(ROOT / "results" / published, folder / "results" / published)
    Trainer("784-16-10", dataset="digits").save(folder / "mnist_model.pth")
    draw_digit(folder / "my-digit.png")
    scaling = read_run(folder / "results" / "reference" / "x86_64-2c-1e6182e1" / "scaling.jsonl")
    accuracy = read_run(folder / "results" / "baselines" / "accuracy.jsonl")
    few = some_configurations(scaling)
    interrupted = dataclasses.replace(again(few, "ffffffff"), records=few.records[:-1], footer=None)
    recipes = read_run(folder / "results" / "reference" / "x86_64-2c-1e6182e1" / "recipes.jsonl")
    store(again(recipes, "cccccccc"), folder / "RUN")
    store(interrupted, folder / "results" / "latest.jsonl")  # the newest
    for name in ("OLD", "BASELINE", "laptop.jsonl"):
        store(again(accuracy, "aaaaaaaa"), folder / name)
    for name in ("NEW", "CANDIDATE", "server.jsonl", "accuracy.jsonl"):
        store(again(accuracy, "bbbbbbbb"), folder / name)
    for name, seconds in (("0001_before.json", 0.25), ("0002_after.json", 0.5)):
        (folder / name).write_text(json.dumps(saved_benchmark(seconds)))
    return folder


@pytest.fixture
def sandbox(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder, and scripted workers on a machine that has every device."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setattr("mnist_mlp.support._WRITES_PARTS_ON_MPS", (0,))  # whichever torch is here
    launcher = every_device()
    monkeypatch.setattr("bench.execution.launcher.make_launcher", lambda _preload=(): launcher)
    monkeypatch.setattr(
        "bench.execution.launcher.make_arm_launchers", lambda *_, **__: ((launcher, launcher), lambda: None)
    )
    folder = tmp_path / "reader"
    shutil.copytree(prepared, folder)
    with contextlib.chdir(folder):
        yield folder


def some_configurations(run: Run) -> Run:
    """Return the run as if it had had few sizes, enough to fit a model to, and a GPU in the place of engine fused."""

    def placed(chosen: Configuration) -> Configuration:
        on_gpu = dataclasses.replace(chosen, device="cuda:0", engine="eager")
        return on_gpu if chosen.engine == "fused" else chosen

    plan = run.header.plan
    sizes = [(width, batch_size) for width in (64, 256, 512, 1024, 2048) for batch_size in (16, 256, 4096)][::2]
    kept = tuple(c for c in plan.configurations if (c.width, c.batch_size) in sizes)
    header = dataclasses.replace(run.header, plan=dataclasses.replace(plan, configurations=tuple(map(placed, kept))))
    records = tuple(
        dataclasses.replace(
            record, trial=dataclasses.replace(record.trial, configuration=placed(record.trial.configuration))
        )
        for record in run.records
        if record.trial.configuration in kept
    )
    return dataclasses.replace(run, header=header, records=records)


def again(run: Run, run_id: str) -> Run:
    """Return the run as if it had been measured by that id, later than all others, on the scripted workers' machine."""
    place = every_device().place
    header = dataclasses.replace(
        run.header,
        run_id=run_id,
        created_at="2099-01-01T00:00:00+00:00",
        machine=place.machine,
        software=place.software,
    )
    return dataclasses.replace(run, header=header)


def every_device() -> RatesLauncher:
    launcher = RatesLauncher()
    devices = tuple(
        DeviceStatus(device=device, available=True, description=f"fictional {device}", reason="")
        for device in ("cpu", "cuda:0", "cuda:1", "mps")
    )
    launcher.dataset = dataclasses.replace(launcher.dataset, sha256=MNIST_SHA256)
    launcher.place = dataclasses.replace(launcher.place, machine=make_machine(), devices=devices)

    def answer(request: Request) -> dict[str, Any] | None:
        if request["do"] == "stretch":
            equal = Stretched(train_seconds=0.1, train_samples=640, train_loss=2.3)
            return {"answer": to_json(equal)}
        if request["do"] == "selftest":
            check = Check(name="ruler", device="cpu", outcome=Outcome.PASS, measured="sound", rule="sound")
            return {"answer": to_json(Checked(checks=(check,)))}
        return None

    launcher.on = answer
    return launcher


def saved_benchmark(seconds: float) -> dict[str, Any]:
    stats = {"data": [seconds * (1 + 0.01 * place) for place in range(5)]}
    return {
        "machine_info": {"cpu": {"brand_raw": "Fictional CPU"}},
        "commit_info": {"id": "0" * 40, "dirty": False},
        "benchmarks": [{"name": "test_step", "fullname": "tests/test_x.py::test_step", "params": None, "stats": stats}],
        "datetime": "2026-11-21T12:00:00+00:00",
        "version": "5.0.0",
    }


def draw_digit(path: Path) -> None:
    from PIL import Image, ImageDraw  # noqa: PLC0415 - only here

    picture = Image.new("L", (120, 120), 255)
    ImageDraw.Draw(picture).line((60, 20, 60, 100), fill=0, width=10)
    picture.save(path)
