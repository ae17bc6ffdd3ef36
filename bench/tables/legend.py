"""The text around a table of results: where it was measured, how to read it, and its caveats."""

import math
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.planning.dimensions import IDENTITY, constant_dimensions
from bench.planning.shards import completion, listed, resumption
from bench.records import FailureKind, Header, Peak, Run, TrialWarning
from bench.tables.columns import COLUMNS, RANK_MEANINGS, Column, harmless
from bench.tables.fields import hidden_dimensions
from bench.tables.layout import left_out_note
from bench.tables.machines import machine_headers
from bench.tables.summary import Summary, unmeasured_energy
from bench.units import format_bytes, format_count, format_flops, format_seconds
from bench.warning_rules import ADVICE

MAX_MESSAGE_CHARACTERS: Final = 200

FASTER_THAN_PEAK: Final = "faster than the calibrated peak: calibrate again on a quiet machine"

_LISTED: Final = 5
"""Configurations with flagged trials that are listed; further ones are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCount:
    """How many trials failed in one way, and the first one's message."""

    kind: FailureKind
    count: int
    message: str


def heading(header: Header) -> tuple[str, str]:
    """Return a line that identifies the run, and one with the machine and software it was measured on."""
    machine, software = header.machine, header.software
    accelerators = [harmless(accelerator.name, 60) for accelerator in machine.accelerators]
    hardware = (
        f"{harmless(machine.cpu_model, 60)} ({machine.cores_usable:g} of {machine.cores_logical} logical cores)",
        *(f"{name} x {n}" if n > 1 else name for name, n in Counter(accelerators).items()),
        f"{format_bytes(machine.memory_bytes)} memory",
    )
    versions = (
        f"torch {harmless(software.torch, 40)}",
        f"Python {harmless(software.python, 40)}",
        harmless(machine.operating_system, 40),
        *([f"with {harmless(software.variables, 120)}"] if software.variables else []),
    )
    title = ", ".join(harmless(text, 40) for text in (f"run {header.run_id}", header.name, header.created_at) if text)
    return title, ", ".join((*hardware, *versions))


def run_heading(run: Run) -> tuple[str, ...]:
    """Return a line that identifies the run, and a line for each machine, with its id if there are several."""
    return headings(machine_headers(run))


def headings(headers: Mapping[str, Header]) -> tuple[str, ...]:
    """Return the heading of a run with these headers, one per machine."""
    (title, place), *others = map(heading, headers.values())
    if not others:
        return title, place
    places = (place, *(other for _, other in others))
    return title, *(f"{harmless(name, 60)}: {each}" for name, each in zip(headers, places, strict=True))


def count_failures(summaries: Iterable[Summary]) -> tuple[FailureCount, ...]:
    """Count the failures in `summaries` by kind."""
    failures = [failure for summary in summaries for failure in summary.failures]
    counts = Counter(failure.kind for failure in failures)
    first = {failure.kind: failure.message for failure in reversed(failures)}
    return tuple(
        FailureCount(kind=kind, count=counts[kind], message=first[kind]) for kind in FailureKind if counts[kind]
    )


def count_warnings(summaries: Iterable[Summary]) -> dict[TrialWarning, int]:
    """Return each warning in `summaries` with the number of configurations that have it."""
    counts = Counter(warning for summary in summaries for warning in summary.warnings)
    return {warning: counts[warning] for warning in TrialWarning if counts[warning]}


def legend(
    run: Run,
    summaries: Sequence[Summary],
    columns: Sequence[Column],
    dropped: Sequence[Column],
    *,
    whole: Run | None = None,
) -> tuple[str, ...]:
    """Return the notes below a table of `summaries` with these `columns`; the `dropped` ones did not fit.

    If `run` is only the part that one machine measured, `whole` is the whole run, which decides whether trials are
    missing.
    """
    return (
        *_reading_notes(run, summaries, columns),
        *_missing_columns(summaries, columns, dropped),
        *_cautions(summaries),
        *_incomplete_notes(whole or run),
        *(f"file: {harmless(text, MAX_MESSAGE_CHARACTERS)}" for text in run.warnings),
    )


