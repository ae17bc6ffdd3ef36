"""The commands `compare` and `check`: two stored runs side by side, and the gate on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from bench.commands.options import (
    EXIT_CODES,
    FORMATS,
    RESULTS,
    RUN,
    Choice,
    Share,
    exit_codes,
    split_label,
    split_labels,
)
from bench.errors import BadInputError
from bench.system.collection import garbage_collection_paused
from bench.system.outputs import append_step_summary, require_writable_json, say, write_atomically
from mnist_mlp.paths import PATH
from mnist_mlp.streams import terminal_width

if TYPE_CHECKING:
    from bench.compare.compare_runs import Between
    from bench.compare.comparison import RoundsSource, Source
    from bench.tables.prices import Prices


@click.command(
    "compare",
    epilog=exit_codes({0: "done, whatever the verdicts (use check or ab as a gate)", 5: "nothing in common"}),
)
@click.argument("baseline", metavar="BASELINE", type=RUN)
@click.argument("candidate", metavar="[CANDIDATE]", type=RUN, required=False)
@click.option("--format", "layout", type=Choice(FORMATS), default="table", show_default=True)
@click.option("--only-changed", is_flag=True, help="Leave out rows that are the same or inconclusive.")
@click.option(
    "--between",
    metavar="DIMENSION=A,B",
    help="Compare the baseline's rows with value A with the candidate's rows with value B: device=cpu,cuda. "
    "Without CANDIDATE, both are of the same run.",
)
@click.option(
    "--price-per-hour",
    metavar="PRICE",
    help="Price per hour: 2.5, or of devices (cuda=2.5,cpu=0.1) or sides (baseline=2.5,candidate=0.9). Adds costs.",
)
@click.option("--results", type=PATH, default=RESULTS, help="Where to look up run ids and machine profiles.")
@garbage_collection_paused()
def compare_command(  # noqa: PLR0913 - one parameter an option
    baseline: str,
    candidate: str | None,
    *,
    layout: Literal["table", "markdown", "csv", "json"],
    only_changed: bool,
    between: str | None,
    price_per_hour: str | None,
    results: Path,
) -> None:
    """Compare two stored runs, one row per configuration that both have. Ratios are candidate / baseline.

    BASELINE and CANDIDATE are paths, beginnings of run ids, latest, or latest~1 (the run before it), optionally with a
    label to show: label=path. Two pytest-benchmark JSON files can be compared too.

    \b
    python -m bench compare latest~1 latest
    python -m bench compare laptop=a.jsonl server=b.jsonl --format markdown
    python -m bench compare a.jsonl b.jsonl --price-per-hour cuda=2.5,cpu=0.1
    python -m bench compare latest --between device=cpu,cuda
    python -m bench compare 0001_main.json 0002_branch.json --only-changed
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.compare.compare_rounds import compare_rounds
    from bench.compare.compare_runs import compare_runs
    from bench.compare.comparison import RoundsSource, Source
    from bench.compare.view import render_comparison

    if candidate is None:
        if between is None:
            raise BadInputError(
                f"{baseline} has no candidate to be compared with: name a second run, or two values of one dimension "
                "within this run, such as --between device=cpu,cuda"
            )
        candidate = baseline
    ours, theirs = _read_both(baseline, candidate, results)
    prices = None if price_per_hour is None else _prices(price_per_hour, ours, theirs)
    chosen = None if between is None else _between(between)
    if isinstance(ours, Source) and isinstance(theirs, Source):
        comparison = compare_runs(ours, theirs, chosen)
    elif isinstance(ours, RoundsSource) and isinstance(theirs, RoundsSource) and chosen is None:
        comparison = compare_rounds(ours, theirs)
    else:
        raise BadInputError(
            f"{ours.label} and {theirs.label} cannot be compared: name two stored runs, or two pytest-benchmark files "
            "without --between"
        )
    text = render_comparison(
        comparison, format=layout, only_changed=only_changed, width=terminal_width(), prices=prices
    )
    click.echo(text)
    if comparison.is_hardware and layout in {"table", "markdown"}:
        from bench.analysis.scaling_models import models_of_comparison
        from bench.analysis.scaling_view import scaling_sections

        models = models_of_comparison(comparison)
        for part in scaling_sections(models, layout, terminal_width()) if models else ():
            click.echo(f"\n{part}")
    _print_warnings(ours, theirs)


def _between(text: str) -> "Between":
    from bench.compare.compare_runs import Between
    from bench.planning.dimensions import DIMENSIONS, IDENTITY
    from mnist_mlp.spelling import did_you_mean

    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    known = [*IDENTITY, *DIMENSIONS, "machine_id"]
    sides = [value.strip() for value in values.split(",")]
    if not equals or len(sides) != 2 or not all(sides) or sides[0] == sides[1]:  # noqa: PLR2004 - a pair
        raise BadInputError(
            f"--between {text!r} is not a dimension with two different values: write it like device=cpu,cuda"
        )
    if name not in known:
        hint = did_you_mean(name, known)
        raise BadInputError(f"--between: dimension {name!r} is unknown{hint}: use one of {', '.join(known)}")
    return Between(dimension=name, baseline=sides[0], candidate=sides[1])


