"""The commands ``mnist_mlp evaluate`` and ``mnist_mlp predict``, after their arguments are parsed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click
import numpy as np
import numpy.typing as npt

from mnist_mlp.checkpoint import Checkpoint, load_checkpoint
from mnist_mlp.classifier import Classifier, Images
from mnist_mlp.data import Dataset, check_root_is_used, load
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.files import check_no_figure, check_writable_folder
from mnist_mlp.recipes import DATASETS
from mnist_mlp.streams import terminal_width
from mnist_mlp.tables import (
    Answer,
    answer_table,
    answers_json,
    class_table,
    confusion_table,
    describe_recipe,
    figure_title,
    score_line,
    to_json,
    written_lines,
)

if TYPE_CHECKING:
    from mnist_mlp.images import PreparedImage

Layout = Literal["text", "json"]

CONFUSION_MATRIX: Final = "confusion_matrix"
PREDICTIONS: Final = "predictions"
"""Names of the figures that `--plots` of ``evaluate`` writes, without ``.png``."""


def evaluate(  # noqa: PLR0913 - one parameter per option
    path: Path, *, dataset: str | None, data_root: Path | None, device: str, plots: Path | None, layout: Layout
) -> None:
    """Print the evaluation of the model saved at `path`, by default on the dataset that it was trained on."""
    checkpoint = load_checkpoint(path)
    if plots is not None:
        check_writable_folder(plots)
        check_no_figure("the model", path, plots, (CONFUSION_MATRIX, PREDICTIONS))
    classifier = checkpoint.classifier(device)
    data = _load_data(checkpoint, dataset, data_root)
    evaluation = classifier.evaluate(data)
    if layout == "json":
        about = {"model": checkpoint.recipe.name, "dataset": data.name, "dataset_sha256": data.sha256}
        click.echo(to_json(about | evaluation.to_json()))
    else:
        trained = checkpoint.training
        click.echo(describe_recipe(checkpoint.recipe))
        click.echo(
            f"trained on {checkpoint.dataset}: epochs {trained.epochs}, seed {trained.seed}, "
            f"by mnist_mlp {checkpoint.library_version}\n"
        )
        click.echo(score_line(f"{data.name} test set", evaluation))
        click.echo(f"\n{class_table(evaluation)}\n\n{confusion_table(evaluation)}")
    if plots is not None:
        from mnist_mlp import plots as figures  # noqa: PLC0415 - matplotlib takes half a second

        title = figure_title(checkpoint.recipe, f"on the test images of {data.name}")
        matrix = figures.confusion_matrix(evaluation, title=title)
        grid = figures.example_predictions(data, classifier, title=title)
        written = figures.save_figures(plots, [(CONFUSION_MATRIX, matrix), (PREDICTIONS, grid)])
        if layout == "text":
            click.echo(written_lines(written))


def predict(  # noqa: PLR0913 - one parameter per option
    path: Path,
    images: Sequence[Path],
    indices: Sequence[int],
    *,
    dataset: str | None,
    data_root: Path | None,
    device: str,
    show: bool,
    layout: Layout,
) -> list[str]:
    """Print the model's answers for image files and for test images by number.

    Returns:
        One message for each file that could not be read and each test image that does not exist.
    """
    from mnist_mlp.images import ImageError, as_text, prepare_image  # noqa: PLC0415 - Pillow

    checkpoint = load_checkpoint(path)
    classifier = checkpoint.classifier(device)
    answers, failures = [], []
    for image in images:
        name = click.format_filename(image)
        try:
            prepared = prepare_image(image)
        except ImageError as error:
            failures.append(str(error))
            continue
        _warn_of_several_digits(name, prepared)
        answers.append(_answer(classifier, name, prepared.pixels))
        if show:
            click.echo(f"{name}, read as {prepared.polarity}:\n{prepared.as_text()}\n")
    if indices:
        data = _load_data(checkpoint, dataset, data_root)
        for index in indices:
            try:
                name, pixels, label = _test_image(data, index)
            except InvalidValueError as error:
                failures.append(str(error))
                continue
            answers.append(_answer(classifier, name, pixels, label))
            if show:
                click.echo(f"{name}:\n{as_text(pixels)}\n")
    if layout == "json":
        click.echo(answers_json(answers))
    elif answers:
        click.echo(answer_table(answers, terminal_width()))
    return failures


def _warn_of_several_digits(name: str, prepared: "PreparedImage") -> None:
    from mnist_mlp.images import WIDEST_DIGIT  # noqa: PLC0415 - Pillow

    if prepared.aspect > WIDEST_DIGIT:
        reason = f"the ink is {prepared.aspect:.1f} times as wide as tall"
    elif prepared.columns > 1:
        reason = f"the ink has {prepared.columns} tall parts side by side"
    else:
        return
    click.echo(
        f"mnist-mlp: warning: {name}: {reason}; several digits are read as one: crop to one digit",
        err=True,
    )


def _test_image(data: Dataset, index: int) -> tuple[str, npt.NDArray[np.uint8], int]:
    """Return name, pixels, (28, 28) uint8, and label of the test image with this number."""
    count = len(data.test_labels)
    if not 0 <= index < count:
        raise InvalidValueError(f"test image {index} does not exist: choose one of {data.name}, 0 to {count - 1}")
    return f"{data.name} test {index}", data.test_images[index].numpy(), int(data.test_labels[index])


def _answer(classifier: Classifier, name: str, pixels: Images, label: int | None = None) -> Answer:
    return Answer(image=name, probabilities=tuple(classifier.probabilities(pixels)[0].tolist()), label=label)


def _load_data(checkpoint: Checkpoint, dataset: str | None, data_root: Path | None) -> Dataset:
    name = dataset or checkpoint.dataset
    if name not in DATASETS:
        raise InvalidValueError(
            f"the model was trained on dataset {name!r}, which this command cannot load: choose another with --dataset"
        )
    check_root_is_used(name, data_root)
    data = load(name, data_root)
    if data.name == checkpoint.dataset and data.sha256 != checkpoint.dataset_sha256:
        click.echo(
            f"mnist-mlp: warning: the model was trained on other files of {data.name} than those found here", err=True
        )
    return data
