"""The command line: what it refuses and how, and what it prints; nothing here starts a real worker."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click
import pytest
from bench_builders import make_run
from click.testing import CliRunner, Result
from fake_worker import FakeLauncher, die, fail_trial

from bench.cli import cli
from bench.commands.options import DATA_ROOT, command_line
from bench.errors import BadInputError, ExitCode
from bench.execution.conversation import prepare_dataset
from bench.records import FailureKind, Run
from bench.storage.store import RunWriter, read_run
from mnist_mlp.paths import NamedPath


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder, with locks and processes of its own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.chdir(tmp_path):
        yield


@pytest.fixture
def worker(fake_launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch) -> FakeLauncher:
    """The scripted worker in place of the real one."""
    monkeypatch.setattr("bench.execution.launcher.make_launcher", lambda _preload=(): fake_launcher)
    return fake_launcher


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make starting a worker an error: what is wrong must be found before."""
    monkeypatch.setattr("bench.execution.launcher.ForkingLauncher", pytest.fail)


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="bench")


def store(run: Run, path: Path) -> Path:
    with RunWriter.create(path, run.header) as writer:
        for record in run.records:
            writer.append(record)
        if run.footer is not None:
            writer.finish(run.footer)
    return path


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--models", "mlp_129"), ("mlp_129", "did you mean 'mlp_128'")),
        (("--on", "slurm"), ("--on 'slurm'", "ray:HOST:PORT")),
        (("--on", "ray:"), ("--on 'ray:'", "ray:HOST:PORT")),
        (("--models", "783-10"), ("783-10", "must start at 784", "784-128-10")),
        (("--models", "784-0-10"), ("0", "out of range", "1 to")),
        (("--models", ""), ("''", "name at least one")),
        (("--models", "mlp_128,,mlp_120_84"), ("empty item",)),
        (("--widths", "0"), ("width 0", "at least 1")),
        (("--widths", "wide"), ("wide", "64,256,1024")),
        (("--batch-sizes", "0"), ("--batch-sizes 0", "from 1 to")),
        (("--batch-sizes", "-5"), ("-5", "whole numbers")),
        (("--batch-sizes", "9" * 40), ("999", "whole numbers")),
        (("--batch-sizes", "٣"), ("whole numbers",)),
        (("--repeats", "0"), ("--repeats 0", "from 1 to")),
        (("--epochs", "0"), ("--epochs 0", "from 1 to")),
        (("--epochs", "many"), ("many", "integer")),
        (("--seed", "-1"), ("--seed -1", "from 0 to")),
        (("--threads", "0"), ("--threads 0", "from 1 to")),
        (("--devices", "gpu 0"), ("gpu 0", "cuda:1")),
        (("--devices", ""), ("name at least one",)),
        (("--precisions", "fp8"), ("fp8", "fp32, tf32, bf16")),
        (("--engines", "eagre"), ("did you mean 'eager'",)),
        (("--pipelines", "dataloder"), ("did you mean 'dataloader'",)),
        (("--dataset", "emnist"), ("did you mean 'mnist'",)),
        (("--dataset", "digits", "--pipelines", "dataloader"), ("digits", "resident")),
        (("--workers", "2"), ("--pipelines dataloader",)),
        (("--preset", "quik"), ("did you mean 'quick'",)),
        (("--timeout", "soon"), ("soon",)),
        (("--budget", "-5"), ("-5",)),
        (("--budget", "0"), ("'0'", "above zero")),
        (("--budget", "5m", "--dry-run"), ("--budget", "--dry-run", "leave one")),
        (("--resume", "abcdef12"), ("no stored run",)),
        (("--resume", "x.jsonl"), ("x.jsonl", "not a file")),
        (("--scaling", "weak"), ("--scaling weak", "--world-size")),
        (("--name", "a/b"), ("a/b", "letters")),
        (("--name", "a/b", "--dry-run"), ("a/b", "letters")),
        (("--output", "blocker/x"), ("blocker",)),
        (("--output", "blocker/x.jsonl"), ("blocker", "--output")),
        (("--output", "blocker"), ("blocker", "--output")),
        (("--no-such-option",), ("no-such-option",)),
    ],
)
def test_bad_option_is_refused_at_once_with_value_rule_and_remedy(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "blocker").write_text("a file, not a folder")
    refused(bench("run", *arguments), *words)
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("no_worker")
def test_torchrun_and_a_cluster_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"):
        monkeypatch.setenv(name, "1")
    refused(bench("run", "--on", "ray"), "torchrun", "use one of them")


