"""How time shrinks with the number of ranks, as text: the fitted terms and their predictions."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Final

from bench.analysis.rank_scaling import RankFit, Spread, fit_ranks
from bench.errors import BadInputError
from bench.records import Run
from bench.storage.table import Value
from bench.tables.columns import harmless
from bench.tables.layout import WordTable, csv_text, draw_word_tables, json_text, range_text
from bench.tables.legend import heading
from bench.units import format_count, format_percent, format_seconds

POOR_ERROR: Final = 0.05
"""From this error at a measured number of ranks on the terms are said not to describe the times.

Repeats rarely vary more, and intervals over repeats do not show how well the terms describe the times.
"""


def render_ranks(run: Run, layout: str, width: int) -> str:
    """Return the fits of `run` as ``table``, ``markdown``, ``csv`` or ``json``; the last two unrounded.

    `run` is of one machine, that of its header.

    Raises:
        BadInputError: no repeat of a configuration was measured both with one process and with several ranks.
    """
    fits = fit_ranks(run.records)
    if not fits:
        raise BadInputError(
            f"run {harmless(run.header.run_id, 40)} has no configuration of which one repeat was measured with one "
            "process and with several ranks of the same batch size: make one with python -m bench run --world-size 1,2"
        )
    if layout == "json":
        return json_text([asdict(each) for each in fits])
    if layout == "csv":
        rows = [row for each in fits for row in _raw_rows(each)]
        return csv_text(rows[0], rows)
    return draw_word_tables(heading(run.header), map(ranks_table, fits), layout, width)


def ranks_table(found: RankFit) -> WordTable:
    """Return what `found` measured and predicts, one row per world size."""
    c = found.configuration
    whole = found.predicted[1].mean
    terms = (
        ("serial", found.serial_seconds, "the same for any number of ranks"),
        ("parallel", found.parallel_seconds, "divided by the number of ranks"),
        (
            "exchange",
            found.exchange_seconds,
            "times 2 (ranks - 1) / ranks: exchanging gradients and waiting for the slowest rank",
        ),
    )
    return WordTable(
        title=f"{harmless(c.model, 60)} on {harmless(c.device, 20)}, batch size {c.batch_size} over all ranks, "
        f"{format_count(c.threads, 'thread')} each, {c.precision}, {c.pipeline} + {c.engine} "
        f"({format_count(found.repeats, 'repeat')})",
        headers=("ranks", "epoch time", "fitted", "95 % interval", "efficiency", "95 % interval"),
        rows=[_row(found, ranks) for ranks in found.predicted],
        numeric=(True,) * 6,
        notes=[
            *(
                f"{name}: {_seconds(term)}, {format_percent(term.mean / whole)} of one rank's epoch; {meaning}"
                for name, term, meaning in terms
            ),
            "epoch time: mean of the repeats, empty if only predicted; intervals: over repeats",
            "efficiency: time of one rank over the number of ranks times their time; as fitted if only predicted",
            *_doubts(found),
            "predictions for more ranks than measured ignore latency: if steps are short, they are lower bounds",
        ],
    )


def _doubts(found: RankFit) -> Iterator[str]:
    """Yield what makes the fit doubtful."""
    if found.left_out:
        yield f"{format_count(found.left_out, 'repeat')} left out, of which a number of ranks was not measured"
    ranks, ratio = found.worst
    if abs(ratio - 1) > POOR_ERROR:
        yield (
            f"the fit misses the time of {format_count(ranks, 'rank')} by {format_percent(abs(ratio - 1))}: do not "
            "rely on its terms, intervals and predictions"
        )


def _row(found: RankFit, ranks: int) -> Sequence[str]:
    seconds, efficiency = found.predicted[ranks], found.efficiencies[ranks]
    return (
        str(ranks),
        format_seconds(found.measured[ranks]) if ranks in found.measured else "",
        format_seconds(seconds.mean),
        range_text(seconds.low, seconds.high, format_seconds),
        format_percent(efficiency.mean),
        range_text(efficiency.low, efficiency.high, format_percent),
    )


def _seconds(spread: Spread) -> str:
    interval = range_text(spread.low, spread.high, format_seconds)
    return format_seconds(spread.mean) + (f" ({interval})" if interval else "")


def _raw_rows(found: RankFit) -> Iterator[dict[str, Value]]:
    c = found.configuration
    for ranks, seconds in found.predicted.items():
        efficiency = found.efficiencies[ranks]
        yield {
            "device": c.device,
            "model": c.model,
            "batch_size": c.batch_size,
            "threads": c.threads,
            "precision": c.precision,
            "pipeline": c.pipeline,
            "engine": c.engine,
            "repeats": found.repeats,
            "ranks": ranks,
            "epoch_seconds": found.measured.get(ranks),
            "fitted_seconds": seconds.mean,
            "fitted_low": seconds.low,
            "fitted_high": seconds.high,
            "efficiency": efficiency.mean,
            "efficiency_low": efficiency.low,
            "efficiency_high": efficiency.high,
            "serial_seconds": found.serial_seconds.mean,
            "parallel_seconds": found.parallel_seconds.mean,
            "exchange_seconds": found.exchange_seconds.mean,
        }
