"""The account of taxes: its parts are the differences between the ways, and unmeasured parts stay empty."""

import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from bench_builders import (
    make_configuration,
    make_epoch,
    make_failure,
    make_machine,
    make_measurement,
    make_record,
    make_run,
    make_software,
)
from rates_builders import make_rates, make_thread_rates
from scipy import stats

from bench.analysis.taxes import Account, Part, make_accounts, render_taxes
from bench.calibration.profiles import DeviceSession, MachineProfile, Session, new_profile, peak_rate_of
from bench.errors import BadInputError
from bench.records import Run
from bench.tables.summary import summarise
from bench.units import format_seconds

FLOPS = make_measurement().training_flops_per_sample * make_epoch().train_samples
PEAK = FLOPS / 0.5
"""At this rate the arithmetic of an epoch takes half a second."""

TUTORIAL = (("dataloader", "eager"), (20.0, 21.0, 22.0))
RESIDENT = (("resident", "eager"), (2.0, 2.1, 2.2))
FUSED = (("resident", "fused"), (1.0, 1.1, 1.2))
GRAPH = (("resident", "graph"), (0.8, 0.8, 0.8))

Way = tuple[tuple[str, str], Sequence[float]]


def run_of(*ways: Way, **changes: Any) -> Run:  # noqa: ANN401 - any field of a configuration
    records = [
        make_record(
            make_configuration(pipeline=pipeline, engine=engine, **changes),
            repeat,
            outcome=make_measurement(epochs=(make_epoch(train_seconds=seconds),) * 2),
        )
        for (pipeline, engine), times in ways
        for repeat, seconds in enumerate(times)
    ]
    return dataclasses.replace(make_run(), records=tuple(records))


def profile_with(*peaks: float, threads: int = 2, **changes: Any) -> MachineProfile:  # noqa: ANN401 - any field
    device = DeviceSession(
        device="cpu",
        threads=threads,
        configuration=make_configuration(threads=threads),
        aa_log_ratios=(),
        seeds=(0,),
        epoch_seconds=(1.0,),
        test_accuracies=(0.97,),
        yardstick_seconds=(0.02,),
        peak_flops_per_second=peaks,
        **changes,
    )
    session = Session(created_at="2026-11-21", software=make_software(), wall_seconds=60.0, devices=(device,))
    return dataclasses.replace(new_profile(make_machine()), sessions=(session,))


def parts_of(run: Run, profile: MachineProfile | None = None) -> dict[str, Part]:
    (account,) = make_accounts(run, profile)
    return {part.name: part for part in account.parts}


def whole(account: Account) -> float:
    return sum(part.seconds for part in account.parts if part.seconds is not None)


def test_the_parts_are_the_differences_and_add_up_to_the_whole_epoch() -> None:
    (account,) = make_accounts(run_of(TUTORIAL, RESIDENT, FUSED), profile_with(PEAK))
    assert account.epoch_seconds == pytest.approx(21.0)
    assert account.configuration.pipeline == "dataloader"
    seconds = {part.name: part.seconds for part in account.parts}
    assert seconds == pytest.approx(
        {"loader tax": 18.9, "framework tax": 1.0, "kernel gap": 0.6, "arithmetic": 0.5}, rel=1e-9
    )
    assert whole(account) == pytest.approx(account.epoch_seconds)
    assert sum(part.share or 0.0 for part in account.parts) == pytest.approx(1.0)


def test_ways_are_of_one_account_whatever_their_workers() -> None:
    runs = run_of(TUTORIAL, workers=2), run_of(RESIDENT)
    parts = parts_of(dataclasses.replace(runs[0], records=runs[0].records + runs[1].records))
    assert parts["loader tax"].seconds == pytest.approx(18.9)