@pytest.mark.usefixtures("no_worker")
def test_without_ray_a_cluster_is_refused_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "bench.execution.ray_cluster", raising=False)
    refused(bench("run", "--on", "ray"), "--on ray needs Ray", ".[ray]", "uv run --extra ray")


def test_missing_device_is_refused_with_reason_and_what_there_is(worker: FakeLauncher) -> None:
    refused(bench("run", "--devices", "cpu,cuda"), "'cuda' is not available", "no driver", "Available here: cpu")
    assert not [request for request in worker.requests if request["do"] != "describe"]


def test_threads_beyond_the_usable_cores_are_refused(worker: FakeLauncher) -> None:
    refused(bench("run", "--threads", "4000"), "--threads 4000", "usable here")
    assert worker.started == 1


@pytest.mark.usefixtures("worker")
def test_waiting_for_no_time_is_what_happens_anyhow() -> None:
    assert bench("run", "--wait", "0", "--dry-run").exit_code == 0


@pytest.mark.usefixtures("worker")
def test_run_prints_the_table_and_where_it_is_stored() -> None:
    result = bench("run")
    assert result.exit_code == 0, result.output
    assert "784-128-10" in result.stdout
    assert "784-512-10" in result.stdout
    (path,) = Path("results").rglob("*.jsonl")
    assert f"Stored in {path}" in result.stdout
    assert "[30/30]" in result.stderr  # progress does not mix with results
    assert "[30/30]" not in result.stdout
    stored = read_run(path)
    assert stored.footer is not None
    assert stored.footer.complete
    assert (stored.header.name, len(stored.records)) == ("quick", 30)


@pytest.mark.usefixtures("worker")
def test_quiet_run_says_its_results_only_and_verbose_one_more() -> None:
    quiet = bench("run", "--quiet", "--repeats", "1")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert "Stored in" in quiet.stdout
    verbose = bench("run", "-v", "--repeats", "1")
    assert "[1/6]" in verbose.stderr
    assert "epoch 1, " in verbose.stderr
    assert "whole trial" in verbose.stderr
    assert bench("run", "-q", "--dry-run").exit_code == 0


@pytest.mark.usefixtures("no_worker")
def test_quiet_and_verbose_are_refused_together_and_verbose_where_nothing_is_run() -> None:
    refused(bench("run", "-q", "-v"), "--quiet", "--verbose", "one of them")
    refused(bench("run", "-v", "--dry-run"), "--verbose", "--dry-run")


def test_quiet_run_still_names_what_failed(worker: FakeLauncher) -> None:
    worker.on = lambda request: fail_trial(FailureKind.CRASH, "gone") if request["do"] == "prepare" else None
    result = bench("run", "-q", "--widths", "128", "--batch-sizes", "64", "--repeats", "2")
    assert result.exit_code == 4
    assert result.stderr.count("FAILED (crash): gone") == 2


@pytest.mark.usefixtures("worker")
def test_other_models_bring_their_own_widths_and_batch_sizes() -> None:
    assert bench("run", "--models", "mlp_512_256,mlp_100_100", "--repeats", "1").exit_code == 0
    run = read_run(next(Path("results").rglob("*-custom-*.jsonl")))
    assert {(c.layers, c.batch_size) for c in run.header.plan.configurations} == {
        ((784, 512, 256, 10), 64),
        ((784, 100, 100, 10), 16),
    }


@pytest.mark.usefixtures("worker")
def test_stored_command_contains_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = str(tmp_path / "out.jsonl")
    monkeypatch.setattr("sys.argv", ["bench", "run", "--repeats", "1", "--output", output])
    assert bench("run", "--repeats", "1", "--output", output).exit_code == 0
    assert read_run(Path(output)).header.command == ("run", "--repeats", "1", "--output", "out.jsonl")


