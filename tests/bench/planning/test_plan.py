import dataclasses
from collections import Counter
from typing import Any, Final

import pytest
from bench_builders import make_configuration, make_failure, make_plan, make_record
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BadInputError, ExitCode
from bench.planning import plan as planning
from bench.planning.plan import (
    PRESETS,
    Request,
    check_rank_devices,
    check_request,
    choose_devices,
    missing_trials,
    order_trials,
)
from bench.records import Configuration, DeviceStatus, Plan, TrialRecord
from mnist_mlp.recipes import RECIPES, TUTORIALS

REQUEST: Final = Request(models=("784-128-10",), repeats=3)


def request(**changes: Any) -> Request:  # noqa: ANN401 - goes to dataclasses.replace, unchecked there too
    return dataclasses.replace(REQUEST, **changes)


def configurations(
    asked: Request, *, devices: tuple[str, ...] = ("cpu",), cores: int = 4, threads: int = 4
) -> tuple[Configuration, ...]:
    check_request(asked)
    return planning.make_plan(asked, devices=devices, cores=cores, default_threads=threads).configurations


def refusal(asked: Request) -> str:
    with pytest.raises(BadInputError) as caught:
        check_request(asked)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return str(caught.value)


# Presets


@pytest.mark.parametrize(
    ("preset", "models", "batch_sizes", "repeats"),
    [
        ("quick", {"784-128-10", "784-512-10"}, {64, 256, 1024}, 5),
        (
            "standard",
            {
                *("784-64-10", "784-256-10", "784-1024-10"),
                *("784-64-32-10", "784-256-128-10", "784-1024-512-10"),
            },
            {16, 64, 256, 1024, 4096},
            5,
        ),
    ],
)
def test_a_preset_is_every_model_at_every_batch_size(
    preset: str, models: set[str], batch_sizes: set[int], repeats: int
) -> None:
    made = configurations(PRESETS[preset])
    assert {(c.model, c.batch_size) for c in made} == {(model, size) for model in models for size in batch_sizes}
    assert len(made) == len(models) * len(batch_sizes)
    assert PRESETS[preset].repeats == repeats


@pytest.mark.parametrize(("preset", "names"), [("recipes", TUTORIALS), ("accuracy", ("canary_adam", "canary_sgd"))])
def test_presets_of_recipes_train_them_as_they_are_written(preset: str, names: tuple[str, ...]) -> None:
    made = {c.model: c for c in configurations(PRESETS[preset])}
    assert set(made) == set(names)
    for name in names:
        recipe = RECIPES[name]
        for field in ("layers", "output", "loss", "optimizer", "learning_rate", "momentum", "weight_decay"):
            assert getattr(made[name], field) == getattr(recipe, field)
        for field in ("batch_size", "test_batch_size", "epochs", "transform", "shuffle", "activation"):
            assert getattr(made[name], field) == getattr(recipe, field)


# The grid


def test_every_dimension_multiplies_the_grid() -> None:
    asked = request(
        models=("784-128-10", "mlp_512_256"),
        widths=(64, 128),
        batch_sizes=(32, 64, 128),
        pipelines=("resident", "dataloader"),
        threads=(1, 2),
        workers=2,
    )
    made = configurations(asked, devices=("cpu", "cuda:0"))
    assert len(made) == len(set(made)) == 2 * 2 * 3 * 2 * 2 * 2
    assert {c.layers for c in made} == {(784, 64, 10), (784, 128, 10), (784, 64, 32, 10), (784, 128, 64, 10)}
    assert {(c.pipeline, c.workers) for c in made} == {("resident", 0), ("dataloader", 2)}
    assert {(c.device, c.threads) for c in made} == {("cpu", 1), ("cpu", 2), ("cuda:0", 1), ("cuda:0", 2)}


def test_requested_batch_size_and_epochs_replace_the_recipes() -> None:
    (recipe,) = configurations(request(models=("mlp_100_100",)))
    (asked,) = configurations(request(models=("mlp_100_100",), batch_sizes=(50,), epochs=2, dataset="digits"))
    assert (recipe.batch_size, recipe.epochs, recipe.dataset) == (16, 5, "mnist")
    assert (asked.batch_size, asked.epochs, asked.dataset) == (50, 2, "digits")


