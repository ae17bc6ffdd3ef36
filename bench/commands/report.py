"""The commands `report` and `export`: stored runs as one HTML page, and its charts as pictures."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bench.commands.options import RESULTS, RUN, exit_codes, split_labels
from bench.errors import BadInputError
from bench.system.collection import garbage_collection_paused
from bench.system.outputs import require_writable, require_writable_folder, say, write_atomically
from bench.units import format_count
from mnist_mlp.paths import PATH

if TYPE_CHECKING:
    from bench.records import Run
    from bench.report.contents import Stored

_PAGE_SUFFIXES: Final = (".html", ".htm")


@click.command("report", epilog=exit_codes())
@click.argument("references", metavar="RUN...", nargs=-1, required=True, type=RUN)
@click.option(
    "--output",
    type=PATH,
    default=Path("report.html"),
    show_default=True,
    help="The .html file to write.",
)
@click.option("--results", type=PATH, default=RESULTS, help="Where to look up run ids and machine profiles.")
@garbage_collection_paused()
def report_command(references: tuple[str, ...], *, output: Path, results: Path) -> None:
    """Write a report of stored runs: one HTML page with tables and charts that works offline.

    RUN is a path, the beginning of a run id, or latest, optionally with a label to show: label=path. Every later run is
    compared with the first.

    \b
    python -m bench report latest
    python -m bench report laptop=a.jsonl server=b.jsonl --output machines.html
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.report.contents import make_report
    from bench.report.page import render_page

    require_writable(output)
    _require_page(output)
    paths = _resolve(references, results)
    for path in paths:
        for kept in (path, path.with_suffix(".csv")):
            if output.exists() and kept.exists() and output.samefile(kept):
                raise BadInputError(
                    f"--output {output} is a file of a run in the report and would be overwritten: name another file"
                )
    stored = _read(references, paths, results)
    write_atomically(output, render_page(make_report(stored)))
    click.echo(f"{output}: {format_count(len(paths), 'run')}, {output.stat().st_size / 2**10:.0f} KiB")
    _print_warnings(each.run for each in stored)


@click.command("export", epilog=exit_codes())
@click.argument("references", metavar="RUN...", nargs=-1, required=True, type=RUN)
@click.option("--plots", type=PATH, required=True, help="The folder to write the pictures to.")
@click.option("--results", type=PATH, default=RESULTS, help="Where to look up run ids and machine profiles.")
@garbage_collection_paused()
def export_command(references: tuple[str, ...], *, plots: Path, results: Path) -> None:
    """Write the charts of stored runs as pictures for papers and slides, each as SVG and as PNG.

    RUN is a path, the beginning of a run id, or latest, optionally with a label, with which its file names then begin:
    label=path. Every later run is compared with the first. The charts are those of `report`, and a run gives the same
    files each time.

    \b
    python -m bench export latest --plots plots
    python -m bench export paper=1a2b --plots plots  # paper-throughput-cpu.svg, …
    python -m bench export laptop=a.jsonl server=b.jsonl --plots plots
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.report.contents import make_report
    from bench.report.export import find_pictures, left_out

    require_writable_folder(plots)
    stored = _read(references, _resolve(references, results), results)
    report = make_report(stored)
    pictures = find_pictures(report)
    from bench.report.pictures import FORMATS, draw_picture  # matplotlib is slow to import: refuse errors first

    for picture in pictures:
        drawn = draw_picture(picture.chart, source=picture.source)
        for ending in FORMATS:
            write_atomically(plots / f"{picture.name}.{ending}", drawn[ending])
    click.echo(f"{plots}: {format_count(len(pictures), 'chart')}, each as {' and '.join(map(str.upper, FORMATS))}")
    for line in left_out(report, stored):
        say(f"left out: {line}")
    _print_warnings(each.run for each in stored)


def _require_page(output: Path) -> None:
    """Refuse a name by which other programs would take the page for something else, such as ``report.pdf``."""
    if output.suffix.lower() not in _PAGE_SUFFIXES:
        raise BadInputError(
            f"--output {output} is not a {' or '.join(_PAGE_SUFFIXES)} file, but a report is an HTML page: "
            f"write {output.with_suffix(_PAGE_SUFFIXES[0])}"
        )


def _resolve(references: Sequence[str], results: Path) -> list[Path]:
    from bench.storage.references import resolve

    return [resolve(path, results) for path in split_labels(references)[1]]


def _read(references: Sequence[str], paths: Sequence[Path], results: Path) -> "list[Stored]":
    from bench.calibration.profiles import load_profile
    from bench.report.contents import Stored
    from bench.storage.store import read_run
    from bench.tables.machines import parts_by_machine

    labels, _ = split_labels(references)
    runs = [read_run(path) for path in paths]
    names = [label or run.header.run_id for label, run in zip(labels, runs, strict=True)]
    return [
        Stored(
            label=part.label or "",
            run=part.run,
            whole=part.whole,
            profile=load_profile(part.run.header.machine.id, results),
        )
        for part in parts_by_machine(names, runs)
    ]


def _print_warnings(runs: Iterable["Run"]) -> None:
    lines = (f"bench: {run.header.run_id}: {warning}" for run in runs for warning in run.warnings)
    for line in dict.fromkeys(lines):  # each machine's part of a run has the run's warnings
        say(line)
