"""What a live comparison found: every pair it measured, and what they mean. Values only."""

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
"""Relative difference of the first turn's losses up to which the arms train alike: float32 in another order of sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One arm: its label, the commit that its workload is from (None: unknown) and its software.

    Whether files differ from that commit is `software.git_dirty`.
    """

    label: str
    commit: str | None
    software: Software


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration: its pairs, screened and fresh, and the judgement.

    `unjudged` counts the last of the fresh ones, whose round was cut short: the judgement knows nothing of them.
    """

    configuration: Configuration
    screen: tuple[PairRecord, ...]
    confirm: tuple[PairRecord, ...]
    unjudged: int
    judgement: Judgement

    @property
    def trains_alike(self) -> bool:
        """Whether both arms' first losses agreed in every pair: whether it is one training whose time is compared."""
        losses = [(pair.baseline.first_loss, pair.candidate.first_loss) for pair in (*self.screen, *self.confirm)]
        return all(abs(ours - theirs) <= SAME_LOSS * abs(ours) for ours, theirs in losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A device's A/A floor: what two equal arms may differ by, as a log ratio; None where it was not calibrated."""

    device: str
    log_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A live comparison, finished or cut short. `ended` is ``complete``, ``budget``, ``interrupted`` or ``failed``.

    `max_slowdown` is the fraction that still passes, `looks` how often fresh pairs were judged, `until_decided` whether
    that was to go on until nothing is open. `wall_seconds` are those of measuring, without what came before.
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
        """What the command ends with."""
        return _CUT_SHORT.get(self.ended, GATE_EXIT_CODES[self.verdict])
