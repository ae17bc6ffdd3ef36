"""What a report contains: the texts, tables and charts of stored runs, for `bench.report.page` to lay out as HTML.

Every number comes from the functions of `show`, `compare` or `predict`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from bench.analysis.rank_scaling import fit_ranks
from bench.analysis.ranks_view import ranks_table
from bench.analysis.scaling_models import label_runs, make_models, models_of_comparison
from bench.analysis.scaling_view import scaling_tables
from bench.analysis.taxes import make_accounts, shares_table, tax_table
from bench.calibration.profiles import MachineProfile, peak_rate_of
from bench.compare.columns import Column as RowColumn
from bench.compare.columns import identity_columns
from bench.compare.compare_runs import compare_runs
from bench.compare.comparison import Comparison, Row, Source
from bench.compare.legend import heading as comparison_heading
from bench.compare.trials import make_table
from bench.compare.view import notes as comparison_notes
from bench.compare.view import tables as comparison_tables
from bench.errors import BenchError, IncomparableError
from bench.records import Run
from bench.report.charts import Kind, Ratio, RatioChart
from bench.report.epochs import epoch_figures
from bench.report.figures import MAX_CHARTS, Figure, groups, memory_figures, parts, trials_of
from bench.report.provenance import provenance
from bench.report.throughput import throughput_figures
from bench.stats.inference import Estimate
from bench.stats.judgement_text import from_log, ratio_text
from bench.storage.table import Value
from bench.tables.columns import COLUMNS, Column, default_columns, find_columns, harmless
from bench.tables.layout import WordTable
from bench.tables.legend import legend, run_heading
from bench.tables.summary import Summary, summarise_run

MAX_RATIOS: Final = 60
"""Ratios that are drawn."""

_MAX_ROWS: Final = 20
"""Rows of a ratio chart: its texts are then still legible on a printed page, below the heading of the comparison."""

MAX_OPEN_ACCOUNTS: Final = 3
"""Accounts of taxes that are shown unfolded; more are folded below a table of their shares."""

_DIVIDED: Final = "the two machines measured different parts of the run's plan, so there is nothing to compare"

_REACHED: Final = "training time until test accuracy first reached it; (k of n): only k of n trials reached it"

_EXTRA_COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "training_flops_per_second": "the model's FLOPs per second of training",
        "flops_utilisation": "the arithmetic relative to the highest rate that calibrate measured on this machine",
        "memory_floor_bytes": "the least memory that a step needs, computed from the model",
        "cold_start_seconds": "the first training step, before warm-up",
        "seconds_to_97_percent": _REACHED,
        "seconds_to_98_percent": _REACHED,
        "joules_per_epoch": "energy of the device, mean over epochs",
        "samples_per_joule": "training samples per joule of the device",
        "flagged": "trials that were disturbed during measurement",
        "failure_kinds": "why trials failed",
        "warnings": "",
    }
)
"""Columns in addition to those of `show`, each with its meaning; they are shown if any row has a value.

