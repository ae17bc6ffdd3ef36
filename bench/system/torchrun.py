"""Detects whether torch's `torchrun` started this process, and as which rank. Does not import torch."""

import contextlib
import ctypes
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.errors import BadInputError

_VARIABLES: Final = {
    "rank": "RANK",
    "world_size": "WORLD_SIZE",
    "local_rank": "LOCAL_RANK",
    "local_world_size": "LOCAL_WORLD_SIZE",
    "host": "GROUP_RANK",
}


_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """This process among those that torchrun started: its rank overall and on this host, and the host's number."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    host: int


def place_in_torchrun(environment: Mapping[str, str]) -> Place | None:
    """Return this process's place, from the variables that torchrun sets; None if torchrun did not start it.

    Raises:
        BadInputError: torchrun has no store that outlives a trial, or its variables are not numbers.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise BadInputError(
            "torchrun was started with its static rendezvous, which has no persistent store: "
            "start it with --rdzv-backend c10d --rdzv-endpoint HOST:PORT"
        )
    try:
        return Place(**{field: int(environment[name]) for field, name in _VARIABLES.items()})
    except (KeyError, ValueError) as error:
        raise BadInputError(
            f"torchrun's variables cannot be read ({error}): start this with torchrun, or unset TORCHELASTIC_RUN_ID"
        ) from error


def end_with_torchrun() -> None:
    """Have the kernel send this process SIGTERM if torchrun itself is killed, its store for the ranks with it.

    Where the kernel cannot do so (macOS), each rank ends when it misses the store.
    """
    with contextlib.suppress(AttributeError, TypeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def check_world_size(largest: int, place: Place | None) -> None:
    """Check that there can be as many ranks as the `largest` world size needs.

    Raises:
        BadInputError: torchrun started fewer, or this system does not support several ranks.
    """
    if place is not None and largest > place.world_size:
        raise BadInputError(
            f"--world-size {largest} is more than the {place.world_size} ranks that torchrun started: use at most that "
            "many, or start more (--nproc-per-node, --nnodes)"
        )
    if place is None and largest > 1 and sys.platform == "win32":
        raise BadInputError("several ranks are not supported on Windows: use --world-size 1")
