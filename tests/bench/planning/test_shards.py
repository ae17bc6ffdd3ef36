"""A plan divided: nothing lost, nothing twice, alike on every machine, and each part with its share of the work."""

import dataclasses
import itertools
from collections import Counter

import pytest
from bench_builders import make_configuration, make_division, make_header, make_plan
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BadInputError
from bench.planning.plan import order_trials
from bench.planning.shards import (
    MAX_SHARDS,
    check_shards,
    completion,
    divide,
    listed,
    measured_by,
    parse_shard,
    plan_id,
    resumption,
    take_shard,
    trial_weight,
    without_option,
)
from bench.records import Configuration, Plan

configurations = st.builds(
    lambda device, width, batch_size, epochs, pipeline: make_configuration(
        device=device,
        model=f"784-{width}-10",
        layers=(784, width, 10),
        batch_size=batch_size,
        epochs=epochs,
        pipeline=pipeline,
    ),
    device=st.sampled_from(["cpu", "cuda:0"]),
    width=st.sampled_from([16, 128, 1024]),
    batch_size=st.sampled_from([16, 64, 256, 4096]),
    epochs=st.integers(1, 5),
    pipeline=st.sampled_from(["resident", "dataloader"]),
)
plans = st.builds(
    lambda chosen, repeats, seed: make_plan(chosen, repeats=repeats, seed=seed),
    st.lists(configurations, min_size=1, max_size=40, unique=True),
    st.integers(1, 4),
    st.integers(0, 5),
)


def kind_of(configuration: Configuration) -> tuple[str, str]:
    return configuration.device, configuration.pipeline


@given(plan=plans, data=st.data())
def test_the_shards_trials_are_those_of_the_plan_each_once(plan: Plan, data: st.DataObject) -> None:
    shards = data.draw(st.integers(1, len(plan.configurations)))
    parts = divide(plan, shards)
    assert len(parts) == shards
    trials = Counter(itertools.chain.from_iterable(map(order_trials, parts)))
    assert trials == Counter(order_trials(plan))
    assert all(part.configurations for part in parts)
    place = plan.configurations.index
    assert all(sorted(part.configurations, key=place) == list(part.configurations) for part in parts)


@given(plan=plans, data=st.data())
def test_shards_differ_in_each_kind_by_no_more_than_its_longest_trial(plan: Plan, data: st.DataObject) -> None:
    parts = divide(plan, data.draw(st.integers(1, len(plan.configurations))))
    for kind in set(map(kind_of, plan.configurations)):
        longest = max(trial_weight(each) for each in plan.configurations if kind_of(each) == kind)
        loads = [sum(trial_weight(each) for each in part.configurations if kind_of(each) == kind) for part in parts]
        assert max(loads) - min(loads) <= longest * (1 + 1e-9)


@given(plan=plans, data=st.data())
def test_a_plan_and_its_division_do_not_depend_on_the_order_of_the_request(plan: Plan, data: st.DataObject) -> None:
    other = dataclasses.replace(plan, configurations=tuple(data.draw(st.permutations(plan.configurations))))
    shards = data.draw(st.integers(1, len(plan.configurations)))
    assert plan_id(other) == plan_id(plan)
    ours, theirs = ([set(part.configurations) for part in divide(each, shards)] for each in (plan, other))
    assert ours == theirs


def test_a_trial_of_four_times_the_epochs_weighs_about_as_much_as_four() -> None:
    plan = make_plan([make_configuration(epochs=epochs, batch_size=64 + epochs) for epochs in (40, 10, 11, 12)])
    parts = [sorted(each.epochs for each in part.configurations) for part in divide(plan, 2)]
    assert sorted(parts) == [[10, 11, 12], [40]]


def test_ranks_are_a_kind_of_their_own() -> None:
    plan = make_plan([make_configuration(batch_size=size, world_size=ranks) for size in (64, 256) for ranks in (1, 2)])
    assert [{each.world_size for each in part.configurations} for part in divide(plan, 2)] == [{1, 2}] * 2