def test_intervals_are_welchs_and_students() -> None:
    parts = parts_of(run_of(TUTORIAL, RESIDENT, FUSED), profile_with(PEAK))
    expected = stats.ttest_ind(TUTORIAL[1], RESIDENT[1], equal_var=False).confidence_interval(0.95)
    assert (parts["loader tax"].low, parts["loader tax"].high) == pytest.approx(tuple(expected))
    low, high = stats.t.interval(0.95, 2, loc=statistics.fmean(FUSED[1]) - 0.5, scale=stats.sem(FUSED[1]))
    assert (parts["kernel gap"].low, parts["kernel gap"].high) == pytest.approx((low, high))


def test_of_fused_and_graph_the_faster_counts() -> None:
    for ways in ((RESIDENT, FUSED, GRAPH), (RESIDENT, GRAPH, FUSED)):
        framework = parts_of(run_of(*ways))["framework tax"]
        assert framework.seconds == pytest.approx(2.1 - 0.8)
        assert framework.meaning == "resident + eager minus resident + graph"


def test_an_account_counts_the_trials_of_the_way_whose_epoch_it_explains() -> None:
    (account,) = make_accounts(run_of((TUTORIAL[0], (20.0, 21.0)), RESIDENT, FUSED), None)
    assert account.trials == 2
    assert account.epoch_seconds == 20.5


def test_ways_without_spread_or_of_one_trial_have_no_made_up_interval() -> None:
    parts = parts_of(run_of((TUTORIAL[0], (20.0,)), (RESIDENT[0], (2.0,)), (FUSED[0], (1.0,))), profile_with(PEAK))
    for name in ("loader tax", "framework tax", "kernel gap"):
        assert parts[name].seconds is not None
        assert parts[name].low is parts[name].high is None


@pytest.mark.parametrize(
    "profile", [None, profile_with(), profile_with(PEAK, threads=1)], ids=["none", "without a peak", "other threads"]
)
def test_without_a_peak_the_arithmetic_is_unknown_and_says_how_to_know(profile: MachineProfile | None) -> None:
    parts = parts_of(run_of(TUTORIAL, RESIDENT, FUSED), profile)
    assert parts["framework tax"].seconds is not None
    for name in ("kernel gap", "arithmetic"):
        assert parts[name].seconds is parts[name].share is None
    assert "python -m bench calibrate" in parts["arithmetic"].meaning


def test_the_peak_is_none_that_another_torch_reached() -> None:
    profile = profile_with(PEAK)
    (session,) = profile.sessions
    other = dataclasses.replace(session, software=make_software(torch="2.12.0"))
    parts = parts_of(run_of(TUTORIAL, RESIDENT), dataclasses.replace(profile, sessions=(other,)))
    assert parts["arithmetic"].seconds is None


def test_epoch_faster_than_the_peak_is_reported() -> None:
    for peak, is_told in ((PEAK, False), (PEAK / 8, True)):
        meaning = parts_of(run_of(TUTORIAL, RESIDENT), profile_with(peak))["arithmetic"].meaning
        assert ("faster than the calibrated peak: calibrate again" in meaning) == is_told


def test_the_peak_is_that_of_float32_and_no_other_precisions() -> None:
    parts = parts_of(run_of(TUTORIAL, RESIDENT, precision="bf16"), profile_with(PEAK))
    assert parts["arithmetic"].seconds is None


def test_other_precisions_and_thread_counts_have_their_own_measured_peak() -> None:
    bf16 = make_rates(precision="bf16", square_flops_per_second=2 * PEAK, layers=())
    single = make_thread_rates(1, square_flops_per_second=PEAK / 2)
    profile = profile_with(PEAK, rates=(bf16,), thread_rates=(single,))
    for changes, seconds in (({}, 0.5), ({"precision": "bf16"}, 0.25), ({"threads": 1}, 1.0)):
        parts = parts_of(run_of(TUTORIAL, RESIDENT, **changes), profile)
        assert parts["arithmetic"].seconds == pytest.approx(seconds)


def test_a_way_that_is_missing_leaves_its_taxes_empty() -> None:
    without_tutorial = parts_of(run_of(RESIDENT, FUSED), profile_with(PEAK))
    assert without_tutorial["loader tax"].seconds is None
    assert without_tutorial["framework tax"].share == pytest.approx(1.0 / 2.1)
    without_resident = parts_of(run_of(TUTORIAL, FUSED), profile_with(PEAK))
    assert without_resident["loader tax"].seconds is without_resident["framework tax"].seconds is None
    assert without_resident["kernel gap"].seconds == pytest.approx(0.6)


