"""A check as text for a terminal, as Markdown for a CI job's summary, and as JSON."""

from collections import Counter
from operator import attrgetter
from typing import Any, Final

from bench.coding import finite, to_json
from bench.compare.check_report import Finding, GateReport
from bench.compare.comparison import Source
from bench.records import Configuration
from bench.stats.judgement_text import (
    UNKNOWN,
    change_interval_text,
    change_text,
    effect_text,
    points_effect_text,
    points_interval_text,
    points_text,
)
from bench.tables.columns import harmless
from bench.tables.layout import escape, json_text, markdown_notes, markdown_table, shortened, wrap

_MAX_CHARACTERS: Final = 600


def check_text(report: GateReport, width: int = 80) -> str:
    """Return one line per finding, then the notes, then the overall verdict, without a final line break.

    A finding's line ends with what to do next; advice that several findings share is given once, below them. Of many
    findings that say the same of different configurations, the first ones have lines.
    """
    counts = Counter(finding.advice for finding in report.findings if finding.advice)
    lines = [
        _line(report, finding, count) + ("" if counts[finding.advice] > 1 else _next(finding))
        for finding, count in shortened(report.findings, attrgetter("kind"))
    ]
    lines += [f"next, for {count} of the findings above: {advice}" for advice, count in counts.items() if count > 1]
    notes = [f"note: {harmless(note, _MAX_CHARACTERS)}" for note in report.notes]
    return wrap((_title(report), *lines, *notes, _conclusion(report)), width)


def check_markdown(report: GateReport) -> str:
    """Return the same as a table, for the summary of a CI job; it ends with a line break."""
    rows = [_cells(report, finding, count) for finding, count in shortened(report.findings, attrgetter("kind"))]
    headers = (
        "verdict",
        "what",
        "difference",
        "95 % interval",
        "n",
        "minimum detectable effect",
        "reason and next step",
    )
    table = markdown_table(headers, rows, (False, False, True, True, True, True, False)) if rows else ""
    notes = markdown_notes(harmless(note, _MAX_CHARACTERS) for note in report.notes)
    parts = (f"### {escape(_title(report))}", f"**{escape(_conclusion(report))}**", table, notes)
    return "\n\n".join(part for part in parts if part) + "\n"


def check_json(report: GateReport) -> str:
    """Return the whole judgement as JSON, unrounded; it ends with a line break."""
    document = {
        "verdict": report.verdict.value,
        "exit_code": int(report.exit_code),
        "reason": report.reason,
        "limits": to_json(report.limits),
        "baseline": _side(report.baseline),
        "candidate": _side(report.candidate),
        "findings": [_finding(report, finding) for finding in report.findings],
        "notes": list(report.notes),
    }
    return json_text(document) + "\n"


def _title(report: GateReport) -> str:
    return f"check of {harmless(report.candidate.label, 60)} against {harmless(report.baseline.label, 60)}"


def _conclusion(report: GateReport) -> str:
    return f"verdict: {report.verdict} ({harmless(report.reason, _MAX_CHARACTERS)})"


def _line(report: GateReport, finding: Finding, count: int) -> str:
    """Return a finding in one line, with the numbers behind its reason in brackets, without what to do next.

    It stands for `count` findings of its kind.
    """
    numbers, brackets = _numbers(finding), ""
    if numbers is not None:
        difference, interval, n, least = numbers
        brackets = f" [{difference}, 95 % interval {interval}, n {n}{least and f', detectable from {least}'}]"
    return (
        f"{finding.judgement.verdict}: {report.name(finding, count)}: {_reason(finding, count)}{brackets}"
        f"{_change(finding)}"
    )


def _cells(report: GateReport, finding: Finding, count: int) -> tuple[str, ...]:
    numbers = _numbers(finding) or ("", "", "", "")
    reason = f"{_reason(finding, count)}{_change(finding)}{_next(finding)}"
    return finding.judgement.verdict.value, report.name(finding, count), *numbers, reason


def _reason(finding: Finding, count: int) -> str:
    reason = finding.judgement.reason if count == 1 else finding.cause or finding.judgement.reason
    return harmless(reason, _MAX_CHARACTERS)


def _numbers(finding: Finding) -> tuple[str, str, str, str] | None:
    """Return difference, interval, n and detectable effect, with units; None if nothing was estimated."""
    judgement = finding.judgement
    estimate, interval, least = judgement.estimate, judgement.interval, judgement.minimum_detectable_effect
    if estimate is None:
        return None
    n = f"{estimate.n[0]}/{estimate.n[1]}"
    if finding.quantity == "epoch time":
        span = UNKNOWN if interval is None else change_interval_text(interval)
        return change_text(estimate.value), span, n, effect_text(least)
    span = UNKNOWN if interval is None else f"{points_interval_text(interval)} pp"
    effect = points_effect_text(least)
    return f"{points_text(estimate.value)} pp", span, n, f"{effect} pp" if effect else ""


def _change(finding: Finding) -> str:
    return "" if finding.change is None else f"; flagged trials matter: {finding.change}"


def _next(finding: Finding) -> str:
    return f"; next: {finding.advice}" if finding.advice else ""


def _side(source: Source) -> dict[str, Any]:
    header = source.table.header
    return {
        "label": source.label,
        "run_id": header.run_id,
        "complete": source.table.is_complete,
        "machine": ", ".join(sorted(source.machine_ids)),
        "command": list(header.command),
    }


def _finding(report: GateReport, finding: Finding) -> dict[str, Any]:
    """Return a finding. Estimate, interval, bound and effect are log ratios for times and fractions for accuracies."""
    judgement, subject = finding.judgement, finding.subject
    estimate, interval = judgement.estimate, judgement.interval
    without = finding.without_flagged
    return {
        "name": report.name(finding),
        "configuration": to_json(subject) if isinstance(subject, Configuration) else None,
        "configuration_id": subject.id if isinstance(subject, Configuration) else None,
        "quantity": finding.quantity,
        "verdict": judgement.verdict.value,
        "reason": judgement.reason,
        "flagged": None if without is None else list(without.counts),
        "verdict_without_flagged": None if without is None else without.judgement.verdict.value,
        "reason_without_flagged": None if without is None else without.judgement.reason,
        "next": finding.advice,
        "scale": "log ratio" if finding.quantity == "epoch time" else "fraction",
        "estimate": None if estimate is None else estimate.value,
        "standard_error": None if estimate is None else finite(estimate.standard_error),
        "degrees_of_freedom": None if estimate is None else finite(estimate.degrees_of_freedom),
        "n": None if estimate is None else list(estimate.n),
        "interval": None if interval is None else [finite(interval.low), finite(interval.high)],
        "bound": finite(judgement.bound),
        "adjusted_p": judgement.adjusted_p,
        "minimum_detectable_effect": finite(judgement.minimum_detectable_effect),
        "needed_n": judgement.needed_n,
    }