@pytest.mark.parametrize("given", [("--on", "ray:gpu7.example:6379"), ("--on=ray:gpu7.example:6379",)])
def test_stored_command_contains_no_address_of_a_cluster(given: tuple[str, ...]) -> None:
    assert "gpu7" not in " ".join(command_line(("run", *given)))
    assert "ray" in " ".join(command_line(("run", *given)))


@pytest.mark.usefixtures("worker")
def test_dry_run_prints_plan_and_estimate_and_stores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1e3, 0.0, 0.0), raising=False)
    result = bench("run", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "6 configurations x 5 repeats = 30 trials" in result.stdout
    assert "Estimated time" in result.stdout
    assert "Other programs are busy here (load average 1000.0, " in result.stdout.splitlines()[-1]
    assert not Path("results").exists()


def test_failed_trial_ends_the_run_with_4_and_shows_in_the_table(worker: FakeLauncher) -> None:
    worker.on = lambda request: (
        fail_trial(FailureKind.OUT_OF_MEMORY, "no room")
        if request["do"] == "prepare" and request["trial"]["configuration"]["batch_size"] == 1024
        else None
    )
    result = bench("run", "--widths", "128", "--repeats", "1")
    assert result.exit_code == 4
    assert "out_of_memory" in result.stdout
    assert "no room" in result.stdout


def test_worker_that_cannot_start_ends_with_4_and_one_line(worker: FakeLauncher) -> None:
    worker.on = lambda _request: die()
    result = bench("run")
    assert result.exit_code == 4
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "option",
    [
        ("--models", "mlp_128"),
        ("--dry-run",),
        ("--preset", "quick"),
        ("--name", "x"),
        ("--name", ""),
        ("--seed", "0"),
        ("--workers", "0"),
        ("--batch-sizes", "64"),
        ("--world-size", "1"),
        ("--skip-unsupported",),
    ],
)
def test_resume_takes_its_plan_from_the_file_alone(option: tuple[str, ...]) -> None:
    assert bench("run", "--widths", "128", "--repeats", "1").exit_code == 0
    result = bench("run", "--resume", "latest", *option)
    refused(result, f"bench: {option[0]} cannot be given with --resume")


@pytest.mark.usefixtures("worker")
def test_resume_of_a_complete_run_shows_it() -> None:
    assert bench("run", "--widths", "128", "--repeats", "1").exit_code == 0
    result = bench("run", "--resume", "latest")
    assert result.exit_code == 0, result.output
    assert "784-128-10" in result.stdout
    assert "Nothing was left to run" in result.stderr
    assert "Took" not in result.stderr


@pytest.mark.usefixtures("worker")
def test_devices_are_listed_with_reasons() -> None:
    result = bench("devices")
    assert result.exit_code == 0
    assert "no driver" in result.stdout
    assert json.loads(bench("devices", "--format", "json").stdout)[0]["device"] == "cpu"


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


LONG = "x" * 300
"""Longer than any file system's names."""


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--dry-run", "--output", f"{LONG}.jsonl"),
        ("list", "--results", LONG),
        ("show", "--results", LONG),
        ("merge", "latest", "--output", f"{LONG}.jsonl"),
        ("report", "latest", "--output", f"{LONG}.html"),
        ("check", "latest", "latest", "--json", LONG),
    ],
)
def test_a_name_that_no_file_can_have_is_bad_input(arguments: tuple[str, ...]) -> None:
    refused(bench(*arguments), "File name too long")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("show", "nope"), 2), (("show", "--nope"), 2), (("list", "--results", "."), 0)],
)
def test_what_cannot_be_said_on_standard_error_changes_no_exit_code(arguments: tuple[str, ...], code: int) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - no file
        command = [sys.executable, "-m", "bench", *arguments]
        done = subprocess.run(command, stderr=full, check=False, env=python_path())  # noqa: S603 - our own words
    assert done.returncode == code


