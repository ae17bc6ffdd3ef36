"""`python -m bench run` for real: processes, signals, real MNIST."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
from heeded_signals import heeded
from uncovered import without_coverage

from bench.execution.processes import worker_environment
from bench.records import Failure, FailureKind, Measurement
from bench.storage.store import read_run
from bench.system.interrupts import SIGNALS
from bench.tables.summary import summarise

pytestmark = [pytest.mark.mnist, pytest.mark.slow]

PROMPT_SECONDS = 30
"""Only ends a test that hangs. How long a run takes to end on a quiet machine is in docs/measuring.md."""

# One thread: two of them wait for each other very long when something else computes on the machine.
GRID = ("--models", "784-16-10", "--batch-sizes", "512,4096", "--epochs", "2", "--repeats", "3", "--threads", "1")

FOUR_TRIALS = ("--models", "784-16-10", "--batch-sizes", "4096", "--epochs", "1", "--repeats", "4", "--threads", "1")
"""To be hit: three are left when the first is told of, one of which is running."""

ONE_TRIAL = ("--models", "784-8-10", "--batch-sizes", "2048", "--epochs", "2", "--repeats", "1", "--seed", "5")
"""On as many threads as the machine has."""


@pytest.fixture(autouse=True)
def heed_signals() -> Iterator[None]:
    with heeded():
        yield


def environment(folder: Path) -> dict[str, str]:
    return worker_environment() | {"TMPDIR": str(folder)}  # device locks of its own


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench", *arguments]


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own words
        command(*arguments), cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own words
        command(*arguments),
        cwd=folder,
        env=without_coverage(environment(folder)),
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def wait_for_trial(process: subprocess.Popen[str], number: int) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        # A long trial is told of while it goes on, too; a finished one with its time for an epoch.
        if line.startswith(f"[{number}/") and " an epoch, " in line:
            return
    pytest.fail("the run ended before that trial")


def stored(folder: Path) -> Path:
    (path,) = folder.rglob("*.jsonl")
    return path


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def survivors(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(list(processes), timeout=PROMPT_SECONDS)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_the_taxes_of_a_loop_are_measured_and_shown(tmp_path: Path) -> None:
    grid = ("--models", "784-16-10", "--batch-sizes", "512", "--epochs", "1", "--repeats", "1", "--threads", "1")
    done = bench(tmp_path, "run", "--preset", "taxes", *grid)
    assert done.returncode == 0, done.stderr
    shown = bench(tmp_path, "show", "latest", "--taxes", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    (account,) = json.loads(shown.stdout)
    seconds = {part["name"]: part["seconds"] for part in account["parts"]}
    run = read_run(stored(tmp_path))
    epochs = {
        (record.trial.configuration.pipeline, record.trial.configuration.engine): record.outcome.epoch_seconds
        for record in run.records
        if isinstance(record.outcome, Measurement)
    }
    assert account["epoch_seconds"] == epochs["dataloader", "eager"]
    assert seconds == {
        "loader tax": epochs["dataloader", "eager"] - epochs["resident", "eager"],
        "framework tax": epochs["resident", "eager"] - epochs["resident", "fused"],
        "kernel gap": None,
        "arithmetic": None,  # this folder holds no calibration, so no peak
    }


def test_run_trains_on_real_mnist_and_ends_with_a_table_and_a_csv(tmp_path: Path) -> None:
    done = bench(tmp_path, "run", *GRID)
    assert done.returncode == 0, done.stderr
    run = read_run(stored(tmp_path))
    assert len(run.records) == 6
    for record in run.records:
        assert isinstance(record.outcome, Measurement)
        assert record.outcome.test_accuracy is not None
        assert record.outcome.test_accuracy > 0.70  # 16 units, two epochs of large batches
        assert record.outcome.settings.threads == record.trial.configuration.threads
    seeds: dict[int, dict[int, float]] = {}
    for record in run.records:
        assert isinstance(record.outcome, Measurement)
        losses = seeds.setdefault(record.trial.configuration.batch_size, {})
        losses[record.trial.seed] = record.outcome.epochs[0].train_loss
    assert all(len(set(losses.values())) == 3 for losses in seeds.values())  # every repeat is another seed
    for summary in summarise(run.records):
        assert summary.host_peak_bytes is not None
        assert summary.memory_floor_bytes is not None
        assert summary.host_peak_bytes.low >= summary.memory_floor_bytes
    frame = pd.read_csv(stored(tmp_path).with_suffix(".csv"))
    assert list(frame["status"]) == ["measured"] * 6
    rows = json.loads(bench(tmp_path, "show", "latest", "--format", "json").stdout)["rows"]
    medians = frame.groupby("batch_size")["epoch_seconds"].median()
    assert {row["batch_size"]: row["epoch_seconds_median"] for row in rows} == medians.to_dict()
    text = (tmp_path / stored(tmp_path)).read_text()
    assert str(Path.home()) not in text
    assert str(tmp_path) not in text


def test_signal_ends_the_run_at_once_and_resume_completes_it(tmp_path: Path) -> None:
    with start(tmp_path, "run", *FOUR_TRIALS) as process:
        wait_for_trial(process, 1)
        children = family(process)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=PROMPT_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert "--resume" in rest
    assert children
    assert not survivors(children)
    run = read_run(stored(tmp_path))
    finished = run.records
    assert 1 <= len(finished) < 4
    assert run.footer is not None
    assert run.footer.reason == "interrupted"

    resumed = bench(tmp_path, "run", "--resume", run.header.run_id[:6])
    assert resumed.returncode == 0, resumed.stderr
    run = read_run(stored(tmp_path))
    assert run.records[: len(finished)] == finished
    assert len({record.trial for record in run.records}) == len(run.records) == 4


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_while_torch_is_being_imported_ends_at_once_too(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path, "run", *FOUR_TRIALS) as process:
        while not (children := family(process)):
            assert process.poll() is None
        process.send_signal(number)
        _, rest = process.communicate(timeout=PROMPT_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert not survivors(children)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_killed_trial_is_one_failure_and_the_run_ends_with_4(tmp_path: Path) -> None:
    with start(tmp_path, "run", *FOUR_TRIALS) as process:
        wait_for_trial(process, 1)
        trial: list[psutil.Process] = []
        while not trial:
            hosts = psutil.Process(process.pid).children()
            trial = [child for host in hosts for child in host.children() if child.status() != "zombie"]
        trial[0].kill()
        _, rest = process.communicate(timeout=120)
    assert process.returncode == 4, rest
    failures = [record.outcome for record in read_run(stored(tmp_path)).records if isinstance(record.outcome, Failure)]
    assert [failure.kind for failure in failures] == [FailureKind.CRASH]
    assert re.search("SIGKILL", failures[0].message)
    assert len(read_run(stored(tmp_path)).records) == 4


def test_killed_run_leaves_a_readable_file_no_process_and_no_lock(tmp_path: Path) -> None:
    with start(tmp_path, "run", *FOUR_TRIALS) as process:
        wait_for_trial(process, 1)
        children = family(process)
        process.kill()
        process.communicate()
    assert not survivors(children)
    assert 1 <= len(read_run(stored(tmp_path)).records) < 4
    resumed = bench(tmp_path, "run", "--resume", "latest")
    assert resumed.returncode == 0, resumed.stderr
    assert len(read_run(stored(tmp_path)).records) == 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A run on a pseudo-terminal, as a person sees it."""

    folder: Path
    progress: bytes
    output: bytes


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("shown")
    leader, follower = os.openpty()
    with subprocess.Popen(  # noqa: S603 - our own words
        command("run", *ONE_TRIAL), cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=follower
    ) as process:
        os.close(follower)
        progress = b""
        while True:
            try:
                chunk = os.read(leader, 4096)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not chunk:
                break
            progress += chunk
        output, _ = process.communicate()
    os.close(leader)
    assert process.returncode == 0
    return Shown(folder=folder, progress=progress, output=output)


def test_terminal_shows_live_progress_and_the_same_table(shown: Shown) -> None:
    assert b"1/1" in shown.progress
    assert b"784-8-10" in shown.output


def test_same_seed_gives_bit_identical_losses_in_another_run(shown: Shown, tmp_path: Path) -> None:
    again = bench(tmp_path, "run", *ONE_TRIAL)
    assert again.returncode == 0, again.stderr
    losses = []
    for folder in (shown.folder, tmp_path):
        (record,) = read_run(stored(folder)).records
        assert isinstance(record.outcome, Measurement)
        losses.append([(epoch.train_loss, epoch.test_loss) for epoch in record.outcome.epochs])
    assert losses[0] == losses[1]
