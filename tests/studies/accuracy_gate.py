"""How often does the accuracy gate cry wolf, and how often does it catch a bug? A study on real trainings.

A pool of seeds is trained once for each configuration, without a bug and with each of `planted_bugs.BUGS`. Then random
subsets of the pool stand for stored runs, and `bench.compare.check` judges them:

- A/A: two disjoint subsets of the bug-free pool. Anything but a pass is a false alarm or an undecided check.
- Each bug: a bug-free subset against a subset trained with the bug.

Subsets of different checks overlap, so that the rates are those of this pool, and vary less from try to try than those
of fresh trainings would. In a real A/A check on one machine both sides have the same seeds and agree to the last digit;
disjoint seeds are the harder case, as between two machines.

    python tests/studies/accuracy_gate.py [--seeds 60] [--bug-seeds 20] [--checks 100] [--epochs 3] [--pool POOL.json]

Prints Markdown. With `--pool` the accuracies are kept in that file, and read from it if it is there.
"""

import argparse
import json
import random
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # the checkout need not be installed
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import torch
from bench_builders import make_epoch, make_failure, make_measurement
from planted_bugs import ADAM, BUGS, NONE, SGD, Outcomes, gate, train

from bench.records import Failure, FailureKind, Measurement
from bench.stats.judgement import Verdict
from mnist_mlp.data import load
from mnist_mlp.recipes import Recipe

SIDES = (5, 8, 10)
"""Seeds a side."""

VERDICTS = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.REGRESSION, Verdict.INCOMPARABLE, Verdict.FAILED)

Pool = dict[str, list[list[int | None]]]
"""Bug → for each recipe, the test images classified correctly at the end, one number a seed; None: it failed."""


def main() -> None:
    """Train or read the pool, judge, print."""
    parser = argparse.ArgumentParser(description="False alarms and detections of the accuracy gate.")
    parser.add_argument("--seeds", type=int, default=60, help="of the bug-free pool")
    parser.add_argument("--bug-seeds", type=int, default=20, help="of the pool of each bug")
    parser.add_argument("--checks", type=int, default=100, help="of each kind")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pool", type=Path, help="file to keep the accuracies in")
    options = parser.parse_args()
    recipes = tuple(replace(recipe, epochs=options.epochs) for recipe in (ADAM, SGD))
    if options.pool is not None and options.pool.exists():
        pool: Pool = json.loads(options.pool.read_text())
    else:
        pool = train_pool(recipes, options.seeds, options.bug_seeds)
        if options.pool is not None:
            options.pool.write_text(json.dumps(pool))
    for line in (*describe_pool(recipes, pool), "", *describe_checks(recipes, pool, options.checks)):
        print(line)  # noqa: T201 - the result


def train_pool(recipes: Sequence[Recipe], seeds: int, bug_seeds: int) -> Pool:
    """Train every recipe with every bug and without; bugs get seeds of their own."""
    torch.set_num_threads(1)
    dataset = load("mnist")
    pool: Pool = {}
    for bug in (NONE, *BUGS):
        count, first = (seeds, 0) if bug is NONE else (bug_seeds, 10_000)
        pool[bug.name] = [
            [final_correct(train(recipe, dataset, bug, first + seed)) for seed in range(count)] for recipe in recipes
        ]
    return pool


def final_correct(outcome: Measurement | Failure) -> int | None:
    """Return the test images classified correctly after the last epoch; None if there is none."""
    return outcome.epochs[-1].test_correct if isinstance(outcome, Measurement) else None


def describe_pool(recipes: Sequence[Recipe], pool: Pool) -> Iterator[str]:
    """Yield a table of accuracies: mean and standard deviation over seeds."""
    yield (
        "| trained with | " + " | ".join(f"{r.optimizer}, {r.loss}: test accuracy (SD)" for r in recipes) + " | seeds |"
    )
    yield "|---" * (len(recipes) + 2) + "|"
    for name, of_recipes in pool.items():
        cells = []
        for corrects in of_recipes:
            accuracies = [correct / 100 for correct in corrects if correct is not None]
            failed = len(corrects) - len(accuracies)
            said = f"{statistics.fmean(accuracies):.2f} % ({statistics.stdev(accuracies):.2f} pp)" if accuracies else ""
            cells.append(said + (f" {failed} failed" if failed else ""))
        yield f"| {name if name != NONE.name else 'no bug'} | {' | '.join(cells)} | {len(of_recipes[0])} |"


def describe_checks(recipes: Sequence[Recipe], pool: Pool, checks: int) -> Iterator[str]:
    """Yield a table of verdicts over `checks` random subsets, for each bug and number of seeds a side."""
    yield f"| {checks} checks each of | seeds a side | {' | '.join(VERDICTS)} |"
    yield "|---|---" + "|---" * len(VERDICTS) + "|"
    chooser = random.Random(0)  # noqa: S311 - no secret
    for name, of_recipes in pool.items():
        for side in SIDES:
            found: Counter[Verdict] = Counter()
            for _ in range(checks):
                chosen = chooser.sample(range(len(pool[NONE.name][0])), 2 * side)
                others = chosen[side:] if name == NONE.name else chooser.sample(range(len(of_recipes[0])), side)
                baseline = pick(recipes, pool[NONE.name], chosen[:side])
                found[gate(baseline, pick(recipes, of_recipes, others))] += 1
            counts = " | ".join(str(found[verdict]) for verdict in VERDICTS)
            yield f"| {name if name != NONE.name else 'A/A'} | {side} | {counts} |"


def pick(recipes: Sequence[Recipe], of_recipes: Sequence[Sequence[int | None]], seeds: Sequence[int]) -> Outcomes:
    """Return the outcomes of these seeds."""
    return {
        recipe: [make_outcome(corrects[seed]) for seed in seeds]
        for recipe, corrects in zip(recipes, of_recipes, strict=True)
    }


def make_outcome(correct: int | None) -> Measurement | Failure:
    """Return an outcome whose final test accuracy is `correct` of MNIST's 10 000 test images."""
    if correct is None:
        return make_failure(FailureKind.NON_FINITE_LOSS, "the loss became nan")
    return make_measurement(epochs=(make_epoch(test_correct=correct),))


if __name__ == "__main__":
    main()