@pytest.fixture(params=["full", "unread"])
def useless(request: pytest.FixtureRequest) -> Iterator[TextIO]:
    """A place to write to that takes nothing."""
    if request.param == "full":
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full here")
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    stream = os.fdopen(descriptor, "w", closefd=False)
    yield stream
    os.close(descriptor)
    with contextlib.suppress(OSError):
        stream.close()


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("show", "--help"), ("show", "run.jsonl")])
def test_a_result_that_cannot_be_written_is_an_error_and_never_a_verdict(
    useless: TextIO, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    store(make_run(), tmp_path / "run.jsonl")
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "bench", *arguments],
        stdout=useless,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=python_path(),
    )
    assert done.returncode == 4
    assert re.fullmatch(
        r"bench: the output cannot be written: (No space left on device; .*|Broken pipe)\n", done.stderr
    )


@pytest.mark.usefixtures("worker")
def test_a_run_whose_table_cannot_be_written_says_where_it_is_stored(
    useless: TextIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", useless)
        with pytest.raises(SystemExit) as ended:
            cli(["run", "--output", "run.jsonl"], prog_name="bench")
        sys.stdout.close()  # what was put in place of it
    assert ended.value.code == 4
    assert capsys.readouterr().err.endswith("; the run is stored in run.jsonl\n")


def test_a_refusal_of_the_system_is_not_called_one_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("bench.storage.references.resolve", refuse)
    result = bench("show")
    assert result.exit_code == 4
    assert result.stderr == "bench: the operating system refused a request: Too many open files\n"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--output=/home/u/run.jsonl", "--output=run.jsonl"),
        ("/home/u/run.jsonl", "run.jsonl"),
        ("1/4", "1/4"),
        ("--shard=1/4", "--shard=1/4"),
        ("--on=ray:10.0.0.1:6379", "--on=ray"),
    ],
)
def test_the_stored_command_contains_values_without_folders_and_addresses(given: str, kept: str) -> None:
    assert command_line(("run", given)) == ("run", kept)


def test_a_bug_is_reported_as_one_and_never_as_a_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.storage.references.resolve", lambda *_: 1 // 0)
    result = bench("show")
    assert result.exit_code == ExitCode.DEFECT
    assert "ZeroDivisionError" in result.stderr
    assert "bug in bench, not a verdict" in result.stderr


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ((), "python -m bench run --devices cpu,cuda --batch-sizes 64,1024"),
        (("run",), "python -m bench run --resume 1a2b3c4d"),
        (("show",), 'python -m bench show latest --filter "batch_size>=256" --format csv'),
    ],
)
def test_help_has_its_examples_a_line_each(command: tuple[str, ...], example: str) -> None:
    result = bench(*command, "--help")
    assert result.exit_code == 0
    assert f"  {example}" in result.stdout.splitlines()
    assert "130 interrupted" in " ".join(result.stdout.split())


@pytest.mark.parametrize("command", ["", *cli.commands])
def test_help_of_every_command_has_examples_and_exit_codes_and_fits_80_columns(command: str) -> None:
    result = CliRunner().invoke(cli, [*command.split(), "--help"], prog_name="bench", terminal_width=80)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert any(line.startswith(f"  python -m bench {command}".rstrip()) for line in lines)
    is_gate = command in {"", "check", "ab"}
    assert f"Exit codes: 0 {'pass, 1 regression' if is_gate else ''}" in result.stdout
    assert ("1 regression" in result.stdout) == is_gate
    assert max(map(len, lines)) <= 80, max(lines, key=len)


def test_examples_in_the_help_are_commands_that_are_understood() -> None:
    for name, command in cli.commands.items():
        examples = re.findall(r"python -m bench (.*)", command.help or "")
        for example in examples:
            words = shlex.split(re.split(r"\s{3,}", example)[0])
            assert words[0] == name
            command.make_context(name, words[1:])


