"""A live comparison as text for the terminal and in Markdown (table, explanations, next steps), and as JSON."""

from collections.abc import Hashable, Iterator
from typing import Any, Final

from bench.ab.report import BUDGET, COMPLETE, FAILED, INTERRUPTED, Report, Row
from bench.coding import dumps, finite, to_json
from bench.compare.matching import describe, dimension, software_differences, varying_dimensions
from bench.stats.judgement import GATE_EXIT_CODES, Verdict
from bench.stats.judgement_text import effect_text, ratio_interval_text, ratio_text
from bench.tables.columns import harmless
from bench.tables.layout import escape, markdown_notes, markdown_table, shortened, text_table, wrap
from bench.units import format_seconds

_ENDINGS: Final = {
    COMPLETE: "",
    BUDGET: "; the budget ended before everything was decided",
    INTERRUPTED: "; interrupted",
    FAILED: "; an error ended it before everything was decided",
}

_HEADERS: Final = ("verdict", "time ratio", "95 % interval", "pairs", "detectable")


def render_table(report: Report, width: int = 80) -> str:
    """Return `report` for the terminal, without a final line break."""
    headers, rows, numeric = _cells(report)
    narrow = [header.replace("detectable", "detect- able") for header in headers]
    table = text_table(narrow, rows, numeric, width)
    parts = (heading(report), table, explanations(report), notes(report), [result(report)])
    return "\n\n".join(part if isinstance(part, str) else wrap(part, width) for part in parts if part)


def render_markdown(report: Report) -> str:
    """Return `report` in Markdown, for the summary page of a CI job."""
    headers, rows, numeric = _cells(report)
    parts = (
        f"### bench ab: {report.verdict}",
        "  \n".join(map(escape, heading(report))),
        markdown_table(headers, rows, numeric),
        markdown_notes((*explanations(report), *notes(report))),
        escape(result(report)),
    )
    return "\n\n".join(part for part in parts if part)


def render_json(report: Report) -> str:
    """Return everything measured and judged as JSON, unrounded; numbers that are not finite are null."""
    document = to_json(report)
    for row, row_json in zip(report.rows, document["rows"], strict=True):
        row_json["trains_alike"] = row.trains_alike
        pairs = zip((*row.screen, *row.confirm), (*row_json["screen"], *row_json["confirm"]), strict=True)
        for pair, pair_json in pairs:
            pair_json["log_ratio"] = pair.log_ratio
    outcome = {"verdict": report.verdict.value, "exit_code": int(report.exit_code), "reason": result(report)}
    return dumps(_with_nulls({**outcome, **document})) + "\n"


