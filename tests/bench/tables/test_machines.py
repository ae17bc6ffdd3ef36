"""Runs of several machines: separate in every table, and never a regression between different machines."""

import dataclasses
import json
from pathlib import Path

import pytest
from bench_builders import (
    make_configuration,
    make_division,
    make_failure,
    make_fingerprint,
    make_footer,
    make_machine,
    make_record,
    make_run,
    make_software,
)
from click.testing import CliRunner, Result
from stored_runs import WOBBLE, Quiet, store, trial

from bench.cli import cli
from bench.compare.check import check_runs
from bench.compare.check_report import GateReport, Limits
from bench.compare.compare_runs import Between, compare_runs
from bench.compare.comparison import Comparison, Source
from bench.compare.trials import gather, make_table
from bench.compare.view import render_comparison
from bench.records import Configuration, Run
from bench.stats.judgement import Judgement
from bench.tables.machines import by_machine, machine_headers, parts_by_machine
from bench.tables.show import render_run
from bench.tables.summary import summarise_run

SMALL, LARGE = make_configuration(batch_size=64), make_configuration(batch_size=256)
HERE, THERE = make_machine(), make_machine(cpu_model="Fictional CPU 1", cores_usable=2.0)


def mixed(places: dict[tuple[Configuration, int], float], run_id: str = "0a1b2c3d", repeats: int = 8) -> Run:
    """A run that measured each configuration on machine 0 (the header's) or 1, with its epochs' mean seconds."""
    records = [
        dataclasses.replace(trial(configuration, repeat, seconds=seconds), fingerprint=machine)
        for repeat in range(repeats)
        for (configuration, machine), seconds in places.items()
    ]
    chosen = list(dict.fromkeys(configuration for configuration, _ in places))
    run = make_run(chosen, repeats, records=records, run_id=run_id, machine=HERE)
    return dataclasses.replace(run, other_fingerprints=(make_fingerprint(machine=THERE),))


def spread(repeats: int = 4) -> Run:
    """A run whose repeats alternate between two machines, as a cluster's scheduler may have it."""
    records = [
        dataclasses.replace(trial(SMALL, repeat, seconds=1.0 + repeat % 2), fingerprint=repeat % 2)
        for repeat in range(repeats)
    ]
    run = make_run([SMALL], repeats, records=records, machine=HERE)
    return dataclasses.replace(run, other_fingerprints=(make_fingerprint(machine=THERE),))


def sources(baseline: Run, candidate: Run) -> tuple[Source, Source]:
    return (
        Source(label="A", table=make_table(baseline), profile=Quiet()),
        Source(label="B", table=make_table(candidate), profile=Quiet()),
    )


def compare(baseline: Run, candidate: Run, between: Between | None = None) -> Comparison:
    return compare_runs(*sources(baseline, candidate), between)


def check(baseline: Run, candidate: Run) -> GateReport:
    return check_runs(*sources(baseline, candidate), Limits())


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)), prog_name="bench")


def test_a_run_of_one_machine_stays_one_whatever_fingerprint_its_trials_name() -> None:
    run = make_run()
    assert by_machine(run) == {run.header.machine.id: run}
    elsewhere = dataclasses.replace(
        make_run(repeats=1, records=[make_record(fingerprint=1)]),
        other_fingerprints=(make_fingerprint(machine=THERE),),
    )
    assert list(by_machine(elsewhere)) == [THERE.id]
    assert machine_headers(dataclasses.replace(elsewhere, records=())).keys() == {HERE.id}


def test_each_machines_part_holds_its_trials_and_their_configurations() -> None:
    run = mixed({(SMALL, 0): 1.0, (LARGE, 1): 2.0})
    parts = by_machine(run)
    assert list(parts) == [HERE.id, THERE.id]
    assert [part.header.machine for part in parts.values()] == [HERE, THERE]
    assert [part.header.plan.configurations for part in parts.values()] == [(SMALL,), (LARGE,)]
    assert sorted(len(part.records) for part in parts.values()) == [8, 8]
    labels = [part.label for part in parts_by_machine(["x", None], [run, make_run()])]
    assert labels == [f"x {HERE.id}", f"x {THERE.id}", None]


