"""Verdicts of runs that several machines measured: each machine's times are judged apart, drift between them counts."""

import dataclasses
from collections.abc import Callable, Mapping

import pytest
from bench_builders import make_configuration, make_division, make_fingerprint, make_machine, make_run
from stored_runs import Quiet, configurations, side, trial

from bench.compare.check import check_runs
from bench.compare.check_report import Limits
from bench.compare.compare_runs import Between, compare_runs
from bench.compare.comparison import Source
from bench.compare.trials import make_table
from bench.records import Configuration, Run
from bench.stats.judgement import Judgement
from bench.tables.machines import Placed

QUIET = Quiet()
DEVICES = Between(dimension="device", baseline="cpu", candidate="cuda")
THERE = make_fingerprint(machine=make_machine(cpu_model="Fictional CPU 1"))


def source(run: Run) -> Source:
    return Source(label=run.header.run_id, table=make_table(run), profile=QUIET)


def measured(noise_by_machine: Mapping[int, float], count: int, run_id: str) -> Run:
    """A run of `count` configurations on each machine, whose trials vary by so many times the usual noise."""
    records = []
    for place, configuration in enumerate(configurations(count)):
        for machine, noise in noise_by_machine.items():
            for repeat in range(8):
                # Each configuration's noise differs a little, as variances do.
                seconds = 2.0 + noise * (1 + place / 10) * 0.01 * (-1) ** repeat
                each = trial(configuration, 0, seconds=seconds)
                moved = dataclasses.replace(each.trial, repeat=repeat, seed=42 + repeat)
                records.append(dataclasses.replace(each, trial=moved, fingerprint=machine))
    run = make_run(configurations(count), 8, records=records, run_id=run_id)
    return dataclasses.replace(run, other_fingerprints=(THERE,))


def machine_of(configuration: object) -> str:
    return configuration.machine_id if isinstance(configuration, Placed) else make_machine().id


def compared(baseline: Run, candidate: Run) -> list[tuple[object, Judgement]]:
    return [(row.baseline.subject, row.time) for row in compare_runs(source(baseline), source(candidate)).rows]


def gated(baseline: Run, candidate: Run) -> list[tuple[object, Judgement]]:
    findings = check_runs(source(baseline), source(candidate), Limits(gate="time")).findings
    return [(each.subject, each.judgement) for each in findings if each.quantity == "epoch time"]


@pytest.mark.parametrize("judge", [compared, gated])
def test_noise_of_one_machine_does_not_widen_the_intervals_of_another(
    judge: Callable[[Run, Run], list[tuple[object, Judgement]]],
) -> None:
    def variances_here(noise_by_machine: Mapping[int, float]) -> list[float]:
        before, after = (measured(noise_by_machine, 12, run_id) for run_id in ("aaaa0000", "bbbb0000"))
        judged = [each for subject, each in judge(before, after) if machine_of(subject) == make_machine().id]
        return [each.estimate.variance for each in judged if each.estimate is not None]

    alone = variances_here({0: 1.0})
    assert len(alone) == 12
    assert variances_here({0: 1.0, 1: 40.0}) == pytest.approx(alone)


@pytest.mark.parametrize("is_merged", [False, True])
def test_devices_of_one_run_drifted_apart_only_if_it_was_merged_from_shards(
    is_merged: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    times: dict[Configuration, float] = {make_configuration(): 2.0, make_configuration(device="cuda"): 1.0}
    run = side(times, header={"division": make_division((1, 1)) if is_merged else None})
    comparison = compare_runs(source(run), source(run), DEVICES)
    (row,) = comparison.rows
    assert row.time.estimate is not None
    assert row.time.estimate.extra_variance == pytest.approx(2 * 0.005**2 if is_merged else 0)
    assert ("machine drift between them is included" in " ".join(comparison.notes)) == is_merged
    assert ("no machine drift lies between them" in " ".join(comparison.notes)) != is_merged


@pytest.mark.parametrize("machines", [(0,), (0, 1)])
def test_calibrating_is_advised_only_for_a_side_of_one_machine(machines: tuple[int, ...]) -> None:
    before, after = (
        dataclasses.replace(source(measured(dict.fromkeys(machines, 1.0), 1, run_id)), profile=None)
        for run_id in ("aaaa0000", "bbbb0000")
    )
    for notes in (compare_runs(before, after).notes, check_runs(before, after, Limits()).notes):
        (drift,) = (note for note in notes if "include a drift" in note)
        assert ("python -m bench calibrate" in drift) == (len(machines) == 1)
        assert ("several machines" in drift) == (len(machines) > 1)
