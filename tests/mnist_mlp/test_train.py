"""Training on a part of the training set, and evaluating on any of it."""

import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from workload_builders import RECIPE, bars

from mnist_mlp.errors import InvalidValueError
from mnist_mlp.train import Tally, Training

CPU = torch.device("cpu")
HELD_OUT = torch.tensor([3, 199, 0, 50])


def start(*, held_out: torch.Tensor | None = HELD_OUT, shuffle: bool = True) -> Training:
    return Training(replace(RECIPE, shuffle=shuffle), bars(), device=CPU, seed=5, held_out=held_out)


def test_held_out_samples_are_in_no_epoch_order_and_all_others_once() -> None:
    training = start()
    assert training.train_samples == 196
    for epoch in range(3):
        assert sorted(training.order(epoch).tolist() + HELD_OUT.tolist()) == list(range(200))


def test_unshuffled_order_skips_held_out_samples_and_keeps_file_order() -> None:
    order = start(shuffle=False).order(1).tolist()
    assert order == [position for position in range(200) if position not in HELD_OUT.tolist()]


def test_holding_nothing_out_gives_the_same_orders_as_before() -> None:
    assert torch.equal(start(held_out=None).order(2), start(held_out=torch.empty(0, dtype=torch.int64)).order(2))


def test_holding_everything_out_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="all 200 training samples are held out"):
        start(held_out=torch.arange(200))


def test_evaluating_training_samples_does_not_train_and_uses_only_the_given_positions() -> None:
    training = start()
    before = training.snapshot()
    score = training.evaluate_training_samples(HELD_OUT).read()
    predicted, labels = training.evaluate_training_samples(HELD_OUT).predictions()
    assert score.samples == 4
    assert labels.tolist() == bars().train_labels[HELD_OUT].tolist()
    assert score.correct == int((predicted == labels).sum())
    assert training.evaluate_training_samples().read().samples == 196
    assert all(torch.equal(before[name], value) for name, value in training.snapshot().items())


def test_rehearsal_with_held_out_samples_has_every_batch_shape_of_the_epoch() -> None:
    training = start()
    order = training.rehearsal_order(2)
    assert len(order) == 2 * 20 + 196 % 20
    assert not set(order.tolist()) & set(HELD_OUT.tolist())


def test_a_tally_scores_every_sample_alike_whatever_its_batch() -> None:
    tally = Tally.for_batches(4, 3, CPU, functional.cross_entropy)
    outputs = torch.eye(10)[[0, 1, 2, 0]]
    tally.add(outputs[:3], torch.tensor([0, 1, 9]))
    tally.add(outputs[3:], torch.tensor([0]))
    score = tally.read()
    right, wrong = math.log(math.e + 9) - 1, math.log(math.e + 9)
    assert (score.samples, score.correct, score.accuracy) == (4, 3, 0.75)
    assert score.loss == pytest.approx((3 * right + wrong) / 4, rel=1e-12)
    assert tally.predictions()[0].tolist() == [0, 1, 2, 0]


def test_a_tally_keeps_no_output_of_a_step_alive() -> None:
    tally = Tally.for_batches(4, 4, CPU, functional.cross_entropy)
    output = torch.eye(10)[:4]
    kept = weakref.ref(output)
    tally.add(output, torch.tensor([0, 1, 2, 9]))
    del output
    assert kept() is None
    assert tally.read().correct == 3


def test_a_seeds_order_of_samples_is_the_same_in_every_version() -> None:
    # Stored runs identify trials by their seeds: with another order the same seed would be another training.
    assert start(held_out=None).order(0)[:5].tolist() == [131, 109, 7, 4, 13]


def test_schedule_ends_with_the_last_epoch_of_the_samples_that_are_not_held_out() -> None:
    recipe = replace(RECIPE, schedule="one_cycle")
    training = Training(recipe, bars(), device=CPU, seed=5, held_out=torch.arange(50))
    snapshots = []
    for epoch in range(recipe.epochs + 1):
        training.train(training.order(epoch))
        snapshots.append(torch.cat([value.flatten() for value in training.snapshot().values()]))
    assert not torch.equal(snapshots[-3], snapshots[-2])
    assert torch.equal(snapshots[-2], snapshots[-1])


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_model_is_evaluated_in_the_precision_of_its_training(precision: str, dtype: torch.dtype) -> None:
    training = Training(RECIPE, bars(), device=CPU, seed=5, precision=precision)
    seen: set[torch.dtype] = set()
    training.model.register_forward_hook(lambda _model, _images, output: seen.add(output.dtype))
    training.evaluate()
    training.evaluate_training_samples()
    assert seen == {dtype}
