"""Counting answers."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_mlp.scores import evaluate_predictions

ANSWERS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60)


def test_rows_of_the_confusion_matrix_are_true_classes_and_columns_predictions() -> None:
    evaluation = evaluate_predictions(0.5, [7, 1, 7, 7], [7, 7, 7, 2])
    assert evaluation.confusion[7][1] == 1
    assert evaluation.confusion[2][7] == 1
    assert evaluation.confusion[7][7] == 2
    assert evaluation.confusion[1][7] == 0
    assert (evaluation.samples, evaluation.correct, evaluation.accuracy, evaluation.loss) == (4, 2, 0.5, 0.5)


def test_class_accuracy_is_the_recall_and_unknown_where_there_is_no_sample() -> None:
    accuracies = evaluate_predictions(0.0, [3, 4, 4, 4], [3, 3, 3, 4]).class_accuracies
    assert accuracies[3] == pytest.approx(1 / 3)
    assert accuracies[4] == 1.0
    assert accuracies[5] is None


@given(ANSWERS)
def test_counts_agree_with_counting_by_hand(answers: list[tuple[int, int]]) -> None:
    predicted, labels = zip(*answers, strict=True)
    evaluation = evaluate_predictions(1.0, predicted, labels)
    assert evaluation.samples == len(answers)
    assert evaluation.correct == sum(one == other for one, other in answers)
    assert evaluation.class_counts == tuple(labels.count(label) for label in range(10))
    assert np.sum(evaluation.confusion, axis=0).tolist() == [predicted.count(digit) for digit in range(10)]


@given(ANSWERS, st.randoms(use_true_random=False))
def test_order_of_samples_does_not_matter(answers: list[tuple[int, int]], random: Random) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)
    assert evaluate_predictions(0, *zip(*shuffled, strict=True)) == evaluate_predictions(0, *zip(*answers, strict=True))


def test_json_has_the_unrounded_numbers() -> None:
    values = evaluate_predictions(0.25, [0, 1, 1], [0, 1, 0]).to_json()
    assert (values["samples"], values["loss"], values["accuracy"]) == (3, 0.25, 2 / 3)
    assert values["per_class_accuracy"][:3] == [0.5, 1.0, None]
    assert values["confusion_matrix"][0][:2] == [1, 1]


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_loss_that_json_cannot_hold_is_null(loss: float) -> None:
    assert evaluate_predictions(loss, [0], [0]).to_json()["loss"] is None