def test_a_configuration_requested_twice_is_measured_once() -> None:
    made = configurations(request(models=("784-128-10", "784-64-10"), widths=(64, 128), batch_sizes=(64, 64)))
    assert [c.model for c in made] == ["784-64-10", "784-128-10"]


def test_without_threads_as_many_are_used_as_torch_takes_by_itself() -> None:
    assert [c.threads for c in configurations(REQUEST, cores=16, threads=8)] == [8]
    # Two threads of one core are slower than one, or not: --threads may ask.
    assert [c.threads for c in configurations(request(threads=(8, 16)), cores=16, threads=8)] == [8, 16]


def test_more_threads_than_usable_cores_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"^--threads 3 is more than the 2 cores usable here: use 1 to 2$"):
        planning.make_plan(request(threads=(1, 3)), devices=("cpu",), cores=2, default_threads=2)


def test_a_plan_keeps_repeats_and_seed() -> None:
    plan = planning.make_plan(request(repeats=7, seed=11), devices=("cpu",), cores=1, default_threads=1)
    assert (plan.repeats, plan.seed) == (7, 11)


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ("mlp_128_10",)}, r"model 'mlp_128_10' is unknown \(did you mean 'mlp_128'\?\): use a recipe"),
        ({"models": ("784-128-x",)}, r"model '784-128-x' is neither .* write one like 784-128-10"),
        ({"models": ("100-10",)}, r"layers '100-10' must start at 784 .* write them like 784-128-10"),
        ({"models": ("784-128-9",)}, r"layers '784-128-9' must .* end at 10"),
        ({"models": ("784-0-10",)}, r"layer width 0 in '784-0-10' is out of range: use 1 to"),
        ({"models": ()}, r"--models is empty: name at least one, separated by commas"),
        ({"widths": (0,)}, r"width 0 is out of range: it must be a whole number of at least 1"),
        ({"widths": (10**7,)}, r"layer width 10000000 .* is out of range: use 1 to"),
        ({"models": ("784-10",), "widths": (64,)}, r"model '784-10' has no hidden layer to widen: leave the width out"),
        ({"devices": ()}, r"--devices is empty: name at least one, separated by commas"),
        ({"devices": ("CUDA",)}, r"--devices 'CUDA' is not a device name: use auto, cpu, cuda, cuda:1 or mps"),
        ({"devices": ("cuda:",)}, r"--devices 'cuda:' is not a device name"),
        ({"devices": ("cuda:1\n",)}, r"--devices 'cuda:1\\n' is not a device name"),
        ({"batch_sizes": (64, 0)}, r"--batch-sizes 0 is out of range: use a whole number from 1 to 70000"),
        ({"batch_sizes": (70_001,)}, r"--batch-sizes 70001 is out of range"),
        ({"repeats": 0}, r"--repeats 0 is out of range: use a whole number from 1"),
        ({"epochs": 0}, r"--epochs 0 is out of range: use a whole number from 1"),
        ({"epochs": 10**6}, r"--epochs 1000000 is out of range"),
        ({"seed": -1}, r"--seed -1 is out of range: use a whole number from 0"),
        ({"seed": 2**63}, r"--seed 9223372036854775808 is out of range"),
        ({"threads": (0,)}, r"--threads 0 is out of range: use a whole number from 1"),
        ({"workers": -1}, r"--workers -1 is out of range"),
        ({"workers": 2}, r"--workers is the number of DataLoader's processes: it needs --pipelines dataloader"),
        ({"precisions": ()}, r"--precisions is empty: use one or more of fp32"),
        ({"precisions": ("fp23",)}, r"--precisions 'fp23' is unknown \(did you mean 'fp32'\?\): use one of fp32"),
        ({"engines": ("warp",)}, r"--engines 'warp' is unknown: use one of eager"),
        ({"pipelines": ("resident", "loader")}, r"--pipelines 'loader' is unknown .*: use one of resident, dataloader"),
        ({"dataset": "minst"}, r"--dataset 'minst' is unknown \(did you mean 'mnist'\?\): use one of mnist"),
    ],
)
def test_bad_input_is_refused_with_value_rule_and_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=rf"^(--(models|widths): )?{message}"):
        check_request(request(**changes))


