"""The text around a comparison's tables: what is compared, the overall result, and how to read the columns."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from bench.compare.comparison import Comparison, RoundsSource, Row, Source
from bench.compare.flagged import flagged_note
from bench.compare.matching import describe, dimension, varying_dimensions
from bench.compare.trials import Subject
from bench.planning.dimensions import constant_dimensions
from bench.records import Configuration
from bench.stats.judgement import Judgement
from bench.stats.judgement_text import effect_text, ratio_interval_text, ratio_text
from bench.tables.columns import harmless
from bench.tables.fields import FIELDS
from bench.tables.legend import headings
from bench.tables.prices import Prices
from bench.units import format_count

MAX_NOTE_CHARACTERS: Final = 600
_LISTED: Final = 5
"""Configurations, reasons or changed verdicts that are listed; further ones are counted."""

CHANGED_MARK: Final = "*"
"""Stands beside a verdict of time that would change without flagged trials."""


def heading(comparison: Comparison) -> Iterator[str]:
    """Yield what is compared, where each side was measured, and how the software differs."""
    kind = "hardware comparison" if comparison.is_hardware else "comparison"
    yield f"{kind}: {_label(comparison.candidate)} against the baseline {_label(comparison.baseline)}"
    (baseline, *there), (candidate, *here) = map(_about, (comparison.baseline, comparison.candidate))
    if baseline == candidate:
        yield baseline
    else:
        yield f"baseline: {baseline}"
        if there != here:
            yield from there
        yield f"candidate: {candidate}"
    yield from here
    for difference in comparison.differences:
        yield f"differs, baseline / candidate, in {harmless(difference, 200)}"


def _about(source: Source | RoundsSource) -> Sequence[str]:
    """Return a side's title, then each machine with its software."""
    if not isinstance(source, RoundsSource):
        return headings(source.table.headers)
    known = (source.file.datetime, source.file.cpu, source.file.python and f"Python {source.file.python}")
    return (harmless(", ".join(each for each in known if each), 200) or "machine and date unknown",)


