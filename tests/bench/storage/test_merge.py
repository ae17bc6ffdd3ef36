"""Shards put together: the plan's trials each once, the same bytes by whatever way, and refusals with the reason."""

import csv
import dataclasses
import functools
import queue
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from bench_builders import (
    Change,
    make_configuration,
    make_failure,
    make_fingerprint,
    make_footer,
    make_header,
    make_machine,
    make_measurement,
    make_plan,
    make_record,
    make_software,
)
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BadInputError, BenchError, IncomparableError
from bench.planning.plan import order_trials
from bench.planning.shards import take_shard
from bench.records import SCHEMA_VERSION, Plan, Run, TrialRecord
from bench.storage import runfile
from bench.storage.merge import Source, merge_runs
from bench.storage.store import read_run, update_merged
from bench.storage.table import write_csv
from bench.system.locks import Patience

PLAN = make_plan([make_configuration(batch_size=size) for size in (16, 32, 64, 128, 256, 512, 1024)], repeats=2)


def shard(number: int, shards: int = 3, *, plan: Plan = PLAN, trials: int | None = None, **header: Change) -> Run:
    """A run of one shard that got as far as so many trials, on a machine of its own kind."""
    run_id = header.pop("run_id", f"0000000{number}")
    part, division = take_shard(plan, number, shards, run_id)
    records = [
        make_record(trial.configuration, trial.repeat, trial=trial, started_at=f"2026-11-21T03:{place:02}:00Z")
        for place, trial in enumerate(order_trials(part))
    ][:trials]
    missing = len(order_trials(part)) - len(records)
    return Run(
        header=make_header(
            run_id=run_id,
            plan=part,
            division=division,
            command=("run", "--shard", f"{number}/{shards}", "--repeats", "2"),
            **{"machine": make_machine(cpu_model=f"Fictional CPU {number % 2}"), **header},
        ),
        records=tuple(records),
        footer=make_footer(complete=not missing, measured=len(records), missing=missing),
    )


def merged(*runs: Run) -> Run:
    return merge_runs([Source(label=f"{run.header.run_id}.jsonl", run=run) for run in runs])


def text_of(run: Run) -> str:
    return "".join(runfile.lines_of(run))


def refusal(*runs: Run, kind: type[BenchError] = BadInputError) -> str:
    with pytest.raises(kind) as caught:
        merged(*runs)
    assert type(caught.value) is kind
    return str(caught.value)


def test_all_shards_make_the_trials_of_the_undivided_plan() -> None:
    run = merged(shard(2), shard(3), shard(1))
    assert {record.trial for record in run.records} == set(order_trials(PLAN))
    assert len(run.records) == len(order_trials(PLAN))
    assert set(run.header.plan.configurations) == set(PLAN.configurations)
    assert run.header.division is not None
    assert run.header.division.missing == ()
    assert run.header.command == ("run", "--repeats", "2")
    assert run.footer == make_footer(measured=14, missing=0, wall_seconds=14 * 9.5)


def test_shards_are_merged_by_number_their_trials_as_they_were_run() -> None:
    shards = [shard(number) for number in (1, 2, 3)]
    assert [r.trial for r in merged(*shards[::-1]).records] == [r.trial for each in shards for r in each.records]


def test_a_merged_run_was_created_when_its_first_shard_was() -> None:
    days = ["2026-11-22T03:15:00Z", "2026-11-20T03:15:00Z", "2026-11-21T03:15:00Z"]
    shards = [shard(number, created_at=day) for number, day in enumerate(days, start=1)]
    assert merged(*shards).header.created_at == days[1]


def test_shards_of_an_earlier_version_make_a_run_of_this_one() -> None:
    run = merged(*(shard(number, schema_version=SCHEMA_VERSION - 1) for number in (1, 2, 3)))
    assert run.header.schema_version == SCHEMA_VERSION


