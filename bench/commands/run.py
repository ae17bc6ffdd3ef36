"""The commands `run`, which measures, and `devices`, which lists where it can."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
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
    command_line,
    exit_codes,
    make_request,
    patience,
    plan_options,
    quiet_option,
    show_progress,
    verbose_option,
    volume,
    wait_option,
)
from bench.errors import BadInputError
from bench.planning.plan import MAX_WORLD_SIZE, check_request
from bench.system.interrupts import Interrupts
from bench.system.outputs import checked_output, say
from bench.units import duration_text, format_count
from mnist_mlp.paths import PATH
from mnist_mlp.streams import terminal_width

if TYPE_CHECKING:
    from bench.execution import run
    from bench.execution.executor import ExecutionOptions, Executor
    from bench.execution.launcher import Launcher
    from bench.execution.progress import Progress
    from bench.planning.plan import Request
    from bench.records import Plan, Trial
    from bench.system.torchrun import Place


@click.command(
    "run",
    epilog=exit_codes(
        {
            3: "the budget was spent before every configuration was measured",
            4: "a trial failed",
            5: "--resume on another machine or software",
        }
    ),
)
@plan_options
@click.option("--shard", metavar="I/N", help="Run one part of the plan, such as 2/3; merge combines the parts.")
@click.option("--timeout", type=Duration(), default="1h", show_default=True, help="Time limit for each trial.")
@click.option("--budget", type=Duration(), help="Start no more trials after this time; those under way are finished.")
@wait_option
@quiet_option
@verbose_option
@click.option("--on", metavar="PLACE", help="Run on a Ray cluster: ray (this machine's cluster) or ray:HOST:PORT.")
@click.option("--name", default=None, help="Part of the stored file's name.  [default: the preset, or custom]")
@click.option("--output", type=PATH, help="A .jsonl file, or a folder of stored runs.")
@click.option("--data-root", type=PATH, callback=DATA_ROOT, help="The folder with the datasets.")
@click.option("--resume", type=RUN, help="Complete this stored run (a path, a run id or latest).")
@click.option("--dry-run", is_flag=True, help="Print the plan and an estimate of its time; store nothing.")
@click.pass_context
def run_command(  # noqa: PLR0913 - one parameter an option
    ctx: click.Context,
    /,
    *,
    preset: str | None,
    timeout: float,
    budget: float | None,
    wait: float,
    on: str | None,
    name: str | None,
    output: Path | None,
    data_root: Path | None,
    shard: str | None,
    resume: str | None,
    dry_run: bool,
    **grid: Any,  # noqa: ANN401 - the grid's options are checked by `check_request`
) -> None:
    """Train every configuration of a grid several times, each time in a fresh process, and store the measurements.

    \b
    python -m bench run --dry-run
    python -m bench run --preset recipes
    python -m bench run --models 784-128-10 --widths 64,256 --batch-sizes 512
    python -m bench run --world-size 1,2 --scaling weak
    python -m bench run --resume 1a2b3c4d
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.execution import run
    from bench.execution.executor import ExecutionOptions
    from bench.planning.shards import parse_shard
    from bench.system.torchrun import end_with_torchrun, place_in_torchrun

    place = place_in_torchrun(os.environ)
    if on is not None and place is not None:
        raise BadInputError("--on runs each trial on one node of a cluster, torchrun on several: use one of them")
    if place is not None:
        end_with_torchrun()
    asked = {option: value for option, value in grid.items() if value is not None}
    options = run.Options(
        name=next(each for each in (name, preset, "custom" if asked else "quick") if each is not None),
        results=RESULTS,
        output=output,
        budget_seconds=budget,
        command=command_line(sys.argv[1:]),
        shard=None if shard is None else parse_shard(shard),
        again=_given(("--on", on), ("--data-root", data_root), ("--timeout", duration_text(timeout))),
    )
    execution = ExecutionOptions(data_root=data_root, timeout_seconds=timeout, patience=patience(wait))
    where = _Where(on=on, place=place, execution=execution)
    if resume is not None:
        _refuse_beside_resume(asked, preset=preset, name=name, output=output, shard=shard, dry_run=dry_run)
        _resume(resume, options, where, ctx.obj)
        return
    if dry_run:
        _refuse_beside_dry_run(budget)
    if place is not None:
        asked.setdefault("world_sizes", (place.world_size,))
    _start(make_request(preset, asked), options, where, ctx.obj, dry_run=dry_run)


def _given(*options: tuple[str, object]) -> tuple[str, ...]:
    """Return the options that were given on the command line, with their values."""
    source = click.get_current_context().get_parameter_source
    names = {option: option.removeprefix("--").replace("-", "_") for option, _ in options}
    given = (each for each in options if source(names[each[0]]) is ParameterSource.COMMANDLINE)
    return tuple(str(word) for each in given for word in each)