def results(comparison: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the overall result, and what the tables of `rows` do not show."""
    mean = comparison.mean
    if mean is not None and mean.count > 1:  # that of a single row is in the table
        yield (
            f"geometric mean of {format_count(mean.count, 'ratio')}: {ratio_text(mean.log_ratio)} "
            f"(95 % interval {ratio_interval_text(mean.interval)})"
        )
    hidden = len(comparison.rows) - len(rows)
    if hidden:
        yield f"left out by --only-changed: {hidden} of {len(comparison.rows)} rows, which are the same or inconclusive"
    for side, subjects in (("baseline", comparison.baseline_only), ("candidate", comparison.candidate_only)):
        if subjects:
            paired = [trials.subject for row in comparison.rows for trials in (row.baseline, row.candidate)]
            names = _listing(subjects, varying_dimensions([*subjects, *paired]))
            yield f"only in the {side} ({len(subjects)}): {names}"


def legend(comparison: Comparison, rows: Sequence[Row], without: Collection[str] = ()) -> Iterator[str]:
    """Yield how to read the tables of `rows`, from which the columns `without` were left out, and caveats."""
    yield from _constants(rows)
    unit = "rounds" if isinstance(comparison.baseline, RoundsSource) else "trials"
    if rows:
        has_baseline = "baseline" not in without and any(row.accuracy is not None for row in rows)
        of_accuracy = "; baseline: mean over its trials" if has_baseline else ""
        yield f"ratio: of geometric means over the {unit}{of_accuracy}" + " (show has medians)" * (unit == "trials")
    if "normalised" not in without and any(row.relative_log_ratio is not None for row in rows):
        yield (
            "norm. ratio: normalised ratio, after dividing each epoch time by the yardstick timed beside it, which "
            "machine drift slows as well"
        )
    if "detectable" not in without and any(effect_text(each.minimum_detectable_effect) for each in _judgements(rows)):
        yield "MDE: minimum detectable effect, the smallest difference that would be found four times in five"
    if rows and "n" not in without:
        yield f"n: measured {unit}, baseline/candidate"
    yield from _flagged_notes(comparison.rows)  # a hidden row may be one whose verdict would change
    reasons = dict.fromkeys(
        f"{judgement.verdict}: {judgement.reason}" for judgement in _judgements(rows) if judgement.interval is None
    )
    for note in list(reasons)[:_LISTED]:
        yield harmless(note, MAX_NOTE_CHARACTERS)
    if len(reasons) > _LISTED:
        yield f"and {len(reasons) - _LISTED} more reasons: see time_reason and accuracy_reason in --format csv"
    for note in comparison.notes:
        yield harmless(note, MAX_NOTE_CHARACTERS)


def _judgements(rows: Sequence[Row]) -> Iterator[Judgement]:
    return (each for row in rows for each in (row.time, row.accuracy) if each is not None)


def verdict_change(row: Row) -> str | None:
    """Return how the verdict of time of `row` would change without flagged trials; None if it would not."""
    return None if row.without_flagged is None else row.without_flagged.change(row.time.verdict)


def _flagged_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Yield how many trials are flagged, and which verdicts would change without them."""
    sides = [trials for row in rows for trials in (row.baseline, row.candidate)]
    count = sum(trials.flagged.n for trials in sides)
    if not count:
        return
    changes = [(row, change) for row in rows if (change := verdict_change(row)) is not None]
    dimensions = varying_dimensions([row.baseline.subject for row in rows])
    warnings = [warning for trials in sides for warning in trials.flagged.warnings]
    note = flagged_note(count, sum(trials.n for trials in sides), warnings)
    yield note if changes else f"{note}; {_unchanged(rows, dimensions)}"
    for row, change in changes[:_LISTED]:
        yield f"{CHANGED_MARK} {describe(row.baseline.subject, dimensions)}: {change}"
    if len(changes) > _LISTED:
        yield f"{CHANGED_MARK} and {len(changes) - _LISTED} more: see time_verdict_without_flagged in --format csv"


def _unchanged(rows: Sequence[Row], dimensions: Sequence[str]) -> str:
    """Say that no verdict would change without flagged trials, and which ratio would change most."""
    ratios = [
        (row, row.time.estimate.value, row.without_flagged.judgement.estimate.value)
        for row in rows
        if row.time.estimate is not None
        and row.without_flagged is not None
        and row.without_flagged.judgement.estimate is not None
    ]
    text = "without them every verdict would be the same"
    row, whole, without = max(ratios, key=lambda each: abs(each[1] - each[2]), default=(None, 0.0, 0.0))
    if row is None or ratio_text(whole) == ratio_text(without):
        return text
    name = describe(row.baseline.subject, dimensions)
    return f"{text}; the ratio of {name} would change most, from {ratio_text(whole)} to {ratio_text(without)}"


def cost_notes(prices: Prices, without: Collection[str] = ()) -> Iterator[str]:
    """Yield how to read the table of costs, from which the columns `without` were left out."""
    yield prices.note()
    reached = "; reached: trials that reached 98 % test accuracy, baseline/candidate" * ("reached" not in without)
    yield f"per epoch, to 98 %: baseline / candidate; ratio: cost of an epoch, candidate / baseline{reached}"


def _constants(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what all rows have in common and no column shows."""
    chosen = [each for row in rows for each in configurations(row)]
    device = ("device",) if len({each.device for each in chosen}) == 1 else ()
    keys = (*device, *constant_dimensions(chosen))
    if keys:
        yield f"every row: {', '.join(f'{FIELDS[key].header} {dimension(chosen[0], key)}' for key in keys)}"


def _listing(subjects: Sequence[Subject], dimensions: Sequence[str]) -> str:
    named = "; ".join(describe(subject, dimensions) for subject in subjects[:_LISTED])
    return f"{named}; …" if len(subjects) > _LISTED else named


def _label(source: Source | RoundsSource) -> str:
    return harmless(source.label, 60)


def configurations(row: Row) -> tuple[Configuration, ...]:
    """Return the configurations of the two sides of `row`; empty if it compares benchmarks."""
    subjects = (row.baseline.subject, row.candidate.subject)
    return tuple(subject for subject in subjects if isinstance(subject, Configuration))