@pytest.mark.parametrize("dataset", ["digits", "synthetic"])
def test_a_dataset_that_torchvision_cannot_read_needs_the_resident_pipeline(dataset: str) -> None:
    check_request(request(dataset=dataset))
    message = refusal(request(dataset=dataset, pipelines=("resident", "dataloader")))
    assert message.startswith(f"--pipelines dataloader cannot read --dataset {dataset}: ")
    assert message.endswith("use the resident pipeline, or one of mnist, fashion-mnist")


def test_a_grid_beyond_all_patience_is_refused_before_it_is_made() -> None:
    fits = request(widths=tuple(range(1, 101)), batch_sizes=tuple(range(1, 1001)))
    check_request(fits)
    for more in ({"threads": (1, 2)}, {"devices": ("cpu", "cuda")}, {"pipelines": ("resident", "dataloader")}):
        message = refusal(dataclasses.replace(fits, **more))
        assert message == "200000 configurations are more than the 100000 allowed: ask for fewer"


def test_a_plan_of_too_many_trials_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"widths": tuple(range(1, 101)), "batch_sizes": tuple(range(1, 1001))}
    check_request(request(**grid, repeats=10))
    monkeypatch.setattr(planning, "scale_width", None)
    assert refusal(request(**grid, repeats=10_000)) == (
        "100000 configurations x 10000 repeats = 1000000000 trials are more than the 1000000 allowed: ask for fewer "
        "configurations or --repeats"
    )
    assert "100000 allowed" in refusal(request(widths=tuple(range(1, 10**6)), batch_sizes=tuple(range(1, 1001))))


def test_every_device_that_auto_stands_for_counts() -> None:
    asked = request(devices=("auto",), widths=tuple(range(1, 11)), batch_sizes=tuple(range(1, 11)), repeats=10_000)
    check_request(asked)
    devices = tuple(f"cuda:{index}" for index in range(4))
    with pytest.raises(BadInputError, match="400 configurations x 10000 repeats = 4000000 trials are more than"):
        planning.make_plan(asked, devices=devices, cores=4, default_threads=4)


def test_the_trials_of_a_stored_plan_with_an_impossible_number_of_repeats_are_not_listed() -> None:
    with pytest.raises(BadInputError, match="1 configurations x 1000000000000 repeats = 1000000000000 trials are more"):
        missing_trials(make_plan([make_configuration()], 10**12), ())


# Devices


def status(device: str, reason: str = "") -> DeviceStatus:
    return DeviceStatus(device=device, available=not reason, description=f"a {device}", reason=reason)