@click.command("check", epilog=EXIT_CODES)
@click.argument("baseline", metavar="BASELINE", type=RUN)
@click.argument("candidate", metavar="CANDIDATE", type=RUN)
@click.option(
    "--max-slowdown", type=Share(), default="10%", show_default=True, help="Increase of epoch time that still passes."
)
@click.option(
    "--max-accuracy-drop",
    type=Share("pp"),
    default="0.5pp",
    show_default=True,
    help="Drop in test accuracy that still passes, in percentage points.",
)
@click.option(
    "--gate",
    type=Choice(("all", "accuracy", "time")),
    default="all",
    show_default=True,
    help="What to judge. Only accuracy can be judged across machines.",
)
@click.option("--min-accuracy", type=Share(), help="Final test accuracy that every trial of the candidate must reach.")
@click.option("--json", "json_path", type=PATH, help="Write the whole judgement to this file.")
@click.option("--results", type=PATH, default=RESULTS, help="Where to look up run ids and machine profiles.")
@garbage_collection_paused()
def check_command(  # noqa: PLR0913 - one parameter an option
    baseline: str,
    candidate: str,
    *,
    max_slowdown: float,
    max_accuracy_drop: float,
    gate: Literal["all", "accuracy", "time"],
    min_accuracy: float | None,
    json_path: Path | None,
    results: Path,
) -> None:
    """Judge a stored run against a baseline: is it still as fast and as accurate? The exit code is the verdict.

    BASELINE and CANDIDATE are paths, beginnings of run ids, latest, or latest~1. Whatever is missing, failed,
    incomplete or not comparable never passes. For a change of code on this machine, `bench ab` judges time far more
    precisely.

    \b
    python -m bench check results/baselines/accuracy.jsonl latest --gate accuracy
    python -m bench check 1a2b latest --max-slowdown 20% --json verdict.json
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.compare.check import check_runs
    from bench.compare.check_report import Limits
    from bench.compare.check_view import check_json, check_markdown, check_text
    from bench.compare.comparison import Source

    idle = {"time": "max_accuracy_drop", "accuracy": "max_slowdown"}.get(gate)
    if idle and click.get_current_context().get_parameter_source(idle) is ParameterSource.COMMANDLINE:
        raise BadInputError(f"--{idle.replace('_', '-')} does nothing with --gate {gate}: leave one of them out")
    limits = Limits(
        max_slowdown=max_slowdown, max_accuracy_drop=max_accuracy_drop, gate=gate, min_accuracy=min_accuracy
    )
    require_writable_json(json_path)
    if json_path is not None and any(_is_same_file(json_path, each, results) for each in (baseline, candidate)):
        raise BadInputError(f"--json {json_path} would overwrite a run to be judged: name another file")
    ours, theirs = _read_both(baseline, candidate, results)
    if not isinstance(ours, Source) or not isinstance(theirs, Source):
        raise BadInputError("check judges stored runs, not pytest-benchmark files: use python -m bench compare")
    report = check_runs(ours, theirs, limits)
    click.echo(check_text(report, terminal_width()))
    _print_warnings(ours, theirs)
    warning = append_step_summary(check_markdown(report))
    if warning is not None:
        say(f"bench: {warning}")
    if json_path is not None:
        write_atomically(json_path, check_json(report))
    click.get_current_context().exit(report.exit_code)


def _prices(text: str, *sources: "Source | RoundsSource") -> "Prices":
    from bench.compare.comparison import Source
    from bench.tables.prices import parse_prices

    prices = parse_prices(text, has_sides=True)
    tables = [source.table for source in sources if isinstance(source, Source)]
    if len(tables) < len(sources):
        raise BadInputError(
            "--price-per-hour applies to training, which pytest-benchmark files do not hold: leave it out"
        )
    prices.check_devices(trials.device for table in tables for trials in table.trials)
    return prices


def _is_same_file(path: Path, reference: str, results: Path) -> bool:
    from bench.storage.references import resolve

    return path.exists() and path.samefile(resolve(split_label(reference)[1], results))


def _read_both(baseline: str, candidate: str, results: Path) -> "tuple[Source | RoundsSource, Source | RoundsSource]":
    from bench.calibration.profiles import load_profile
    from bench.compare.comparison import RoundsSource, Source
    from bench.compare.reading import read_tables
    from bench.compare.rounds import is_rounds_file, read_rounds
    from bench.storage.references import resolve
    from bench.tables.columns import harmless

    labels, references = split_labels((baseline, candidate))
    paths = [resolve(reference, results) for reference in references]
    is_rounds = [is_rounds_file(path) for path in paths]
    tables = iter(read_tables([path for path, rounds in zip(paths, is_rounds, strict=True) if not rounds]))

    def source(label: str | None, path: Path, *, rounds: bool) -> Source | RoundsSource:
        if rounds:
            return RoundsSource(label=harmless(label or path.name, 60), file=read_rounds(path))
        table = next(tables)
        # A profile is about one machine. For several the drift is unknown, and a cautious value is assumed.
        profile = load_profile(table.header.machine.id, results) if len(table.headers) == 1 else None
        return Source(label=harmless(label or table.header.run_id, 60), table=table, profile=profile)

    ours, theirs = (
        source(label, path, rounds=rounds) for label, path, rounds in zip(labels, paths, is_rounds, strict=True)
    )
    return ours, theirs


def _print_warnings(*sources: "Source | RoundsSource") -> None:
    from bench.compare.comparison import Source

    for source in sources:
        for warning in source.table.warnings if isinstance(source, Source) else ():
            say(f"bench: {source.label}: {warning}")
