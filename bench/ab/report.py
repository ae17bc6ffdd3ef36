"""The result of a live comparison: every pair it measured, and the judgements. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from bench.ab.pairs import PairRecord
from bench.errors import ExitCode
from bench.records import Configuration, Machine, Software
from bench.stats.judgement import GATE_EXIT_CODES, Judgement, Verdict

COMPLETE: Final = "complete"
BUDGET: Final = "budget"
INTERRUPTED: Final = "interrupted"
FAILED: Final = "failed"

_CUT_SHORT: Final[Mapping[str, ExitCode]] = MappingProxyType(
    {INTERRUPTED: ExitCode.INTERRUPTED, FAILED: ExitCode.FAILED_TRIAL}
)


SAME_LOSS: Final = 1e-3
"""Relative difference up to which the first turn's losses agree: float32 sums may be taken in a different order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One arm: its label, the commit of its workload (None if unknown) and its software.

    `software.git_dirty` says whether files differ from that commit.
    """

    label: str
    commit: str | None
    software: Software


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration: its pairs of the screen and of confirmation, and the judgement.

    `unjudged` is how many of the last confirming pairs, whose round was interrupted, the judgement does not include.
    """

    configuration: Configuration
    screen: tuple[PairRecord, ...]
    confirm: tuple[PairRecord, ...]
    unjudged: int
    judgement: Judgement

    @property
    def trains_alike(self) -> bool:
        """Whether both arms' first losses agree in every pair, so that times of the same training are compared."""
        losses = [(pair.baseline.first_loss, pair.candidate.first_loss) for pair in (*self.screen, *self.confirm)]
        return all(abs(ours - theirs) <= SAME_LOSS * abs(ours) for ours, theirs in losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A device's A/A floor: by how much two equal arms may differ, as a log ratio; None if not calibrated."""

    device: str
    log_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A live comparison, finished or cut short. `ended` is ``complete``, ``budget``, ``interrupted`` or ``failed``.

    `max_slowdown` is the fraction that still passes, `looks` how often fresh pairs were judged, `until_decided` whether
    this was to continue until everything is decided. `wall_seconds` is the time of measuring, without preparation.
    """

    command: tuple[str, ...]
    created_at: str
    machine: Machine
    baseline: Side
    candidate: Side
    max_slowdown: float
    floors: tuple[Floor, ...]
    looks: int
    until_decided: bool
    ended: str
    wall_seconds: float
    rows: tuple[Row, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the rows' verdicts."""
        verdicts = {row.judgement.verdict for row in self.rows}
        return next(verdict for verdict in GATE_EXIT_CODES if verdict in verdicts)

    @property
    def exit_code(self) -> ExitCode:
        """The command's exit code."""
        return _CUT_SHORT.get(self.ended, GATE_EXIT_CODES[self.verdict])
