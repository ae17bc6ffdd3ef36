"""Kills runs at random moments and checks that nothing is lost or left behind, and that `--resume` completes the rest.

    python tests/faults/kill_campaign.py --runs 300              with a stand-in for torch: a second a run
    python tests/faults/kill_campaign.py --runs 12 --real        with torch and real training

Each run is decided by its seed: whom a signal hits (the parent, the worker host or a trial), which one, and when (some
time after the start, or shortly after some trial was told as finished). The last line of output is a JSON object of
counts.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

if __name__ == "__main__":  # the checkout need not be installed
    HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import click
import psutil
from heeded_signals import heeded
from sandbox import HANG_SECONDS, Sandbox, host_and_trials, is_locked, read_if_begun, stored_trials, told

from bench.planning.plan import missing_trials
from bench.records import Run

Target = Literal["parent", "host", "trial"]

TARGETS: Final[tuple[Target, ...]] = ("parent", "host", "trial")
SIGNALS: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

GRID: Final = (
    *("--models", "784-16-10", "--batch-sizes", "512,4096", "--epochs", "2", "--repeats", "3"),
    *("--threads", "1", "--dataset", "synthetic"),
)
"""Six trials: small ones where they are real."""

TRIALS: Final = 6
LONGEST_SECONDS: Final = {False: 1.8, True: 14.0}
"""Latest moment of a signal that comes by the clock: about as long as a run takes."""

_ENDED: Final = frozenset({0, 4})

_PYTHON_COULD_NOT_START: Final = "Fatal Python error: init_"
"""How Python reports an interrupt before it has initialised itself; it then ends with 1."""


class Broken(Exception):  # noqa: N818 - what it says
    """A promise was not kept."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A signal to be sent: by the clock, or `after` so many trials were told as finished, `seconds` later."""

    seed: int
    target: Target
    number: signal.Signals
    after: int | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a shot: whether it hit, how many trials were stored by then, how the run ended."""

    shot: Shot
    hit: bool
    stored: int
    exit_code: int


def draw(seed: int, *, real: bool) -> Shot:
    """Return the shot of this seed; nine in a row have every target with every signal."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    by_clock = chance.random() < 1 / 2
    return Shot(
        seed=seed,
        target=TARGETS[seed % 3],
        number=SIGNALS[seed // 3 % 3],
        after=None if by_clock else chance.randrange(TRIALS + 1),
        seconds=chance.uniform(0, LONGEST_SECONDS[real] if by_clock else 0.2),
    )


def shoot(shot: Shot, folder: Path, *, real: bool) -> Result:
    """Run, send the signal, check what is left, resume, check again.

    Raises:
        Broken: a promise was not kept.
    """
    sandbox = Sandbox(folder, real=real)
    with sandbox.start("run", *GRID, "--output", "runs") as process:
        listener = _Listener(process)
        hit = _send(shot, process, listener)
        try:
            process.wait(timeout=HANG_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Broken("the run hangs") from None
        errors = listener.rest()
    _require(not sandbox.survivors(), f"left behind: {sandbox.survivors()}")
    _check_exit(shot, hit, process.returncode, errors)
    if process.returncode >= 0:
        _require(not sandbox.leftovers(), f"left behind: {sandbox.leftovers()}")
    locked = [path for path in sandbox.leftovers() if path.suffix == ".lock" and is_locked(path)]
    _require(not locked, f"still locked: {locked}")
    stored = sandbox.stored()
    _require(len(stored) <= 1, f"{len(stored)} files")
    before = read_if_begun(stored[0]) if stored else None
    finished = stored_trials(before) if before else []
    _require(set(told(errors)) <= set(finished), f"told {told(errors)}, stored {finished}")
    if before is not None:
        _check_resumed(sandbox, stored[0], before)
    return Result(shot=shot, hit=hit, stored=len(finished), exit_code=process.returncode)


def _check_exit(shot: Shot, hit: bool, code: int, errors: str) -> None:  # noqa: FBT001 - what the shot did
    # A Ctrl-C while Python itself still starts, or finds the command, is not ours to answer.
    if shot.number == signal.SIGINT and code == 1 and errors.startswith(_PYTHON_COULD_NOT_START):
        return
    _require("Traceback" not in errors or (code == -signal.SIGINT and "cli.py" not in errors), f"a traceback: {errors}")
    if not hit:
        allowed = {0}
    elif shot.target == "parent":
        # Before the command has begun, and after it has ended, a signal ends the process in the system's own way.
        allowed = {-shot.number} if shot.number == signal.SIGKILL else {130, -shot.number}
        allowed |= {0}
    else:
        allowed = {0, 4}
    _require(code in allowed, f"ended with {code}, not one of {allowed}: {errors}")


def _check_resumed(sandbox: Sandbox, path: Path, before: Run) -> None:
    resumed = sandbox.run("run", "--resume", str(path))
    _require(resumed.returncode in _ENDED, f"--resume ended with {resumed.returncode}: {resumed.stderr}")
    run = read_if_begun(path)
    if run is None or run.footer is None:
        raise Broken("the resumed run has no end")
    trials = [record.trial for record in run.records]
    _require(run.records[: len(before.records)] == before.records, "what was stored before has changed")
    _require(len(trials) == len(set(trials)) == TRIALS, f"{len(set(trials))} trials in {len(trials)} records")
    _require(not missing_trials(run.header.plan, run.records), "trials of the plan are missing")
    _require(run.footer.complete, "the footer does not say complete")
    _require(len(told(resumed.stderr)) == TRIALS - len(before.records), "--resume ran other trials than the rest")
    _require(path.with_suffix(".csv").exists(), "there is no table beside the run")
    left = sandbox.leftovers()
    if len(before.records) == TRIALS:  # nothing was run, so the device's lock file waits for the next run on it
        left = [path for path in left if not path.name.startswith("device-") or is_locked(path)]
    _require(not left, f"left behind after --resume: {left}")
    _require(not sandbox.survivors(), f"left behind after --resume: {sandbox.survivors()}")


def _require(kept: object, problem: str) -> None:
    if not kept:
        raise Broken(problem)


class _Listener:
    """Reads a command's standard error in a thread, and tells how many trials it has told of."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._heard = threading.Condition()
        self._threads = [threading.Thread(target=self._listen), threading.Thread(target=self._drain)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        for line in self._process.stderr or ():
            with self._heard:
                self._lines.append(line)
                self._heard.notify_all()

    def _drain(self) -> None:
        for _ in self._process.stdout or ():
            pass

    def wait_for(self, trials: int) -> None:
        """Wait until so many trials were told of, or the command has ended."""
        with self._heard:
            while len(told("".join(self._lines))) < trials and self._process.poll() is None:
                self._heard.wait(0.05)

    def rest(self) -> str:
        """Return all that was said."""
        for thread in self._threads:
            thread.join(HANG_SECONDS)
        return "".join(self._lines)


def _send(shot: Shot, process: subprocess.Popen[str], listener: _Listener) -> bool:
    """Send the signal when and where it is meant to go; return whether it reached a living process."""
    if shot.after is not None:
        listener.wait_for(shot.after)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=shot.seconds)
    while process.poll() is None:
        hosts, trials = host_and_trials(process)
        victims = {"parent": [psutil.Process(process.pid)], "host": hosts, "trial": trials}[shot.target]
        for victim in victims[:1]:
            with contextlib.suppress(psutil.Error):
                victim.send_signal(shot.number)
                return True
        time.sleep(0.002)
    return False


def campaign(seeds: Sequence[int], folder: Path, *, real: bool, jobs: int) -> tuple[list[Result], dict[int, str]]:
    """Shoot once a seed, `jobs` at a time; return the results, and the broken promises by seed."""
    results, broken = [], {}
    with heeded(), concurrent.futures.ThreadPoolExecutor(jobs) as pool:  # threads cannot change what is ignored
        futures = {pool.submit(shoot, draw(seed, real=real), folder / str(seed), real=real): seed for seed in seeds}
        for future in concurrent.futures.as_completed(futures):
            try:
                results.append(future.result())
            except Exception as error:  # noqa: BLE001 - whatever it is, the others go on and it is reported
                broken[futures[future]] = f"{type(error).__name__}: {error}"
    return results, broken


def count(results: Sequence[Result], broken: dict[int, str]) -> dict[str, object]:
    """Return the figures of a campaign."""
    hits = collections.Counter(f"{each.shot.number.name} {each.shot.target}" for each in results if each.hit)
    stored = collections.Counter(each.stored for each in results if each.hit)
    return {
        "runs": len(results) + len(broken),
        "hit": sum(hits.values()),
        "broken": len(broken),
        "hits": dict(sorted(hits.items())),
        "trials stored when hit": {str(number): stored[number] for number in sorted(stored)},
        "exit codes": dict(sorted(collections.Counter(str(each.exit_code) for each in results).items())),
    }


def main() -> None:
    """Run a campaign; end with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the next has the next")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--real", action="store_true", help="with torch: some ten seconds a run")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-kill-") as folder:
        seeds = range(options.seed, options.seed + options.runs)
        results, broken = campaign(seeds, Path(folder), real=options.real, jobs=options.jobs)
    for seed, problem in sorted(broken.items()):
        click.echo(f"seed {seed}: {draw(seed, real=options.real)}: {re.sub('bench-kill-[^/]*', '…', problem)}")
    figures = count(results, broken) | {"real": options.real, "seconds": round(time.monotonic() - start)}
    click.echo(json.dumps(figures))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
