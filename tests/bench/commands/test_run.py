"""`bench run` with a scripted worker: what it refuses and how, what it prints, what it stores of its command."""

import getpass
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line_runs import bench, refused
from fake_worker import FakeLauncher, die, fail_trial

from bench.commands.options import command_line
from bench.errors import BadInputError, ExitCode, InterruptedRunError
from bench.execution.conversation import prepare_dataset
from bench.execution.run import Finished, measuring_share
from bench.records import FailureKind
from bench.storage.store import read_run

pytestmark = pytest.mark.usefixtures("elsewhere")


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
    share = measuring_share(Finished(run=stored, path=path, executed=30, exit_code=ExitCode.PASS))
    assert share is not None
    assert f"Took {stored.footer.wall_seconds:.0f} s: {100 * share:.0f} % warm-up, training" in result.stderr


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


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--output=/home/u/run.jsonl", "--output=run.jsonl"),
        ("/home/u/run.jsonl", "run.jsonl"),
        ("1/4", "1/4"),
        ("--shard=1/4", "--shard=1/4"),
        ("--on=ray:10.0.0.1:6379", "--on=ray"),
        ("rev:origin/main", "rev:origin/main"),
        ("python:/home/u/new/bin/python", "python:python"),
        ("python:python3.12", "python:python3.12"),
    ],
)
def test_the_stored_command_contains_values_without_folders_and_addresses(given: str, kept: str) -> None:
    assert command_line(("run", given)) == ("run", kept)


def test_the_stored_command_names_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    assert command_line(("--data-root", "/scratch/alice", "--output=/home/alice/")) == (
        *("--data-root", "<user>", "--output=<user>"),
    )
    assert command_line(("--output", "of-alice.jsonl", "--data-root=~alice", "--name", "alice")) == (
        *("--output", "of-<user>.jsonl", "--data-root=~<user>", "--name", "alice"),
    )


def test_the_stored_command_is_valid_utf_8() -> None:
    assert command_line(("--output", os.fsdecode(b"na\xefve.jsonl"))) == ("--output", "na?ve.jsonl")


def test_the_way_to_resume_has_the_options_that_were_given(worker: FakeLauncher) -> None:
    worker.on = lambda request: {"raise": InterruptedRunError("stopped")} if request["do"] == "train" else None
    result = bench("run", "--timeout", "5h", "--data-root", ".")
    assert "--data-root . --timeout 18000s" in " ".join(result.stderr.split())
    assert "--timeout" not in bench("run").stderr
    assert "--timeout 3600000s" in " ".join(bench("run", "--timeout", "1000h").stderr.split())


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