def test_configurations_that_differ_in_anything_else_have_accounts_of_their_own_in_the_order_of_show() -> None:
    runs = [run_of(TUTORIAL, RESIDENT, batch_size=size) for size in (256, 64)]
    merged = dataclasses.replace(runs[0], records=runs[0].records + runs[1].records)
    assert [account.configuration.batch_size for account in make_accounts(merged, None)] == [64, 256]


def test_ranks_have_the_peak_of_all_of_them_and_are_named() -> None:
    run, profile = run_of(TUTORIAL, RESIDENT, world_size=2), profile_with(PEAK)
    assert parts_of(run, profile)["arithmetic"].seconds == pytest.approx(0.25)
    assert "2 ranks of 2 threads" in render_taxes(run, profile, "table", 80)
    rows = list(csv.DictReader(io.StringIO(render_taxes(run, profile, "csv", 80))))
    assert {row["world_size"] for row in rows} == {"2"}
    for summary in summarise(run.records, peak_rate_of(profile, make_software())):
        assert summary.flops_utilisation is not None
        assert summary.epoch_seconds is not None
        assert summary.flops_utilisation.median * summary.epoch_seconds.median == pytest.approx(0.25)


def test_failed_trials_and_single_ways_make_no_account() -> None:
    failed = tuple(dataclasses.replace(record, outcome=make_failure()) for record in run_of(TUTORIAL, RESIDENT).records)
    for run in (run_of(RESIDENT), dataclasses.replace(run_of(TUTORIAL, RESIDENT), records=failed)):
        assert make_accounts(run, None) == ()
        with pytest.raises(BadInputError, match="--preset taxes"):
            render_taxes(run, None, "table", 80)


def test_table_fits_80_columns_and_explains_each_part() -> None:
    text = render_taxes(run_of(TUTORIAL, RESIDENT, FUSED), profile_with(PEAK), "table", 80)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "batch size 64, 2 threads, fp32: 21.0 s per epoch with dataloader + eager (mean of 3 trials)" in words
    assert "loader tax: dataloader + eager minus resident + eager" in words
    assert "GFLOP at the measured peak, " in words
    (row,) = (line for line in text.splitlines() if line.startswith("loader tax "))
    assert "18.9 s" in row
    assert "90.00 %" in row
    loader = parts_of(run_of(TUTORIAL, RESIDENT, FUSED))["loader tax"]
    assert loader.low is not None
    assert loader.high is not None
    assert f"{format_seconds(loader.low)} to {format_seconds(loader.high)}" in row


def test_title_counts_one_thread_as_one() -> None:
    assert "batch size 64, 1 thread, fp32" in render_taxes(run_of(TUTORIAL, RESIDENT, threads=1), None, "table", 80)


def test_json_and_csv_hold_the_same_unrounded_numbers() -> None:
    run, profile = run_of(TUTORIAL, RESIDENT, FUSED), profile_with(PEAK * 1.1)
    (account,) = json.loads(render_taxes(run, profile, "json", 80))
    rows = list(csv.DictReader(io.StringIO(render_taxes(run, profile, "csv", 80))))
    expected = parts_of(run, profile)
    for part, row in zip(account["parts"], rows, strict=True):
        known = expected[part["name"]]
        assert row["part"] == part["name"]
        for name in ("seconds", "low", "high", "share"):
            value = getattr(known, name)
            assert part[name] == value
            assert row[name] == "" if value is None else math.isclose(float(row[name]), value, rel_tol=1e-15)
    assert rows[-1]["low"] == rows[-1]["high"] == ""


def test_markdown_holds_a_table() -> None:
    text = render_taxes(run_of(TUTORIAL, RESIDENT), None, "markdown", 80)
    assert text.count("| loader tax") == 1
    assert "- kernel gap: " in text
