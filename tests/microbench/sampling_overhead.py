"""How much longer does an epoch take because of the sampling around it? One trial of the harness, with and without it.

The trial's session trains epochs in ABBA blocks, half of them without sampling anything around them: no contention, no
pressure, no device conditions, no energy. Both run in one process with one memory layout, so nothing else differs. Each
block gives one ratio; the result is their geometric mean with a 95 % interval over blocks. The weights keep changing,
which does not affect the time (unless they become denormal, which those of 784-128-10 do not).

    python tests/microbench/sampling_overhead.py [--blocks 60] [--layers 784-128-10] [--batch-size 64]
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scipy import stats

from bench.coding import from_json, to_json
from bench.planning.plan import Request, make_plan
from bench.protocol.messages import Trained
from bench.records import Contention, Trial
from bench.system.locks import device_locks
from bench.worker import session as worker


class NoMeter:
    """Takes the place of every sampler and samples nothing."""

    def start(self) -> None:
        """Do nothing."""

    def stop(self, contention: Contention | None = None) -> Contention | None:
        """Return `contention` unchanged."""
        return contention


class NoContentionMeter(NoMeter):
    """Takes the place of the sampler whose result an epoch's record needs."""

    def stop(self, contention: Contention | None = None) -> Contention:
        """Return a result without measured values."""
        del contention
        return Contention(
            process_cpu_seconds=0.0, other_cpu_seconds=None, steal_seconds=None, involuntary_switches=None
        )


NO_SAMPLERS = {"_watch": NoMeter(), "_pressure": NoMeter(), "_energy": NoMeter(), "_contention": NoContentionMeter()}
"""Replacements for a session's samplers."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Epoch time with sampling over without, with its interval.")
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--layers", default="784-128-10")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    request = Request(models=(options.layers,), batch_sizes=(options.batch_size,), repeats=1)
    cores = len(os.sched_getaffinity(0))
    (configuration,) = make_plan(request, devices=("cpu",), cores=cores, default_threads=cores).configurations
    session = worker.Session()
    trial = to_json(Trial(configuration=configuration, seed=0, repeat=0))
    with device_locks(["cpu"]):
        session.answer({"do": "prepare", "trial": trial, "root": None})
        samplers = {name: vars(session)[name] for name in NO_SAMPLERS}

        def seconds(members: Mapping[str, object]) -> float:
            vars(session).update(members)
            answer = session.answer({"do": "train", "epoch": 0})["answer"]
            return from_json(Trained, answer).train_seconds

        logs = []
        for block in range(options.blocks + 1):
            outer, inner = (samplers, NO_SAMPLERS) if block % 2 else (NO_SAMPLERS, samplers)
            times = [seconds(each) for each in (outer, inner, inner, outer)]
            log = math.log((times[0] + times[3]) / (times[1] + times[2]))
            logs.append(log if outer is samplers else -log)
    logs = logs[1:]  # the first block warms up
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * error
    print(  # noqa: T201 - the result
        f"{configuration.model} batch {configuration.batch_size}, {configuration.threads} threads: epoch with sampling "
        f"/ without {math.exp(mean):.4f}, 95 % interval {math.exp(mean - half):.4f} to {math.exp(mean + half):.4f} "
        f"({len(logs)} ABBA blocks of epochs)"
    )


if __name__ == "__main__":
    main()
