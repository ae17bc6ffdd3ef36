"""The command `show`: a stored run as text."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from bench.commands.options import COLUMNS, FORMATS, RESULTS, RUN, Choice, exit_codes
from bench.errors import BadInputError
from bench.system.collection import garbage_collection_paused
from bench.system.outputs import say
from mnist_mlp.paths import PATH
from mnist_mlp.streams import terminal_width

if TYPE_CHECKING:
    from bench.records import Run
    from bench.tables.prices import Prices


@click.command("show", epilog=exit_codes())
@click.argument("reference", metavar="[RUN]", default="latest", type=RUN)
@click.option("--format", "layout", type=Choice(FORMATS), default="table", show_default=True)
@click.option(
    "--columns",
    type=COLUMNS,
    help="Columns to show, by name, such as device,batch_size,epoch_seconds (docs/results-format.md).",
)
@click.option("--sort", type=COLUMNS, default=(), help="Columns to sort by; a leading - sorts in descending order.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    help='A condition in SI units, such as "batch_size=64,256" or "test_accuracy>97%"; can be repeated.',
)
@click.option("--claims", is_flag=True, help="Show what the recipes' authors claim beside what the seeds achieved.")
@click.option("--taxes", is_flag=True, help="Show where an epoch's time goes: loader, framework, kernels, arithmetic.")
@click.option(
    "--ranks", is_flag=True, help="Show how time shrinks with the number of ranks, with predictions for more."
)
@click.option(
    "--price-per-hour",
    metavar="PRICE",
    help="Price per hour of a device, such as 2.5 or cuda=2.5,cpu=0.1: adds the cost of an epoch and of 98 % accuracy.",
)
@click.option("--results", type=PATH, default=RESULTS, help="Where to look up run ids.")
@garbage_collection_paused()
def show_command(  # noqa: PLR0913 - one parameter an option
    reference: str,
    *,
    layout: Literal["table", "markdown", "csv", "json"],
    columns: tuple[str, ...] | None,
    sort: tuple[str, ...],
    filters: tuple[str, ...],
    claims: bool,
    taxes: bool,
    ranks: bool,
    price_per_hour: str | None,
    results: Path,
) -> None:
    """Show a stored run, one row per configuration. RUN is a path, the beginning of a run id, or latest (the default).

    \b
    python -m bench show
    python -m bench show 1a2b --sort -throughput_per_second
    python -m bench show latest --filter "batch_size>=256" --format csv
    python -m bench show latest --claims
    python -m bench show latest --taxes
    python -m bench show latest --ranks
    python -m bench show latest --price-per-hour 2.5 --sort cost_per_epoch
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.analysis.claims import render_claims
    from bench.analysis.ranks_view import render_ranks
    from bench.calibration.profiles import load_profile, peak_rate_of
    from bench.storage.references import resolve
    from bench.storage.store import read_run
    from bench.tables.show import render_run

    run = read_run(resolve(reference, results))
    width = terminal_width()
    own = [option for option, given in (("--claims", claims), ("--taxes", taxes), ("--ranks", ranks)) if given]
    if own:
        if columns or sort or filters or price_per_hour is not None or len(own) > 1:
            raise BadInputError(
                f"{own[0]} is a separate table: leave out --columns, --sort, --filter, --price-per-hour and others"
            )
        if claims:
            text = render_claims(run, layout, width)
        else:
            part = _of_one_machine(run, own[0])
            text = render_ranks(part, layout, width) if ranks else _taxes(part, results, layout, width)
    else:
        prices = None if price_per_hour is None else _prices(price_per_hour, run)
        text = render_run(
            run,
            format=layout,
            columns=columns,
            sort=sort,
            filters=filters,
            width=width,
            prices=prices,
            peak_rates=lambda header: peak_rate_of(load_profile(header.machine.id, results), header.software),
        )
    click.echo(text)
    for warning in run.warnings:
        say(f"bench: {warning}")


def _of_one_machine(run: "Run", option: str) -> "Run":
    """Return `run` with the header of the single machine that measured it, which may differ from the run's own."""
    from bench.tables.machines import by_machine

    parts = by_machine(run)
    if len(parts) > 1:
        raise BadInputError(
            f"{option} is about one machine, but the run was measured on {', '.join(parts)}: show one of its shards"
        )
    (part,) = parts.values()
    return part


def _prices(text: str, run: "Run") -> "Prices":
    from bench.tables.prices import parse_prices

    prices = parse_prices(text)
    prices.check_devices(configuration.device for configuration in run.header.plan.configurations)
    return prices


def _taxes(run: "Run", results: Path, layout: str, width: int) -> str:
    from bench.analysis.taxes import render_taxes
    from bench.calibration.profiles import load_profile

    return render_taxes(run, load_profile(run.header.machine.id, results), layout, width)
