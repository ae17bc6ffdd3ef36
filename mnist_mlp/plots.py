"""Figures of a training and of a model's predictions, by matplotlib, and PNG files of them.

The colours (Okabe and Ito's, and the colour map cividis) can be distinguished by colour-blind readers, and nothing is
shown by colour alone. Figures are made without pyplot, so that no global state changes and no window opens.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnist_mlp.classifier import Classifier
from mnist_mlp.data import Dataset
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.files import write_file
from mnist_mlp.history import Epoch
from mnist_mlp.paths import expanded
from mnist_mlp.recipes import CLASSES
from mnist_mlp.scores import Evaluation

BLUE: Final = "#0072B2"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
"""Okabe and Ito, "Color Universal Design" (2008)."""

_DOTS_PER_INCH: Final = 120
_GRID_COLUMNS: Final = 8
_MANY_EPOCHS: Final = 30
"""Number of epochs from which markers would overlap."""

_SAMPLES_PER_CLASS: Final = 6
_SHADING_EXPONENT: Final = 0.4
_SHADING_TICKS: Final = (0, 1, 5, 10, 20, 40, 60, 80, 100)
_FIRST_EXAMPLES: Final = 24
_WRONG_EXAMPLES: Final = 8

Pictures = npt.NDArray[np.uint8]
"""(n, 28, 28) uint8: 0 is paper, 255 full ink."""


def learning_curves(history: Sequence[Epoch], *, title: str = "") -> Figure:
    """Return a figure of loss and accuracy by epoch: training, test and, if there was any, validation."""
    figure = Figure(figsize=(7.5, 7.5), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(2, 1, sharex=True)
    if title:
        figure.suptitle(title)
    loss_axes.update_datalim(((0, 0),), updatex=False)  # otherwise almost equal losses lie on the upper edge
    _curves(loss_axes, history, "loss", 1)
    loss_axes.set_ylabel("loss (nats per sample)")
    loss_axes.set_ylim(bottom=0)
    _curves(accuracy_axes, history, "accuracy", 100)
    accuracy_axes.set_ylabel("accuracy (%)")
    accuracy_axes.set_xlabel("epoch")
    accuracy_axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def _curves(axes: Axes, history: Sequence[Epoch], metric: str, scale: float) -> None:
    styles = (
        ("train", "training (while training)", BLUE, "o", "-"),
        ("validation", "validation", GREEN, "^", ":"),
        ("test", "test", VERMILION, "s", "--"),
    )
    for part, label, colour, marker, line in styles:
        values = [(epoch.epoch, getattr(epoch, f"{part}_{metric}")) for epoch in history]
        measured = [(number, scale * value) for number, value in values if value is not None]
        if measured:
            shape = marker if len(measured) < _MANY_EPOCHS else ""
            axes.plot(*zip(*measured, strict=True), color=colour, marker=shape, linestyle=line, label=label)
    axes.grid(visible=True, color="0.9")
    if axes.get_lines():
        axes.legend()


def example_predictions(dataset: Dataset, model: Classifier, *, title: str = "") -> Figure:
    """Return the `prediction_grid` of the first 24 test images and the next 8 that the model misclassifies."""
    probabilities = model.probabilities(dataset.test_images).numpy()
    predicted, labels = probabilities.argmax(axis=1), dataset.test_labels.numpy()
    first = np.arange(len(labels))[:_FIRST_EXAMPLES]
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[wrong >= len(first)][:_WRONG_EXAMPLES]
    chosen = np.concatenate((first, wrong))
    mistakes = f", then the next {len(wrong)} wrong ones" if len(wrong) else ""
    explanation = f"the first {len(first)} test images{mistakes}; in percent: probability of the prediction"
    return prediction_grid(
        dataset.test_images.numpy()[chosen],
        labels[chosen].tolist(),
        predicted[chosen].tolist(),
        probabilities.max(axis=1)[chosen].tolist(),
        title=f"{title}\n{explanation}" if title else explanation,
    )


def prediction_grid(
    images: Pictures, labels: Sequence[int], predicted: Sequence[int], confidence: Sequence[float], *, title: str = ""
) -> Figure:
    """Return a figure of images with their true and predicted class; mistakes have a thick frame and the word WRONG.

    Args:
        images: (n, 28, 28) uint8.
        labels: the n true classes.
        predicted: the n predicted classes.
        confidence: the softmax probability of each prediction.
        title: the figure's title.

    Raises:
        InvalidValueError: there are no images.
    """
    if not len(images):
        raise InvalidValueError("0 images make no figure: give at least one")
    rows = -(-len(images) // _GRID_COLUMNS)
    figure = Figure(figsize=(1.5 * _GRID_COLUMNS, 2.0 * rows + 0.6), layout="constrained")
    if title:
        figure.suptitle(title)
    cells = list(figure.subplots(rows, _GRID_COLUMNS, squeeze=False).flat)
    for axes, image, label, answer, share in zip(cells, images, labels, predicted, confidence, strict=False):
        wrong = label != answer
        heading = "WRONG\n" if wrong else ""
        axes.set_title(
            f"{heading}true {label}, predicted {answer}\n{100 * share:.1f} %",
            fontsize=8,
            fontweight="bold" if wrong else "normal",
            color=VERMILION if wrong else "black",
        )
        _show_image(axes, image)
        if wrong:
            for side in axes.spines.values():
                side.set(visible=True, color=VERMILION, linewidth=4)
    for axes in cells[len(images) :]:
        axes.set_axis_off()
    return figure


def _show_image(axes: Axes, image: Pictures) -> None:
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def sample_grid(images: Pictures, labels: npt.NDArray[np.int64], *, title: str = "") -> Figure:
    """Return a figure of the first images of each class, one column per class.

    Args:
        images: (n, 28, 28) uint8.
        labels: (n,) int64.
        title: the figure's title.
    """
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    if title:
        figure.suptitle(title)
    grid = figure.subplots(_SAMPLES_PER_CLASS, CLASSES, squeeze=False)
    for label in range(CLASSES):
        grid[0, label].set_title(f"class {label}", fontsize=10)
        chosen = images[labels == label][:_SAMPLES_PER_CLASS]
        for row in range(_SAMPLES_PER_CLASS):
            if row < len(chosen):
                _show_image(grid[row, label], chosen[row])
            else:
                grid[row, label].set_axis_off()
    return figure


def confusion_matrix(evaluation: Evaluation, *, title: str = "") -> Figure:
    """Return a figure of the confusion matrix: each cell has its count and is shaded by its share of the true class."""
    counts = np.array(evaluation.confusion)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(8.2, 7.2), layout="constrained")
    axes = figure.subplots()
    if title:
        axes.set_title(title)
    # Mistakes are a few percent of a class: the scale is stretched there to make them visible beside the diagonal.
    scale = PowerNorm(_SHADING_EXPONENT, vmin=0, vmax=100)
    shading = axes.imshow(shares, cmap="cividis", norm=scale)
    label = "share of the true class (%, stretched at the low end)"
    figure.colorbar(shading, ax=axes, ticks=_SHADING_TICKS, label=label)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_xticks(range(CLASSES))
    axes.set_yticks(range(CLASSES))
    for (true, predicted), count in np.ndenumerate(counts):
        colour = "black" if scale(shares[true, predicted]) > 1 / 2 else "white"  # the upper half of cividis is light
        axes.text(predicted, true, str(count), ha="center", va="center", color=colour, fontsize=9)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """Return the content of a PNG file of `figure`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()


def save_figures(folder: Path | str, figures: Iterable[tuple[str, Figure]]) -> list[Path]:
    """Write each figure to `<folder>/<name>.png`, atomically; return the paths.

    Raises:
        OutputError: the folder cannot be written.
        InvalidValueError: `folder` starts with ``~``, but there is no home folder.
    """
    paths = []
    for name, figure in figures:
        path = expanded(folder) / f"{name}.png"
        write_file(path, png_bytes(figure))
        paths.append(path)
    return paths