def test_each_machines_part_counts_its_own_trials_and_failures() -> None:
    run = mixed({(SMALL, 0): 1.0, (LARGE, 1): 2.0})
    failed = next(place for place, record in enumerate(run.records) if record.trial.configuration == LARGE)
    records = list(run.records)
    records[failed] = dataclasses.replace(records[failed], outcome=make_failure())
    footer = make_footer(measured=len(records) - 1, failed=1)
    footers = [
        part.footer for part in by_machine(dataclasses.replace(run, records=tuple(records), footer=footer)).values()
    ]
    assert [(each.measured, each.failed) for each in footers if each is not None] == [(8, 0), (7, 1)]


def test_no_cell_of_a_table_is_of_two_machines() -> None:
    summaries = summarise_run(spread())
    medians = {each.machine_id: each.epoch_seconds and round(each.epoch_seconds.median) for each in summaries}
    assert medians == {HERE.id: 1, THERE.id: 2}
    assert [each.n for each in summaries] == [2, 2]


def test_the_order_of_records_says_nothing_of_the_machines() -> None:
    run = spread()
    turned = dataclasses.replace(run, records=run.records[::-1])
    assert gather(turned) == gather(run)
    assert [each.machine_id for each in gather(run)] == sorted([HERE.id, THERE.id])


def test_show_names_the_machines_where_there_are_several() -> None:
    shown = render_run(spread(), width=200)
    assert f"{HERE.id}: Fictional CPU 9000" in shown
    assert f"{THERE.id}: Fictional CPU 1" in shown
    (headers,) = [line for line in shown.splitlines() if line.startswith("device")]
    assert "machine" in headers.split()
    assert "machine" not in render_run(make_run(), width=200)
    assert render_run(spread(), width=200, filters=[f"machine_id={THERE.id}"]).count(THERE.id) == 2
    document = json.loads(render_run(spread(), format="json"))
    processors = {machine_id: machine["cpu_model"] for machine_id, machine in document["machines"].items()}
    assert processors == {HERE.id: "Fictional CPU 9000", THERE.id: "Fictional CPU 1"}
    assert {row["machine_id"] for row in document["rows"]} == {HERE.id, THERE.id}


def test_results_of_the_same_machine_are_paired_first() -> None:
    places = {(SMALL, 0): 1.0, (LARGE, 1): 2.0}
    comparison = compare(mixed(places), mixed({key: 1.3 * value for key, value in places.items()}, "b0b0b0b0"))
    assert not comparison.is_hardware
    assert [row.time.verdict.value for row in comparison.rows] == ["slower", "slower"]
    assert [row.baseline.machine_id for row in comparison.rows] == [HERE.id, THERE.id]
    assert not any("two different machines" in note for note in comparison.notes)


def test_the_noise_of_one_machine_says_nothing_of_another_s() -> None:
    chosen = [make_configuration(batch_size=64 + place) for place in range(24)]

    def run(run_id: str) -> Run:
        records = []
        for place, configuration in enumerate(chosen):
            for repeat in range(8):
                wobble = WOBBLE[repeat] * (50 if place % 2 else 1 + place / 24)
                there = trial(configuration, seconds=2.0 * (1 + wobble))
                records.append(
                    dataclasses.replace(there, trial=make_record(configuration, repeat).trial, fingerprint=place % 2)
                )
        whole = make_run(chosen, 8, records=records, run_id=run_id, machine=HERE)
        return dataclasses.replace(whole, other_fingerprints=(make_fingerprint(machine=THERE),))

    def here(baseline: Run, candidate: Run) -> list[object]:
        rows = compare(baseline, candidate).rows
        return [row.time.estimate for row in rows if row.baseline.machine_id == HERE.id]

    ours, theirs = run("0a1b2c3d"), run("b0b0b0b0")
    alone = here(by_machine(ours)[HERE.id], by_machine(theirs)[HERE.id])
    assert len(alone) == 12
    assert here(ours, theirs) == alone


def test_configuration_that_moved_to_another_machine_is_a_hardware_comparison() -> None:
    comparison = compare(
        mixed({(SMALL, 0): 1.0, (LARGE, 0): 2.0}), mixed({(SMALL, 0): 1.0, (LARGE, 1): 2.0}, "b0b0b0b0")
    )
    assert comparison.is_hardware
    assert len(comparison.rows) == 2
    assert any("1 of 2 rows compare two different machines" in note for note in comparison.notes)
    shown = render_comparison(comparison, format="table", width=250)
    assert f"{HERE.id} / {THERE.id}" in shown


