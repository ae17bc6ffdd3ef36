"""What flagged trials do to verdicts of time: the same family judged again without the trials that were disturbed.

Nothing is dropped from a verdict for being flagged: trials would then be chosen by what they measured. What the verdict
would be without them is told beside it, and whoever reads it can repeat them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from bench.compare.matching import Trials
from bench.records import TrialWarning
from bench.stats.inference import Estimate
from bench.stats.judgement import Judgement, Verdict, undecided
from bench.units import format_count

Pair: TypeAlias = tuple[Trials, Trials]
Prepared: TypeAlias = Estimate | Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutFlagged:
    """The judgement of a pair without flagged trials. `counts` are those of either side, `warnings` what flagged them.

    Both are of this pair: without any, its judgement can still differ, as it is judged together with others.
    """

    counts: tuple[int, int]
    warnings: tuple[TrialWarning, ...]
    judgement: Judgement

    def change(self, verdict: Verdict) -> str | None:
        """Return ``slower, but same without the 2 flagged trials (stall)`` for `verdict`; None if it stays as it is."""
        if self.judgement.verdict is verdict:
            return None
        if self.judgement.estimate is None:
            return f"{verdict}, but {self.judgement.reason}"
        return f"{verdict}, but {self.judgement.verdict} without {self._trials()}"

    def _trials(self) -> str:
        count = sum(self.counts)
        if not count:
            return "the flagged trials of other rows, which are judged together with it"
        return f"the {format_count(count, 'flagged trial')} ({', '.join(self.warnings)})"


def flagged_count(trials: Trials) -> int:
    """Return how many of `trials` are flagged."""
    return 0 if trials.flagged is None else trials.flagged.n


def flagged_note(count: int, measured: int, warnings: Iterable[TrialWarning]) -> str:
    """Return the note below a table that `count` of the `measured` trials in it are flagged, and by which warnings."""
    told = ", ".join(sorted(set(warnings)))
    return f"flagged: {count} of {measured} trials, disturbed while they were measured ({told})"


def judge_without_flagged(
    pairs: Sequence[Pair],
    prepared: Sequence[Prepared],
    prepare: Callable[[Trials, Trials], Prepared],
    judge: Callable[[Sequence[Prepared]], Sequence[Judgement]],
) -> tuple[WithoutFlagged | None, ...]:
    """Judge all `pairs` again without flagged trials, as one family; None for each where none of them has one.

    `prepared` is what `prepare` made of each pair with all its trials: it is kept where no trial is flagged, and where
    it is a judgement already, which rests on no trial's time. `judge` is what made the verdicts.
    """
    if not any(ours.flagged or theirs.flagged for ours, theirs in pairs):
        return (None,) * len(pairs)
    again = [_prepare_again(*pair, each, prepare) for pair, each in zip(pairs, prepared, strict=True)]
    return tuple(
        WithoutFlagged(
            counts=(flagged_count(ours), flagged_count(theirs)),
            warnings=_warnings(ours, theirs),
            judgement=judgement,
        )
        for (ours, theirs), judgement in zip(pairs, judge(again), strict=True)
    )


def times_without_flagged(trials: Trials) -> Trials:
    """Return the times of `trials` that are not flagged, sorted, and nothing else that is known of each trial."""
    if trials.flagged is None:
        return trials
    kept = trials.unflagged_log_seconds
    return replace(
        trials,
        n=len(kept),
        mean_log_seconds=math.fsum(kept) / len(kept) if kept else None,
        log_seconds=kept,
        log_relative=None,
        accuracies=None,
        seconds_to_98_percent=(),
        flagged=None,
    )


def _prepare_again(
    baseline: Trials, candidate: Trials, prepared: Prepared, prepare: Callable[[Trials, Trials], Prepared]
) -> Prepared:
    if isinstance(prepared, Judgement) or not (baseline.flagged or candidate.flagged):
        return prepared
    calm = times_without_flagged(baseline), times_without_flagged(candidate)
    for side, trials, left in zip(("baseline", "candidate"), (baseline, candidate), calm, strict=True):
        if not left.n and trials.flagged is not None:
            return undecided(Verdict.INCOMPARABLE, _nothing_left(side, trials))
    return prepare(*calm)


def _nothing_left(side: str, trials: Trials) -> str:
    flagged = "its only trial is" if trials.n == 1 else f"all its {trials.n} trials are"
    return f"nothing would be left of the {side}: {flagged} flagged ({', '.join(_warnings(trials))})"


def _warnings(*sides: Trials) -> tuple[TrialWarning, ...]:
    found = {warning for trials in sides if trials.flagged is not None for warning in trials.flagged.warnings}
    return tuple(warning for warning in TrialWarning if warning in found)
