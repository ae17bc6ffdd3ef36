"""The command `ab`: two arms live on this machine, as a gate of time."""

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.options import (
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
from bench.system.outputs import append_step_summary, require_writable, say, write_atomically
from mnist_mlp.streams import terminal_width

if TYPE_CHECKING:
    from bench.ab.comparison import Stage
    from bench.ab.report import Report


@click.command("ab", epilog=EXIT_CODES)
@click.argument("baseline", metavar="BASELINE")
@click.argument("candidate", metavar="CANDIDATE")
@click.option("--preset", type=PRESET, default="quick", show_default=True, help="Which configurations, as in `run`.")
@grid_options
@click.option("--seed", type=int, help="Seed of the first pair; each further pair has the next.  [default: 0]")
@click.option("--max-slowdown", type=Share(), default="5%", show_default=True, help="What is still a pass.")
@click.option("--screen-pairs", type=click.IntRange(3, 1000), default=8, show_default=True, help="Process pairs each.")
@click.option(
    "--confirm-pairs",
    type=click.IntRange(3, 1000),
    default=8,
    show_default=True,
    help="Fresh process pairs for what is still open, in each of two rounds.",
)
@click.option("--until-decided", is_flag=True, help="More such rounds until every verdict is in.")
@click.option("--budget", type=Duration(), help="Start no further pair after this time of measuring.")
@click.option("--timeout", type=Duration(), default=3600.0, show_default="1h", help="Longest time for one pair.")
@wait_option
@quiet_option
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write everything measured to this file.")
@click.option("--data-root", type=click.Path(path_type=Path), help="Where datasets are kept.")
@click.option(
    "--results", type=click.Path(path_type=Path), default=RESULTS, help="Where machine profiles are looked up."
)
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
    **grid: Any,  # noqa: ANN401 - the grid's options are checked by `check_request`
) -> None:
    """Compare the training time of two arms, live and in turns on this machine, and gate on it.

    An arm is . (this tree as it is now), rev:REVISION (the mnist_mlp of a git revision) or python:INTERPRETER
    (another environment with its torch). The measuring code is this tree's for both.

    \b
    python -m bench ab rev:main .
    python -m bench ab rev:HEAD~1 . --max-slowdown 3% --until-decided
    python -m bench ab python:.venv/bin/python python:../new/bin/python
    python -m bench ab . .                           is this machine quiet enough?
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.ab import comparison as ab
    from bench.ab.arms import open_arm, tell_apart
    from bench.ab.report import FAILED, INTERRUPTED
    from bench.calibration.profiles import load_profile
    from bench.execution.processes import make_arm_launchers
    from bench.execution.run import preload_for
    from bench.system.locks import device_locks, require_free

    request = make_request(preset, {option: value for option, value in grid.items() if value is not None})
    check_request(request)
    if json_path is not None:
        require_writable(json_path)
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
        arms = tell_apart(stack.enter_context(open_arm(baseline)), stack.enter_context(open_arm(candidate)))
        preload = preload_for(request.pipelines, request.dataset)
        (first, second), renew = make_arm_launchers([(arm.python, arm.workload) for arm in arms], preload)
        stack.callback(second.close)
        stack.callback(first.close)
        comparison = ab.LiveComparison(arms, (first, second), options, renew=renew)
        devices = {configuration.device for configuration in comparison.plan(request)}
        stack.enter_context(device_locks(devices, patience=patience(wait)))
        profile = load_profile(comparison.machine.id, results)
        floors = {device: None if profile is None else profile.ab_floor(device) for device in sorted(devices)}
        try:
            ended = comparison.run(floors, _tell, lambda: _keep(comparison.report(INTERRUPTED), json_path))
        except BenchError as error:  # whatever it is, what was measured by then is told
            ended = INTERRUPTED if isinstance(error, InterruptedRunError) else FAILED
            problem = _finish(comparison.report(ended), json_path)
            if problem is not None:
                say(f"bench: {problem}")
            raise
        report = comparison.report(ended)
    problem = _finish(report, json_path)
    if problem is not None:
        raise problem
    ctx.exit(report.exit_code)


def _tell(stage: "Stage") -> None:
    """Say on standard error how far it is: one line that is written over on a terminal, else one a tenth."""
    if volume() == "quiet":
        return
    if sys.stderr.isatty():
        end = "\n" if stage.number == stage.total else "\r"
        say(f"{stage.name}: pair {stage.number} of {stage.total}  {end}", end="")
    elif stage.number % max(1, stage.total // 10) == 0:
        say(f"{stage.name}: pair {stage.number} of {stage.total}")


def _finish(report: "Report", json_path: Path | None) -> StorageError | None:
    """Write the report, then print it, for who reads what is printed may be gone; return why it is not all written."""
    from bench.ab.view import render_markdown, render_table

    problem = _save(report, json_path)
    warning = append_step_summary(render_markdown(report))
    if warning is not None:
        say(f"bench: {warning}")
    click.echo(render_table(report, terminal_width()))
    return problem


def _keep(report: "Report", path: Path | None) -> None:
    """Write all that is known by now, so that even a kill loses no more than a round."""
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