def _start(
    request: "Request", options: "run.Options", where: "_Where", interrupts: Interrupts, *, dry_run: bool
) -> None:
    from bench.execution import run
    from bench.execution.launcher import preload_for
    from bench.system.locks import require_free
    from bench.system.torchrun import check_world_size

    check_request(request)
    check_world_size(max(request.world_sizes), where.place)
    preload = preload_for(request.pipelines, request.dataset)
    if where.place is not None and where.place.rank > 0:
        _follow(where.place, where.execution, preload, dry_run=dry_run)
        return
    run.check_output(options)
    if where.on is None:
        require_free(request.devices, where.execution.patience)
    with _executor(where, preload) as executor:
        if dry_run:
            _dry_run(request, options.shard, executor)
            return
        runner = run.Runner(options=options, executor=executor, interrupts=interrupts, make_progress=_progress)
        _print_finished(runner.start(request), where.on)


def _resume(reference: str, options: "run.Options", where: "_Where", interrupts: Interrupts) -> None:
    from bench.execution import run
    from bench.planning.plan import missing_trials
    from bench.storage.references import resolve
    from bench.storage.store import read_run
    from bench.system.locks import require_free
    from bench.system.torchrun import check_world_size

    if where.place is not None and where.place.rank > 0:
        _follow(where.place, where.execution, _preload_elsewhere(reference))
        return
    path = resolve(reference, options.results)
    stored = read_run(path)
    plan = stored.header.plan
    check_world_size(max(configuration.world_size for configuration in plan.configurations), where.place)
    if where.on is None:
        missing = missing_trials(plan, stored.records)
        require_free({device for trial in missing for device in trial.configuration.devices}, where.execution.patience)
    with _executor(where, _preload_of(plan)) as executor:
        runner = run.Runner(options=options, executor=executor, interrupts=interrupts, make_progress=_progress)
        _print_finished(runner.resume(path), where.on)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Where:
    """Where trials run: on the cluster `on`, under torchrun at this process's `place`, or else on this machine."""

    on: str | None
    place: "Place | None"
    execution: "ExecutionOptions"


@contextlib.contextmanager
def _executor(where: _Where, preload: tuple[str, ...]) -> Iterator["Executor"]:
    """Open what executes the trials: this machine, or the cluster given by ``--on``."""
    if where.on is None:
        from bench.execution.executor import LocalExecutor

        with _launcher(preload, where.place) as launcher:
            ranks_here = MAX_WORLD_SIZE if where.place is None else where.place.local_world_size
            yield LocalExecutor(launcher, where.execution, ranks_here=ranks_here)
        return
    address = _address(where.on)
    from bench.execution.cluster import ClusterExecutor
    from bench.execution.ray_cluster import connected

    with connected(address, preload, where.execution) as cluster:
        yield ClusterExecutor(cluster, where.execution.patience)


def _address(place: str) -> str:
    """Return the address in ``ray:ADDRESS``; for ``ray`` alone return ``auto``, Ray's name for its default cluster."""
    name, colon, address = place.partition(":")
    if name != "ray" or (colon and not address):
        raise BadInputError(f"--on {place!r} is not a cluster: write ray, or ray:HOST:PORT of a Ray cluster's head")
    return address or "auto"


def _refuse_beside_dry_run(budget: float | None) -> None:
    if budget is not None:
        raise BadInputError("--budget limits a run, but --dry-run runs nothing: leave one of them out")
    if volume() == "verbose":
        raise BadInputError("--verbose reports on trials, but --dry-run runs none: leave one of them out")


def _refuse_beside_resume(asked: dict[str, Any], **others: object) -> None:
    # An option given as 0 counts as given; a flag that was not given is False.
    given = [option for option, value in (asked | others).items() if value is not None and value is not False]
    if given:
        names = {parameter.name: parameter.opts[0] for parameter in click.get_current_context().command.params}
        options = ", ".join(names[option] for option in given)
        raise BadInputError(f"{options} cannot be given with --resume, which takes the stored plan: leave it out")


@contextlib.contextmanager
def _launcher(preload: tuple[str, ...], place: "Place | None") -> Iterator["Launcher"]:
    """Open the launcher of worker processes; under torchrun, dismiss the other ranks at the end, whatever happened."""
    from bench.execution.follow import dismiss
    from bench.execution.launcher import make_launcher

    with contextlib.closing(make_launcher(preload)) as launcher:
        try:
            yield launcher
        finally:
            if place is not None and place.world_size > 1:
                dismiss(launcher, place.world_size, notify=say)


