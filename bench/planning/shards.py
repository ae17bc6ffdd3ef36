"""A plan divided into shards, each a run of its own: for job arrays, and for machines that share the work.

All repeats of a configuration are in one shard, so that a shard is a plan like any other: what it measures of a
configuration is measured on one machine, with a spread that is that machine's, and in shuffled rounds. How a plan is
divided depends on nothing but what is in it: every machine that plans the same divides it alike.
"""

import hashlib
import heapq
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from bench.coding import dumps
from bench.errors import BadInputError
from bench.records import Configuration, Division, Header, Plan, Shard

MAX_SHARDS: Final = 10_000

_LISTED: Final = 10

_START_SECONDS: Final = 1.0
_STEP_SECONDS: Final = 4e-4
_ARITHMETIC_SECONDS: Final = {"cpu": 3e-11}
_ARITHMETIC_SECONDS_ELSEWHERE: Final = 3e-13
_SAMPLES: Final = 60_000
"""A rough trial: its start, each step, each weight times sample, and the samples of an epoch.

They only have to order the configurations of one kind by time, so that shards come out alike: on two cores they are
within a third of what the presets took. What a shard takes on a certain machine is measured there
(`bench.planning.estimate`).
"""


def parse_shard(text: str) -> tuple[int, int]:
    """Return the number and the count of ``2/3``.

    Raises:
        BadInputError: `text` is something else, or no shard of so many.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text, flags=re.ASCII)
    if match is None:
        raise BadInputError(f"--shard {text!r} is no part of a plan: write it like 2/3, the second of three")
    number, shards = int(match[1]), int(match[2])
    check_shards(shards, "--shard")
    if not 1 <= number <= shards:
        raise BadInputError(f"--shard {text} is out of range: shards of {shards} are numbered from 1 to {shards}")
    return number, shards


def check_shards(shards: int, option: str) -> None:
    """Refuse a number of shards that no plan can be divided into.

    Raises:
        BadInputError: it is below 1 or above `MAX_SHARDS`.
    """
    if not 1 <= shards <= MAX_SHARDS:
        raise BadInputError(f"{option}: {shards} shards are out of range: use 1 to {MAX_SHARDS}")


def plan_id(plan: Plan) -> str:
    """Return a ``p`` and 11 hexadecimal digits: equal for plans of the same trials, whatever their order."""
    digest = hashlib.sha256(dumps((plan.repeats, plan.seed)).encode())
    for text in sorted(map(dumps, plan.configurations)):
        digest.update(text.encode())
    return f"p{digest.hexdigest()[:11]}"


def divide(plan: Plan, shards: int) -> tuple[Plan, ...]:
    """Return the plans of so many shards, each with a balanced part of every kind of configuration.

    Within a kind (one device, engine, pipeline and so on) configurations go, the longest first, to the shard that has
    the least of the kind so far. So shards of a kind differ by no more than its longest configuration.

    Raises:
        BadInputError: there are more shards than configurations.
    """
    count = len(plan.configurations)
    if shards > count:
        raise BadInputError(
            f"{shards} shards are more than the {count} configurations of the plan, whose repeats stay together: "
            f"use up to {count}"
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
    return tuple(replace(plan, configurations=_chosen(plan.configurations, sorted(part))) for part in parts)


def take_shard(plan: Plan, number: int, shards: int, run_id: str) -> tuple[Plan, Division]:
    """Return the plan of one of so many shards of `plan`, and what the header of the run `run_id` says of it.

    Raises:
        BadInputError: there are more shards than configurations.
    """
    part = divide(plan, shards)[number - 1]
    held = Shard(number=number, run_id=run_id, configurations=len(part.configurations))
    division = Division(plan_id=plan_id(plan), configurations=len(plan.configurations), shards=shards, held=(held,))
    return part, division


def is_merged(header: Header) -> bool:
    """Return whether the run was put together from shards, instead of being one."""
    division = header.division
    return division is not None and [shard.run_id for shard in division.held] != [header.run_id]


def completion(header: Header) -> str:
    """Return how to get what is missing of a run that is not whole."""
    if header.division is not None and header.division.missing:
        return f"add shard {listed(header.division.missing)} of {header.division.shards} with python -m bench merge"
    return resumption(header)


def resumption(header: Header) -> str:
    """Return how to get what is missing of a run's own plan."""
    if is_merged(header):
        return "resume the shards that it was merged from, and merge again"
    # Ids are looked up under results/, where a run with --output mostly is not; of its path the header knows the end.
    elsewhere = any(word.partition("=")[0] == "--output" for word in header.command)
    return f"resume with python -m bench run --resume {'and the path of its file' if elsewhere else header.run_id}"


def without_option(command: Sequence[str], option: str) -> tuple[str, ...]:
    """Return the arguments of `command` without `option` and its value."""
    kept = [word for word in command if not word.startswith(f"{option}=")]
    if option in kept:
        place = kept.index(option)
        del kept[place : place + 2]
    return tuple(kept)


def listed(numbers: Sequence[int]) -> str:
    """Return the numbers, of many only the first ones and how many there are."""
    shown = ", ".join(map(str, numbers[:_LISTED]))
    return shown if len(numbers) <= _LISTED else f"{shown}, … ({len(numbers)} in all)"


def _kinds(configurations: Sequence[Configuration]) -> list[list[tuple[float, int]]]:
    """Return weight and place of the configurations, the longest first, kind by kind; their order makes no odds."""
    kinds: dict[tuple[str, ...], list[tuple[float, str, int]]] = {}
    for place, c in enumerate(configurations):
        kind = (c.device, c.engine, c.precision, c.pipeline, str(c.workers), str(c.threads), str(c.world_size))
        kinds.setdefault(kind, []).append((-trial_weight(c), dumps(c), place))
    return [[(-weight, place) for weight, _, place in sorted(kinds[kind])] for kind in sorted(kinds)]


def trial_weight(configuration: Configuration) -> float:
    """Return about how many seconds a trial takes: good for an order, see the constants."""
    c = configuration
    arithmetic = _ARITHMETIC_SECONDS.get(c.device, _ARITHMETIC_SECONDS_ELSEWHERE)
    steps = math.ceil(_SAMPLES / c.batch_size)
    return _START_SECONDS + c.epochs * (steps * _STEP_SECONDS + _SAMPLES * c.weights * arithmetic)


def _chosen(configurations: Sequence[Configuration], places: Iterable[int]) -> tuple[Configuration, ...]:
    return tuple(configurations[place] for place in places)