def _reading_notes(run: Run, summaries: Sequence[Summary], columns: Sequence[Column]) -> Iterator[str]:
    shown = {column.key for column in columns}
    is_one_of_several = len(machine_headers(run)) > 1 and len({summary.machine_id for summary in summaries}) == 1
    machine = ("machine_id",) if is_one_of_several else ()
    constant = [
        f"{COLUMNS[key].header} {COLUMNS[key].text(summaries[0])}"
        for key in (*machine, *constant_dimensions([summary.configuration for summary in summaries]))
        if key not in shown
    ]
    if constant:
        yield f"every row: {', '.join(constant)}"
    repeated = [summary for summary in summaries if summary.n > 1]  # one value has no range
    if any("±" in column.text(summary) for column in columns for summary in repeated):
        yield "±: half the range of the trials, in percent of the median; for percentages in percentage points"
    if "peak_memory_bytes" in shown:
        yield from _memory_notes(summaries)
    if any(key.startswith("flops_utilisation") for key in shown):
        yield from _utilisation_notes(summaries)
    of_ranks = [each for each in RANK_MEANINGS if any(key.startswith(each) for key in shown)]
    if of_ranks and all(getattr(summary, key) is None for key in of_ranks for summary in summaries):
        yield f"{', '.join(map(_words, of_ranks))}: measured by runs with several ranks, such as --world-size 1,2"
    else:
        yield from (f"{_words(key)}: {RANK_MEANINGS[key]}" for key in of_ranks)
    if any("joule" in key for key in shown):
        for reason in unmeasured_energy(record for summary in summaries for record in summary.records):
            yield f"energy not measured: {harmless(reason, MAX_MESSAGE_CHARACTERS)}"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _utilisation_notes(summaries: Sequence[Summary]) -> Iterator[str]:
    shares = [summary.flops_utilisation for summary in summaries if summary.measured]
    unknown, above = shares.count(None), sum(share is not None and share.high > 1 for share in shares)
    several = len({summary.machine_id for summary in summaries}) > 1
    peaks = dict.fromkeys(_peak_text(each, several=several) for each in summaries if each.flops_utilisation)
    if peaks:
        yield f"of measured peak: {'; '.join(peaks)}"
    if unknown:
        yield (
            f"of measured peak ({unknown} of {len(summaries)} rows empty): not calibrated for this device, precision, "
            "thread count and torch version: python -m bench calibrate"
        )
    if above:
        yield f"of measured peak ({above} of {len(summaries)} rows above 100 %): {FASTER_THAN_PEAK}"


def _peak_text(summary: Summary, *, several: bool) -> str:
    """Return the peak that utilisation is relative to, and where it was measured; with the machine if `several`."""
    c = summary.configuration
    rate = f"{format_flops(summary.peak_rate or 0)}/s"
    machine = f" of {harmless(summary.machine_id, 60)}" if several else ""
    ranks = " for each rank" if c.world_size > 1 else ""
    return (
        f"{rate} on {harmless(c.device, 20)}{machine} in {c.precision} with {format_count(c.threads, 'thread')}{ranks}"
    )


def _memory_notes(summaries: Iterable[Summary]) -> Iterator[str]:
    host, device = set[str](), set[str]()
    for summary in summaries:
        for measurement in summary.measured:
            if summary.configuration.device == "cpu":
                host.update(_method(measurement.host_peak))
            else:
                device.update(_method(measurement.device_allocated_peak))
    if host:
        yield f"peak memory on cpu: host memory above what the imports took ({'; '.join(sorted(host))})"
    if device:
        yield f"peak memory on accelerators: device memory of tensors ({'; '.join(sorted(device))})"


