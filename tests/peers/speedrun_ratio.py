"""How many times as long as the recipe `speedrun` does a tutorial's own loop train for its documented accuracy?

In each pair, fresh processes train the whole recipe `speedrun` on engine fused, then a tutorial's recipe by the
tutorial's own loop for one epoch, whose time is multiplied by the recipe's number of epochs, and the whole recipe
`speedrun` again. A pair is one observation: the log ratio of the tutorial's time to the mean of the two others. The
result is the geometric mean with its 95 % interval by Student's t over the pairs. Evaluation is not part of any time.

    python tests/peers/speedrun_ratio.py [--pairs 12] [--recipe mlp_512_256] [--threads 2]
"""

import argparse
import contextlib
import math
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from compare_peers import PAUSE_SECONDS, Peer, positive, prepare, ratio_text, refusals_as_text
from peer import SAMPLES, Spec

from bench.stats.inference import paired_estimate
from bench.system.locks import device_locks
from mnist_mlp.data import default_root
from mnist_mlp.recipes import RECIPES

WARM_UP_SAMPLES = 12_288
"""Samples that every process trains on, unmeasured, when it has started."""

PROBE_SAMPLES = 2_048
"""Samples trained before each turn, unmeasured, because caches and clocks are cold after a pause."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The time of a tutorial's training over that of the speedrun.")
    parser.add_argument("--pairs", type=positive, default=12)
    parser.add_argument(
        "--recipe", choices=[name for name in RECIPES if name.startswith("mlp_")], default="mlp_512_256"
    )
    parser.add_argument("--threads", type=positive, help="by default as many as torch takes by itself")
    options = parser.parse_args()
    place = prepare("cpu")
    options.threads = options.threads or place.default_threads
    with device_locks(["cpu"], uuids=place.uuids):
        pairs = [measure(options.recipe, pair, options.threads) for pair in range(options.pairs)]
    ratios = paired_estimate([math.log(tutorial / speedrun) for tutorial, speedrun in pairs])
    tutorial, speedrun = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(  # noqa: T201 - the result
        f"{options.recipe}, {RECIPES[options.recipe].epochs} epochs by its tutorial's loop: {tutorial:.1f} s; "
        f"speedrun, {RECIPES['speedrun'].epochs} epochs on engine fused: {1000 * speedrun:.0f} ms "
        f"(medians of {options.pairs} pairs, {options.threads} threads); ratio {ratio_text(ratios)}"
    )


def measure(recipe: str, pair: int, threads: int) -> tuple[float, float]:
    """Return the seconds that the whole training of `recipe` and of `speedrun` take in fresh processes."""
    with contextlib.ExitStack() as stack:
        tutorial, speedrun = (
            stack.enter_context(contextlib.closing(Peer(name, spec_of(trained, pair, threads))))
            for name, trained in (("tutorial", recipe), ("fused", "speedrun"))
        )
        for peer in (tutorial, speedrun):
            peer.wait()
            peer.train(WARM_UP_SAMPLES)
        whole = RECIPES["speedrun"].epochs * SAMPLES
        before, epoch, after = (
            turn(peer, samples) for peer, samples in ((speedrun, whole), (tutorial, SAMPLES), (speedrun, whole))
        )
    print(f"pair {pair + 1}: {before:.3f} s, {epoch:.2f} s, {after:.3f} s", file=sys.stderr, flush=True)  # noqa: T201 - progress
    return epoch * RECIPES[recipe].epochs, (before + after) / 2


def turn(peer: Peer, samples: int) -> float:
    """Return the seconds in which the peer trains on so many samples, once it is warm again after its pause."""
    time.sleep(PAUSE_SECONDS)
    peer.train(PROBE_SAMPLES)
    seconds, _ = peer.train(samples)
    return seconds


def spec_of(recipe: str, seed: int, threads: int) -> Spec:
    """Return what a peer needs to know to train `recipe` on this machine's CPU."""
    found = RECIPES[recipe]
    return Spec(
        layers=list(found.layers),
        batch_size=found.batch_size,
        learning_rate=found.learning_rate,
        seed=seed,
        threads=threads,
        folder=str(default_root() / "MNIST" / "raw"),
        recipe=recipe,
    )


if __name__ == "__main__":
    with refusals_as_text():
        main()
