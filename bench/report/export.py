"""The pictures of a report and their file names, and what could not be drawn, with the reason."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.report.charts import Chart, Kind
from bench.report.contents import ComparisonReport, Report, RunReport, Stored
from bench.report.figures import NO_MAP, Figure, trials_of

_MAX_NAME_CHARACTERS: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A chart to draw: its file name without an extension, and where its numbers come from."""

    name: str
    chart: Chart
    source: str


def find_pictures(report: Report) -> tuple[Picture, ...]:
    """Return a picture of every chart of `report`, in order, each with a unique name."""
    found: list[Picture] = []
    taken = set[str]()
    for part, figure in _figures(report):
        for chart in figure.charts:
            first = name = _file_name(part.name, chart)
            count = 1
            while name.casefold() in taken:  # names may differ only in case, or in characters left out
                count += 1
                name = f"{first}-{count}"
            taken.add(name.casefold())
            found.append(Picture(name=name, chart=chart, source="; ".join(part.heading)))
    return tuple(found)


def left_out(report: Report, stored: Sequence[Stored]) -> Iterator[str]:
    """Yield what was not drawn of `stored`, the runs of `report`, and why."""
    for part, each in zip(report.runs, stored, strict=True):
        configurations, measured = each.run.header.plan.configurations, trials_of(each.run)
        if not measured:
            yield f"{part.name}: nothing was drawn, because no trial was measured"
            continue
        missing = sum(configuration not in measured for configuration in configurations)
        if missing:
            yield f"{part.name}: {missing} of {len(configurations)} configurations: no trial was measured"
        if each.whole is not None:
            planned = each.whole.header.plan.configurations
            begun = {record.trial.configuration for record in each.whole.records}
            if len(begun) < len(planned):
                yield f"{part.name}: {len(planned) - len(begun)} of the whole run's configurations: none was started"
        figures = [figure for section in part.sections for figure in section.figures]
        notes = tuple(dict.fromkeys(note for figure in figures for note in figure.notes))
        has_map = any(chart.kind is Kind.THROUGHPUT_MAP for figure in figures for chart in figure.charts)
        if not has_map and not any(note.startswith(NO_MAP) for note in notes):
            yield f"{part.name}: {NO_MAP}: it needs two models with two batch sizes in common, otherwise trained alike"
        yield from (f"{part.name}: {note}" for note in notes)
    for compared in report.comparisons:
        if not compared.figures:
            reason = compared.failure or "no configuration was measured on both sides"
            yield f"{compared.name}: no ratios: {reason}"
        yield from (f"{compared.name}: {note}" for figure in compared.figures for note in figure.notes)


def _figures(report: Report) -> Iterator[tuple[RunReport | ComparisonReport, Figure]]:
    for run in report.runs:
        for section in run.sections:
            yield from ((run, figure) for figure in section.figures)
    for compared in report.comparisons:
        yield from ((compared, figure) for figure in compared.figures)


def _file_name(part: str, chart: Chart) -> str:
    """Return ``dd60e151-throughput-cpu``: letters, digits, dots and hyphens, which every system and LaTeX accept."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{part} {chart.kind} {chart.subject}")
    return words[:_MAX_NAME_CHARACTERS].strip("-.")
