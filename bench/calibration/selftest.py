"""Runs the self-test of each device in a worker process of its own and shows the results."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.errors import ExitCode
from bench.execution.conversation import TrialFailedError, ask_once, describe_place, prepare_dataset, root_text
from bench.execution.launcher import Launcher
from bench.planning.plan import choose_devices
from bench.protocol.soundness import Check, Checked, Outcome
from bench.system.locks import IMPATIENT, Patience, device_locks
from bench.tables.layout import text_table

MEASURED_WIDTH: Final = 33
"""Characters in the widest column, so that the table stays within 80."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to check, and with which data. `timeout_seconds` is for all checks of one device."""

    devices: tuple[str, ...]
    dataset: str
    data_root: Path | None
    timeout_seconds: float
    patience: Patience = IMPATIENT


def run_selftest(options: Options, launcher: Launcher, progress: Callable[[str], None]) -> tuple[Check, ...]:
    """Return every check of every device; `progress` is called with a line for each device.

    Raises:
        BadInputError: a device is missing or in use, or the dataset is not available.
    """
    place = describe_place(launcher)
    devices = choose_devices(options.devices, place.devices)
    checks: list[Check] = []
    with device_locks(devices, uuids=place.uuids, patience=options.patience):
        prepare_dataset(launcher, options.dataset, options.data_root, timeout_seconds=options.timeout_seconds)
        for device in devices:
            progress(f"testing {device}")
            checks += _check_device(device, place.default_threads, options, launcher)
    return tuple(checks)


def _check_device(device: str, threads: int, options: Options, launcher: Launcher) -> tuple[Check, ...]:
    root = root_text(options.data_root)
    request = {"do": "selftest", "device": device, "threads": threads, "dataset": options.dataset, "root": root}
    try:
        return ask_once(launcher, Checked, request, timeout_seconds=options.timeout_seconds).checks
    except TrialFailedError as error:
        return (
            Check(
                name="the worker's answer",
                device=device,
                outcome=Outcome.FAIL,
                measured=str(error),
                rule="a worker process makes and reports every check",
            ),
        )


def exit_code(checks: Sequence[Check]) -> ExitCode:
    """Return the command's exit code: 0 if at least one check passed and none failed."""
    outcomes = {check.outcome for check in checks}
    return ExitCode.PASS if Outcome.PASS in outcomes and Outcome.FAIL not in outcomes else ExitCode.FAILED_TRIAL


def render(checks: Sequence[Check]) -> str:
    """Return the checks as a table of at most 80 columns, followed by the rule that each failed check broke."""
    rows: list[tuple[str, ...]] = []
    for check in checks:
        first, *further = textwrap.wrap(check.measured, MEASURED_WIDTH) or [""]
        rows.append((check.device, check.name, _word(check.outcome), first))
        rows += (("", "", "", line) for line in further)
    table = text_table(("device", "check", "result", "measured"), rows, (False,) * 4)
    counts = (f"{sum(check.outcome is outcome for check in checks)} {outcome}" for outcome in Outcome)
    failed = [check for check in checks if check.outcome is Outcome.FAIL]
    return "\n".join([table, "", ", ".join(counts), *map(_explain, failed)])


def _word(outcome: Outcome) -> str:
    """Return a short word for the column; the reason why a check is not applicable stands beside it."""
    return {Outcome.PASS: "pass", Outcome.FAIL: "FAIL", Outcome.NOT_APPLICABLE: "n/a"}[outcome]


def _explain(check: Check) -> str:
    return textwrap.fill(
        f"FAIL {check.device}, {check.name}: {check.measured}. Rule: {check.rule}.", width=80, subsequent_indent="  "
    )