CHECK_IMPORTS = """
import sys
from bench.cli import cli
try:
    cli(sys.argv[1:], prog_name="bench")
finally:
    heavy = {"torch", "torchvision", "pandas", "scipy", "numpy", "rich"} & set(sys.modules)
    print("imported:", sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("show", "run.jsonl")])
def test_help_and_show_import_nothing_heavy(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    store(make_run(), tmp_path / "run.jsonl")
    command = [sys.executable, "-c", CHECK_IMPORTS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=python_path())  # noqa: S603 - our own words
    assert "imported: []" in done.stderr


def python_path() -> dict[str, str]:
    from bench.execution.processes import worker_environment  # noqa: PLC0415 - only here

    return worker_environment()


def test_no_type_of_click_is_subscripted_because_older_versions_cannot() -> None:
    root = Path(__file__).resolve().parents[2]
    sources = [path for package in ("bench", "mnist_mlp") for path in (root / package).rglob("*.py")]
    assert [path for path in sources if re.search(r"\bclick\.(Choice|Path|ParamType)\[", path.read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        ("run", "--output", ""),
        ("run", "--data-root", ""),
        ("run", "--name", ""),
        ("run", "--preset", ""),
        ("run", "--dry-run", "--name="),
        ("plan", "--preset", ""),
        ("plan", "--data-root", ""),
        ("merge", "s1.jsonl", "--output", ""),
        ("show", "latest", "--results", ""),
        ("report", "latest", "--output", ""),
        ("export", "latest", "--plots", ""),
        ("check", "a", "b", "--json", ""),
        ("calibrate", "--data-root", ""),
    ],
)
@pytest.mark.usefixtures("no_worker")
def test_an_empty_argument_is_refused_and_never_means_a_default(line: tuple[str, ...]) -> None:
    result = bench(*line)
    assert result.exit_code == 2, result.output
    assert "''" in result.stderr
    assert list(Path().iterdir()) == []


def test_every_path_of_a_command_is_refused_if_it_is_empty() -> None:
    types = [parameter.type for command in cli.commands.values() for parameter in command.params]
    assert {type(each) for each in types if isinstance(each, click.Path)} == {NamedPath}


def test_help_shows_default_durations_as_they_are_written() -> None:
    for command, default in (("run", "1h"), ("plan", "1h"), ("ab", "1h"), ("calibrate", "10m"), ("selftest", "10m")):
        assert f"[default: {default}]" in " ".join(bench(command, "--help").stdout.split())


TINY = (
    "run",
    "--devices",
    "cpu",
    "--models",
    "784-16-10",
    "--batch-sizes",
    "64",
    "--repeats",
    "1",
    "--output",
    "a.jsonl",
)


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_data_root_that_is_created_is_named_once_but_not_with_quiet(
    worker: FakeLauncher, monkeypatch: pytest.MonkeyPatch, *, by_variable: bool
) -> None:
    told = "data root 'mnits' did not exist and was created: if it is misspelt, remove it, and correct --data-root or"
    given = () if by_variable else ("--data-root", "mnits")
    if by_variable:
        monkeypatch.setenv("MNIST_MLP_DATA", "mnits")

    def finds_no_data(*_arguments: object, **_options: object) -> None:
        raise BadInputError("no source could supply mnist")

    def creates(*arguments: Any, **options: Any) -> object:  # noqa: ANN401 - passed on
        Path("mnits").mkdir(exist_ok=True)
        return prepare_dataset(*arguments, **options)

    monkeypatch.setattr("bench.execution.executor.prepare_dataset", finds_no_data)
    assert told not in bench(*TINY, *given).stderr
    monkeypatch.setattr("bench.execution.executor.prepare_dataset", creates)
    result = bench(*TINY, *given)
    assert (result.exit_code, result.stderr.count(told)) == (0, 1)
    assert told not in result.stdout
    Path("a.jsonl").unlink()
    Path("a.csv").unlink()
    assert "data root" not in bench(*TINY, *given).output
    Path("mnits").rmdir()
    Path("a.jsonl").unlink()
    Path("a.csv").unlink()
    assert not bench(*TINY, *given, "--quiet").stderr
    assert Path("mnits").is_dir()
    assert worker.requests


def test_every_command_tells_of_a_data_root_that_it_creates() -> None:
    options = [each for command in cli.commands.values() for each in command.params if each.name == "data_root"]
    assert len(options) == 5
    assert all(option.callback is DATA_ROOT for option in options)