def test_two_machines_of_one_run_are_compared_with_each_other() -> None:
    run = mixed({(SMALL, 0): 1.0, (LARGE, 0): 2.0, (SMALL, 1): 2.0, (LARGE, 1): 4.0})
    comparison = compare(run, run, Between(dimension="machine_id", baseline=HERE.id, candidate=THERE.id))
    assert comparison.is_hardware
    assert [row.time.verdict.value for row in comparison.rows] == ["slower", "slower"]


def test_shards_measured_apart_have_drift_between_them() -> None:
    fused = dataclasses.replace(SMALL, engine="fused")
    seconds = {SMALL: 2.0, fused: 1.5}
    records = [trial(each, repeat, seconds=seconds[each]) for repeat in range(8) for each in seconds]
    run = make_run([SMALL, fused], 8, records=records)
    between = Between(dimension="engine", baseline="eager", candidate="fused")
    merged = dataclasses.replace(run, header=dataclasses.replace(run.header, division=make_division((1, 1), of=2)))
    (alone,) = compare(run, run, between).rows
    comparison = compare(merged, merged, between)
    assert alone.time.estimate is not None
    assert comparison.rows[0].time.estimate is not None
    assert alone.time.estimate.extra_variance == 0
    assert comparison.rows[0].time.estimate.extra_variance > 0
    assert any("measured separately" in note for note in comparison.notes)


def test_check_judges_each_machine_by_itself_and_nothing_across() -> None:
    old = mixed({(SMALL, 0): 1.0, (LARGE, 1): 2.0})
    moved = check(old, mixed({(SMALL, 0): 1.0, (LARGE, 0): 2.0}, "b0b0b0b0"))
    verdicts = [(finding.quantity, finding.judgement.verdict.value) for finding in moved.findings]
    assert sorted(verdicts) == [
        ("epoch time", "incomparable"),
        ("epoch time", "pass"),
        ("test accuracy", "pass"),
        ("test accuracy", "pass"),
    ]
    assert moved.exit_code == 5
    slower = check(old, mixed({(SMALL, 0): 1.0, (LARGE, 1): 3.0}, "b0b0b0b0"))
    (found,) = [each for each in slower.findings if each.judgement.verdict.value == "regression"]
    assert THERE.id in slower.name(found)


def test_check_takes_one_device_of_two_machines_for_two() -> None:
    def judge(seconds: dict[tuple[Configuration, int], float]) -> Judgement:
        return check(mixed(seconds), mixed(seconds, "b0b0b0b0")).findings[0].judgement

    alone, beside = judge({(SMALL, 0): 1.0}), judge({(SMALL, 0): 1.0, (LARGE, 1): 2.0})
    assert alone.bound is not None
    assert beside.bound is not None
    assert beside.bound > alone.bound  # the machines share the levels of error
    assert beside.adjusted_p == alone.adjusted_p  # and each is a family of its own


def test_machines_that_share_nothing_are_incomparable_at_once() -> None:
    old = mixed({(SMALL, 0): 1.0, (LARGE, 1): 2.0})
    other = make_run([SMALL, LARGE], 8, machine=make_machine(cores_usable=1.0), run_id="b0b0b0b0")
    (found,) = [each for each in check(old, other).findings if each.quantity == "epoch time"]
    assert HERE.id in found.judgement.reason
    assert THERE.id in found.judgement.reason


def test_configuration_without_trials_is_on_no_machine() -> None:
    whole = mixed({(SMALL, 0): 1.0, (LARGE, 1): 2.0})
    cut = dataclasses.replace(
        whole, records=tuple(each for each in whole.records if each.fingerprint == 0), footer=None
    )
    comparison = compare(cut, whole)
    assert not comparison.is_hardware
    assert not any("two different machines" in note for note in comparison.notes)


def test_the_sides_of_a_comparison_of_machines_are_those_machines() -> None:
    run = mixed({(SMALL, 0): 1.0, (SMALL, 1): 2.0}, repeats=1)
    driven = make_fingerprint(machine=THERE, software=make_software(driver="590.2"))
    run = dataclasses.replace(run, other_fingerprints=(driven,))
    comparison = compare(run, run, Between(dimension="machine_id", baseline=HERE.id, candidate=THERE.id))
    assert isinstance(comparison.candidate, Source)
    assert comparison.candidate.table.header.machine == THERE
    assert any("driver" in difference for difference in comparison.differences)