def _follow(place: "Place", execution: "ExecutionOptions", preload: tuple[str, ...], *, dry_run: bool = False) -> None:
    from bench.execution.follow import follow
    from bench.execution.launcher import make_launcher

    with contextlib.closing(make_launcher(preload)) as launcher:
        count = follow(place, launcher, execution, notify=say)
    if dry_run:
        say(f"rank {place.rank} took part in {format_count(count, 'probe')} for the estimate")
    else:
        say(f"rank {place.rank} took part in {format_count(count, 'trial')}; the first rank stores them")


def _preload_elsewhere(reference: str) -> tuple[str, ...]:
    """Return what the trials of a stored run import; nothing if the file is only on the first rank's host."""
    from bench.storage.references import resolve
    from bench.storage.store import read_run

    try:
        return _preload_of(read_run(resolve(reference, RESULTS)).header.plan)
    except BadInputError:
        return ()


def _preload_of(plan: "Plan") -> tuple[str, ...]:
    from bench.execution.launcher import preload_for

    return preload_for([c.pipeline for c in plan.configurations], plan.configurations[0].dataset)


def _progress(trials: tuple["Trial", ...], concurrency: int) -> "contextlib.AbstractContextManager[Progress]":
    from bench.execution.progress import make_progress

    return make_progress(trials, sys.stderr, volume(), concurrency=concurrency)


def _dry_run(request: "Request", shard: tuple[int, int] | None, executor: "Executor") -> None:
    """Print the plan and, unless it is for a cluster whose nodes may differ, how long it will take."""
    from bench.execution import run
    from bench.execution.executor import LocalExecutor
    from bench.planning.shards import divide
    from bench.units import format_seconds

    plan = executor.plan(request)
    if shard is not None:
        plan = divide(plan, shard[1])[shard[0] - 1]
    estimate = run.estimate_run(plan, executor) if isinstance(executor, LocalExecutor) else None
    _print_plan(plan)
    if estimate is None:
        return
    click.echo(
        f"Estimated time: {format_seconds(estimate.of(plan))}, from the first steps of {estimate.probes} of them"
    )
    if estimate.note:
        click.echo(estimate.note)


def _print_plan(plan: "Plan") -> None:
    from bench.tables.layout import text_table

    headers = ("device", "model", "batch", "epochs", "pipeline", "engine", "precision", "threads", "ranks")
    rows = [
        (
            *(c.device, c.model, str(c.batch_size), str(c.epochs), c.pipeline, c.engine, c.precision),
            *(str(c.threads), str(c.world_size)),
        )
        for c in plan.configurations
    ]
    numeric = [header in {"batch", "epochs", "threads", "ranks"} for header in headers]
    click.echo(text_table(headers, rows, numeric, terminal_width()))
    click.echo(f"\n{len(plan.configurations)} configurations x {plan.repeats} repeats = {plan.trial_count} trials")


def _print_finished(finished: "run.Finished", on: str | None) -> None:
    from bench.execution import run
    from bench.tables.show import render_run

    with checked_output(f"; the run is stored in {finished.path}"):
        click.echo(render_run(finished.run, width=terminal_width()))
        click.echo(f"\nStored in {finished.path}")
    if not finished.executed:
        show_progress("Nothing was left to run: every trial of the plan was stored already")
    share = run.measuring_share(finished) if on is None else None  # meaningless for trials that run concurrently
    if share is not None and finished.run.footer is not None:
        wall = finished.run.footer.wall_seconds
        show_progress(
            f"Took {wall:.0f} s: {100 * share:.0f} % warm-up, training and evaluation, the rest overhead (start-up, "
            "yardsticks, storage)"
        )
    click.get_current_context().exit(finished.exit_code)


@click.command("devices", epilog=exit_codes({4: "the worker did not start"}))
@click.option("--format", "layout", type=Choice(("table", "json")), default="table", show_default=True)
def devices_command(layout: str) -> None:
    """List the available devices, and why others are not available.

    \b
    python -m bench devices
    python -m bench devices --format json
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.coding import dumps
    from bench.execution.conversation import describe_place
    from bench.execution.launcher import make_launcher
    from bench.tables.layout import text_table

    with contextlib.closing(make_launcher()) as launcher:
        statuses = describe_place(launcher).devices
    if layout == "json":
        click.echo(dumps(statuses))
        return
    rows = [(s.device, "yes" if s.available else "no", s.description if s.available else s.reason) for s in statuses]
    headers = ("device", "available", "name, or why not")
    click.echo(text_table(headers, rows, (False,) * 3, terminal_width()))
