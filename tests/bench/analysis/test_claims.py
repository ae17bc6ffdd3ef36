import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from bench_builders import make_configuration, make_epoch, make_failure, make_measurement, make_record, make_run
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.claims import check_claims, predict_one_more, render_claims
from bench.errors import BadInputError
from bench.records import Configuration, Run
from bench.tables.summary import sample
from mnist_mlp.recipes import RECIPES


def documented(name: str, **changes: Any) -> Configuration:  # noqa: ANN401 - any field of a configuration
    recipe = RECIPES[name]
    shared = {field.name for field in dataclasses.fields(recipe)} & set(Configuration.__dataclass_fields__)
    fields = {field: getattr(recipe, field) for field in shared}
    return make_configuration(**{"model": name, **fields, **changes})


def run_of(configuration: Configuration, accuracies: Sequence[float], losses: Sequence[float] = ()) -> Run:
    records = []
    for repeat, accuracy in enumerate(accuracies):
        loss = losses[repeat] if losses else 0.1
        epoch = make_epoch(test_correct=round(accuracy * 10_000), test_loss=loss, train_loss=loss / 2)
        outcome = make_measurement(epochs=(epoch,) * configuration.epochs)
        records.append(make_record(configuration, repeat, outcome=outcome))
    return dataclasses.replace(make_run(), records=tuple(records))


@pytest.mark.parametrize(
    ("accuracies", "reproduced"),
    [
        ((0.9780, 0.9785, 0.9790, 0.9795, 0.9800), True),  # the claim, 97.87 %, lies among the seeds
        ((0.9840, 0.9845, 0.9850, 0.9855, 0.9860), True),  # better than claimed
        ((0.9600, 0.9605, 0.9610, 0.9615, 0.9620), False),  # far below
        ((0.9700,), None),  # one seed tells nothing of the next
        ((0.9500, 0.9560), None),  # 88.7 to 101.9 %: two seeds that differ exclude no claim
        ((0.9786, 0.9788), True),  # two seeds that agree do
    ],
)
def test_accuracy_is_reproduced_if_one_more_seed_could_give_it_or_the_seeds_are_better(
    accuracies: Sequence[float], *, reproduced: bool | None
) -> None:
    checks = check_claims(run_of(documented("mlp_512_256"), accuracies))
    (check,) = (check for check in checks if check.claim.metric == "test_accuracy")
    assert check.reproduced is reproduced


@pytest.mark.parametrize(
    ("losses", "reproduced"),
    [
        ((0.070, 0.073, 0.076), True),
        ((0.05, 0.051, 0.052), True),
        ((0.2, 0.201, 0.202), False),
        ((0.05, 0.09, 0.02), None),
    ],
)
def test_loss_is_reproduced_if_within_or_better_which_is_lower(
    losses: Sequence[float], *, reproduced: bool | None
) -> None:
    checks = check_claims(run_of(documented("mlp_512_256"), (0.978, 0.979, 0.98), losses))
    (check,) = (check for check in checks if check.claim.metric == "test_loss")
    assert check.reproduced is reproduced


def test_a_claim_that_every_seed_meets_exactly_is_reproduced() -> None:
    (claim,) = (claim for claim in RECIPES["mlp_512_256"].claims if claim.metric == "test_accuracy")
    checks = check_claims(run_of(documented("mlp_512_256"), (claim.value,) * 3))
    (check,) = (check for check in checks if check.claim.metric == "test_accuracy")
    assert check.low == check.high == claim.value
    assert check.reproduced


def test_every_claim_of_every_recipe_is_checked() -> None:
    for name, recipe in RECIPES.items():
        checks = check_claims(run_of(documented(name), (0.97, 0.98, 0.975)))
        assert [check.claim for check in checks] == list(recipe.claims)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 1},
        {"learning_rate": 0.5},
        {"schedule": "one_cycle"},
        {"weight_decay": 0.1},
        {"dataset": "digits"},
        {"batch_size": 1},
        {"precision": "bf16"},
    ],
)
def test_recipe_that_was_changed_is_not_held_to_its_claims(change: dict[str, Any]) -> None:
    assert check_claims(run_of(documented("mlp_128", **change), (0.97, 0.98))) == ()


def test_recipe_of_failed_trials_alone_has_no_claim_to_be_held_to() -> None:
    run = run_of(documented("mlp_128"), (0.97, 0.98))
    failed = tuple(dataclasses.replace(record, outcome=make_failure()) for record in run.records)
    assert check_claims(dataclasses.replace(run, records=failed)) == ()


@pytest.mark.parametrize("change", [{"device": "cuda:0"}, {"pipeline": "dataloader"}, {"threads": 7}])
def test_where_and_how_fast_it_was_trained_does_not_matter(change: dict[str, Any]) -> None:
    assert len(check_claims(run_of(documented("mlp_128", **change), (0.97, 0.98)))) == 1


def test_rows_that_differ_in_the_way_of_training_alone_say_so() -> None:
    eager, fused = (run_of(documented("mlp_128", engine=engine), (0.97, 0.98)) for engine in ("eager", "fused"))
    both = dataclasses.replace(eager, records=eager.records + fused.records)
    assert "engine" not in render_claims(eager, "markdown")
    for layout in ("table", "markdown", "csv", "json"):
        text = render_claims(both, layout, 200)
        assert "eager" in text
        assert "fused" in text


@given(st.lists(st.floats(min_value=0.9, max_value=1.0), min_size=2, max_size=20, unique=True))
def test_prediction_interval_is_centred_on_the_mean_and_wider_than_the_means_own(values: list[float]) -> None:
    summary = sample(values)
    assert summary is not None
    low, high = predict_one_more(summary)
    assert low is not None
    assert high is not None
    assert (low + high) / 2 == pytest.approx(statistics.fmean(values))
    assert high - low >= 2 * 1.95 * statistics.stdev(values) * 0.99


def test_prediction_interval_holds_one_more_normal_value_19_times_in_20() -> None:
    random = np.random.default_rng(1)
    draws = random.normal(0.97, 0.002, size=(4000, 6))
    held = 0
    for *seen, following in draws.tolist():
        summary = sample(seen)
        assert summary is not None
        low, high = predict_one_more(summary)
        assert low is not None
        assert high is not None
        held += low <= following <= high
    assert held / len(draws) == pytest.approx(0.95, abs=0.015)  # 4 standard errors


def test_all_formats_hold_the_same_numbers() -> None:
    run = run_of(documented("mlp_512_256"), (0.978, 0.979, 0.98))
    rows = json.loads(render_claims(run, "json"))
    assert [row["metric"] for row in rows] == ["test_accuracy", "test_loss", "train_accuracy", "train_loss"]
    table = list(csv.DictReader(io.StringIO(render_claims(run, "csv"))))
    assert [float(row["mean"]) for row in table] == [row["mean"] for row in rows]
    assert [json.loads(row["reproduced"]) for row in table] == [row["reproduced"] for row in rows]
    assert rows[0]["prediction_low"] < rows[0]["mean"] < rows[0]["prediction_high"]
    for layout in ("table", "markdown"):
        text = render_claims(run, layout)
        assert "97.87 %" in text
        assert "97.90 %" in text
        assert "0.0732" in text


def test_run_without_a_documented_recipe_says_how_to_make_one() -> None:
    with pytest.raises(BadInputError, match="--preset recipes"):
        render_claims(make_run(), "table")
