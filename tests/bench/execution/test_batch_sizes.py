"""How large a batch a run may have: all of the training samples, and no more."""

import contextlib
import dataclasses
from pathlib import Path

import pytest
from fake_worker import FakeLauncher

from bench.errors import BadInputError, ExitCode
from bench.execution.executor import ExecutionOptions, LocalExecutor
from bench.execution.progress import Progress
from bench.execution.run import Finished, Options, Runner
from bench.planning.plan import Request
from bench.records import EpochRecord, Trial, TrialRecord
from bench.system.interrupts import Interrupts


class Silent:
    """A display that shows nothing."""

    def trial_started(self, number: int, trial: Trial) -> None:
        pass

    def epoch_done(self, epoch: EpochRecord) -> None:
        pass

    def trial_done(self, record: TrialRecord) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def show_nothing(_trials: tuple[Trial, ...], _concurrency: int) -> contextlib.AbstractContextManager[Progress]:
    return contextlib.nullcontext(Silent())


def run_batches_of(batch_size: int, train_samples: int, results: Path) -> Finished:
    launcher = FakeLauncher()
    launcher.dataset = dataclasses.replace(launcher.dataset, train_samples=train_samples)
    runner = Runner(
        options=Options(name="test", results=results, output=None, budget_seconds=None, command=("run",)),
        executor=LocalExecutor(launcher, ExecutionOptions(data_root=None, timeout_seconds=60)),
        interrupts=Interrupts(),
        make_progress=show_nothing,
    )
    return runner.start(Request(models=("784-128-10",), batch_sizes=(batch_size,), repeats=1, devices=("cpu",)))


def test_a_batch_can_be_as_large_as_the_training_set_but_no_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where devices are locked
    assert run_batches_of(1437, 1437, tmp_path).exit_code is ExitCode.PASS
    with pytest.raises(BadInputError, match="1438 exceeds the 1437 training samples of mnist: use at most that many"):
        run_batches_of(1438, 1437, tmp_path)
