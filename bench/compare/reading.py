"""Reads stored runs for comparison, large ones in parallel: reading takes most of a comparison's time."""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from bench.compare.trials import Table, make_table
from bench.storage.store import read_run
from bench.system.collection import garbage_collection_paused

LARGE_BYTES: Final = 32 * 2**20
"""From this size on, reading a file takes longer (a third of a second) than starting another process to read it."""


def read_tables(paths: Sequence[Path]) -> list[Table]:
    """Return the tables of the stored runs at `paths`.

    Raises:
        BadInputError: one of them is not a stored run.
    """
    if not _is_worth_processes(paths):
        return [_read_table(path) for path in paths]
    with ProcessPoolExecutor(len(paths) - 1, mp_context=multiprocessing.get_context("fork")) as pool:
        others = [pool.submit(_read_table, path) for path in paths[1:]]
        return [_read_table(paths[0]), *(other.result() for other in others)]


def _is_worth_processes(paths: Sequence[Path]) -> bool:
    # On other systems a process that is not forked would have to import everything first.
    if sys.platform != "linux" or len(paths) < 2 or len(os.sched_getaffinity(0)) < len(paths):  # noqa: PLR2004 - a pair
        return False
    return min(path.stat().st_size for path in paths) >= LARGE_BYTES


def _read_table(path: Path) -> Table:
    with garbage_collection_paused():
        return make_table(read_run(path))
