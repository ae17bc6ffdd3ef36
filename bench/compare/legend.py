"""The words around a comparison: what is compared, what came out on the whole, and how to read it."""

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from bench.compare.comparison import Comparison, RoundsSource, Row, Source
from bench.compare.flagged import flagged_count, flagged_note
from bench.compare.matching import Subject, describe, dimension, varying_dimensions
from bench.records import Configuration
from bench.stats.judgement_text import ratio_interval_text, ratio_text
from bench.tables.columns import harmless
from bench.tables.fields import DIMENSIONS, FIELDS
from bench.tables.legend import headings
from bench.tables.prices import Prices

MAX_NOTE_CHARACTERS: Final = 600
_LISTED: Final = 5
"""Configurations that are named of one side only, or with a verdict that flagged trials decide; others are counted."""

MARK: Final = "*"
"""Beside a verdict of time that would be another without flagged trials."""


def heading(comparison: Comparison) -> Iterator[str]:
    """Yield what is compared with what, where each was measured, and what of the software differs."""
    kind = "hardware comparison" if comparison.is_hardware else "comparison"
    yield f"{kind}: {_label(comparison.candidate)} against the baseline {_label(comparison.baseline)}"
    for side, source in (("baseline", comparison.baseline), ("candidate", comparison.candidate)):
        if isinstance(source, RoundsSource):
            about = (source.file.datetime, source.file.cpu, source.file.python and f"Python {source.file.python}")
            yield f"{side}: {harmless(', '.join(each for each in about if each), 200) or 'machine and date unknown'}"
            continue
        title, *places = headings(source.table.headers)
        yield f"{side}: {title}"
        if side == "candidate" or comparison.is_hardware:
            yield from places
    for difference in comparison.differences:
        yield f"differs in {harmless(difference, 200)}"


def results(comparison: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    """Yield what came out on the whole, and what the table of `rows` does not hold."""
    if comparison.mean is not None:
        mean = comparison.mean
        ratios = "ratio" if mean.count == 1 else "ratios"
        yield (
            f"geometric mean of {mean.count} {ratios}: {ratio_text(mean.log_ratio)} "
            f"(95 % interval {ratio_interval_text(mean.interval)})"
        )
    hidden = len(comparison.rows) - len(rows)
    if hidden:
        yield f"not shown: {hidden} of {len(comparison.rows)} rows, the same or inconclusive"
    for side, subjects in (("baseline", comparison.baseline_only), ("candidate", comparison.candidate_only)):
        if subjects:
            paired = [trials.subject for row in comparison.rows for trials in (row.baseline, row.candidate)]
            yield f"only in the {side}: {len(subjects)}: {_listing(subjects, varying_dimensions([*subjects, *paired]))}"


def legend(comparison: Comparison, rows: Sequence[Row], without: Collection[str] = ()) -> Iterator[str]:
    """Yield how to read the table of `rows`, which goes `without` some columns, and what to beware of."""
    yield from _constants(rows)
    if "normed" not in without and any(row.relative_log_ratio is not None for row in rows):
        yield (
            "normed: the same of epoch times divided by the yardstick timed beside them, which the machine's drift "
            "slows too"
        )
    if rows and "detectable" not in without:
        yield "least found: the smallest difference that would be found four times in five"
    if rows and "n" not in without:
        yield f"n: {'rounds' if isinstance(comparison.baseline, RoundsSource) else 'trials'} on either side"
    yield from _flagged_notes(rows)
    reasons = dict.fromkeys(
        f"{judgement.verdict}: {judgement.reason}"
        for row in rows
        for judgement in (row.time, row.accuracy)
        if judgement is not None and judgement.estimate is None
    )
    for note in (*list(reasons)[:_LISTED], *comparison.notes):
        yield harmless(note, MAX_NOTE_CHARACTERS)


def verdict_change(row: Row) -> str | None:
    """Say what becomes of the verdict of time of `row` without flagged trials; None where it stays."""
    return None if row.without_flagged is None else row.without_flagged.change(row.time.verdict)


def _flagged_notes(rows: Sequence[Row]) -> Iterator[str]:
    """Yield how many trials are flagged, and which verdicts would be others without them."""
    sides = [trials for row in rows for trials in (row.baseline, row.candidate)]
    count = sum(map(flagged_count, sides))
    changes = [(row, change) for row in rows if (change := verdict_change(row)) is not None]
    dimensions = varying_dimensions([row.baseline.subject for row in rows]) if count else ()
    if count:
        warnings = [warning for trials in sides if trials.flagged for warning in trials.flagged.warnings]
        note = flagged_note(count, sum(trials.n for trials in sides), warnings)
        yield note if changes else f"{note}; {_unchanged(rows, dimensions)}"
    for row, change in changes[:_LISTED]:
        yield f"{MARK} {describe(row.baseline.subject, dimensions)}: {change}"
    if len(changes) > _LISTED:
        yield f"{MARK} and {len(changes) - _LISTED} more: see time_verdict_without_flagged with --format csv"


def _unchanged(rows: Sequence[Row], dimensions: Sequence[str]) -> str:
    """Say that no verdict changes without flagged trials, and which ratio moves most."""
    ratios = [
        (row, row.time.estimate.value, row.without_flagged.judgement.estimate.value)
        for row in rows
        if row.time.estimate is not None
        and row.without_flagged is not None
        and row.without_flagged.judgement.estimate is not None
    ]
    text = "every verdict is the same without them"
    row, whole, calm = max(ratios, key=lambda each: abs(each[1] - each[2]), default=(None, 0.0, 0.0))
    if row is None or ratio_text(whole) == ratio_text(calm):
        return text
    name = describe(row.baseline.subject, dimensions)
    return f"{text}, and the ratio that moves most is that of {name}: {ratio_text(whole)}, {ratio_text(calm)} without"


def cost_notes(prices: Prices) -> Iterator[str]:
    """Yield how to read the table of costs."""
    yield prices.note()
    yield "ratio of costs: of an epoch, candidate / baseline; reached: trials that got to 98 %, on either side"


def _constants(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what all rows have in common and no column shows."""
    chosen = [each for row in rows for each in configurations(row)]
    told = [key for key, others in DIMENSIONS.items() if not others]
    if all(configuration.world_size == 1 for configuration in chosen):
        told.remove("world_size")  # it goes without saying
    keys = ("device", *told)
    constant = [
        f"{FIELDS[key].header} {dimension(chosen[0], key)}"
        for key in keys
        if chosen and len({getattr(each, key) for each in chosen}) == 1
    ]
    if constant:
        yield f"every row: {', '.join(constant)}"


def dropped_note(headers: Sequence[str]) -> Iterator[str]:
    """Yield that the columns with `headers` had no room."""
    if headers:
        yield f"left out for want of room: {', '.join(dict.fromkeys(headers))}; widen the terminal or use --format csv"


def _listing(subjects: Sequence[Subject], dimensions: Sequence[str]) -> str:
    named = "; ".join(describe(subject, dimensions) for subject in subjects[:_LISTED])
    return f"{named}; …" if len(subjects) > _LISTED else named


def _label(source: Source | RoundsSource) -> str:
    return harmless(source.label, 60)


def configurations(row: Row) -> tuple[Configuration, ...]:
    """Return what was trained on the two sides of `row`; nothing where benchmarks are compared."""
    subjects = (row.baseline.subject, row.candidate.subject)
    return tuple(subject for subject in subjects if isinstance(subject, Configuration))
