"""The command `report`: stored runs as one HTML page."""

from pathlib import Path

import click

from bench.collection import garbage_collection_paused
from bench.errors import BadInputError
from bench.options import EXIT_CODES, RESULTS, split_label
from bench.outputs import require_writable, write_atomically


@click.command("report", epilog=EXIT_CODES)
@click.argument("references", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The file to write.",
)
@click.option(
    "--results", type=click.Path(path_type=Path), default=RESULTS, help="Where to look up run ids and machine profiles."
)
@garbage_collection_paused()
def report_command(references: tuple[str, ...], *, output: Path, results: Path) -> None:
    """Write stored runs as one HTML page with tables and charts, which opens offline.

    RUN is a path, the beginning of a run id, or latest, each with a label to show if you like: label=path. Every later
    run is compared with the first.

    \b
    python -m bench report latest
    python -m bench report laptop=laptop.jsonl server=server.jsonl --output machines.html
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.profiles import load_profile
    from bench.report import Stored, make_report
    from bench.report_page import render_page
    from bench.store import read_run, resolve

    require_writable(output)
    named = [split_label(reference) for reference in references]
    paths = [resolve(name, results) for _, name in named]
    for path in paths:
        if output.exists() and output.samefile(path):
            raise BadInputError(f"--output {output} is a run to be reported, which it would replace: name another file")
    runs = [read_run(path) for path in paths]
    report = make_report(
        [
            Stored(label=label or "", run=run, profile=load_profile(run.header.machine.id, results))
            for (label, _), run in zip(named, runs, strict=True)
        ]
    )
    write_atomically(output, render_page(report))
    click.echo(f"{output}: {len(runs)} run{'s' * (len(runs) != 1)}, {output.stat().st_size / 2**10:.0f} KiB")
    for run in runs:
        for warning in run.warnings:
            click.echo(f"bench: {run.header.run_id}: {warning}", err=True)