`legend` explains the warnings.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A stored run to be reported: its label, empty without one, and the profile of its machine, None without one.

    If `run` is only the part that one machine measured, `whole` is the whole run.
    """

    label: str
    run: Run
    profile: MachineProfile | None = None
    whole: Run | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell as `show` prints it, and the raw value to sort and filter by, in SI base units."""

    text: str
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A titled part of a run's report."""

    title: str
    figures: tuple[Figure, ...]
    tables: tuple[WordTable, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """One run: its provenance (`facts`), its configurations as a table with notes, and its sections."""

    name: str
    heading: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonReport:
    """One run compared with the first. If they cannot be compared, there is only `failure`, which says why.

    Two machines' parts of one run may have nothing to compare, which is no failure: there is only `heading`.
    """

    name: str
    heading: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[WordTable, ...] = ()
    notes: tuple[str, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole page."""

    title: str
    runs: tuple[RunReport, ...]
    comparisons: tuple[ComparisonReport, ...]


def make_report(stored: Sequence[Stored]) -> Report:
    """Return the report of at least one stored run; every later one is compared with the first.

    Of runs that several machines measured, parts on the same machine are compared.
    """
    names = [harmless(each.label or each.run.header.run_id, 60) for each in stored]
    sources = [
        Source(label=name, table=make_table(each.run), profile=each.profile)
        for name, each in zip(names, stored, strict=True)
    ]
    return Report(
        title=f"Benchmark report: {', '.join(names)}",
        runs=tuple(_run_report(name, each) for name, each in zip(names, stored, strict=True)),
        comparisons=tuple(
            _compare(sources[_baseline(stored, each)], other, is_one_run=_is_of_first(stored, each))
            for other, each in zip(sources[1:], stored[1:], strict=True)
        ),
    )


def _is_of_first(stored: Sequence[Stored], part: Stored) -> bool:
    """Return whether `part` is another machine's part of the first run."""
    return part.whole is not None and part.whole is stored[0].whole


def _baseline(stored: Sequence[Stored], candidate: Stored) -> int:
    """Return the place of what `candidate` is compared with: the first run's part on its machine, else its first."""
    if _is_of_first(stored, candidate):
        return 0
    machine = candidate.run.header.machine.id
    of_first = (place for place, each in enumerate(stored) if _is_of_first(stored, each))
    return next((place for place in of_first if stored[place].run.header.machine.id == machine), 0)


def _run_report(name: str, stored: Stored) -> RunReport:
    run = stored.run
    summaries = summarise_run(run, lambda header: peak_rate_of(stored.profile, header.software))
    columns = report_columns(summaries) if summaries else ()
    texts = zip(*(column.texts(summaries) for column in columns), strict=True)
    return RunReport(
        name=name,
        heading=run_heading(run),
        facts=tuple(provenance(run, stored.whole)),
        columns=columns,
        rows=tuple(
            tuple(
                Cell(text=text, value=column.fields[0].value(summary))
                for column, text in zip(columns, of_row, strict=True)
            )
            for summary, of_row in zip(summaries, texts, strict=True)
        ),
        notes=(*legend(run, summaries, columns, (), whole=stored.whole), *_meanings(columns)),
        sections=tuple(_sections(stored, summaries)),
    )


def report_columns(summaries: Sequence[Summary]) -> tuple[Column, ...]:
    """Return the columns of `show`, and those of `_EXTRA_COLUMNS` in which any row has a value."""
    extra = [key for key in _EXTRA_COLUMNS if any(COLUMNS[key].text(summary) not in {"", "0"} for summary in summaries)]
    return find_columns((*(column.key for column in default_columns(summaries)), *extra))


def _meanings(columns: Sequence[Column]) -> Iterator[str]:
    """Yield what each of the extra columns means; columns that mean the same share a line."""
    headers: dict[str, list[str]] = {}
    for column in columns:
        if _EXTRA_COLUMNS.get(column.key):
            headers.setdefault(_EXTRA_COLUMNS[column.key], []).append(column.header)
    return (f"{', '.join(named)}: {meaning}" for meaning, named in headers.items())


def _sections(stored: Stored, summaries: Sequence[Summary]) -> Iterator[Section]:
    run = stored.run
    trials, found = trials_of(run), groups(summaries)
    # Time comes first, and the section with a figure for every model last.
    yield from _drawn("Throughput", throughput_figures(found, trials))
    fits = fit_ranks(run.records)
    if fits:
        yield Section(title="More ranks", figures=(), tables=tuple(map(ranks_table, fits)))
    models = make_models(label_runs([run], [None]))
    if models:
        yield Section(title="How a step's time grows", figures=(), tables=tuple(scaling_tables(models)))
    accounts = make_accounts(run, stored.profile)
    account_tables = tuple(map(tax_table, accounts))
    if len(accounts) > MAX_OPEN_ACCOUNTS:
        folded = Figure(title="Times and intervals", charts=(), tables=account_tables)
        yield Section(title="Where an epoch's time goes", figures=(folded,), tables=(shares_table(accounts),))
    elif accounts:
        yield Section(title="Where an epoch's time goes", figures=(), tables=account_tables)
    yield from _drawn("Memory", memory_figures(found))
    yield from _drawn("Accuracy and loss", epoch_figures(found, trials))


def _drawn(title: str, figures: Iterable[Figure]) -> Iterator[Section]:
    drawn = _limited(title, tuple(figures))
    if drawn:
        yield Section(title=title, figures=drawn)


def _limited(title: str, found: tuple[Figure, ...]) -> tuple[Figure, ...]:
    if len(found) <= MAX_CHARTS + 1:
        return found
    note = (
        f"{title.lower()}: drawn for the first {MAX_CHARTS} of {len(found)}; the table of configurations has them all"
    )
    return (*found[:MAX_CHARTS], Figure(title="Further figures", charts=(), tables=(), notes=(note,)))


def _compare(first: Source, other: Source, *, is_one_run: bool) -> ComparisonReport:
    """Compare two runs; or two machines' parts of one, which need not have anything in common."""
    name = f"{other.label} against {first.label}"
    try:
        comparison = compare_runs(first, other)
    except BenchError as error:
        if is_one_run and isinstance(error, IncomparableError):
            return ComparisonReport(name=name, heading=(_DIVIDED,))
        return ComparisonReport(name=name, failure=str(error))
    rows = comparison.rows
    tables = [
        WordTable(
            title=title,
            headers=[column.header for column in columns],
            rows=[[column.cell(row) for column in columns] for row in rows],
            numeric=[column.is_numeric for column in columns],
        )
        for title, columns in comparison_tables(comparison, rows)
    ]
    if comparison.is_hardware:
        models = models_of_comparison(comparison)
        tables += scaling_tables(models) if models else ()
    return ComparisonReport(
        name=name,
        heading=tuple(comparison_heading(comparison)),
        figures=tuple(_ratio_figures(name, comparison)),
        tables=tuple(tables),
        notes=tuple(comparison_notes(comparison, rows)),
    )


def _ratio_figures(name: str, comparison: Comparison) -> Iterator[Figure]:
    estimated = [(row, estimate) for row in comparison.rows if (estimate := row.time.estimate) is not None]
    if not estimated:
        return
    rows = [row for row, _ in estimated]
    columns = _naming_columns(identity_columns(comparison.rows), rows)
    counts = Counter(row.time.verdict.value for row in rows)
    ratios = tuple(_ratio(row, estimate, columns) for row, estimate in estimated[:MAX_RATIOS])
    charts = tuple(
        RatioChart(
            kind=Kind.RATIOS,
            subject=f"epoch time{part}",
            title=f"Ratio of epoch times with 95 % intervals{part}: {name}",
            caption=f"Ratio of epoch times with 95 % intervals{part}",
            description="Candidate / baseline: above 1 the candidate is slower. "
            + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()),
            label="epoch time, candidate / baseline",
            marks=(
                "triangle up: slower, triangle down: faster, square: same, circle: inconclusive; bars: 95 % intervals",
                "right of the dotted line (above 1) the candidate takes longer",
            ),
            ratios=tuple(chosen),
            among=ratios,
        )
        for part, chosen in parts(ratios, _MAX_ROWS)
    )
    note = f"ratios: drawn for the first {MAX_RATIOS} of {len(rows)} rows; the table has them all"
    yield Figure(title="Ratios", charts=charts, tables=(), notes=(note,) if len(rows) > MAX_RATIOS else ())


def _ratio(row: Row, estimate: Estimate, columns: Sequence[RowColumn]) -> Ratio:
    """Return the ratio of `row`, named by `columns`."""
    span = row.time.interval
    return Ratio(
        name=" ".join(_labelled_cell(column, row) for column in columns),
        value=from_log(estimate.value),
        low=None if span is None else _bound(span.low),
        high=None if span is None else _bound(span.high),
        text=ratio_text(estimate.value),
        verdict=row.time.verdict.value,
    )


def _naming_columns(columns: Sequence[RowColumn], rows: Sequence[Row]) -> list[RowColumn]:
    """Return the columns in which `rows` differ, and model and batch size."""
    return [each for each in columns if each.key in _ALWAYS_NAMED or len({each.cell(row) for row in rows}) > 1]


def _labelled_cell(column: RowColumn, row: Row) -> str:
    """Return the cell, that of a number with its header."""
    words = "batch" if column.key == "batch_size" else column.header
    return f"{words} {column.cell(row)}" if column.is_numeric else column.cell(row)


_ALWAYS_NAMED: Final = frozenset({"model", "batch_size"})


def _bound(log_value: float) -> float | None:
    """Return a bound to draw, None if it is unknown."""
    value = from_log(log_value)
    return value if 0 < value < float("inf") else None
