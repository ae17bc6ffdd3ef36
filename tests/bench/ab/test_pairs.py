"""One process pair: the order of turns, what each arm trains on, what a stall does, how a failure ends it."""

import dataclasses
import itertools
import math

import pytest
from bench_builders import make_configuration
from fake_worker import FakeLauncher, die, fail_trial

from bench.ab.pairs import ArmFailedError, PairRecord, measure_pair
from bench.errors import WorkerError
from bench.execution.launcher import Launcher
from bench.records import FailureKind

CONFIGURATION = make_configuration(batch_size=64)


def pair(
    baseline: FakeLauncher, candidate: FakeLauncher, *, seed: int = 0, blocks: int = 6, turn_seconds: float = 0.1
) -> PairRecord:
    return measure_pair(
        baseline,
        candidate,
        CONFIGURATION,
        seed=seed,
        root=None,
        timeout_seconds=60,
        blocks=blocks,
        turn_seconds=turn_seconds,
    )


def test_both_arms_train_the_same_batches_in_the_same_order() -> None:
    baseline, candidate = FakeLauncher(), FakeLauncher()
    measured = pair(baseline, candidate, blocks=3)
    assert baseline.stretches == candidate.stretches == [(0, at, at + 100) for at in range(0, 600, 100)]
    assert measured.turn_batches == 100  # 0.1 s at 1 ms a step
    assert [block.samples for block in measured.blocks] == [2 * 100 * 64] * 3


def test_turns_run_in_abba_order_and_the_next_pair_begins_with_the_other_arm() -> None:
    def turns(seed: int) -> str:
        turns_taken: list[str] = []
        baseline, candidate = FakeLauncher(), FakeLauncher()
        for name, launcher in (("A", baseline), ("B", candidate)):
            launcher.on = lambda request, name=name: turns_taken.append(name) if request["do"] == "stretch" else None  # type: ignore[misc]  # mypy infers no lambda's default
        pair(baseline, candidate, seed=seed, blocks=2)
        return "".join(turns_taken)

    assert turns(0) == "ABBABAAB"
    assert turns(1) == "BAABABBA"


def test_a_slower_candidate_has_a_positive_log_ratio_of_its_size() -> None:
    baseline, candidate = FakeLauncher(), FakeLauncher()
    candidate.batch_seconds = itertools.repeat(0.0011)
    assert pair(baseline, candidate).log_ratio == pytest.approx(math.log(1.1))
    assert pair(candidate, baseline).log_ratio == pytest.approx(-math.log(1.1))


def test_steady_drift_of_the_machine_cancels() -> None:
    clock = itertools.count()
    baseline, candidate = FakeLauncher(), FakeLauncher()
    baseline.batch_seconds = candidate.batch_seconds = (0.001 * (1 + 0.01 * at) for at in clock)
    assert pair(baseline, candidate, blocks=8).log_ratio == pytest.approx(0, abs=1e-9)


def test_one_stalled_turn_does_not_move_the_pairs_value() -> None:
    baseline, candidate = FakeLauncher(), FakeLauncher()
    candidate.batch_seconds = itertools.chain([0.001] * 5, [0.030], itertools.repeat(0.001))
    measured = pair(baseline, candidate)
    assert max(block.log_ratio for block in measured.blocks) > 2
    assert measured.log_ratio == pytest.approx(0)


def test_a_turn_is_an_epoch_if_worker_processes_are_started_for_it() -> None:
    baseline, candidate = FakeLauncher(), FakeLauncher()
    loading = dataclasses.replace(CONFIGURATION, pipeline="dataloader", workers=2)
    measure_pair(baseline, candidate, loading, seed=0, root=None, timeout_seconds=60, blocks=1)
    assert baseline.stretches == candidate.stretches == [(0, 0, 938), (1, 0, 938)]


def test_a_turn_ends_with_the_epoch_and_the_next_one_begins_the_next_epoch() -> None:
    baseline, candidate = FakeLauncher(), FakeLauncher()
    pair(baseline, candidate, blocks=2, turn_seconds=0.5)
    assert baseline.stretches == [(0, 0, 500), (0, 500, 938), (1, 0, 500), (1, 500, 938)]


def test_a_turn_is_at_least_one_batch() -> None:
    baseline, candidate = FakeLauncher(), FakeLauncher()
    assert pair(baseline, candidate, turn_seconds=1e-9).turn_batches == 1


def test_losses_of_the_first_turn_are_kept_of_both_arms() -> None:
    baseline, candidate = FakeLauncher(), FakeLauncher()
    candidate.first_loss = 2.4
    measured = pair(baseline, candidate)
    assert (measured.baseline.first_loss, measured.candidate.first_loss) == (2.3, 2.4)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_failing_arm_is_named_and_both_processes_are_ended(seed: int) -> None:
    baseline, candidate = FakeLauncher(), FakeLauncher()
    candidate.on = lambda request: (
        fail_trial(FailureKind.OUT_OF_MEMORY, "no more") if request["do"] == "stretch" else None
    )
    with pytest.raises(ArmFailedError, match="candidate's trial failed: out_of_memory: no more"):
        pair(baseline, candidate, seed=seed)
    assert baseline.killed == candidate.killed == 1


def test_a_dying_process_and_a_refused_configuration_fail_their_arm() -> None:
    baseline = FakeLauncher()
    baseline.on = lambda request: die() if request["do"] == "stretch" else None
    with pytest.raises(ArmFailedError, match="baseline's trial failed: crash"):
        pair(baseline, FakeLauncher())
    baseline.on = lambda request: {"bad_input": "no such loss"} if request["do"] == "prepare" else None
    with pytest.raises(ArmFailedError, match="unsupported: no such loss"):
        pair(baseline, FakeLauncher())


def test_arms_that_train_on_different_numbers_of_samples_are_not_paired() -> None:
    baseline, candidate = FakeLauncher(), FakeLauncher()
    candidate.train_samples = 30_000
    with pytest.raises(ArmFailedError, match=r"different numbers of samples: \[30000, 60000\]"):
        pair(baseline, candidate)
    assert baseline.killed == candidate.killed == 1


def test_an_arms_failure_names_no_folder_of_this_machine() -> None:
    baseline = FakeLauncher()
    for answer in (
        {"bad_input": "data root '/srv/jane/sets' is damaged"},
        fail_trial(FailureKind.CRASH, "OSError: /srv/jane/sets is damaged"),
    ):
        baseline.on = lambda request, answer=answer: answer if request["do"] == "prepare" else None  # type: ignore[misc]  # mypy infers no lambda's default
        with pytest.raises(ArmFailedError, match=r"…/sets.* is damaged") as caught:
            pair(baseline, FakeLauncher())
        assert "jane" not in str(caught.value)


def test_a_process_that_cannot_be_started_leaves_none_behind() -> None:
    baseline, candidate = FakeLauncher(), FakeLauncher()
    candidate.broken = True
    with pytest.raises(WorkerError):
        pair(baseline, candidate)
    assert baseline.killed == 1


def test_real_processes_train_alike_and_in_turns(launcher: Launcher) -> None:
    configuration = make_configuration(
        model="784-8-10", layers=(784, 8, 10), batch_size=2048, epochs=1, dataset="synthetic", threads=1
    )
    measured = measure_pair(
        launcher, launcher, configuration, seed=3, root=None, timeout_seconds=60, blocks=2, turn_seconds=0.01
    )
    assert measured.baseline == measured.candidate  # the very same losses, data and settings
    assert all(block.baseline_seconds > 0 < block.candidate_seconds for block in measured.blocks)