HERE: Final = (status("cpu"), status("cuda:0"), status("cuda:1"), status("mps", "this is no Mac"))


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        (("auto",), ("cpu", "cuda:0", "cuda:1")),
        (("cuda",), ("cuda:0",)),
        (("cpu:0",), ("cpu",)),
        (("cuda:1", "cpu"), ("cuda:1", "cpu")),
        (("cuda", "cuda:0", "auto", "cpu"), ("cuda:0", "cpu", "cuda:1")),
    ],
)
def test_devices_are_chosen_by_their_full_names_and_once_each(asked: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    assert choose_devices(asked, HERE) == chosen


def test_auto_leaves_out_what_is_not_available() -> None:
    assert choose_devices(("auto",), [status("cpu"), status("cuda", "no driver"), status("mps", "no Mac")]) == ("cpu",)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("mps", "device 'mps' is not available: this is no Mac. Available here: cpu, cuda:0, cuda:1"),
        (
            "cuda:2",
            "device 'cuda:2' is not available: there is no such device here. Available here: cpu, cuda:0, cuda:1",
        ),
        (
            "gpu",
            (
                "device 'gpu' is not available: there is no such device here (did you mean 'cuda', or on a Mac 'mps'?)"
                ". Available here: cpu, cuda:0, cuda:1"
            ),
        ),
        ("xpu", "device 'xpu' is not available: there is no such device here. Available here: cpu, cuda:0, cuda:1"),
    ],
)
def test_a_missing_device_is_an_error_with_the_reason_and_what_there_is(asked: str, message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        choose_devices(("cpu", asked), HERE)
    assert str(caught.value) == message


def test_an_indexed_device_is_missing_for_the_reason_its_kind_is() -> None:
    with pytest.raises(BadInputError, match=r"'cuda:1' is not available: no driver\. Available here: cpu$"):
        choose_devices(("cuda:1",), [status("cpu"), status("cuda", "no driver")])


@pytest.mark.parametrize("asked", ["cuda", "cuda:0"])
def test_a_broken_device_is_missing_for_its_own_reason(asked: str) -> None:
    with pytest.raises(BadInputError, match=rf"'{asked}' is not available: ECC error\. Available here: cpu, cuda:1$"):
        choose_devices((asked,), [status("cpu"), status("cuda:0", "ECC error"), status("cuda:1")])


# Order


batch_sizes = st.lists(st.integers(min_value=1, max_value=60_000), min_size=1, max_size=12, unique=True)
repeats = st.integers(min_value=1, max_value=5)
seeds = st.integers(min_value=0, max_value=2**62)


@given(batch_sizes, repeats, seeds)
def test_every_trial_comes_exactly_once_and_repeat_by_repeat(sizes: list[int], repeats: int, seed: int) -> None:
    plan = make_plan([make_configuration(batch_size=size) for size in sizes], repeats, seed)
    trials = order_trials(plan)
    assert [trial.repeat for trial in trials] == [repeat for repeat in range(repeats) for _ in sizes]
    assert Counter((trial.configuration, trial.repeat) for trial in trials) == Counter(
        (configuration, repeat) for configuration in plan.configurations for repeat in range(repeats)
    )
    assert all(trial.seed == seed + trial.repeat for trial in trials)
    assert order_trials(plan) == trials


def test_each_round_has_an_order_of_its_own_and_each_seed_too() -> None:
    made = [make_configuration(batch_size=size) for size in range(1, 21)]

    def orders(seed: int) -> list[tuple[int, ...]]:
        trials = order_trials(make_plan(made, 4, seed))
        return [tuple(t.configuration.batch_size for t in trials if t.repeat == repeat) for repeat in range(4)]

    assert len({tuple(range(1, 21)), *orders(0), *orders(1)}) == 9


# Resuming


def test_what_is_missing_is_the_rest_of_the_plan_in_its_order() -> None:
    plan = make_plan([make_configuration(batch_size=size) for size in (16, 32, 64)], repeats=2)
    trials = order_trials(plan)
    done = [
        dataclasses.replace(make_record(), trial=trials[3]),
        dataclasses.replace(make_record(outcome=make_failure()), trial=trials[0]),
    ]
    assert missing_trials(plan, done) == (trials[1], trials[2], *trials[4:])


def test_records_of_another_seed_or_configuration_fill_no_gap() -> None:
    plan = make_plan(repeats=1, seed=5)
    others: list[TrialRecord] = [make_record(), make_record(make_configuration(batch_size=32))]
    assert missing_trials(plan, others) == order_trials(plan)
    assert missing_trials(plan, []) == order_trials(plan)


def test_nothing_is_missing_from_a_finished_plan() -> None:
    plan = make_plan(repeats=2)
    done = [dataclasses.replace(make_record(), trial=trial) for trial in order_trials(plan)]
    assert missing_trials(plan, reversed(done)) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engines": ("fused", "graph")}, "engine 'graph' replays CUDA graphs, which device 'cpu' does not have"),
        ({"precisions": ("fp32", "tf32")}, "precision 'tf32' is a format of NVIDIA's tensor cores"),
        ({"engines": ("fused",), "precisions": ("bf16",)}, "engine 'fused' computes in float32 only, not in bf16"),
        ({"engines": ("fused",), "pipelines": ("dataloader",)}, "cannot use pipeline 'dataloader'"),
    ],
)
def test_an_unsupported_combination_is_refused_with_the_reason(changes: dict[str, tuple[str, ...]], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        configurations(request(**changes))


def test_engines_and_precisions_are_dimensions_of_the_grid() -> None:
    fused = configurations(request(engines=("eager", "fused")))
    assert [configuration.engine for configuration in fused] == ["eager", "fused"]
    assert [one.precision for one in configurations(request(precisions=("fp32", "bf16")))] == ["fp32", "bf16"]
    (graph,) = configurations(request(engines=("graph",), precisions=("tf32",)), devices=("cuda:0",))
    assert (graph.engine, graph.precision) == ("graph", "tf32")


def test_unsupported_combinations_are_left_out_on_request() -> None:
    found = configurations(
        request(engines=("eager", "fused", "graph"), pipelines=("dataloader", "resident"), skip_unsupported=True)
    )
    assert [(one.engine, one.pipeline) for one in found] == [
        ("eager", "dataloader"),
        ("eager", "resident"),
        ("fused", "resident"),
    ]


def test_nothing_left_is_refused_all_the_same() -> None:
    with pytest.raises(BadInputError, match="engine 'graph' replays CUDA graphs") as refused:
        configurations(request(engines=("graph",), skip_unsupported=True))
    assert "--skip-unsupported" not in str(refused.value)


def test_a_refusal_of_some_combinations_says_how_to_run_the_others() -> None:
    with pytest.raises(BadInputError, match="use engine fused; --skip-unsupported leaves it out"):
        configurations(request(engines=("eager", "graph")))
    with pytest.raises(BadInputError, match=r"3 ranks.*--skip-unsupported leaves it out"):
        ranks_plan(world_sizes=(1, 3))


def test_the_taxes_preset_is_a_tutorials_loop_and_what_is_less_than_it() -> None:
    found = configurations(PRESETS["taxes"])
    assert [(one.pipeline, one.engine) for one in found] == [
        ("dataloader", "eager"),
        ("resident", "eager"),
        ("resident", "fused"),
    ]
    assert {(one.model, one.batch_size, one.epochs) for one in found} == {("mlp_512_256", 64, 2)}


def test_the_speedrun_preset_trains_its_recipe_with_forty_seeds() -> None:
    (found,) = configurations(PRESETS["speedrun"])
    assert (found.model, found.engine, found.schedule) == ("speedrun", "fused", "one_cycle")
    assert PRESETS["speedrun"].repeats >= 40


# Ranks


def ranks_plan(*, ranks_here: int = planning.MAX_WORLD_SIZE, **changes: Any) -> Plan:  # noqa: ANN401 - as of `request`
    """Plan one model for several ranks on a CPU of 16 logical cores, two on each physical one."""
    asked = request(batch_sizes=(64,), **changes)
    check_request(asked)
    return planning.make_plan(asked, devices=("cpu",), cores=16, default_threads=8, ranks_here=ranks_here)


def test_ranks_have_the_same_threads_whatever_their_number() -> None:
    plan = ranks_plan(world_sizes=(1, 2, 4))
    found = [(c.world_size, c.threads, c.batch_size) for c in plan.configurations]
    assert found == [(1, 2, 64), (2, 2, 64), (4, 2, 64)]


def test_ranks_on_other_machines_leave_this_ones_cores_alone() -> None:
    plan = ranks_plan(world_sizes=(4,), ranks_here=2)
    assert [c.threads for c in plan.configurations] == [4]


def test_more_places_on_this_machine_than_ranks_take_no_cores() -> None:
    (configuration,) = ranks_plan(world_sizes=(2,), ranks_here=16).configurations
    assert configuration.threads == 4
    (configuration,) = ranks_plan(world_sizes=(2,), ranks_here=16, threads=(4,)).configurations
    assert configuration.threads == 4


def test_each_rank_has_a_thread_where_there_are_fewer_cores() -> None:
    asked = request(devices=("cuda",), batch_sizes=(64,), world_sizes=(4,))
    (configuration,) = planning.make_plan(asked, devices=("cuda:0",), cores=2, default_threads=2).configurations
    assert configuration.threads == 1
    asked = request(batch_sizes=(64,), world_sizes=(4,))
    with pytest.raises(BadInputError, match="4 ranks of 1 threads are more than the 2 cores"):
        planning.make_plan(asked, devices=("cpu",), cores=2, default_threads=2)


def test_weak_scaling_gives_each_rank_the_batch_size() -> None:
    plan = ranks_plan(world_sizes=(1, 2, 4), scaling="weak")
    assert [c.batch_size for c in plan.configurations] == [64, 128, 256]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"world_sizes": (0,)}, "--world-size 0 is out of range"),
        ({"world_sizes": (3,)}, "batch size 64 cannot be shared equally by 3 ranks"),
        ({"world_sizes": (4,), "threads": (8,)}, "4 ranks of 8 threads are more than the 16 cores"),
        ({"world_sizes": (2,), "engines": ("fused",)}, "engine 'fused' trains in one process only"),
        ({"scaling": "linear"}, "--scaling"),
    ],
)
def test_unsupported_ranks_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        ranks_plan(**changes)