def test_the_commands_take_runs_of_several_machines(tmp_path: Path) -> None:
    sizes = [make_configuration(batch_size=size) for size in (64, 128, 256, 512)]
    run = mixed({(size, machine): 100 / size.batch_size for size in sizes for machine in (0, 1)}, repeats=1)
    # The builder's plan counts each configuration once: of two machines, each has one repeat.
    records = [
        dataclasses.replace(record, trial=dataclasses.replace(record.trial, repeat=place, seed=42 + place))
        for record, place in zip(run.records, [0, 1] * len(sizes), strict=True)
    ]
    plan = dataclasses.replace(run.header.plan, repeats=2)
    path = store(
        dataclasses.replace(run, header=dataclasses.replace(run.header, plan=plan), records=tuple(records)),
        tmp_path / "run.jsonl",
    )
    for arguments in (
        ("show", path),
        ("predict", path, "--layers", "784-128-10", "--batch-size", "100"),
        ("report", path, "--output", tmp_path / "report.html"),
        ("compare", path, path, "--between", f"machine_id={HERE.id},{THERE.id}"),
    ):
        result = bench(*arguments)
        assert result.exit_code == 0, result.output
        text = (tmp_path / "report.html").read_text() if arguments[0] == "report" else result.stdout
        assert HERE.id in text
        assert THERE.id in text
        if arguments[0] == "compare":
            overtaking = text[text.index("no crossover can be computed") :]  # at one width
            assert HERE.id in overtaking
            assert THERE.id in overtaking
    for option in ("--taxes", "--ranks"):
        refused = bench("show", path, option)
        assert refused.exit_code == 2
        assert f"{option} is about one machine" in refused.stderr


def test_a_report_of_machines_that_divided_a_plan_names_their_run_and_compares_nothing(tmp_path: Path) -> None:
    path = store(mixed({(SMALL, 0): 1.0, (LARGE, 1): 2.0}), tmp_path / "run.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    result = bench("report", path, "--output", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    assert "report.html: 1 run, " in result.stdout
    assert result.stderr.count("was cut off") == 1
    text = (tmp_path / "report.html").read_text()
    assert f"<h1>Benchmark report: 0a1b2c3d {HERE.id}, 0a1b2c3d {THERE.id}</h1>" in text
    assert f">Run 0a1b2c3d {THERE.id}</h2>" in text
    assert "the two machines measured different parts" in text
    assert "Not compared" not in text
    exported = bench("export", path, "--plots", tmp_path / "plots")
    assert "no ratios: no configuration was measured on both sides" in exported.stderr


def test_a_report_of_two_runs_compares_each_machine_with_itself(tmp_path: Path) -> None:
    old, new = (mixed({(SMALL, 0): seconds, (LARGE, 1): seconds}) for seconds in (1.0, 2.0))
    paths = store(old, tmp_path / "old.jsonl"), store(new, tmp_path / "new.jsonl")
    output = tmp_path / "report.html"
    result = bench("report", f"old={paths[0]}", f"new={paths[1]}", "--output", output)
    assert result.exit_code == 0, result.output
    text = output.read_text()
    for machine in (HERE.id, THERE.id):
        assert f"Ratio of epoch times with 95 % intervals: new {machine} against old {machine}" in text
    assert "Not compared" not in text
    other = store(
        mixed({(dataclasses.replace(LARGE, batch_size=512), 0): 1.0, (LARGE, 1): 1.0}), tmp_path / "other.jsonl"
    )
    assert bench("report", f"old={paths[0]}", f"other={other}", "--output", output).exit_code == 0
    assert output.read_text().count("Not compared") == 1  # what differs between two runs is no division of one


def test_an_account_of_one_machine_is_headed_by_the_one_that_measured(tmp_path: Path) -> None:
    ways = [SMALL, *(dataclasses.replace(SMALL, **change) for change in ({"world_size": 2}, {"engine": "fused"}))]
    run = mixed({(each, 1): 1.0 for each in ways}, repeats=1)
    path = store(run, tmp_path / "run.jsonl")
    for option in ("--taxes", "--ranks"):
        shown = bench("show", path, option)
        assert shown.exit_code == 0, shown.output
        assert "Fictional CPU 1 (" in shown.stdout
        assert "Fictional CPU 9000" not in shown.stdout


@pytest.mark.parametrize("member", ["driver", "operating_system_release"])
def test_identical_machines_are_one_whatever_their_drivers(member: str) -> None:
    run = dataclasses.replace(
        spread(), other_fingerprints=(make_fingerprint(machine=HERE, software=make_software(**{member: "x"})),)
    )
    (summary,) = summarise_run(run)
    assert summary.n == 4
