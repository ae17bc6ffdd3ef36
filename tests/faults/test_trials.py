"""Faults in real trials, with torch: each is one failure of its kind, the plan goes on, and nothing is left behind."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import planted_trials
import pytest
from checkout import TESTS
from planted_trials import FAULTS, NAN_SEED
from sandbox import MARK, Sandbox

from bench.errors import ExitCode
from bench.execution import run
from bench.execution.executor import ExecutionOptions, LocalExecutor
from bench.execution.forking import ForkingLauncher
from bench.execution.progress import make_progress
from bench.planning.plan import Request
from bench.records import Failure, FailureKind, Measurement, TrialRecord
from bench.storage.store import read_run
from bench.system.interrupts import Interrupts

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="faults are planted before a fork"),
]

REQUEST = Request(
    models=("784-8-10",),
    batch_sizes=(4096,),
    repeats=max(*FAULTS, NAN_SEED) + 2,
    devices=("cpu",),
    epochs=1,
    threads=(1,),
    dataset="synthetic",
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(tmp_path_factory.mktemp("Jane Doe's café"), real=True)


@pytest.fixture(scope="module")
def finished(sandbox: Sandbox) -> Iterator[run.Finished]:
    """One run whose trials have every fault in turn, in a place whose name must not be stored."""
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(sandbox.work):
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS / "faults")]))
        patch.setenv(MARK, sandbox.mark)
        patch.setenv("HOME", str(sandbox.folder))
        patch.setattr("tempfile.tempdir", str(sandbox.temporary))
        options = run.Options(
            name="faults",
            results=sandbox.work / "results",
            output=None,
            budget_seconds=None,
            command=("run",),
        )
        with contextlib.closing(ForkingLauncher(preload=("planted_host",))) as launcher:
            execution = ExecutionOptions(data_root=sandbox.work / "private", timeout_seconds=10.0)
            yield run.Runner(
                options=options,
                executor=LocalExecutor(launcher, execution),
                interrupts=Interrupts(),
                make_progress=lambda trials, _: make_progress(trials, sys.stderr),
            ).start(REQUEST)


def by_seed(finished: run.Finished) -> dict[int, TrialRecord]:
    return {record.trial.seed: record for record in read_run(finished.path).records}


@pytest.mark.parametrize(
    ("seed", "kind"),
    [
        *(pytest.param(seed, kind, id=fault.__name__) for seed, (fault, kind) in FAULTS.items()),
        pytest.param(NAN_SEED, FailureKind.NON_FINITE_LOSS, id="nan"),
        pytest.param(0, None, id="no fault"),
        pytest.param(NAN_SEED + 1, None, id="no fault after all of them"),
    ],
)
def test_a_fault_is_one_failure_of_its_kind(finished: run.Finished, seed: int, kind: FailureKind | None) -> None:
    outcome = by_seed(finished)[seed].outcome
    if kind is None:
        assert isinstance(outcome, Measurement), outcome
    else:
        assert isinstance(outcome, Failure)
        assert outcome.kind is kind, outcome.message


def test_the_plan_goes_on_to_its_end_and_the_exit_code_tells(finished: run.Finished) -> None:
    assert len(finished.run.records) == REQUEST.repeats
    assert finished.run.footer is not None
    assert finished.run.footer.complete
    assert finished.exit_code is ExitCode.FAILED_TRIAL


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (planted_trials.crash, "SIGSEGV"),
        (os.abort, "SIGABRT"),
        (planted_trials.leave_a_grandchild, "exit status 3"),
        (planted_trials.loop, "--timeout"),
        (planted_trials.answer_garbage, "violated the protocol"),
        (planted_trials.answer_deeply, "nested too deeply"),
    ],
)
def test_the_message_tells_what_happened(finished: run.Finished, fault: object, words: str) -> None:
    (seed,) = [seed for seed, (each, _) in FAULTS.items() if each is fault]
    outcome = by_seed(finished)[seed].outcome
    assert isinstance(outcome, Failure)
    assert words in outcome.message


def test_stored_files_hold_no_place_of_this_machine(finished: run.Finished, sandbox: Sandbox) -> None:
    for path in (finished.path, finished.path.with_suffix(".csv")):
        text = path.read_text()
        assert "cannot read <folder>/private/set.bin nor ~/notes" in text or "<data root>/set.bin nor ~/notes" in text
        for secret in ("Jane Doe", str(sandbox.folder), str(Path(sys.executable).parent), str(TESTS.parent)):
            assert secret not in text


def test_nothing_is_left_of_any_trial(finished: run.Finished, sandbox: Sandbox) -> None:
    del finished
    (host,) = sandbox.family()
    assert "bench.worker.host" in host.cmdline()
    assert not sandbox.leftovers()