def gpu(index: int) -> DeviceStatus:
    return DeviceStatus(device=f"cuda:{index}", available=True, description="GPU", reason="")


def gpu_plan(*devices: str, asked: str = "auto") -> Plan:
    wanted = request(devices=(asked,), batch_sizes=(64,), world_sizes=(1, 2))
    return planning.make_plan(wanted, devices=devices, cores=8, default_threads=8)


def test_ranks_take_a_kinds_devices_from_the_first_on() -> None:
    plan = gpu_plan("cuda:0", "cuda:1")
    assert [(c.device, c.world_size) for c in plan.configurations] == [("cuda:0", 1), ("cuda:0", 2), ("cuda:1", 1)]
    assert plan.configurations[1].devices == ("cuda:0", "cuda:1")
    check_rank_devices(plan, (gpu(0), gpu(1)))
    with pytest.raises(BadInputError, match="cannot be the first of 2 ranks"):
        gpu_plan("cuda:1", asked="cuda:1")


def test_unsupported_ranks_are_left_out_on_request() -> None:
    plan = ranks_plan(world_sizes=(1, 3, 32), skip_unsupported=True)
    assert [c.world_size for c in plan.configurations] == [1]
    with pytest.raises(BadInputError, match="3 ranks"):
        ranks_plan(world_sizes=(3, 32), skip_unsupported=True)
    plan = check_rank_devices(gpu_plan("cuda:0"), (gpu(0),), skip=True)
    assert [(c.device, c.world_size) for c in plan.configurations] == [("cuda:0", 1)]
    two_ranks = dataclasses.replace(plan, configurations=gpu_plan("cuda:0").configurations[1:])
    with pytest.raises(BadInputError, match="2 ranks need 2 cuda devices"):
        check_rank_devices(two_ranks, (gpu(0),), skip=True)


def test_more_ranks_than_accelerators_are_refused_unless_they_are_elsewhere() -> None:
    plan = gpu_plan("cuda:0")
    with pytest.raises(BadInputError, match="2 ranks need 2 cuda devices, but this machine has 1"):
        check_rank_devices(plan, (gpu(0),))
    check_rank_devices(plan, (gpu(0),), ranks_here=1)
    with pytest.raises(BadInputError, match="2 ranks need 2 cuda devices"):
        check_rank_devices(plan, (gpu(0),), ranks_here=8)
    cpu = DeviceStatus(device="cpu", available=True, description="host processor", reason="")
    check_rank_devices(ranks_plan(world_sizes=(2,)), (cpu,))  # whose cores they share
    check_rank_devices(plan, (gpu(0), gpu(1)), ranks_here=8)  # under a torchrun of 8 processes, 2 of them train