def _with_nulls(value: Any) -> Any:  # noqa: ANN401 - a JSON value has no narrower type
    if isinstance(value, dict):
        return {key: _with_nulls(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_nulls(each) for each in value]
    return finite(value) if isinstance(value, float) else value


def heading(report: Report) -> list[str]:
    """Return what was compared, and where."""
    machine = report.machine
    device = f" on {harmless(report.floors[0].device, 20)}" if len(report.floors) == 1 else ""
    differences = software_differences(report.baseline.software, report.candidate.software)
    listed = "; ".join(harmless(line, 80) for line in differences)
    baseline, candidate = _names(report)
    return [
        f"time of {candidate} over {baseline}{device}",
        f"{harmless(machine.cpu_model, 60)} ({machine.cores_usable:g} of {machine.cores_logical} logical cores), "
        f"torch {harmless(report.baseline.software.torch, 40)}"
        + (f"; differs, baseline / candidate, in {listed}" if listed else ""),
    ]


def _names(report: Report) -> tuple[str, str]:
    """Return what to call the baseline and the candidate: labels alone do not tell two interpreters apart."""
    sides = report.baseline, report.candidate
    first, second = (harmless(side.label, 80) for side in sides)
    if first != second or not first.startswith("python:"):
        return first, second
    torches = [harmless(side.software.torch, 40) for side in sides]
    versions = [f"torch {torch}" for torch in torches] if torches[0] != torches[1] else ["baseline", "candidate"]
    return f"{first} ({versions[0]})", f"{second} ({versions[1]})"


def _cells(report: Report) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return headers, rows and which columns hold numbers.

    A device that all rows share is named above the table; dimensions that differ between rows have columns.
    """
    extra = varying_dimensions([row.configuration for row in report.rows])
    names = (*(("device",) if len(report.floors) > 1 else ()), "model", "batch_size", *extra)
    headers = [*(key.replace("_size", "").replace("_", " ") for key in names), *_HEADERS]
    numeric = [key == "batch_size" for key in names] + [header != "verdict" for header in _HEADERS]
    return (
        headers,
        [[*(dimension(row.configuration, key) for key in names), *_row(row)] for row in report.rows],
        numeric,
    )


def _row(row: Row) -> list[str]:
    judgement = row.judgement
    estimate, interval, detectable = judgement.estimate, judgement.interval, judgement.minimum_detectable_effect
    return [
        judgement.verdict,
        "" if estimate is None else ratio_text(estimate.value),
        "" if interval is None else ratio_interval_text(interval),
        f"{len(row.screen)}+{_judged(row)}" if _judged(row) else str(len(row.screen)),
        "" if detectable is None else effect_text(detectable),
    ]


def _judged(row: Row) -> int:
    return len(row.confirm) - row.unjudged


def explanations(report: Report) -> list[str]:
    """Return, for each configuration that does not pass, the reason and what would help.

    Of many that were not measured for one reason, the first ones are named.
    """
    extra = varying_dimensions([row.configuration for row in report.rows])
    rows = [row for row in report.rows if row.judgement.verdict is not Verdict.PASS]
    return [
        f"{row.judgement.verdict}: {describe(row.configuration, extra) if count == 1 else f'{count} others'}: "
        f"{harmless(row.judgement.reason, 400)}"
        for row, count in shortened(rows, _kind)
    ]


def _kind(row: Row) -> Hashable:
    """Return what rows that were not measured for one reason have in common; None for a row that was."""
    judgement = row.judgement
    return None if judgement.estimate is not None else (judgement.verdict, judgement.reason)


def notes(report: Report) -> Iterator[str]:
    """Yield how to read the table, and cautions about this comparison."""
    yield (
        "time ratio: candidate over baseline, above 1 is slower; the interval is for that row alone; pairs: fresh "
        "pairs of processes, screening + confirming; detectable: the slowdown that would be found 4 times in 5"
    )
    if any(map(_judged, report.rows)):
        yield "a row with confirming pairs is judged by those alone"
    unjudged = sum(row.unjudged for row in report.rows)
    if unjudged:
        yield f"{unjudged} confirming pairs of the interrupted round are neither judged nor shown"
    different = [row for row in report.rows if not row.trains_alike]
    if different:
        yield (
            f"the arms do not train alike ({len(different)} of {len(report.rows)} rows have different losses in the "
            "first batches): the times are of different work; gate the accuracy with `bench run` and `bench check`"
        )
    unknown = [harmless(floor.device, 20) for floor in report.floors if floor.log_ratio is None]
    if unknown:
        yield f"the A/A floor of {', '.join(unknown)} on this machine is unknown: run python -m bench calibrate"


def result(report: Report) -> str:
    """Return the last line: the overall verdict, the time it took, and what to do if it is inconclusive."""
    counts = {verdict: sum(row.judgement.verdict is verdict for row in report.rows) for verdict in GATE_EXIT_CODES}
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    allowed = f"allowed slowdown {report.max_slowdown * 100:g} %"
    text = f"{report.verdict}: {counted} ({allowed}, {format_seconds(report.wall_seconds)})"
    return text + _ENDINGS[report.ended] + _advice(report)


def _advice(report: Report) -> str:
    """Return how to measure more pairs; nothing if those would not decide or if the comparison was interrupted."""
    open_rows = [row.judgement for row in report.rows if row.judgement.verdict is Verdict.INCONCLUSIVE]
    would_help = any(each.interval is None or each.needed_n is not None for each in open_rows)
    if report.verdict is not Verdict.INCONCLUSIVE or not would_help or report.ended not in {COMPLETE, BUDGET}:
        return ""
    if report.ended == BUDGET:
        return "; more pairs: a larger --budget"
    return "; more pairs: " + ("a larger --confirm-pairs" if report.until_decided else "--until-decided --budget 10m")
