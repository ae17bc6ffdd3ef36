"""What step times are fitted to: one series for all that differs in size alone, one observation a size."""

import numpy as np
import pytest
from step_times import CPU, SAMPLES, configuration, grid, measured_in, merged

from bench.analysis.size_series import Measured, size_series
from bench.records import TrialWarning


def test_a_size_counts_once_by_the_geometric_mean_of_its_trials() -> None:
    times = [1.0, 2.0, 9.0]
    logs = np.log(times).tolist()
    measured = Measured(
        configuration=configuration(64, 600),
        train_samples=SAMPLES,
        log_seconds=logs,
        unflagged_log_seconds=logs[:2],
        warnings=(TrialWarning.STALL,),
    )
    ((observation,),) = (series.observations for series in size_series([measured]))
    assert observation.trials == 3
    assert observation.step_seconds == pytest.approx(18 ** (1 / 3) / 100)
    assert observation.flagged == 1
    assert observation.unflagged_step_seconds == pytest.approx(2 ** (1 / 2) / 100)


def test_series_differ_in_anything_but_their_sizes() -> None:
    run = merged(grid(CPU, threads=1), grid(CPU, threads=2), grid(CPU, engine="fused"))
    found = size_series(measured_in(run))
    assert [(c.configuration.engine, c.configuration.threads) for c in found] == [
        ("eager", 1),
        ("eager", 2),
        ("fused", 2),
    ]
    assert {len(c.observations) for c in found} == {30}


def test_settings_that_do_not_affect_step_time_make_no_other_series() -> None:
    changed = grid(CPU, learning_rate=0.5, schedule="one_cycle", weight_decay=0.1, shuffle=False, test_batch_size=7)
    (found,) = size_series(measured_in(merged(grid(CPU), changed)))
    assert len(found.observations) == 60
