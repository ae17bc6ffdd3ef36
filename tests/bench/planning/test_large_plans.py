"""Large plans: divided, merged and shown whole within little memory; 100 000 trials are measured in tests/studies."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from bench_builders import make_configuration, make_plan
from stored_runs import write_shards
from uncovered import without_coverage

from bench.planning.shards import divide, trial_weight
from bench.storage.store import read_run

MEBIBYTE: Final = 2**20
SHARDS: Final = 10

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "wait4"), reason="no os.wait4 here")]


MEASURE: Final = """
import os, sys
pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A small process in between: until a child executes its program, its peak is that of the process which started it."""


def peak_bytes(*arguments: str | Path, output: Path) -> int:
    """Return the peak resident memory of a command that must succeed; what it prints goes to `output`."""
    command = [sys.executable, "-c", MEASURE, "-m", "bench", *map(str, arguments)]
    with output.open("w") as printed:
        done = subprocess.run(  # noqa: S603 - our own command
            command, stdout=printed, stderr=subprocess.PIPE, text=True, check=False, env=without_coverage(os.environ)
        )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1]) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("shards", [2, 7, 10_000])
def test_a_plan_of_100_000_configurations_divides_evenly(shards: int) -> None:
    plan = make_plan([make_configuration(batch_size=size, epochs=e) for size in range(1, 5001) for e in range(1, 21)])
    parts = divide(plan, shards)
    assert sum(len(part.configurations) for part in parts) == 100_000
    assert len(set().union(*(part.configurations for part in parts))) == 100_000
    loads = [sum(map(trial_weight, part.configurations)) for part in parts]
    assert max(loads) - min(loads) <= max(map(trial_weight, plan.configurations))


def test_25_000_trials_are_merged_and_shown_within_256_mebibytes(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, 5_000, 5, SHARDS)
    merged, printed = tmp_path / "merged.jsonl", tmp_path / "printed.txt"
    assert peak_bytes("merge", *shards, "--output", merged, output=printed) < 256 * MEBIBYTE
    before = merged.read_bytes()
    assert "25000 of 25000 trials, 0 of them failed, from 2 machines" in printed.read_text()
    assert peak_bytes("merge", *shards[::-1], "--output", merged, output=printed) < 256 * MEBIBYTE
    assert merged.read_bytes() == before
    assert peak_bytes("show", merged, output=printed) < 256 * MEBIBYTE
    rows = [line for line in printed.read_text().splitlines() if line.startswith("cpu ")]
    assert len(rows) == 5_000
    run = read_run(merged)
    assert len({(id(record.trial.configuration), record.trial.repeat) for record in run.records}) == 25_000
