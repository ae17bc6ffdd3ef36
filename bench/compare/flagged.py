"""What flagged trials do to verdicts of time: the same rows judged again without the trials that were disturbed.

No trial is dropped from a verdict because it is flagged: that would select trials by what they measured. The verdict
without them is reported beside the real one, so that the reader can decide to measure again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bench.compare.estimates import Pair, Prepared, time_estimate
from bench.compare.trials import Flagged, Trials
from bench.records import TrialWarning
from bench.stats.drift import Drift
from bench.stats.inference import mean
from bench.stats.judgement import Judgement, Verdict, undecided
from bench.units import format_count


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutFlagged:
    """The judgement of a pair without flagged trials. `counts` are those of each side, `warnings` why they are flagged.

    Both are of this pair. A pair without flagged trials can still have another judgement, because all are judged
    together.
    """

    counts: tuple[int, int]
    warnings: tuple[TrialWarning, ...]
    judgement: Judgement

    def change(self, verdict: Verdict) -> str | None:
        """Return ``slower, but same without the 2 flagged trials (stall)`` for `verdict`; None if it stays."""
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


def flagged_note(count: int, measured: int, warnings: Iterable[TrialWarning]) -> str:
    """Return the note below a table in which `count` of the `measured` trials are flagged, by these warnings."""
    reasons = ", ".join(sorted(set(warnings)))
    return f"flagged: {count} of {measured} trials were disturbed during measurement ({reasons})"


def judge_without_flagged(
    pairs: Sequence[Pair],
    prepared: Sequence[Prepared],
    drift: Drift | None,
    judge: Callable[[Sequence[Prepared]], Sequence[Judgement]],
) -> tuple[WithoutFlagged | None, ...]:
    """Judge the times of all `pairs` again without flagged trials, as one family; all None if no trial is flagged.

    `prepared` is each pair with all its trials, and is kept where no trial is flagged or where it is a judgement
    already, which rests on no trial's time. `judge` is what made the verdicts.
    """
    if not any(ours.flagged.n or theirs.flagged.n for ours, theirs in pairs):
        return (None,) * len(pairs)
    again = [_prepare_again(*pair, each, drift) for pair, each in zip(pairs, prepared, strict=True)]
    return tuple(
        WithoutFlagged(
            counts=(ours.flagged.n, theirs.flagged.n),
            warnings=_warnings(ours, theirs),
            judgement=judgement,
        )
        for (ours, theirs), judgement in zip(pairs, judge(again), strict=True)
    )


def times_without_flagged(trials: Trials) -> Trials:
    """Return `trials` with only the times that are not flagged, and nothing else that each trial measured."""
    if not trials.flagged.n:
        return trials
    kept = trials.unflagged_log_seconds
    return replace(
        trials,
        n=len(kept),
        mean_log_seconds=mean(kept) if kept else None,
        log_seconds=kept,
        log_relative=None,
        accuracies=None,
        seconds_to_98_percent=(),
        flagged=Flagged(),
    )


def _prepare_again(baseline: Trials, candidate: Trials, prepared: Prepared, drift: Drift | None) -> Prepared:
    if isinstance(prepared, Judgement) or not (baseline.flagged.n or candidate.flagged.n):
        return prepared
    kept = times_without_flagged(baseline), times_without_flagged(candidate)
    for side, trials, left in zip(("baseline", "candidate"), (baseline, candidate), kept, strict=True):
        if not left.n and trials.flagged.n:
            return undecided(Verdict.INCOMPARABLE, _nothing_left(side, trials))
    return time_estimate(*kept, drift)


def _nothing_left(side: str, trials: Trials) -> str:
    flagged = f"the {side}'s only trial is" if trials.n == 1 else f"all {trials.n} trials of the {side} are"
    return f"{flagged} flagged ({', '.join(_warnings(trials))}), so nothing can be judged without them"


def _warnings(*sides: Trials) -> tuple[TrialWarning, ...]:
    found = {warning for trials in sides for warning in trials.flagged.warnings}
    return tuple(warning for warning in TrialWarning if warning in found)
