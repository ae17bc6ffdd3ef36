"""The commands `plan`, which divides a plan into shards, and `merge`, which combines their runs into one."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bench.commands.options import (
    DATA_ROOT,
    RESULTS,
    RUN,
    Choice,
    Duration,
    exit_codes,
    make_request,
    patience,
    plan_options,
    wait_option,
)
from bench.errors import BadInputError, ExitCode
from bench.planning.plan import check_request
from bench.system.collection import garbage_collection_paused
from mnist_mlp.paths import PATH
from mnist_mlp.streams import terminal_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.planning.estimate import Estimate
    from bench.records import Plan, Run


@click.command("plan", epilog=exit_codes({4: "the worker did not start"}))
@plan_options
@click.option("--shards", type=int, default=1, show_default=True, help="Number of parts to divide the plan into.")
@click.option("--no-estimate", is_flag=True, help="Do not start trials to estimate times.")
@click.option("--timeout", type=Duration(), default="1h", show_default=True, help="Time limit for each probe.")
@wait_option
@click.option("--data-root", type=PATH, callback=DATA_ROOT, help="The folder with the datasets.")
@click.option("--format", "layout", type=Choice(("table", "json")), default="table", show_default=True)
@garbage_collection_paused()
def plan_command(  # noqa: PLR0913 - one parameter an option
    *,
    preset: str | None,
    shards: int,
    no_estimate: bool,
    timeout: float,
    wait: float,
    data_root: Path | None,
    layout: str,
    **grid: Any,  # noqa: ANN401 - the grid's options are checked by `check_request`
) -> None:
    """Show how a plan divides into shards: each one's trials, and how long they would take here. Store nothing.

    Takes the same options as run to say what to measure. Run each part with these options and --shard 1/4, 2/4, …, and
    combine the parts with merge.

    \b
    python -m bench plan --preset standard --shards 4
    python -m bench plan --preset standard --devices cpu --threads 8 --shards 4
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.execution import run
    from bench.execution.executor import ExecutionOptions, LocalExecutor
    from bench.execution.launcher import make_launcher, preload_for
    from bench.planning.shards import check_shards, divide
    from bench.system.locks import require_free

    request = make_request(preset, grid)
    check_request(request)
    check_shards(shards, "--shards")
    _refuse_unused(no_estimate=no_estimate)
    execution = ExecutionOptions(data_root=data_root, timeout_seconds=timeout, patience=patience(wait))
    if not no_estimate:
        require_free(request.devices, execution.patience)
    with contextlib.closing(make_launcher(preload_for(request.pipelines, request.dataset))) as launcher:
        executor = LocalExecutor(launcher, execution)
        plan = executor.plan(request)
        parts = divide(plan, shards)
        estimate = None if no_estimate else run.estimate_run(plan, executor)
    click.echo(_plan_json(plan, parts, estimate) if layout == "json" else _plan_table(plan, parts, estimate))


def _refuse_unused(*, no_estimate: bool) -> None:
    ctx = click.get_current_context()
    for name in ("timeout", "wait", "data_root") if no_estimate else ():
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = f"--{name.replace('_', '-')}"
            raise BadInputError(f"{option} is for estimates, but --no-estimate makes none: leave one of them out")


def _plan_table(plan: "Plan", parts: "Sequence[Plan]", estimate: "Estimate | None") -> str:
    from bench.planning.shards import plan_id
    from bench.tables.layout import text_table
    from bench.units import format_seconds

    count, shards = len(plan.configurations), len(parts)
    rows = [
        (f"{number}/{shards}", str(len(part.configurations)), str(part.trial_count))
        + (() if estimate is None else (format_seconds(estimate.of(part)),))
        for number, part in enumerate(parts, start=1)
    ]
    headers = ("shard", "configurations", "trials", "estimated time")
    lines = [
        text_table(headers[: len(rows[0])], rows, (False, True, True, True)[: len(rows[0])], terminal_width()),
        f"\nPlan {plan_id(plan)}: {count} configurations x {plan.repeats} repeats = {plan.trial_count} trials",
    ]
    if estimate is not None:
        total = format_seconds(estimate.of(plan))
        lines.append(f"Estimated time here: {total} in total, from the first steps of {estimate.probes} trials")
        lines += [estimate.note] if estimate.note else []
    return "\n".join(lines)


