"""Do trials forked by two worker hosts of one program differ more than trials forked by one? Equal arms, many hosts.

For each of `--hosts` it starts one host for both arms, or with `--two` a host for each arm, and measures `--pairs`
process pairs of the same code. If the host mattered, the means over a host's pairs would spread by more than the
pairs' own spread explains.

    python tests/studies/host_effect.py --hosts 5 --pairs 6
    python tests/studies/host_effect.py --hosts 5 --pairs 6 --two
"""

import argparse
import contextlib
import math
import statistics
import sys
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.ab.pairs import measure_pair
from bench.execution.launcher import make_arm_launchers, make_launcher
from bench.planning.plan import Request, make_plan
from bench.records import Configuration
from bench.system.locks import device_locks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Spread of equal arms between worker hosts and within them.")
    parser.add_argument("--hosts", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--two", action="store_true", help="a host for each arm")
    parser.add_argument("--layers", default="784-512-10")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    request = Request(models=(options.layers,), batch_sizes=(options.batch_size,), repeats=1)
    threads = options.threads
    (configuration,) = make_plan(request, devices=("cpu",), cores=threads, default_threads=threads).configurations
    with device_locks(["cpu"]):
        hosts = [measure(configuration, options.pairs, two=options.two) for _ in range(options.hosts)]
    means = [statistics.fmean(pairs) for pairs in hosts]
    within = math.sqrt(statistics.fmean(statistics.variance(pairs) for pairs in hosts))
    print(  # noqa: T201 - the result
        f"{configuration.model} batch {configuration.batch_size}, {'two hosts' if options.two else 'one host'} a "
        f"comparison: means {', '.join(f'{mean * 100:+.1f}' for mean in means)} %; their SD "
        f"{statistics.stdev(means) * 100:.1f} %, by chance {within / math.sqrt(options.pairs) * 100:.1f} % "
        f"(SD between pairs {within * 100:.1f} %)"
    )


def measure(configuration: Configuration, pairs: int, *, two: bool) -> list[float]:
    """Return the log ratios of equal arms' process pairs, from hosts of their own."""
    with contextlib.ExitStack() as stack:
        if two:
            arms = [stack.enter_context(contextlib.closing(make_launcher())) for _ in range(2)]
        else:
            launchers, _ = make_arm_launchers([(sys.executable, None)] * 2)
            arms = [stack.enter_context(contextlib.closing(launcher)) for launcher in launchers]
        return [
            measure_pair(arms[0], arms[1], configuration, seed=seed, root=None, timeout_seconds=600).log_ratio
            for seed in range(pairs)
        ]


if __name__ == "__main__":
    main()
