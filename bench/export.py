"""Which pictures there are of a report, what their files are called, and what could not be drawn, with the reason."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.records import Run
from bench.report import ComparisonReport, Report, RunReport
from bench.report_charts import Chart, Kind
from bench.report_figures import Figure, trials_of

_MAX_NAME_CHARACTERS: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A chart to draw: its file's name without an ending, and where its numbers are from."""

    name: str
    chart: Chart
    source: str


def find_pictures(report: Report) -> tuple[Picture, ...]:
    """Return a picture of every chart of `report`, in its order, each with a name of its own."""
    found: dict[str, Picture] = {}
    for part, figure in _figures(report):
        for chart in figure.charts:
            first = name = _file_name(part.name, chart)
            count = 1
            while name in found:  # names can differ in what no file's name can hold
                count += 1
                name = f"{first}-{count}"
            found[name] = Picture(name=name, chart=chart, source="; ".join(part.heading))
    return tuple(found.values())


def left_out(report: Report, runs: Sequence[Run]) -> Iterator[str]:
    """Yield what was not drawn of `runs`, which `report` is of, and why."""
    for part, run in zip(report.runs, runs, strict=True):
        configurations, measured = run.header.plan.configurations, trials_of(run)
        if not measured:
            yield f"{part.name}: nothing is drawn: no trial was measured"
            continue
        missing = sum(configuration not in measured for configuration in configurations)
        if missing:
            yield f"{part.name}: {missing} of {len(configurations)} configurations: no trial was measured"
        figures = [figure for section in part.sections for figure in section.figures]
        if not any(chart.kind is Kind.THROUGHPUT_MAP for figure in figures for chart in figure.charts):
            yield f"{part.name}: map of throughput: it needs two models and two batch sizes, trained in one way"
        yield from (f"{part.name}: {note}" for note in dict.fromkeys(note for each in figures for note in each.notes))
    for compared in report.comparisons:
        if not compared.figures:
            reason = compared.failure or "they have no measured configuration in common"
            yield f"{compared.name}: ratios: {reason}"
        yield from (f"{compared.name}: {note}" for figure in compared.figures for note in figure.notes)


def _figures(report: Report) -> Iterator[tuple[RunReport | ComparisonReport, Figure]]:
    for run in report.runs:
        for section in run.sections:
            yield from ((run, figure) for figure in section.figures)
    for compared in report.comparisons:
        yield from ((compared, figure) for figure in compared.figures)


def _file_name(part: str, chart: Chart) -> str:
    """Return ``dd60e151-throughput-cpu``: letters, digits, dots and hyphens, which every system and LaTeX take."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{part} {chart.kind} {chart.subject}")
    return words[:_MAX_NAME_CHARACTERS].strip("-.")