def _plan_json(plan: "Plan", parts: "Sequence[Plan]", estimate: "Estimate | None") -> str:
    from bench.planning.shards import plan_id
    from bench.tables.layout import json_text

    def row(part: "Plan") -> dict[str, Any]:
        return {
            "configurations": len(part.configurations),
            "trials": part.trial_count,
            "estimated_seconds": None if estimate is None else estimate.of(part),
        }

    document = {
        "plan_id": plan_id(plan),
        "repeats": plan.repeats,
        "seed": plan.seed,
        **row(plan),
        "shards": [{"shard": f"{number}/{len(parts)}", **row(part)} for number, part in enumerate(parts, start=1)],
    }
    return json_text(document)


@click.command(
    "merge",
    epilog=exit_codes(
        {0: "done, and complete", 3: "trials are missing", 4: "a trial failed", 5: "the shards do not belong together"}
    ),
)
@click.argument("references", metavar="SHARD...", nargs=-1, required=True, type=RUN)
@click.option("--output", type=PATH, required=True, help="The file to create or to add to.")
@click.option("--results", type=PATH, default=RESULTS, help="The folder to look up run ids in.")
@garbage_collection_paused()
def merge_command(references: tuple[str, ...], *, output: Path, results: Path) -> None:
    """Merge shards of one plan into one file. SHARD is a path, the beginning of a run id, or latest.

    Shards can be merged in any order, before they are complete, and repeatedly: trials already in the file stay as they
    are, and a resumed shard adds its new ones. Shards of different plans, software or data are refused, and so is a
    second run of the same shard. The exit code is 0 if nothing is missing, and 3 otherwise. A complete run's CSV,
    with a row per trial, is written beside it.

    \b
    python -m bench merge shard-1.jsonl shard-2.jsonl --output run.jsonl
    python -m bench merge shard-3.jsonl --output run.jsonl
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.planning.shards import is_merged
    from bench.storage.merge import Source, merge_runs
    from bench.storage.references import SUFFIX, resolve
    from bench.storage.store import read_run, update_merged
    from bench.system.outputs import require_writable, say
    from bench.tables.columns import harmless

    if output.suffix != SUFFIX:
        raise BadInputError(f"--output {output} is not named like a stored run: name a {SUFFIX} file")
    require_writable(output)
    paths = [resolve(reference, results) for reference in references]
    shards = {path: read_run(path) for path in dict.fromkeys(paths) if path != output}

    def merge(before: "Run | None") -> "Run":
        if before is not None and not is_merged(before.header):
            raise BadInputError(
                f"--output {output} is a shard; merging would replace it, and a merged run cannot be resumed: name "
                "another file"
            )
        runs = shards if before is None else {**shards, output: before}
        sources = [Source(label=harmless(path.name, 60), run=run) for path, run in runs.items()]
        for source in sources:
            for warning in source.run.warnings:
                say(f"bench: {source.label}: {warning}")
        return merge_runs(sources)

    merged = update_merged(output, merge)
    click.echo(f"{output}: {_summary(merged)}")
    click.get_current_context().exit(_exit_code(merged))


def _summary(merged: "Run") -> str:
    from bench.planning.shards import completion, listed
    from bench.tables.machines import machine_headers
    from bench.units import format_count

    division, footer = merged.header.division, merged.footer
    if division is None or footer is None:  # a merged run has both
        return ""
    text = (
        f"shard {listed([shard.number for shard in division.held])} of {division.shards}, "
        f"{len(merged.records)} of {division.configurations * merged.header.plan.repeats} trials, "
        f"{footer.failed} of them failed, from {format_count(len(machine_headers(merged)), 'machine')}"
    )
    return text if footer.complete else f"{text}; {footer.missing} are missing: {completion(merged.header)}"


def _exit_code(merged: "Run") -> ExitCode:
    if merged.footer is not None and merged.footer.failed:
        return ExitCode.FAILED_TRIAL
    return ExitCode.PASS if merged.footer is not None and merged.footer.complete else ExitCode.INCONCLUSIVE