def test_another_plan_has_another_id() -> None:
    plan = make_plan([make_configuration()], repeats=2)
    others = [
        make_plan([make_configuration()], repeats=3),
        make_plan([make_configuration()], repeats=2, seed=7),
        make_plan([make_configuration(threads=1)], repeats=2),
        make_plan([make_configuration(), make_configuration(threads=1)], repeats=2),
    ]
    assert len({plan_id(each) for each in (plan, *others)}) == 5


def test_a_shard_says_which_part_of_which_plan_it_is() -> None:
    plan = make_plan([make_configuration(batch_size=size) for size in (16, 32, 64, 128, 256)])
    part, division = take_shard(plan, 2, 3, "0a1b2c3d")
    assert part == divide(plan, 3)[1]
    assert (division.plan_id, division.configurations, division.shards) == (plan_id(plan), 5, 3)
    assert [(shard.number, shard.run_id, shard.configurations) for shard in division.held] == [
        (2, "0a1b2c3d", len(part.configurations))
    ]
    assert division.missing == (1, 3)


def test_configurations_that_take_as_long_are_divided_alike_in_any_order() -> None:
    made = [make_configuration(learning_rate=rate) for rate in (0.1, 0.2, 0.3, 0.4)]
    there, back = ([set(part.configurations) for part in divide(make_plan(order), 2)] for order in (made, made[::-1]))
    assert there == back


def test_more_shards_than_configurations_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"3 shards are more than the 2 configurations .* use at most 2"):
        divide(make_plan([make_configuration(), make_configuration(threads=1)], repeats=9), 3)


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "1", "1/", "/3", "1/0", "-1/3", "1/3/5", " 1/3", "1.0/3", "٣/٣"])
def test_a_shard_that_there_cannot_be_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(BadInputError, match=r"--shard.*(write it like 2/3|numbered from 1 to 3|use 1 to)"):
        parse_shard(text)


def test_shards_are_read_and_counted() -> None:
    assert parse_shard("2/3") == (2, 3)
    assert parse_shard("10000/10000") == (10_000, 10_000)
    for shards in (0, -1, MAX_SHARDS + 1):
        with pytest.raises(BadInputError, match=f"--shards: {shards} shards are out of range: use 1 to"):
            check_shards(shards, "--shards")


def test_missing_trials_are_reported_with_how_to_get_them() -> None:
    alone = make_header()
    shard = make_header(run_id="00000001", division=make_division((1,), of=3))
    merged = make_header(division=make_division((1, 1), of=2))
    assert completion(alone) == resumption(alone) == "resume with python -m bench run --resume 0a1b2c3d"
    assert completion(shard) == "add shard 2, 3 of 3 with python -m bench merge"
    assert resumption(shard) == "resume with python -m bench run --resume 00000001"
    assert completion(merged) == resumption(merged) == "resume the shards that it was merged from, and merge again"
    for output in (("--output", "a.jsonl"), ("--output=runs",)):  # whose id is not found under results/
        away = make_header(command=("run", *output))
        assert resumption(away) == "resume with python -m bench run --resume PATH, with the path of its file"


def test_of_many_numbers_the_first_and_the_count_are_listed() -> None:
    assert listed([1, 2, 5]) == "1, 2, 5"
    assert listed(range(1, 11)) == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
    assert listed(range(1, 101)) == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … (100 in all)"


def test_a_run_is_measured_by_itself_and_by_the_shards_that_it_holds() -> None:
    division = make_division((1, 1), of=2)
    assert measured_by(make_header()) == {make_header().run_id}
    shards = {shard.run_id for shard in division.held}
    assert measured_by(make_header(run_id="0badcafe", division=division)) == {"0badcafe", *shards}


@pytest.mark.parametrize("words", [("--shard", "1/2"), ("--shard=1/2",)])
def test_an_option_is_taken_out_of_a_command_with_its_value_and_no_other(words: tuple[str, ...]) -> None:
    others = ("--shards=3", "--shard-name", "x")
    assert without_option(("run", *others, *words, "--repeats", "2"), "--shard") == ("run", *others, "--repeats", "2")
