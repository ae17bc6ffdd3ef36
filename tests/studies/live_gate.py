"""What `bench ab` says of equal arms, and of arms with real work planted in one: verdicts on this machine, counted.

Each command compares this tree with a copy of its workload that does `--slowdown` more training steps (0: the same),
as `python -m bench ab` does with its defaults. Printed is one Markdown row; `--json` appends every estimate.

    python tests/studies/live_gate.py --commands 7 --slowdown 0
    python tests/studies/live_gate.py --commands 4 --slowdown 0.10
"""

import argparse
import contextlib
import dataclasses
import json
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from planted_workload import plant_slowdown

from bench.ab.arms import Arm
from bench.ab.comparison import LiveComparison, Options
from bench.ab.report import Report
from bench.execution.launcher import make_arm_launchers
from bench.planning.plan import PRESETS
from bench.system.locks import device_locks

EQUAL = Arm(label=".", python=sys.executable, workload=None, commit=None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Counts the verdicts of live comparisons.")
    parser.add_argument("--commands", type=int, default=1)
    parser.add_argument("--slowdown", type=float, default=0.0)
    parser.add_argument("--screen-pairs", type=int, default=8)
    parser.add_argument("--confirm-pairs", type=int, default=8)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    start = time.monotonic()
    reports = []
    with tempfile.TemporaryDirectory() as folder, device_locks({"cpu"}):
        workload = plant_slowdown(Path(folder), options.slowdown) if options.slowdown else None
        for number in range(options.commands):
            reports.append(compare(workload, options, seed=1000 * number))
            print(f"command {number + 1}: {reports[-1].verdict}", file=sys.stderr, flush=True)  # noqa: T201 - progress
            if options.json is not None:
                save(options.json, options.slowdown, reports[-1])
    show(options.slowdown, reports, time.monotonic() - start)


def compare(workload: Path | None, study: argparse.Namespace, seed: int) -> Report:
    """Return one command's report; `seed` keeps the pairs of one command apart from another's."""
    request = dataclasses.replace(
        PRESETS["quick"],
        devices=("cpu",),
        widths=tuple(study.widths),
        batch_sizes=tuple(study.batch_sizes),
        seed=seed,
    )
    options = Options(
        max_slowdown=0.05,
        screen_pairs=study.screen_pairs,
        confirm_pairs=study.confirm_pairs,
        until_decided=False,
        budget_seconds=None,
        data_root=None,
        timeout_seconds=600,
        command=(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (baseline, candidate), renew = make_arm_launchers([(sys.executable, None), (sys.executable, workload)])
    with contextlib.closing(baseline), contextlib.closing(candidate):
        live = LiveComparison((EQUAL, EQUAL), (baseline, candidate), options, renew=renew)
        live.plan(request)
        return live.report(live.run({"cpu": None}))


def save(path: Path, slowdown: float, report: Report) -> None:
    """Append the command's rows, without their blocks."""
    with path.open("a", encoding="utf-8") as file:
        for row in report.rows:
            judgement = row.judgement
            line = {
                "created_at": report.created_at,
                "machine": report.machine.id,
                "slowdown": slowdown,
                "configuration": f"{row.configuration.model} batch {row.configuration.batch_size}",
                "verdict": judgement.verdict,
                "estimate": None if judgement.estimate is None else judgement.estimate.value,
                "standard_error": None if judgement.estimate is None else judgement.estimate.standard_error,
                "screen": [pair.log_ratio for pair in row.screen],
                "confirm": [pair.log_ratio for pair in row.confirm],
            }
            file.write(json.dumps(line) + "\n")


def show(slowdown: float, reports: list[Report], seconds: float) -> None:
    """Print the row."""
    rows = [row for report in reports for row in report.rows]
    counts = Counter(row.judgement.verdict.value for row in rows)
    estimates = [math.expm1(row.judgement.estimate.value) * 100 for row in rows if row.judgement.estimate]
    deviations = [statistics.stdev(pair.log_ratio for pair in (*row.screen, *row.confirm)) * 100 for row in rows]
    print(  # noqa: T201 - the result
        f"| {slowdown:.0%} | {len(rows)} | {counts['pass']} | {counts['regression']} | {counts['inconclusive']} "
        f"| {statistics.median(estimates):.1f} % ({min(estimates):.1f} to {max(estimates):.1f}) "
        f"| {statistics.median(deviations):.1f} % ({min(deviations):.1f} to {max(deviations):.1f}) "
        f"| {seconds / len(rows):.0f} s |"
    )


if __name__ == "__main__":
    main()
