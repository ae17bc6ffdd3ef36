"""Faults of single ranks for real trials: each trial of a host with them has the one that its seed stands for."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from bench.protocol.messages import Prepared, Trained
from bench.records import FailureKind, Trial
from bench.worker.rank_group import Group
from bench.worker.rank_session import RankSession
from bench.worker.session import TrialError

EXHAUSTED: Final = 101
"""The second rank runs out of memory within the first epoch."""
APART: Final = 102
"""No rank exchanges gradients."""
OTHER_DATA: Final = 103
"""The second rank has other data than the first."""
FORKED: Final = 104
"""A rank fails if CUDA could not be used in it, because a process that it was forked from had asked about devices."""
FIRST_EXHAUSTED: Final = 105
"""The first rank runs out of memory, and the second waits for it for ever, as it does on NCCL."""
WAITING: Final = 106
"""The second rank runs out of memory, and the first waits for it for ever."""
LINGERING: Final = 107
"""As `WAITING`, but the second rank does not end, so that no launcher can tell that it has failed."""

_LONG_SECONDS: Final = 600.0
"""Longer than any test waits."""

_prepare, _train, _traits = RankSession._prepare, RankSession._train, RankSession._traits  # noqa: SLF001 - the sound ones
_report = Group.report

_EXHAUSTED_OF_TWO: Final = {FIRST_EXHAUSTED: 0, WAITING: 1, LINGERING: 1}
"""Which rank runs out of memory while the other waits for it."""


class _Here:
    seed = 0


def _spoilt_prepare(self: RankSession, trial: Trial, root: Path | None) -> Prepared:
    _Here.seed = trial.seed
    if trial.seed == FORKED and torch.cuda._is_in_bad_fork():  # noqa: SLF001 - how torch itself asks
        raise TrialError(FailureKind.CRASH, "forked after CUDA was asked about")
    return _prepare(self, trial, root)


def _spoilt_train(self: RankSession, epoch: int) -> Trained:
    if _Here.seed == EXHAUSTED and self.ranks.rank == 1:
        raise MemoryError("planted")
    if _Here.seed in _EXHAUSTED_OF_TWO:
        if self.ranks.rank == _EXHAUSTED_OF_TWO[_Here.seed]:
            raise MemoryError("planted")
        time.sleep(_LONG_SECONDS)
    if _Here.seed == APART:
        with self._training.apart():
            return _train(self, epoch)
    return _train(self, epoch)


def _spoilt_traits(self: RankSession, prepared: Prepared) -> dict[str, str]:
    other = _Here.seed == OTHER_DATA and self.ranks.rank == 1
    return _traits(self, prepared) | ({"dataset": "another"} if other else {})


def _spoilt_report(self: Group, answer: Mapping[str, Any]) -> None:
    _report(self, answer)
    if _Here.seed == LINGERING:
        time.sleep(_LONG_SECONDS)


def plant() -> None:
    """Put the faults in place, in a worker host (`planted_ranks_host`) and nowhere else."""
    RankSession._prepare = _spoilt_prepare  # type: ignore[method-assign]  # noqa: SLF001 - where the faults belong
    RankSession._train = _spoilt_train  # type: ignore[method-assign]  # noqa: SLF001 - likewise
    RankSession._traits = _spoilt_traits  # type: ignore[method-assign]  # noqa: SLF001 - likewise
    Group.report = _spoilt_report  # type: ignore[method-assign]