def test_what_is_merged_can_be_stored_and_read_back(tmp_path: Path) -> None:
    run = merged(shard(1), shard(2), shard(3, trials=2))
    assert update_merged(tmp_path / "run.jsonl", lambda _: run) == run
    assert read_run(tmp_path / "run.jsonl") == run
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl"]


def test_a_merge_waits_for_another_one_into_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "run.jsonl", list[Run | None]()
    one, both = merged(shard(1)), merged(shard(1), shard(2))
    said = queue.SimpleQueue[str]()
    monkeypatch.setattr("bench.storage.store.Patience", functools.partial(Patience, notify=said.put))

    def late(before: Run | None) -> Run:
        said.put("merging")
        seen.append(before)
        return both

    other = threading.Thread(target=update_merged, args=(path, late))

    def early(before: Run | None) -> Run:
        assert before is None
        other.start()
        assert "waiting for up to" in said.get(timeout=60)  # the other one's first word
        return one

    update_merged(path, early)
    other.join()
    assert seen == [one]
    assert read_run(path) == both


def test_each_trial_keeps_the_machine_it_ran_on() -> None:
    run = merged(shard(1), shard(2), shard(3))
    assert len(run.fingerprints) == 2  # shards 1 and 3 ran on one kind
    held = {shard(number).header.machine.cpu_model: shard(number).header.plan for number in (1, 2)}
    for record in run.records:
        machine = run.fingerprints[record.fingerprint].machine
        on_even = record.trial.configuration in held["Fictional CPU 0"].configurations
        assert machine.cpu_model == ("Fictional CPU 0" if on_even else "Fictional CPU 1")


plans = st.builds(
    lambda sizes, repeats: make_plan([make_configuration(batch_size=size) for size in sizes], repeats=repeats),
    st.sets(st.integers(1, 500), min_size=1, max_size=12),
    st.integers(1, 3),
)


@given(plan=plans, data=st.data())
def test_the_way_of_merging_does_not_show_in_what_is_made(plan: Plan, data: st.DataObject) -> None:
    shards = data.draw(st.integers(1, len(plan.configurations)))
    whole = [shard(number, shards, plan=plan) for number in range(1, shards + 1)]
    at_once = merged(*whole)
    order = data.draw(st.permutations(range(shards)))
    one_by_one = merged(whole[order[0]])
    for place in order[1:]:
        stage = shard(place + 1, shards, plan=plan, trials=data.draw(st.integers(0, 3)))
        one_by_one = merged(*data.draw(st.permutations([one_by_one, stage])))
    completed = merged(one_by_one, *whole)
    again = merged(completed, whole[data.draw(st.integers(0, shards - 1))])
    assert text_of(again) == text_of(completed) == text_of(at_once)
    assert {record.trial for record in at_once.records} == set(order_trials(plan))


def test_merging_the_merged_alone_changes_nothing() -> None:
    run = merged(shard(1), shard(3, trials=1))
    assert text_of(merged(run)) == text_of(merged(run, run)) == text_of(run)


def test_an_incomplete_merge_says_what_is_missing_and_can_be_completed() -> None:
    part = merged(shard(1), shard(3, trials=2))
    planned = len(shard(3).records)
    assert part.header.division is not None
    assert part.header.division.missing == (2,)
    assert part.footer is not None
    assert (part.footer.complete, part.footer.reason) == (False, "merged")
    assert part.footer.missing == len(shard(2).records) + planned - 2
    assert text_of(merged(part, shard(2), shard(3))) == text_of(merged(shard(1), shard(2), shard(3)))


def test_failures_are_merged_and_counted() -> None:
    run = shard(2)
    failed = dataclasses.replace(run.records[0], outcome=make_failure())
    whole = merged(shard(1), dataclasses.replace(run, records=(failed, *run.records[1:])), shard(3))
    assert whole.footer == make_footer(measured=13, failed=1, wall_seconds=14 * 9.5)


