"""Divides a plan into shards, each a run of its own, for job arrays and for machines that share the work.

All repeats of a configuration are in one shard, so that a shard is a plan like any other: a configuration is measured
on one machine, with that machine's spread, and in shuffled rounds. The division depends only on the plan's content, so
that every machine with the same plan divides it in the same way.
"""

import hashlib
import heapq
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from bench.coding import dumps
from bench.errors import BadInputError
from bench.records import Configuration, Division, Header, Plan, Shard

MAX_SHARDS: Final = 10_000

_LISTED: Final = 10

_START_SECONDS: Final = 1.0
_STEP_SECONDS: Final = 4e-4
_CPU_ARITHMETIC_SECONDS: Final = 3e-11
_ACCELERATOR_ARITHMETIC_SECONDS: Final = 3e-13
_SAMPLES: Final = 60_000
"""A rough model of a trial's time: start-up, per step, per weight and sample, and the samples of an epoch.

It only has to order the configurations of one kind by time, so that shards are balanced: on two cores it is within a
third of what the presets took. How long a shard takes on a particular machine is measured there
(`bench.planning.estimate`).
"""


def parse_shard(text: str) -> tuple[int, int]:
    """Return the number and the count in text such as ``2/3``.

    Raises:
        BadInputError: `text` has another form, or its numbers are out of range.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None:
        raise BadInputError(f"--shard {text!r} is not a part of a plan: write it like 2/3, the second of three")
    number, shards = int(match[1]), int(match[2])
    check_shards(shards, "--shard")
    if not 1 <= number <= shards:
        raise BadInputError(f"--shard {text} is out of range: shards of {shards} are numbered from 1 to {shards}")
    return number, shards


def check_shards(shards: int, option: str) -> None:
    """Check a number of shards.

    Raises:
        BadInputError: it is below 1 or above `MAX_SHARDS`.
    """
    if not 1 <= shards <= MAX_SHARDS:
        raise BadInputError(f"{option}: {shards} shards are out of range: use 1 to {MAX_SHARDS}")


def plan_id(plan: Plan) -> str:
    """Return a ``p`` and 11 hexadecimal digits: equal for plans with the same trials in any order."""
    digest = hashlib.sha256(dumps((plan.repeats, plan.seed)).encode())
    for text in sorted(map(dumps, plan.configurations)):
        digest.update(text.encode())
    return f"p{digest.hexdigest()[:11]}"


def divide(plan: Plan, shards: int) -> tuple[Plan, ...]:
    """Return the plans of so many shards, each with a balanced part of every kind of configuration.

    Within a kind (one device, engine, pipeline and so on) configurations go, the longest first, to the shard that has
    the least time of that kind so far. So two shards' times of a kind differ by at most its longest configuration.

    Raises:
        BadInputError: there are more shards than configurations.
    """
    count = len(plan.configurations)
    if shards > count:
        raise BadInputError(
            f"{shards} shards are more than the {count} configurations of the plan, whose repeats stay together: use "
            f"at most {count}"
        )
    parts: list[set[int]] = [set() for _ in range(shards)]
    totals = [0.0] * shards
    for kind in _kinds(plan.configurations):
        open_shards = [(0.0, totals[shard], shard) for shard in range(shards)]
        heapq.heapify(open_shards)
        for weight, place in kind:
            load, total, shard = heapq.heappop(open_shards)
            parts[shard].add(place)
            totals[shard] += weight
            heapq.heappush(open_shards, (load + weight, total + weight, shard))
    return tuple(
        replace(plan, configurations=tuple(plan.configurations[place] for place in sorted(part))) for part in parts
    )


def take_shard(plan: Plan, number: int, shards: int, run_id: str) -> tuple[Plan, Division]:
    """Return the plan of shard `number` of so many of `plan`, and the division to store in the header of its run.

    Raises:
        BadInputError: there are more shards than configurations.
    """
    part = divide(plan, shards)[number - 1]
    held = Shard(number=number, run_id=run_id, configurations=len(part.configurations))
    division = Division(plan_id=plan_id(plan), configurations=len(plan.configurations), shards=shards, held=(held,))
    return part, division


def is_merged(header: Header) -> bool:
    """Return whether the run was merged from shards."""
    division = header.division
    return division is not None and [shard.run_id for shard in division.held] != [header.run_id]


def measured_by(header: Header) -> frozenset[str]:
    """Return the ids of the runs that measured the trials of a run: its own, and those of the shards that it holds."""
    held = () if header.division is None else header.division.held
    return frozenset((header.run_id, *(shard.run_id for shard in held)))


def completion(header: Header) -> str:
    """Return how to get the missing trials of an incomplete run."""
    if header.division is not None and header.division.missing:
        return f"add shard {listed(header.division.missing)} of {header.division.shards} with python -m bench merge"
    return resumption(header)


def resumption(header: Header) -> str:
    """Return how to get the missing trials of a run's own plan."""
    if is_merged(header):
        return "resume the shards that it was merged from, and merge again"
    # Ids are looked up under results/, where a run with --output usually is not; the header has only its file name.
    elsewhere = any(word.partition("=")[0] == "--output" for word in header.command)
    return (
        f"resume with python -m bench run --resume {'PATH, with the path of its file' if elsewhere else header.run_id}"
    )


def without_option(command: Sequence[str], option: str) -> tuple[str, ...]:
    """Return the arguments of `command` without `option` and its value."""
    kept = [word for word in command if not word.startswith(f"{option}=")]
    if option in kept:
        place = kept.index(option)
        del kept[place : place + 2]
    return tuple(kept)


def listed(numbers: Sequence[int]) -> str:
    """Return the numbers as text; of a long list only the first ones, and how many there are."""
    shown = ", ".join(map(str, numbers[:_LISTED]))
    return shown if len(numbers) <= _LISTED else f"{shown}, … ({len(numbers)} in all)"


def _kinds(configurations: Sequence[Configuration]) -> list[list[tuple[float, int]]]:
    """Return time and index of the configurations by kind, the longest first, whatever their order in the plan."""
    kinds: dict[tuple[str, ...], list[tuple[float, str, int]]] = {}
    for place, c in enumerate(configurations):
        kind = (c.device, c.engine, c.precision, c.pipeline, str(c.workers), str(c.threads), str(c.world_size))
        kinds.setdefault(kind, []).append((-trial_weight(c), dumps(c), place))
    return [[(-weight, place) for weight, _, place in sorted(kinds[kind])] for kind in sorted(kinds)]


def trial_weight(configuration: Configuration) -> float:
    """Return roughly how many seconds a trial takes, good enough to order trials; see the constants."""
    c = configuration
    arithmetic = _CPU_ARITHMETIC_SECONDS if c.device == "cpu" else _ACCELERATOR_ARITHMETIC_SECONDS
    steps = math.ceil(_SAMPLES / c.batch_size)
    return _START_SECONDS + c.epochs * (steps * _STEP_SECONDS + _SAMPLES * c.weights * arithmetic)
