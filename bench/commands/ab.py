"""The command `ab`: compares two arms live on this machine and gates time."""

import contextlib
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.options import (
    DATA_ROOT,
    EXIT_CODES,
    PRESET,
    RESULTS,
    Duration,
    Share,
    command_line,
    grid_options,
    make_request,
    patience,
    quiet_option,
    volume,
    wait_option,
)
from bench.errors import BenchError, InterruptedRunError, StorageError
from bench.planning.plan import check_request
from bench.system.outputs import append_step_summary, require_writable_json, say, write_atomically
from mnist_mlp.paths import PATH
from mnist_mlp.streams import terminal_width

if TYPE_CHECKING:
    from bench.ab.comparison import LiveComparison, Stage
    from bench.ab.report import Report


@click.command("ab", epilog=EXIT_CODES)
@click.argument("baseline", metavar="BASELINE")
@click.argument("candidate", metavar="CANDIDATE")
@click.option(
    "--preset", type=PRESET, default="quick", show_default=True, help="Configurations to compare, as in `run`."
)
@grid_options
@click.option("--seed", type=int, help="Seed of the first pair; each further pair has the next.  [default: 0]")
@click.option("--max-slowdown", type=Share(), default="5%", show_default=True, help="Slowdown that still passes.")
@click.option(
    "--screen-pairs",
    type=click.IntRange(3, 1000),
    default=8,
    show_default=True,
    help="Process pairs to screen each configuration with.",
)
@click.option(
    "--confirm-pairs",
    type=click.IntRange(3, 1000),
    default=8,
    show_default=True,
    help="Fresh process pairs for undecided configurations, in each of two rounds, or more with --until-decided.",
)
@click.option("--until-decided", is_flag=True, help="Add rounds until every verdict is in, up to eight.")
@click.option(
    "--budget",
    type=Duration(),
    help="Start no further pair once measuring has taken this long; the pair under way is finished.",
)
@click.option("--timeout", type=Duration(), default="1h", show_default=True, help="Time limit for one pair.")
@wait_option
@quiet_option
@click.option("--json", "json_path", type=PATH, help="Write everything measured to this file.")
@click.option("--data-root", type=PATH, callback=DATA_ROOT, help="Where datasets are kept.")
@click.option("--results", type=PATH, default=RESULTS, help="Where machine profiles are stored.")
@click.pass_context
def ab_command(  # noqa: PLR0913 - one parameter an option
    ctx: click.Context,
    /,
    *,
    baseline: str,
    candidate: str,
    preset: str,
    max_slowdown: float,
    screen_pairs: int,
    confirm_pairs: int,
    until_decided: bool,
    budget: float | None,
    timeout: float,
    wait: float,
    json_path: Path | None,
    data_root: Path | None,
    results: Path,
    **grid: Any,  # noqa: ANN401 - `check_request` checks the grid's options
) -> None:
    """Compare the training time of two arms, running in turns on this machine, and gate on it.

    An arm is . (this tree as it is now), rev:REVISION (the mnist_mlp of a git revision) or python:INTERPRETER
    (another environment with its own torch). Both are measured with this tree's code.

    \b
    python -m bench ab rev:main .
    python -m bench ab rev:HEAD~1 . --max-slowdown 3% --until-decided
    python -m bench ab python:.venv/bin/python python:../new/bin/python
    python -m bench ab . .                         # is this machine quiet enough?
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.ab import comparison as ab
    from bench.ab.arms import open_arm
    from bench.execution.launcher import make_arm_launchers, preload_for
    from bench.system.locks import device_locks, require_free

    request = make_request(preset, grid)
    check_request(request)
    require_writable_json(json_path)
    require_free(request.devices, patience(wait))
    options = ab.Options(
        max_slowdown=max_slowdown,
        screen_pairs=screen_pairs,
        confirm_pairs=confirm_pairs,
        until_decided=until_decided,
        budget_seconds=budget,
        data_root=data_root,
        timeout_seconds=timeout,
        command=command_line(sys.argv[1:]),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with contextlib.ExitStack() as stack:
        arms = (stack.enter_context(open_arm(baseline)), stack.enter_context(open_arm(candidate)))
        preload = preload_for(request.pipelines, request.dataset)
        (first, second), renew = make_arm_launchers([(arm.python, arm.workload) for arm in arms], preload)
        stack.callback(second.close)
        stack.callback(first.close)
        comparison = ab.LiveComparison(arms, (first, second), options, renew=renew)
        devices = {configuration.device for configuration in comparison.plan(request)}
        stack.enter_context(device_locks(devices, uuids=comparison.uuids, patience=patience(wait)))
        report = _run(comparison, _floors(comparison.machine.id, devices, results), json_path)
    problem = _finish(report, json_path)
    if problem is not None:
        raise problem
    ctx.exit(report.exit_code)


def _floors(machine_id: str, devices: Iterable[str], results: Path) -> dict[str, float | None]:
    from bench.calibration.profiles import load_profile

    profile = load_profile(machine_id, results)
    return {device: None if profile is None else profile.ab_floor(device) for device in sorted(devices)}


def _run(comparison: "LiveComparison", floors: Mapping[str, float | None], json_path: Path | None) -> "Report":
    """Measure and return the report; if an error ends it, report what was measured by then before raising it."""
    from bench.ab.report import FAILED, INTERRUPTED

    try:
        ended = comparison.run(floors, _show_progress, lambda: _keep(comparison.report(INTERRUPTED), json_path))
    except BenchError as error:
        problem = _finish(
            comparison.report(INTERRUPTED if isinstance(error, InterruptedRunError) else FAILED), json_path
        )
        if problem is not None:
            say(f"bench: {problem}")
        raise
    return comparison.report(ended)


def _show_progress(stage: "Stage") -> None:
    """Show progress on standard error: one line that is overwritten on a terminal, otherwise a line for each tenth."""
    if volume() == "quiet":
        return
    if sys.stderr.isatty():
        end = "\n" if stage.number == stage.total else "\r"
        say(f"{stage.name}: pair {stage.number} of {stage.total}  {end}", end="")
    elif stage.number % max(1, stage.total // 10) == 0:
        say(f"{stage.name}: pair {stage.number} of {stage.total}")


def _finish(report: "Report", json_path: Path | None) -> StorageError | None:
    """Write the report, then print it, because the reader of the output may be gone; return an error in writing."""
    from bench.ab.view import render_markdown, render_table

    problem = _save(report, json_path)
    warning = append_step_summary(render_markdown(report))
    if warning is not None:
        say(f"bench: {warning}")
    click.echo(render_table(report, terminal_width()))
    return problem


def _keep(report: "Report", path: Path | None) -> None:
    """Write everything known so far, so that even a kill loses no more than one round."""
    problem = _save(report, path)
    if problem is not None:
        say(f"bench: {problem}; the comparison goes on")


def _save(report: "Report", path: Path | None) -> StorageError | None:
    from bench.ab.view import render_json

    try:
        if path is not None:
            write_atomically(path, render_json(report))
    except StorageError as error:
        return error
    return None