def test_other_runs_make_another_run_id_of_the_same_form() -> None:
    runs = [merged(shard(1, run_id=f"{number:08x}"), shard(2), shard(3)) for number in range(0xA0, 0xC0)]
    ids = {run.header.run_id for run in runs}
    assert len(ids) == len(runs)
    assert all(re.fullmatch("[a-d][0-9a-f]{7}", run_id) for run_id in ids)


# What does not belong together


def test_a_run_that_is_not_a_shard_is_refused() -> None:
    message = refusal(shard(1), dataclasses.replace(shard(2), header=make_header()))
    assert re.search(r"0a1b2c3d.jsonl is not a shard .*--shard I/N.*bench compare", message)


def test_another_plan_is_incomparable_and_the_message_says_what_differs() -> None:
    plan = make_plan([dataclasses.replace(c, threads=8) for c in PLAN.configurations], repeats=3)
    message = refusal(shard(1), shard(2, plan=plan), kind=IncomparableError)
    assert re.search(r"00000002.jsonl is of plan p.*, 00000001.jsonl of plan p", message)
    assert "repeats: 3 against 2; threads: 8 against 2: run all shards with the same options" in message


def test_another_division_of_the_plan_is_incomparable() -> None:
    message = refusal(shard(1), shard(2, 4), kind=IncomparableError)
    assert "00000002.jsonl is one of 4 shards of the plan, 00000001.jsonl one of 3" in message
    message = refusal(shard(2, 4), shard(1), kind=IncomparableError)
    assert "00000001.jsonl is one of 3 shards of the plan, 00000002.jsonl one of 4" in message


@pytest.mark.parametrize("change", [{"torch": "2.12.0"}, {"workload": "9"}, {"git_commit": None}])
def test_other_software_is_incomparable(change: dict[str, Change]) -> None:
    message = refusal(shard(1), shard(2, software=make_software(**change)), kind=IncomparableError)
    (name,) = change
    assert re.search(f"00000002.jsonl was measured with different software from 00000001.jsonl: {name} is", message)


def test_other_software_of_a_single_trial_is_incomparable() -> None:
    elsewhere = make_fingerprint(machine=make_machine(cpu_model="Fictional CPU 7"), software=make_software(torch="9"))
    run = shard(2)
    moved = (*run.records[:-1], dataclasses.replace(run.records[-1], fingerprint=1))
    run = dataclasses.replace(run, records=moved, other_fingerprints=(elsewhere,))
    assert "different software" in refusal(shard(1), run, kind=IncomparableError)


def test_another_driver_or_kernel_does_not_count_as_other_software() -> None:
    run = merged(shard(1), shard(2, software=make_software(driver="590.2", operating_system_release="6.9")), shard(3))
    assert {each.software.driver for each in run.fingerprints} == {"580.1", "590.2"}


def test_other_data_is_incomparable() -> None:
    run = shard(2)
    other = dataclasses.replace(run.records[0], outcome=make_measurement(dataset_sha256="f" * 64))
    message = refusal(shard(1), with_records(run, [other, *run.records[1:]]), kind=IncomparableError)
    assert re.search(r"datasets differ \(SHA-256 01234567 in 00000001.jsonl, ffffffff in 00000002.jsonl\)", message)


def with_records(run: Run, records: Sequence[TrialRecord]) -> Run:
    return dataclasses.replace(run, records=tuple(records))


@pytest.mark.parametrize("trials", [None, 0])
def test_two_runs_of_one_shard_overlap_whatever_they_contain(trials: int | None) -> None:
    message = refusal(shard(1), shard(2), shard(2, run_id="0000abcd", trials=trials))
    assert "00000002.jsonl and 0000abcd.jsonl overlap: both contain shard 2, of runs 00000002 and 0000abcd" in message


@pytest.mark.parametrize("change", [{"wall_seconds": 1.0}, {"outcome": make_failure()}])
def test_a_trial_with_two_results_is_refused(change: dict[str, Change]) -> None:
    run = shard(1)
    changed = with_records(run, [dataclasses.replace(run.records[0], **change), *run.records[1:]])
    message = refusal(merged(run, shard(2)), changed)
    assert re.search(r"contain different results for configuration c.*, repeat 0, of the same run 00000001", message)


