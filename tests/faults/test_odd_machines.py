"""Machines without a home, without UTF-8, without /proc, with one core, with blanks in every path."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bench_builders import make_failure, make_header, make_plan, make_record
from kill_campaign import GRID, TRIALS
from sandbox import HANG_SECONDS, TESTS, Sandbox

from bench.interrupts import Interrupts
from bench.plan import Request
from bench.processes import SpawningLauncher
from bench.progress import PlainProgress
from bench.records import Measurement
from bench.run import Options, start_run
from bench.store import RunWriter, read_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="ways of Linux")]

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


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
    done = subprocess.run(  # noqa: S603 - our own words
        [taskset, "-c", str(core), *sandbox.command("run", *GRID)],
        cwd=sandbox.work,
        env=sandbox.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert whole(sandbox)


def test_durations_are_never_taken_from_a_clock_that_can_be_set() -> None:
    """Such clocks stamp a moment in UTC; differences come from `time.monotonic` and `time.perf_counter`.

    Only the examination of the ruler compares its clock with another one.
    """
    settable = re.compile(
        r"(?<!other_clock: Callable\[\[\], float\] = )\btime\.(?:time|time_ns|clock_gettime|localtime|gmtime)\b"
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
        data_root=None,
        timeout_seconds=HANG_SECONDS,
        budget_seconds=None,
        command=("run",),
    )
    launcher = SpawningLauncher()
    try:
        finished = start_run(request, options, launcher, Interrupts(), lambda trials: PlainProgress(trials, sys.stderr))
    finally:
        launcher.close()
    (record,) = read_run(finished.path).records
    assert isinstance(record.outcome, Measurement), record.outcome
    assert finished.exit_code == 0
    assert not sandbox.leftovers()


def test_real_run_without_proc_leaves_unmeasured_what_only_proc_tells(sandbox: Sandbox) -> None:
    real = Sandbox(sandbox.folder, real=True)
    unshare = shutil.which("unshare")
    hide = ["/bin/sh", "-c", 'mount -t tmpfs tmpfs /proc && exec "$@"', "sh"]
    prefix = [str(unshare), "--mount", *hide]
    if unshare is None or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:  # noqa: S603
        pytest.skip("nothing can be mounted here")
    done = subprocess.run(  # noqa: S603 - our own words
        [*prefix, *real.command("run", *GRID, "--repeats", "1")],
        cwd=real.work,
        env=real.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    for record in read_run(real.stored()[0]).records:
        assert isinstance(record.outcome, Measurement)