def _method(peak: Peak | None) -> tuple[str, ...]:
    return () if peak is None else (harmless(peak.method, 120),)


def _missing_columns(
    summaries: Sequence[Summary], columns: Sequence[Column], dropped: Sequence[Column]
) -> Iterator[str]:
    yield from left_out_note([column.key for column in dropped], "choose with --columns")
    hidden = hidden_dimensions(summaries, [column.key for column in columns])
    if hidden:
        yield f"rows also differ in {', '.join(hidden)}: add this to --columns"


def _cautions(summaries: Sequence[Summary]) -> Iterator[str]:
    for failed in count_failures(summaries):
        message = harmless(failed.message, MAX_MESSAGE_CHARACTERS)
        yield f"failed: {format_count(failed.count, 'trial')} with {failed.kind}; first message: {message}"
    for warning, count in count_warnings(summaries).items():
        yield f"warning {warning} ({count} of {len(summaries)} rows): {ADVICE[warning]}"
    yield from _flagged_notes(summaries)


def _incomplete_notes(run: Run) -> Iterator[str]:
    division, plan = run.header.division, run.header.plan
    if division is not None and division.missing:
        held = listed([shard.number for shard in division.held])
        missing = (division.configurations - len(plan.configurations)) * plan.repeats
        yield (
            f"shard {held} of {division.shards}: {missing} of {division.configurations * plan.repeats} trials are in "
            f"other shards; {completion(run.header)}"
        )
    if run.footer is not None and run.footer.complete and not run.lost_trials:
        return
    planned = plan.trial_count
    done = {(record.trial.configuration, record.trial.repeat) for record in run.records}
    if run.footer is None or len(done) < planned:
        yield (
            f"run incomplete: {max(0, planned - len(done))} of {planned} trials missing; "
            f"{harmless(resumption(run.header), MAX_MESSAGE_CHARACTERS)}"
        )


def _flagged_notes(summaries: Sequence[Summary]) -> Iterator[str]:
    """Yield how many trials of each configuration are flagged and its epoch time without them, largest change first.

    A single trial is left out: its warning says everything.
    """
    dimensions = hidden_dimensions(summaries, IDENTITY)
    wholly: list[Summary] = []
    partly: list[tuple[float, str]] = []
    for summary in summaries:
        with_them, without = summary.epoch_seconds, summary.unflagged_epoch_seconds
        if not summary.flagged or summary.n == 1 or with_them is None:
            continue
        if without is None:
            wholly.append(summary)
        else:
            text = f"{_name(summary, dimensions)}: {_without_flagged(summary, with_them.median, without)}"
            partly.append((abs(math.log(with_them.median / without)), text))
    if wholly:
        rows = _name(wholly[0], dimensions) if len(wholly) == 1 else f"{len(wholly)} of {len(summaries)} rows"
        yield f"{rows}: every trial is flagged, so nothing would be left without them"
    partly.sort(key=operator.itemgetter(0), reverse=True)
    yield from (text for _, text in partly[:_LISTED])
    if len(partly) > _LISTED:
        yield f"{len(partly) - _LISTED} more with flagged trials: add flagged and unflagged_epoch_seconds to --columns"


def _without_flagged(summary: Summary, with_them: float, without: float) -> str:
    flagged = f"{summary.flagged} of {summary.n} trials flagged"
    before, after = format_seconds(with_them), format_seconds(without)
    if before == after:
        return f"{flagged}; {after} with or without"
    return f"{flagged}; {before} with them, {after} without"


def _name(summary: Summary, dimensions: Sequence[str]) -> str:
    device, model, batch_size = (COLUMNS[key].text(summary) for key in IDENTITY)
    others = (f"{COLUMNS[key].header} {COLUMNS[key].text(summary)}" for key in dimensions)
    return ", ".join((f"{device} {model} batch {batch_size}", *others))
