"""The command `predict`: how long a training step of any size would take."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from bench.commands.options import FORMATS, RESULTS, RUN, Choice, exit_codes, split_labels
from bench.errors import BadInputError
from bench.system.outputs import say
from mnist_mlp.paths import PATH
from mnist_mlp.streams import terminal_width


@click.command("predict", epilog=exit_codes())
@click.argument("references", metavar="RUN...", nargs=-1, required=True, type=RUN)
@click.option("--layers", metavar="LAYERS", help="Layers from input to output, such as 784-300-10, or a recipe's name.")
@click.option("--batch-size", type=int, help="Training samples per step.")
@click.option("--format", "layout", type=Choice(FORMATS), default="table", show_default=True)
@click.option("--results", type=PATH, default=RESULTS, help="Where to look up run ids.")
def predict_command(
    references: tuple[str, ...],
    *,
    layers: str | None,
    batch_size: int | None,
    layout: Literal["table", "markdown", "csv", "json"],
    results: Path,
) -> None:
    """Show how the time of a training step grows with its size on each device, and where one overtakes another.

    With --layers and --batch-size, predict the time of that size, measured or not. RUN is a path, the beginning of a
    run id, or latest, optionally with a label to show: label=path. The models are fitted to the sizes that it measured.

    \b
    python -m bench predict latest
    python -m bench predict latest --layers 784-300-10 --batch-size 100
    python -m bench predict old=1a2b new=latest --layers mlp_128 --batch-size 512
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.analysis.predictions import render_prediction
    from bench.analysis.scaling_models import label_runs, left_out, require_models
    from bench.analysis.scaling_view import render_scaling
    from bench.storage.references import resolve
    from bench.storage.store import read_run
    from bench.tables.machines import parts_by_machine

    if (layers is None) != (batch_size is None):
        missing = "--batch-size" if batch_size is None else "--layers"
        raise BadInputError(
            f"{missing} is missing: a size needs both --layers and --batch-size; with neither, the models are shown"
        )
    labels, names = split_labels(references)
    runs = [read_run(resolve(name, results)) for name in names]
    _refuse_repeated([run.header.run_id for run in runs])
    parts = parts_by_machine(labels, runs)
    sides = label_runs([part.run for part in parts], [part.label for part in parts])
    size = None if layers is None or batch_size is None else (_shape(layers), _checked(batch_size))
    models = require_models(sides)
    width = terminal_width()
    if size is None:
        click.echo(render_scaling(sides, models, layout, width))
    else:
        click.echo(render_prediction(sides, models, size, layout, width))
    few = left_out(sides, models)
    if few:
        say(f"bench: left out, with too few sizes to fit a model: {', '.join(few)}")


def _refuse_repeated(run_ids: Sequence[str]) -> None:
    """Refuse a run that is given twice: its models would be compared with themselves.

    Raises:
        BadInputError: two of `run_ids` are the same.
    """
    from bench.tables.columns import harmless

    twice = next((each for place, each in enumerate(run_ids) if each in run_ids[:place]), None)
    if twice is not None:
        raise BadInputError(
            f"run {harmless(twice, 40)} is given twice, and predict takes each run once: leave one of them out"
        )


def _shape(layers: str) -> tuple[int, ...]:
    from mnist_mlp.errors import InvalidValueError
    from mnist_mlp.recipes import find_recipe

    try:
        return find_recipe(layers).layers
    except InvalidValueError as error:
        raise BadInputError(f"--layers: {error}") from error


def _checked(batch_size: int) -> int:
    from bench.planning.plan import MAX_BATCH_SIZE

    if not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise BadInputError(f"--batch-size {batch_size} is out of range: use a whole number from 1 to {MAX_BATCH_SIZE}")
    return batch_size
