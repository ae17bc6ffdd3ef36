"""The command `list`, which lists the stored runs."""

from pathlib import Path
from typing import Literal

import click

from bench.commands.options import FORMATS, RESULTS, Choice, exit_codes
from bench.errors import BadInputError
from mnist_mlp.paths import PATH
from mnist_mlp.streams import terminal_width


@click.command("list", epilog=exit_codes())
@click.option("--format", "layout", type=Choice(FORMATS), default="table", show_default=True)
@click.option("--results", type=PATH, default=RESULTS, help="The folder of stored runs.")
def list_command(*, layout: Literal["table", "markdown", "csv", "json"], results: Path) -> None:
    """List the stored runs, the newest first.

    Other commands look up run ids, `latest` and `latest~1`, the run before it, among these.

    Files that cannot be read are listed too, with the reason.

    \b
    python -m bench list
    python -m bench list --format csv
    python -m bench list --results results/reference
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.tables.listing import list_runs, render_list

    if results != RESULTS and not results.is_dir():
        raise BadInputError(f"--results {results} is not a folder: name one that contains stored runs")
    click.echo(render_list(list_runs(results), layout, terminal_width(), results))
