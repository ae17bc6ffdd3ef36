"""Machines without a home, without UTF-8, without /proc, with one core, with blanks in every path."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_builders import make_failure, make_header, make_plan, make_record
from checkout import TESTS
from kill_campaign import GRID, TRIALS
from sandbox import HANG_SECONDS, SHELL, Sandbox

from bench.execution.executor import ExecutionOptions, LocalExecutor
from bench.execution.progress import make_progress
from bench.execution.run import Options, Runner
from bench.execution.spawning import SpawningLauncher
from bench.planning.plan import Request
from bench.records import Measurement, TrialWarning
from bench.storage.store import RunWriter, read_run
from bench.system.interrupts import Interrupts

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="ways of Linux")]

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


CGROUP = Path("/sys/fs/cgroup")


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path / "Jane Doe's café")


def whole(sandbox: Sandbox) -> bool:
    (path,) = sandbox.stored()
    return len(read_run(path).records) == TRIALS and path.with_suffix(".csv").exists() and not sandbox.leftovers()


@pytest.mark.parametrize("home", ["", "/proc/nowhere", "relative"])
def test_run_needs_no_home(sandbox: Sandbox, home: str) -> None:
    done = sandbox.run("run", *GRID, HOME=home, XDG_CACHE_HOME="")
    assert done.returncode == 0, done.stderr
    assert whole(sandbox)


def test_run_needs_no_utf_8_even_where_paths_are_none_of_ascii(sandbox: Sandbox) -> None:
    done = sandbox.run("run", *GRID, "--output", "é/run.jsonl", **ASCII)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert whole(sandbox)


def test_what_a_terminal_cannot_show_is_shown_by_its_number(sandbox: Sandbox) -> None:
    with RunWriter.create(sandbox.work / "run.jsonl", make_header(plan=make_plan())) as writer:
        writer.append(make_record(outcome=make_failure(message="…: 5 €")))
    for form in ("table", "markdown"):
        shown = sandbox.run("show", "run.jsonl", "--format", form, PYTHONIOENCODING="latin-1")
        assert shown.returncode == 0, shown.stderr
        assert r"\u2026: 5 \u20ac" in shown.stdout
    refused = sandbox.run("show", "…é.jsonl", **ASCII)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_one_core_is_enough(sandbox: Sandbox) -> None:
    (core, *_) = sorted(os.sched_getaffinity(0))
    taskset = shutil.which("taskset")
    if taskset is None:
        pytest.skip("there is no taskset")
    done = sandbox.run("run", *GRID, before=(taskset, "-c", str(core)))
    assert done.returncode == 0, done.stderr
    assert whole(sandbox)


def test_durations_are_never_taken_from_a_clock_that_can_be_set() -> None:
    """Such clocks stamp a moment in UTC; differences come from `time.monotonic` and `time.perf_counter`.

    Only the self-test compares its clock with another one, and how old a folder is, only the clock tells that
    stamped it.
    """
    settable = re.compile(
        r"(?<!other_clock: Callable\[\[\], float\] = )\btime\.(?:time|time_ns|clock_gettime|localtime|gmtime)\b"
        r"(?!\(\) - status\.st_mtime)"
        r"|\butcnow\b|\.timestamp\("
    )
    stamps = re.compile(r"datetime\.now\((?:dt\.)?UTC\)\.(?:isoformat|strftime)\(")
    for package in ("bench", "mnist_mlp"):
        for path in (TESTS.parent / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not settable.search(text), path.name
            assert text.count("datetime.now(") == len(stamps.findall(text)), path.name


def test_real_run_with_a_new_interpreter_a_trial_as_on_other_systems(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sandbox.work)
    monkeypatch.setattr("tempfile.tempdir", str(sandbox.temporary))
    request = Request(
        models=("784-8-10",),
        batch_sizes=(4096,),
        repeats=1,
        devices=("cpu",),
        epochs=1,
        threads=(1,),
        dataset="synthetic",
    )
    options = Options(
        name="spawned",
        results=Path("results"),
        output=None,
        budget_seconds=None,
        command=("run",),
    )
    launcher = SpawningLauncher()
    try:
        finished = Runner(
            options=options,
            executor=LocalExecutor(launcher, ExecutionOptions(data_root=None, timeout_seconds=HANG_SECONDS)),
            interrupts=Interrupts(),
            make_progress=lambda trials, _: make_progress(trials, sys.stderr),
        ).start(request)
    finally:
        launcher.close()
    (record,) = read_run(finished.path).records
    assert isinstance(record.outcome, Measurement), record.outcome
    assert finished.exit_code == 0
    assert not sandbox.leftovers()


def test_real_run_without_proc_leaves_unmeasured_what_only_proc_tells(sandbox: Sandbox) -> None:
    real = Sandbox(sandbox.folder, real=True)
    unshare = shutil.which("unshare")
    hide = (str(unshare), "--mount", *SHELL, 'mount -t tmpfs tmpfs /proc && exec "$@"', "sh")
    if unshare is None or subprocess.run([*hide, "true"], capture_output=True, check=False).returncode:  # noqa: S603 - our own words
        pytest.skip("nothing can be mounted here")
    done = real.run("run", *GRID, "--repeats", "1", before=hide)
    assert done.returncode == 0, done.stderr
    for record in read_run(real.stored()[0]).records:
        assert isinstance(record.outcome, Measurement)


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A control group whose processes have half a core together, where one may be made (version 1 or 2)."""
    name = f"bench-faults-{os.getpid()}"
    for folder, limits in (
        (CGROUP / "cpu" / name, {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}),
        (CGROUP / name, {"cpu.max": "50000 100000"}),
    ):
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            for file, limit in limits.items():
                (folder / file).write_text(limit)
        except OSError:  # the controller is not delegated
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group can be made here")


def test_real_run_with_half_a_core_plans_one_thread_and_tells_of_throttling(
    sandbox: Sandbox, half_a_core: Path
) -> None:
    real = Sandbox(sandbox.folder, real=True)
    inside = (*SHELL, f'echo $$ > "{half_a_core}/cgroup.procs" && exec "$@"', "sh")
    grid = (
        "--models",
        "784-64-10",
        "--batch-sizes",
        "512",
        "--epochs",
        "2",
        "--repeats",
        "2",
        "--dataset",
        "synthetic",
    )
    done = real.run("run", *grid, before=inside)
    assert done.returncode == 0, done.stderr
    run = read_run(real.stored()[0])
    assert run.header.machine.cores_usable == 0.5
    for record in run.records:
        assert isinstance(record.outcome, Measurement)
        assert record.trial.configuration.threads == 1
        # Other programs that leave it less than half a core keep the quota from holding it back.
        assert {TrialWarning.THROTTLED, TrialWarning.CONTAMINATION} & set(record.warnings)
        assert all(epoch.contention.throttled_seconds is not None for epoch in record.outcome.epochs)
    assert not real.leftovers()
    assert not real.survivors()
    refused = real.run("run", *grid, "--threads", "2", before=inside)
    assert refused.returncode == 2
    assert "--threads" in refused.stderr
    assert "Traceback" not in refused.stderr
