"""Figures: what is drawn, and that nothing is shown by colour alone."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from workload_builders import RECIPE, bars

from mnist_mlp import Epoch, History, Recipe, Trainer, customise, find_recipe, plots
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.files import OutputError
from mnist_mlp.scores import evaluate_predictions
from mnist_mlp.tables import figure_title

pytestmark = pytest.mark.usefixtures("threads")


def history(epochs: int, *, validation: bool = False) -> History:
    return History(
        Epoch(
            epoch=number,
            train_loss=1 / number,
            train_accuracy=1 - 0.5 / number,
            validation_loss=1.5 / number if validation else None,
            validation_accuracy=0.25 if validation else None,
            test_loss=2 / number,
            test_accuracy=0.5,
        )
        for number in range(1, epochs + 1)
    )


def panels(figure: Figure) -> list[Axes]:
    # Where things end up, ticks above all, is known once it has been drawn.
    figure.draw_without_rendering()
    return figure.axes


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def test_curves_show_loss_in_nats_and_accuracy_in_percent_over_one_epoch_axis() -> None:
    loss, accuracy = panels(plots.learning_curves(history(3), title="a title"))
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss (nats per sample)", "accuracy (%)")
    assert accuracy.get_xlabel() == "epoch"
    assert loss.get_shared_x_axes().joined(loss, accuracy)
    train, test = loss.get_lines()
    assert points(train) == [(1, 1), (2, 1 / 2), (3, 1 / 3)]
    assert points(test) == [(1, 2), (2, 1), (3, 2 / 3)]
    assert points(accuracy.get_lines()[0])[1] == (2, 75)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10, 15, 40])
def test_epoch_ticks_are_whole_numbers(epochs: int) -> None:
    ticks = panels(plots.learning_curves(history(epochs)))[1].get_xticks()
    assert len(ticks) > 0
    assert all(float(tick).is_integer() for tick in ticks)


def test_curves_differ_in_more_than_colour_and_are_named() -> None:
    for axes in panels(plots.learning_curves(history(4, validation=True))):
        lines = axes.get_lines()
        assert [line.get_label() for line in lines] == ["training (while training)", "validation", "test"]
        for style in ("get_color", "get_linestyle", "get_marker"):
            assert len({getattr(line, style)() for line in lines}) == 3
        legend = axes.get_legend()
        assert legend is not None
        assert len(legend.get_texts()) == 3


def test_almost_equal_losses_keep_clear_of_the_upper_edge() -> None:
    epoch = Epoch(epoch=1, train_loss=2.31, train_accuracy=0.1, test_loss=2.3, test_accuracy=0.1)
    bottom, top = panels(plots.learning_curves(History([epoch])))[0].get_ylim()
    assert bottom == 0
    assert 2.4 < top < 2.6


def test_many_epochs_are_drawn_without_markers() -> None:
    assert panels(plots.learning_curves(history(40)))[0].get_lines()[0].get_marker() == ""


def test_wrong_predictions_are_marked_by_word_and_frame_as_well_as_colour() -> None:
    images = np.zeros((3, 28, 28), np.uint8)
    right, wrong, also_right, *unused = panels(
        plots.prediction_grid(images, [1, 2, 3], [1, 7, 3], [0.5, 0.999, 1.0], title="t")
    )
    assert right.get_title() == "true 1, predicted 1\n50.0 %"
    assert wrong.get_title() == "WRONG\ntrue 2, predicted 7\n99.9 %"
    assert "WRONG" not in also_right.get_title()
    assert wrong.spines["top"].get_linewidth() > 3 > right.spines["top"].get_linewidth()
    assert to_hex(wrong.spines["left"].get_edgecolor()).upper() == plots.VERMILION
    assert len(unused) == 5
    assert not any(axes.axison for axes in unused)


def test_examples_are_the_first_test_images_and_then_wrong_ones() -> None:
    dataset = bars()
    trainer = Trainer(RECIPE, dataset=dataset, device="cpu", seed=1)
    predicted = trainer.predict(dataset.test_images)
    wrong = [index for index in range(24, 70) if predicted[index] != dataset.test_labels[index]][:8]
    assert len(wrong) == 8
    figure = plots.example_predictions(dataset, trainer.model, title="untrained")
    titles = [axes.get_title().removeprefix("WRONG\n") for axes in panels(figure)]
    chosen = [*range(24), *wrong]
    assert [title.splitlines()[0] for title in titles] == [
        f"true {dataset.test_labels[index]}, predicted {predicted[index]}" for index in chosen
    ]
    assert "the first 24 test images, then the next 8 wrong ones" in figure.get_suptitle()


def test_model_without_mistakes_has_only_first_examples() -> None:
    trainer = Trainer(replace(RECIPE, epochs=6), dataset=bars(), device="cpu", seed=1)
    assert trainer.fit()[-1].test_accuracy == 1
    figure = plots.example_predictions(trainer.dataset, trainer.model)
    assert len(panels(figure)) == 24
    assert figure.get_suptitle().startswith("the first 24 test images; in percent")


def test_grid_of_no_images_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="give at least one"):
        plots.prediction_grid(np.zeros((0, 28, 28), np.uint8), [], [], [])


def test_sample_grid_has_a_column_for_each_class_and_room_for_missing_ones() -> None:
    images = np.arange(4, dtype=np.uint8).repeat(784).reshape(4, 28, 28)
    cells = panels(plots.sample_grid(images, np.array([3, 0, 3, 3]), title="t"))
    assert [axes.get_title() for axes in cells[:10]] == [f"class {label}" for label in range(10)]
    third = [axes.get_images()[0].get_array() for axes in cells[3::10] if axes.get_images()]
    assert [int(np.max(array)) for array in third if array is not None] == [0, 2, 3]
    assert sum(bool(axes.get_images()) for axes in cells) == 4
    assert plots.sample_grid(images, np.array([3, 0, 3, 3])).get_suptitle() == ""


def test_confusion_matrix_shows_every_count_in_ink_that_can_be_read() -> None:
    evaluation = evaluate_predictions(0.1, [1, 1, 1, 2, 0], [1, 1, 2, 2, 0])
    axes = panels(plots.confusion_matrix(evaluation, title="a model"))[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("predicted class", "true class", "a model")
    cells = {text.get_position(): text for text in axes.texts}
    assert len(cells) == 100
    assert cells[1, 1].get_text() == "2"
    assert cells[1, 2].get_text() == "1"  # across: predicted 1; down: true 2
    assert cells[2, 1].get_text() == "0"
    assert (cells[1, 1].get_color(), cells[9, 0].get_color()) == ("black", "white")
    assert plots.confusion_matrix(evaluation).axes[0].get_title() == ""


def test_figures_are_written_to_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plots.save_figures("~/plots", [("curves", Figure())]) == [tmp_path / "plots" / "curves.png"]


def test_figures_are_written_as_png_files(tmp_path: Path) -> None:
    (path,) = plots.save_figures(tmp_path, [("learning_curves", plots.learning_curves(history(2)))])
    assert path == tmp_path / "learning_curves.png"
    assert plots.save_figures(str(tmp_path), [("curves", Figure())]) == [tmp_path / "curves.png"]
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        assert image.format == "PNG"
        assert image.size == (900, 900)
    with pytest.raises(OutputError):
        plots.save_figures(path, [("below_a_file", Figure())])


def test_plotting_leaves_pyplot_alone() -> None:
    code = "import sys, mnist_mlp.plots as p; p.learning_curves([]); sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own


def test_title_of_a_variant_says_what_it_changes() -> None:
    assert figure_title(find_recipe("canary_adam"), "on mnist") == "canary_adam on mnist"
    assert figure_title(find_recipe("784-16-10"), "on mnist") == "784-16-10 on mnist"
    variant = customise("canary_adam", learning_rate=0.01, epochs=2)
    assert figure_title(variant, "on mnist") == "canary_adam with learning_rate 0.01, epochs 2 on mnist"
    assert figure_title(customise("784-16-10", batch_size=8), "") == "784-16-10 with batch_size 8"
    assert figure_title(Recipe(name="mine", layers=(784, 10), epochs=9), "on mnist") == "mine on mnist"
