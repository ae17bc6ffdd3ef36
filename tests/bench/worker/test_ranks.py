"""Several ranks of one training, in real processes."""

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import planted_ranks
import psutil
import pytest
from bench_builders import make_configuration
from checkout import TESTS

from bench.execution.conversation import run_trial
from bench.execution.forking import ForkingLauncher
from bench.execution.launcher import Launcher
from bench.execution.spawning import SpawningLauncher
from bench.records import Configuration, EpochRecord, Failure, FailureKind, Measurement, Trial, TrialRecord

pytestmark = pytest.mark.slow

TINY = make_configuration(
    model="784-8-10", layers=(784, 8, 10), batch_size=64, epochs=2, dataset="digits", threads=1, world_size=2
)
ENDLESS = dataclasses.replace(TINY, epochs=1_000_000)


def run(
    launcher: Launcher,
    configuration: Configuration = TINY,
    on_epoch: Callable[[EpochRecord], None] = lambda _epoch: None,
    timeout_seconds: float = 120.0,
    seed: int = 3,
) -> TrialRecord:
    trial = Trial(configuration=configuration, seed=seed, repeat=0)
    return run_trial(launcher, trial, root=None, timeout_seconds=timeout_seconds, on_epoch=on_epoch)


def measured(record: TrialRecord) -> Measurement:
    assert isinstance(record.outcome, Measurement), record.outcome
    return record.outcome


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared host's folder for temporary files; in the machine's, other programs leave the same ones."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def shared(temporary: Path) -> Iterator[ForkingLauncher]:
    """A worker host whose trials have the faults of `planted_ranks`, each at its seed; at any other they are sound."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setenv("PYTHONPATH", str(TESTS))
        launcher = ForkingLauncher(preload=("sklearn.datasets", "planted_ranks_host"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def together(shared: ForkingLauncher) -> Measurement:
    return measured(run(shared))


def descendants(launcher: ForkingLauncher) -> list[psutil.Process]:
    """Living processes below the worker host: the trial, which launches ranks, and these."""
    below = psutil.Process(launcher.host_pid).children(recursive=True)
    return [process for process in below if process.status() != psutil.STATUS_ZOMBIE]


def ranks_of(launcher: ForkingLauncher) -> list[psutil.Process]:
    """The ranks of the running trial, in the order they were started."""
    (trial,) = psutil.Process(launcher.host_pid).children()
    return sorted(trial.children(), key=lambda process: process.pid)


def wait_until_nothing_runs(launcher: ForkingLauncher) -> None:
    end = time.monotonic() + 60
    while descendants(launcher) and time.monotonic() < end:
        time.sleep(0.01)
    assert descendants(launcher) == []


def test_two_ranks_train_as_one_process_does(shared: ForkingLauncher, together: Measurement) -> None:
    alone = measured(run(shared, dataclasses.replace(TINY, world_size=1)))
    for one, several in zip(alone.epochs, together.epochs, strict=True):
        assert several.train_samples == one.train_samples
        assert several.train_loss == pytest.approx(one.train_loss, rel=1e-5)
        assert several.test_loss == pytest.approx(one.test_loss, rel=1e-4)
        assert several.test_correct == pytest.approx(one.test_correct, abs=1)
    assert alone.ranks == ()
    assert alone.exchange is None


def test_each_rank_is_recorded_and_the_slowest_counts(together: Measurement) -> None:
    assert [rank.device for rank in together.ranks] == ["cpu", "cpu"]
    assert {rank.host for rank in together.ranks} == {0}
    for number, epoch in enumerate(together.epochs):
        assert epoch.train_seconds == max(rank.train_seconds[number] for rank in together.ranks)
    peaks = [rank.host_peak.bytes for rank in together.ranks if rank.host_peak is not None]
    assert len(peaks) == 2
    assert together.host_peak is not None
    assert together.host_peak.bytes == sum(peaks)
    assert "sum of 2 ranks" in together.host_peak.method


def test_the_exchange_of_gradients_is_measured(together: Measurement) -> None:
    assert together.exchange is not None
    assert len(together.exchange.together_seconds) == len(together.exchange.apart_seconds) == 4
    assert 0 < together.exchange.share < 1  # tiny steps are mostly exchange


def test_nothing_is_left_of_a_training_by_ranks(shared: ForkingLauncher, temporary: Path) -> None:
    measured(run(shared))
    wait_until_nothing_runs(shared)
    assert not list(temporary.glob("*elastic*"))  # the logs of torch's launcher


@pytest.mark.parametrize(
    ("rank", "number"),
    # Not the first rank by SIGTERM: it has to survive to notify the launcher.
    [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGTERM), (1, signal.SIGSEGV)],
)
def test_a_rank_that_ends_within_an_epoch_is_one_failure_and_the_next_trial_runs(
    shared: ForkingLauncher, rank: int, number: signal.Signals
) -> None:
    victims: list[psutil.Process] = []

    def kill_soon(epoch: EpochRecord) -> None:
        if not victims:
            victims.append(ranks_of(shared)[rank])
            threading.Timer(epoch.train_seconds / 2, lambda: victims[0].send_signal(number)).start()

    record = run(shared, ENDLESS, kill_soon)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.kind is FailureKind.CRASH  # no timeout: nobody waits for the one that has gone
    assert "ended" in record.outcome.message
    wait_until_nothing_runs(shared)
    measured(run(shared))


def test_ranks_that_take_too_long_are_ended(shared: ForkingLauncher) -> None:
    record = run(shared, ENDLESS, timeout_seconds=3.0)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.kind is FailureKind.TIMEOUT
    wait_until_nothing_runs(shared)


def test_a_rank_that_hangs_is_ended_with_the_others(shared: ForkingLauncher) -> None:
    def stop(_epoch: EpochRecord) -> None:
        ranks_of(shared)[1].suspend()

    record = run(shared, ENDLESS, stop, timeout_seconds=6.0)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.kind is FailureKind.TIMEOUT
    wait_until_nothing_runs(shared)


@pytest.mark.parametrize(
    ("seed", "kind", "words"),
    [
        (planted_ranks.EXHAUSTED, FailureKind.OUT_OF_MEMORY, "rank 1: MemoryError: planted"),
        (planted_ranks.WAITING, FailureKind.OUT_OF_MEMORY, "rank 1: MemoryError: planted"),
        (planted_ranks.LINGERING, FailureKind.OUT_OF_MEMORY, "rank 1: MemoryError: planted"),
        (planted_ranks.APART, FailureKind.CRASH, "the ranks ended with different parameters"),
        (planted_ranks.OTHER_DATA, FailureKind.UNSUPPORTED, "rank 1 has dataset another, the first rank "),
    ],
    ids=["out of memory", "first rank waits", "first rank waits and is not told to end", "no exchange", "other data"],
)
def test_a_failure_of_one_rank_is_the_trials_with_its_own_message(
    shared: ForkingLauncher, seed: int, kind: FailureKind, words: str
) -> None:
    record = run(shared, seed=seed)
    assert isinstance(record.outcome, Failure)
    assert record.outcome.kind is kind
    assert words in record.outcome.message
    wait_until_nothing_runs(shared)
    measured(run(shared))


def test_ranks_are_forked_before_anything_asks_about_cuda(shared: ForkingLauncher) -> None:
    assert len(measured(run(shared, seed=planted_ranks.FORKED)).ranks) == 2


def test_a_loss_that_is_no_number_in_all_ranks_is_that_failure(shared: ForkingLauncher) -> None:
    record = run(shared, dataclasses.replace(TINY, optimizer="sgd", learning_rate=1e30))
    assert isinstance(record.outcome, Failure)
    assert record.outcome.kind is FailureKind.NON_FINITE_LOSS


def test_ranks_can_be_started_anew_where_forking_is_not_safe() -> None:
    launcher = SpawningLauncher()
    try:
        assert len(measured(run(launcher)).ranks) == 2
    finally:
        launcher.close()
