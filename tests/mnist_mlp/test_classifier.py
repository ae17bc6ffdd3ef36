"""What a classifier refuses to take for a picture, beyond what the tests of the trainer show."""

from typing import Any

import pytest
from PIL import Image
from workload_builders import RECIPE

from mnist_mlp import MLP, Classifier
from mnist_mlp.errors import InvalidValueError


def test_unprepared_picture_is_refused_whatever_its_size() -> None:
    model = Classifier(RECIPE, MLP(RECIPE.layers))
    pictures: list[Any] = [Image.new("L", (28, 28)), Image.new("L", (30, 30))]
    for picture in pictures:
        with pytest.raises(InvalidValueError, match=r"of type Image cannot be classified: .*mnist_mlp\.prepare_image"):
            model.predict(picture)


def test_evaluation_on_what_is_no_dataset_is_refused_with_the_way_to_get_one() -> None:
    model = Classifier(RECIPE, MLP(RECIPE.layers))
    name: Any = "mnist"
    with pytest.raises(InvalidValueError, match=r"dataset 'mnist' is of type str: give a Dataset, .*load_dataset"):
        model.evaluate(name)
