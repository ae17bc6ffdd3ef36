"""The commands `calibrate` and `selftest`: how finely this machine measures, and whether it measures correctly."""

import contextlib
import sys
from pathlib import Path

import click

from bench.calibration.profiles import MIN_PAIRS, MIN_SEEDS
from bench.commands.options import (
    DATA_ROOT,
    DEVICES,
    RESULTS,
    Choice,
    Duration,
    exit_codes,
    patience,
    quiet_option,
    show_progress,
    wait_option,
)
from bench.system.outputs import require_writable_json, write_atomically
from mnist_mlp.paths import PATH


@click.command("calibrate", epilog=exit_codes({4: "a trial failed"}))
@click.option(
    "--devices", type=DEVICES, default=("auto",), help="Devices, such as cpu,cuda:1,mps.  [default: auto, all]"
)
@click.option(
    "--pairs",
    type=click.IntRange(MIN_PAIRS, 1000),
    default=8,
    show_default=True,
    help="A/A process pairs for each device.",
)
@click.option(
    "--seeds",
    type=click.IntRange(MIN_SEEDS, 1000),
    default=5,
    show_default=True,
    help="Full trials for each device, each with a new seed.",
)
@click.option("--results", type=PATH, default=RESULTS, help="Where machine profiles are stored.")
@click.option("--data-root", type=PATH, callback=DATA_ROOT, help="Where datasets are kept.")
@click.option("--timeout", type=Duration(), default="10m", show_default=True, help="Time limit for one trial.")
@wait_option
@quiet_option
@click.option("--json", "json_path", type=PATH, help="Write the figures to this file too.")
@click.pass_context
def calibrate_command(  # noqa: PLR0913 - one parameter an option
    ctx: click.Context,
    /,
    *,
    devices: tuple[str, ...],
    pairs: int,
    seeds: int,
    results: Path,
    data_root: Path | None,
    timeout: float,
    wait: float,
    json_path: Path | None,
) -> None:
    """Measure how finely this machine can measure, and what its devices can do. Takes about a minute per device.

    The result is stored for `ab`, `check` and `show`.

    Run it on different days: drift between sessions is known from the third session on.

    \b
    python -m bench calibrate
    python -m bench calibrate --devices cpu --pairs 16
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.calibration import calibrate
    from bench.calibration import view as calibration_view
    from bench.coding import dumps
    from bench.execution.launcher import make_arm_launchers
    from bench.system.locks import require_free

    options = calibrate.Options(
        devices=devices,
        pairs=pairs,
        seeds=seeds,
        results=results,
        data_root=data_root,
        timeout_seconds=timeout,
        patience=patience(wait),
    )
    require_writable_json(json_path)
    require_free(devices, options.patience)
    (one, other), _ = make_arm_launchers([(sys.executable, None)] * 2)
    with contextlib.closing(one), contextlib.closing(other):
        calibrated = calibrate.calibrate(options, (one, other), ctx.obj, show_progress)
    click.echo(calibration_view.render(calibrated))
    click.echo(f"\nStored in {calibrated.path}")
    if json_path is not None:
        write_atomically(json_path, dumps(calibration_view.report(calibrated)) + "\n")


@click.command("selftest", epilog=exit_codes({0: "sound", 4: "a check failed"}))
@click.option(
    "--devices", type=DEVICES, default=("auto",), help="Devices, such as cpu,cuda:1,mps.  [default: auto, all]"
)
@click.option("--data-root", type=PATH, callback=DATA_ROOT, help="Where datasets are kept.")
@click.option(
    "--dataset",
    type=Choice(("mnist", "digits")),
    default="mnist",
    show_default=True,
    help="Data that the checks train on.",
)
@click.option(
    "--format",
    "layout",
    type=Choice(("table", "json")),
    default="table",
    show_default=True,
    help="How to print the checks.",
)
@click.option("--timeout", type=Duration(), default="10m", show_default=True, help="Time limit for one device.")
@wait_option
@quiet_option
@click.pass_context
def selftest_command(  # noqa: PLR0913 - one parameter an option
    ctx: click.Context,
    /,
    *,
    devices: tuple[str, ...],
    data_root: Path | None,
    dataset: str,
    layout: str,
    timeout: float,
    wait: float,
) -> None:
    """Check on each device that bench itself measures correctly: clock, waiting, meters, precision, losses, scores.

    Exits with code 4 if a check fails.

    \b
    python -m bench selftest
    python -m bench selftest --devices cpu --dataset digits
    """  # noqa: D301 - \b is for click: keep these lines as they are
    from bench.calibration import selftest
    from bench.coding import dumps
    from bench.execution.launcher import make_launcher
    from bench.system.locks import require_free

    options = selftest.Options(
        devices=devices, dataset=dataset, data_root=data_root, timeout_seconds=timeout, patience=patience(wait)
    )
    require_free(devices, options.patience)
    with contextlib.closing(make_launcher()) as launcher:
        checks = selftest.run_selftest(options, launcher, show_progress)
    click.echo(dumps(checks) if layout == "json" else selftest.render(checks))
    ctx.exit(selftest.exit_code(checks))
