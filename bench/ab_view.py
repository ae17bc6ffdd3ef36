"""A live comparison as text: a table and what to do next, for the terminal and in Markdown."""

from collections.abc import Iterator
from typing import Final

from bench.ab_report import BUDGET, COMPLETE, Report, Row, Side
from bench.columns import harmless
from bench.judgement import GATE_EXIT_CODES, Verdict
from bench.judgement_text import effect_text, ratio_interval_text, ratio_text
from bench.layout import escape, markdown_table, text_table, wrap
from bench.matching import describe, dimension, software_differences, varying_dimensions
from bench.units import format_seconds

_HEADERS: Final = ("verdict", "time ratio", "95 % interval", "pairs", "detect- able")


def render_table(report: Report, width: int = 80) -> str:
    """Return `report` for the terminal, without a final line break."""
    headers, rows, numeric = _cells(report)
    table = text_table(headers, rows, numeric, width)
    parts = (heading(report), table, explanations(report), notes(report), [result(report)])
    return "\n\n".join(part if isinstance(part, str) else wrap(part, width) for part in parts if part)


def render_markdown(report: Report) -> str:
    """Return `report` in Markdown, for a CI's summary page."""
    headers, rows, numeric = _cells(report)
    said = "\n".join(f"- {escape(line)}" for line in (*explanations(report), *notes(report)))
    top = "  \n".join(map(escape, heading(report)))
    parts = (
        f"### bench ab: {report.verdict}",
        top,
        markdown_table(headers, rows, numeric),
        said,
        escape(result(report)),
    )
    return "\n\n".join(part for part in parts if part)


def heading(report: Report) -> list[str]:
    """Return what was compared, and where."""
    machine = report.machine
    device = f" on {harmless(report.floors[0].device, 20)}" if len(report.floors) == 1 else ""
    differences = software_differences(report.baseline.software, report.candidate.software)
    return [
        f"time of {_arm(report.candidate)} over {_arm(report.baseline)}{device}",
        f"{harmless(machine.cpu_model, 60)} ({machine.cores_usable:g} of {machine.cores_logical} logical cores), "
        f"torch {harmless(report.baseline.software.torch, 40)}"
        + "".join(f"; {harmless(line, 80)}" for line in differences),
    ]


def _arm(side: Side) -> str:
    return harmless(side.label, 80)


def _cells(report: Report) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return headers, rows and which columns hold numbers.

    A device that all rows share stands above the table; dimensions that tell rows apart have columns.
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
        f"{len(row.screen)}+{len(row.confirm)}" if row.confirm else str(len(row.screen)),
        "" if detectable is None else effect_text(detectable),
    ]


def explanations(report: Report) -> list[str]:
    """Return why each configuration that does not pass does not, and what would help."""
    extra = varying_dimensions([row.configuration for row in report.rows])
    return [
        f"{row.judgement.verdict}: {describe(row.configuration, extra)}: {harmless(row.judgement.reason, 400)}"
        for row in report.rows
        if row.judgement.verdict is not Verdict.PASS
    ]


def notes(report: Report) -> list[str]:
    """Return how to read the table, and what about this comparison deserves a caution."""
    return list(_notes(report))


def _notes(report: Report) -> Iterator[str]:
    yield (
        "time ratio: candidate over baseline, above 1 is slower; the interval is of that row alone; pairs: fresh pairs "
        "of processes, screened + confirming; detectable: the slowdown that would be found 4 times in 5"
    )
    if any(row.confirm for row in report.rows):
        yield "a row with confirming pairs is judged by those alone"
    different = [row for row in report.rows if not row.trains_alike]
    if different:
        yield (
            f"the arms do not train alike ({len(different)} of {len(report.rows)} rows have other losses in the "
            "first batches): the times are of different work; gate the accuracy with `bench run` and `bench check`"
        )
    unknown = [harmless(floor.device, 20) for floor in report.floors if floor.log_ratio is None]
    if unknown:
        yield f"no A/A floor is known of {', '.join(unknown)} on this machine: python -m bench calibrate"


def result(report: Report) -> str:
    """Return the last line: the overall verdict, what it cost, and what to do where it is open."""
    counts = {verdict: sum(row.judgement.verdict is verdict for row in report.rows) for verdict in GATE_EXIT_CODES}
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    allowed = f"allowed slowdown {report.max_slowdown * 100:g} %"
    text = f"{report.verdict}: {counted} ({allowed}, {format_seconds(report.wall_seconds)})"
    if report.ended != COMPLETE:
        text += "; the budget ended before all was decided" if report.ended == BUDGET else "; interrupted"
    if report.verdict is Verdict.INCONCLUSIVE:
        text += "; more pairs: --until-decided --budget 10m"
    return text