def test_a_trial_on_two_machines_is_refused() -> None:
    assert "contain different results" in refusal(shard(1), shard(1, machine=make_machine(cores_usable=1.0)))


def test_shards_that_were_changed_are_refused() -> None:
    one, two, three = map(shard, (1, 2, 3))
    stolen = dataclasses.replace(two.header.plan, configurations=one.header.plan.configurations[:2])
    forged = dataclasses.replace(two, header=dataclasses.replace(two.header, plan=stolen), records=())
    assert "two shards contain the same configuration" in refusal(one, forged, three)
    assert "contain different configurations for shard 2" in refusal(two, forged)
    other = tuple(dataclasses.replace(c, learning_rate=0.5) for c in two.header.plan.configurations)
    forged = dataclasses.replace(
        two,
        header=dataclasses.replace(two.header, plan=dataclasses.replace(two.header.plan, configurations=other)),
        records=(),
    )
    assert re.search(
        "all shards together are plan p.*, but they claim to be parts of plan p", refusal(one, forged, three)
    )


def merge_into(path: Path, *runs: Run) -> Run:
    """What `bench merge` does with these shards and the file at `path`."""
    return update_merged(path, lambda before: merged(*runs, *([] if before is None else [before])))


def test_a_complete_merge_has_its_table_beside_it_whenever_it_became_complete(tmp_path: Path) -> None:
    path, table = tmp_path / "run.jsonl", tmp_path / "run.csv"
    merge_into(path, shard(1), shard(2), shard(3, trials=2))
    assert not table.exists()
    run = merge_into(path, shard(3))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["run_id"], row["machine_id"], row["repeat"]) for row in rows] == [
        (run.header.run_id, run.fingerprints[r.fingerprint].machine.id, str(r.trial.repeat)) for r in run.records
    ]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run.csv", "run.jsonl"]


def test_what_a_killed_merge_left_is_removed(tmp_path: Path) -> None:
    for name in (".run.jsonl.0a1b2c3d.tmp", ".run.csv.0a1b2c3d.tmp"):
        (tmp_path / name).touch()
    merge_into(tmp_path / "run.jsonl", shard(1), shard(2), shard(3))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run.csv", "run.jsonl"]


def test_merging_again_writes_only_a_table_that_is_missing(tmp_path: Path) -> None:
    path, table = tmp_path / "run.jsonl", tmp_path / "run.csv"
    run = merge_into(path, shard(1), shard(2), shard(3))
    written = table.read_bytes()
    table.write_text(f"run_id\n{run.header.run_id}\n")
    before = path.stat()
    merge_into(path, shard(1))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert table.read_text() == f"run_id\n{run.header.run_id}\n"
    table.unlink()
    merge_into(path, shard(1))
    assert table.read_bytes() == written


def test_a_table_of_the_incomplete_merge_is_replaced_by_that_of_the_complete_one(tmp_path: Path) -> None:
    path, table = tmp_path / "run.jsonl", tmp_path / "run.csv"
    write_csv(merge_into(path, shard(1), shard(2)), table)
    run = merge_into(path, shard(3))
    assert len(table.read_text().splitlines()) == 1 + len(run.records)


@pytest.mark.parametrize("content", [b"", b"mine\n", b"run_id\n0a1b2c3d\n", b"\xff\xfe", None])
def test_a_file_that_is_not_the_merged_runs_table_is_never_replaced(tmp_path: Path, content: bytes | None) -> None:
    path, table = tmp_path / "run.jsonl", tmp_path / "run.csv"
    if content is None:
        table.mkdir()
    else:
        table.write_bytes(content)
    with pytest.raises(BadInputError, match=r"run\.csv.* is not this run's: move that file away"):
        merge_into(path, shard(1), shard(2), shard(3))
    assert not path.exists()
    assert content is None or table.read_bytes() == content
