"""The tables and lines that the command line prints. No torch."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import click
from tabulate import tabulate

from mnist_mlp.costs import parameter_count
from mnist_mlp.recipes import HYPERPARAMETERS, RECIPES, Recipe, custom_recipe, layers_text
from mnist_mlp.scores import Evaluation

if TYPE_CHECKING:
    from mnist_mlp.history import Epoch

_EPOCH_WIDTHS: Final = MappingProxyType({4: (9, 14), 6: (8, 10)})
"""Number of losses and accuracies in an epoch's line → width of its first column, and of each other one: at most 80."""

_GAP: Final = 2
"""Spaces that tabulate puts between columns, and adds to the width of a heading."""

_TRAINING_WIDTH: Final = 20
"""Least width of the column `training`, in characters; where there is less room, recipes are lists instead."""

Layout = Literal["table", "markdown", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's answer for one picture: the ten probabilities, and the true class if it is known."""

    image: str
    probabilities: tuple[float, ...]
    label: int | None = None

    @property
    def digit(self) -> int:
        """The most probable class."""
        return self.probabilities.index(max(self.probabilities))


def percent(fraction: float | None) -> str:
    """Return a fraction as ``97.85 %``, or ``-`` for None; the second decimal is one of MNIST's 10 000 test images."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def to_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return `value` as JSON text."""
    return json.dumps(value, indent=2, allow_nan=False)


def recipe_table(layout: Layout, width: int) -> str:
    """Return the recipes as text in lines of `width` characters: a table, or a list where there is no room for one."""
    rows = [_recipe_row(recipe) for recipe in RECIPES.values()]
    if layout == "json":
        return to_json(rows)
    headers = ("recipe", "layers", "parameters", "training", "claimed")
    cells = [
        (
            row["name"],
            layers_text(row["layers"]),
            f"{row['parameters']:,}",
            _training(recipe),
            percent(row["claimed_test_accuracy"]),
        )
        for recipe, row in zip(RECIPES.values(), rows, strict=True)
    ]
    training = headers.index("training")
    columns = list(zip((f"{header:{len(header) + _GAP}}" for header in headers), *cells, strict=True))
    others = sum(max(map(len, column)) for column in (*columns[:training], *columns[training + 1 :]))
    left = width - others - _GAP * (len(headers) - 1)
    notes = (
        "training: optimizer, learning rate (with a schedule: the highest), batch, epochs; output, loss; transform",
        "claimed: test accuracy published by the recipe's tutorial",
    )
    if layout == "table" and left < _TRAINING_WIDTH:
        items = (
            f"{name}: {layers}, {parameters} parameters; claimed: {claimed}; training: {training_text}"
            for name, layers, parameters, training_text, claimed in cells
        )
        return _filled((*items, "", *notes), width)
    table = tabulate(
        cells,
        headers=headers,
        tablefmt="github" if layout == "markdown" else "simple",
        colalign=("left", "left", "right", "left", "right"),
        maxcolwidths=None if layout == "markdown" else [left if name == "training" else None for name in headers],
        disable_numparse=True,
    )
    below = "\n".join(notes) if layout == "markdown" else _filled(notes, width)
    return f"{table}\n\n{below}"


def _filled(lines: Iterable[str], width: int) -> str:
    """Return `lines`, each broken between words to fit `width` characters, with continuation lines indented."""
    return "\n".join(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def _training(recipe: Recipe) -> str:
    shuffled = "" if recipe.shuffle else " not shuffled"
    return (
        f"{recipe.optimizer} {_rate(recipe)}{_extras(recipe)}, batch {recipe.batch_size}{shuffled}, "
        f"{recipe.epochs} epochs; {recipe.output}, {recipe.loss}; {recipe.transform}"
    )


def _recipe_row(recipe: Recipe) -> dict[str, Any]:
    claimed = [claim.value for claim in recipe.claims if claim.metric == "test_accuracy"]
    return {
        "name": recipe.name,
        "layers": list(recipe.layers),
        "parameters": parameter_count(recipe.layers),
        "output": recipe.output,
        "loss": recipe.loss,
        "optimizer": recipe.optimizer,
        "learning_rate": recipe.learning_rate,
        "schedule": recipe.schedule,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        "batch_size": recipe.batch_size,
        "test_batch_size": recipe.test_batch_size,
        "epochs": recipe.epochs,
        "transform": recipe.transform,
        "shuffle": recipe.shuffle,
        "seed": recipe.seed,
        "claimed_test_accuracy": claimed[0] if claimed else None,
        "departures": recipe.departures,
    }


def describe_recipe(recipe: Recipe) -> str:
    """Return two lines that describe the model and its training."""
    layers = layers_text(recipe.layers)
    name = "" if recipe.name == layers else f"{recipe.name}: "
    return (
        f"{name}{layers}, {parameter_count(recipe.layers):,} parameters, output {recipe.output}, loss {recipe.loss}\n"
        f"{recipe.optimizer} at learning rate {_rate(recipe)}{_extras(recipe)}, batches of {recipe.batch_size}"
        f"{'' if recipe.shuffle else ' in file order'}, transform {recipe.transform}"
    )


def figure_title(recipe: Recipe, about: str) -> str:
    """Return a figure's title: the recipe's name, what a variant of it changes, and `about`; in lines of 70 characters.

    In a model that was loaded only the name tells which recipe it is a variant of.
    """
    plain = custom_recipe(recipe.layers) if recipe.name == layers_text(recipe.layers) else recipe
    original = RECIPES.get(recipe.name, plain)
    changes = [
        f"{name} {getattr(recipe, name)}"
        for name in HYPERPARAMETERS
        if name != "layers" and getattr(recipe, name) != getattr(original, name)
    ]
    return textwrap.fill(f"{recipe.name}{' with ' if changes else ''}{', '.join(changes)} {about}", 70)


def _rate(recipe: Recipe) -> str:
    return f"{recipe.learning_rate:g}{'' if recipe.schedule == 'constant' else f' ({recipe.schedule})'}"


def _extras(recipe: Recipe) -> str:
    """Return momentum and weight decay if they are not 0, each after a comma."""
    given = (("momentum", recipe.momentum), ("weight decay", recipe.weight_decay))
    return "".join(f", {label} {value:g}" for label, value in given if value)


def epoch_header(*, validation: bool) -> str:
    """Return the headings over `epoch_row`."""
    if validation:
        return _columns("epoch", "train loss", "train acc.", "val. loss", "val. acc.", "test loss", "test acc.")
    return _columns("epoch", "train loss", "train accuracy", "test loss", "test accuracy")


def epoch_row(epoch: "Epoch", epochs: int) -> str:
    """Return one epoch's losses and accuracies as a line."""
    pairs = [(epoch.train_loss, epoch.train_accuracy), (epoch.test_loss, epoch.test_accuracy)]
    if epoch.validation_loss is not None and epoch.validation_accuracy is not None:
        pairs.insert(1, (epoch.validation_loss, epoch.validation_accuracy))
    cells = [text for loss, accuracy in pairs for text in (f"{loss:.4f}", percent(accuracy))]
    return _columns(f"{epoch.epoch}/{epochs}", *cells)


def _columns(first: str, *others: str) -> str:
    left, width = _EPOCH_WIDTHS[len(others)]
    return first.rjust(left) + "".join(f"  {text:>{width}}" for text in others)


def written_lines(paths: Sequence[Path]) -> str:
    """Return one line for each file that was written, after an empty line."""
    return "\n".join(("", *(f"written: {click.format_filename(path)}" for path in paths)))


def score_line(name: str, evaluation: Evaluation) -> str:
    """Return accuracy and loss as a line."""
    return (
        f"{name:<16} accuracy {percent(evaluation.accuracy)} ({evaluation.correct:,} of {evaluation.samples:,}), "
        f"loss {evaluation.loss:.4f}"
    )


def class_table(evaluation: Evaluation) -> str:
    """Return a table of each class's accuracy."""
    rows = [
        (label, percent(accuracy), right, count)
        for label, (accuracy, right, count) in enumerate(
            zip(evaluation.class_accuracies, evaluation.class_correct, evaluation.class_counts, strict=True)
        )
    ]
    table = tabulate(
        rows, headers=("class", "accuracy", "correct", "images"), colalign=("right",) * 4, disable_numparse=True
    )
    return f"Per-class accuracy on the test set (recall: the share of a class's images that were recognised)\n{table}"


def confusion_table(evaluation: Evaluation) -> str:
    """Return the confusion matrix as text, with dots for zeros so that the mistakes stand out."""
    rows = [[label, *(count or "." for count in row)] for label, row in enumerate(evaluation.confusion)]
    headers = ["true", *(str(label) for label in range(len(rows)))]
    table = tabulate(rows, headers=headers, colalign=("right",) * len(headers), disable_numparse=True)
    return f"Confusion matrix: images by true class (rows) and predicted class (columns)\n{table}"


def answer_table(answers: Sequence[Answer], width: int) -> str:
    """Return a table of each picture's predicted digit and of all ten probabilities, in percent.

    They have two decimals, or fewer where the table would be wider than `width` characters.
    """
    for decimals in (2, 1, 0):
        table = _answer_table(answers, decimals)
        if len(table.partition("\n")[0]) <= width:
            break
    return f"{table}\ncolumns 0 to 9: the softmax probability of each digit, in percent"


def _answer_table(answers: Sequence[Answer], decimals: int) -> str:
    known = any(answer.label is not None for answer in answers)
    rows = [
        (
            answer.image,
            *(("-" if answer.label is None else answer.label,) if known else ()),
            answer.digit,
            *(f"{100 * probability:.{decimals}f}" for probability in answer.probabilities),
        )
        for answer in answers
    ]
    headers = ["image", *(["label"] if known else []), "digit", *(str(digit) for digit in range(10))]
    return tabulate(rows, headers=headers, colalign=("left", *("right",) * (len(headers) - 1)), disable_numparse=True)


def answers_json(answers: Sequence[Answer]) -> str:
    """Return the answers as JSON, probabilities as fractions."""
    return to_json(
        [
            {
                "image": answer.image,
                "label": answer.label,
                "digit": answer.digit,
                "probability": max(answer.probabilities),
                "probabilities": list(answer.probabilities),
            }
            for answer in answers
        ]
    )
