"""The command ``mnist_mlp train``, after its arguments are parsed."""

import itertools
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import torch

from mnist_mlp.checkpoint import check_fits_checkpoint
from mnist_mlp.data import check_root_is_used
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.files import check_no_figure, check_writable_file, check_writable_folder
from mnist_mlp.history import Epoch
from mnist_mlp.recipes import Recipe
from mnist_mlp.tables import (
    class_table,
    describe_recipe,
    epoch_header,
    epoch_row,
    figure_title,
    percent,
    score_line,
    written_lines,
)
from mnist_mlp.trainer import Trainer

LEARNING_CURVES: Final = "learning_curves"
PREDICTIONS: Final = "predictions"
"""Names of the figures that `--plots` writes, without ``.png``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The files and the folder to write to; None for those that were not asked for."""

    plots: Path | None
    save: Path | None
    history: Path | None

    def check(self, recipe: Recipe) -> None:
        """Raise a `WorkloadError` if anything could not be written after training `recipe`; create missing folders."""
        if (
            self.save is not None
            and self.history is not None
            and os.path.realpath(self.save) == os.path.realpath(self.history)
        ):
            raise InvalidValueError(f"--save and --history both name {str(self.save)!r}: give them different files")
        self._check_no_overlap()
        for path in (self.save, self.history):
            if path is not None:
                check_writable_file(path)
        if self.save is not None:
            check_fits_checkpoint(recipe.layers)
        if self.plots is not None:
            check_writable_folder(self.plots)

    def _check_no_overlap(self) -> None:
        """Refuse a file whose path another output needs for a folder or a figure."""
        files = {"--save": self.save, "--history": self.history}
        for (name, file), (other, path) in itertools.permutations({**files, "--plots": self.plots}.items(), 2):
            if name in files and file is not None and path is not None and _lies_in(path, file):
                raise InvalidValueError(
                    f"{name} {str(file)!r} would be a file, but {other} {str(path)!r} needs it to be a folder: "
                    f"name another path"
                )
        for name, file in files.items():
            if file is not None and self.plots is not None:
                check_no_figure(name, file, self.plots, (LEARNING_CURVES, PREDICTIONS))


def _lies_in(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def train(  # noqa: PLR0913 - Trainer's arguments
    recipe: Recipe,
    outputs: Outputs,
    *,
    threads: int | None,
    dataset: str,
    seed: int | None,
    device: str,
    validation_split: float,
    pipeline: str,
    engine: str,
    precision: str,
    workers: int,
    data_root: Path | None,
) -> None:
    """Train `recipe`, print each epoch and the final evaluation, and write `outputs`."""
    check_root_is_used(dataset, data_root)
    outputs.check(recipe)
    if threads is not None:
        torch.set_num_threads(threads)
    trainer = Trainer(
        recipe,
        dataset=dataset,
        seed=seed,
        device=device,
        validation_split=validation_split,
        pipeline=pipeline,
        engine=engine,
        precision=precision,
        workers=workers,
        data_root=data_root,
    )
    _print_task(trainer)
    try:
        _fit(trainer, outputs.history)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_left_behind(trainer, outputs)) from error
    except OSError as error:  # standard output, closed or on a full disk
        error.add_note(_left_behind(trainer, outputs))
        raise
    written = _write_model(trainer, outputs)
    _print_final(trainer)
    if outputs.plots is not None:
        written += _write_plots(trainer, outputs.plots)
    if written:
        click.echo(written_lines(written))


def _print_task(trainer: Trainer) -> None:
    dataset = trainer.dataset
    held_out = f" and {trainer.validation_samples:,} validation" if trainer.validation_samples else ""
    click.echo(describe_recipe(trainer.recipe))
    click.echo(
        f"{dataset.name} ({dataset.source}): {trainer.train_samples:,} training{held_out} images, "
        f"{len(dataset.test_labels):,} test images; device {trainer.device}, seed {trainer.seed}\n"
    )


def _fit(trainer: Trainer, history: Path | None) -> None:
    """Train; each epoch is printed and written as it ends, so that an interruption loses only the unfinished one."""
    from mnist_mlp.progress import StepBar  # noqa: PLC0415 - 0.1 s that only terminals need

    redraws = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    bar = StepBar(trainer.steps_per_epoch) if redraws else None

    def show(epoch: Epoch) -> None:
        with bar.paused() if bar else nullcontext():
            click.echo(epoch_row(epoch, trainer.recipe.epochs))
        if history is not None:
            trainer.history.to_csv(history)

    click.echo(epoch_header(validation=trainer.validation_samples > 0))
    with bar or nullcontext():
        trainer.fit(on_epoch=show, on_step=bar.step if bar else None)
    click.echo(
        "Train loss and accuracy are measured during the epoch, while the weights change; the others at its end.\n"
    )


def _left_behind(trainer: Trainer, outputs: Outputs) -> str:
    """Say what a training that ended too early leaves behind."""
    done = len(trainer.history)
    parts = [f"{done} of {trainer.recipe.epochs} epochs were completed"]
    if done and outputs.history is not None:
        parts.append(f"their history is in {outputs.history}")
    if outputs.save is not None:
        parts.append(f"no model was saved to {outputs.save}")
    return "; ".join(parts)


def _write_model(trainer: Trainer, outputs: Outputs) -> list[Path]:
    if outputs.save is not None:
        trainer.save(outputs.save)
    return [path for path in (outputs.history, outputs.save) if path is not None]


def _print_final(trainer: Trainer) -> None:
    test = trainer.evaluate("test")
    click.echo("With the final weights:")
    click.echo(score_line("  training set", trainer.evaluate("train")))
    if trainer.validation_samples:
        click.echo(score_line("  validation set", trainer.evaluate("validation")))
    click.echo(score_line("  test set", test))
    if trainer.dataset.name == "mnist" and not trainer.validation_samples:  # claims are for all training images
        for claim in trainer.recipe.claims:
            if claim.metric == "test_accuracy":
                click.echo(f"  claimed for {trainer.recipe.name}: test accuracy {percent(claim.value)}, {claim.source}")
    click.echo(f"\n{class_table(test)}")


def _write_plots(trainer: Trainer, folder: Path) -> list[Path]:
    from mnist_mlp import plots  # noqa: PLC0415 - matplotlib takes half a second

    title = figure_title(trainer.recipe, f"on {trainer.dataset.name}, seed {trainer.seed}")
    curves = plots.learning_curves(trainer.history, title=title)
    grid = plots.example_predictions(trainer.dataset, trainer.model, title=title)
    return plots.save_figures(folder, [(LEARNING_CURVES, curves), (PREDICTIONS, grid)])
