"""A few shots of the kill campaign, in every run of the tests; `nox -s faults` fires hundreds."""

import sys
from pathlib import Path

import pytest
from kill_campaign import SIGNALS, TARGETS, campaign, draw

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="there is a worker host to hit on Linux alone"),
]


def test_nine_shots_in_a_row_have_every_target_and_signal() -> None:
    shots = [draw(seed, real=False) for seed in range(9)]
    assert len({(shot.target, shot.number) for shot in shots}) == len(TARGETS) * len(SIGNALS) == 9


def test_no_kill_loses_a_trial_or_leaves_anything(tmp_path: Path) -> None:
    results, broken = campaign(range(18), tmp_path, real=False, jobs=2)
    assert not broken
    assert sum(each.hit for each in results) >= 9


@pytest.mark.faults
def test_no_kill_of_real_training_loses_a_trial_or_leaves_anything(tmp_path: Path) -> None:
    results, broken = campaign(range(9), tmp_path, real=True, jobs=1)
    assert not broken
    assert sum(each.hit for each in results) >= 5
