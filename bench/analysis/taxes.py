"""The account of taxes: where an epoch of a tutorial's loop goes, from its DataLoader down to the arithmetic alone.

Four ways to train the same thing, each paying less than the one before: torchvision's images through a DataLoader and
autograd; the same with the data resident on the device; the same without autograd (engine fused, or graph where that is
faster); and the model's FLOPs at the highest rate that was measured on the machine. The differences are the loader tax,
the framework tax and the kernel gap.
"""

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from bench.calibration.profiles import MachineProfile, peak_rate_of
from bench.errors import BadInputError
from bench.records import Configuration, Measurement, Run
from bench.stats.student import t_quantile
from bench.tables.columns import harmless
from bench.tables.fields import Value
from bench.tables.layout import WordTable, csv_text, draw_word_tables
from bench.tables.legend import FASTER_THAN_PEAK, heading
from bench.tables.summary import PeakRate
from bench.units import format_count, format_flops, format_percent, format_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to train: its pipeline and engine, and the trials' median epoch times."""

    key: tuple[str, str]
    seconds: tuple[float, ...]

    @property
    def name(self) -> str:
        """For people."""
        return " + ".join(self.key)

    @property
    def mean(self) -> float:
        """Mean of the trials' median epoch times."""
        return statistics.fmean(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the dearest way's epoch. What could not be measured is None.

    `low` and `high` bound the 95 % interval of `seconds`, the difference of two means (Welch's t), or of a mean and a
    number taken as known. `share` is of the whole epoch.
    """

    name: str
    seconds: float | None
    low: float | None
    high: float | None
    share: float | None
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The parts of one configuration's epoch. `configuration` is that of the dearest way that was measured."""

    configuration: Configuration
    trials: int
    epoch_seconds: float
    parts: tuple[Part, ...]


def make_accounts(run: Run, profile: MachineProfile | None) -> tuple[Account, ...]:
    """Return an account of everything that `run` trained in at least two of the ways, in the run's order.

    `profile` is that of the run's machine; without one, or without a measured peak, the arithmetic is unknown.
    """
    peak_rate = peak_rate_of(profile, run.header.software)
    groups: dict[Configuration, dict[tuple[str, str], list[tuple[Configuration, Measurement]]]] = {}
    for record in run.records:
        if isinstance(record.outcome, Measurement):
            configuration = record.trial.configuration
            key = replace(configuration, pipeline="", engine="", workers=0)
            ways = groups.setdefault(key, {})
            way = (configuration.pipeline, configuration.engine)
            ways.setdefault(way, []).append((configuration, record.outcome))
    found = (_account(ways, peak_rate) for ways in groups.values())
    return tuple(account for account in found if account is not None)


_WAYS: Final = ((("dataloader", "eager"),), (("resident", "eager"),), (("resident", "fused"), ("resident", "graph")))
"""Pipeline and engine of each way; of two, the faster one counts."""


def _account(
    measured: dict[tuple[str, str], list[tuple[Configuration, Measurement]]], peak_rate: PeakRate
) -> Account | None:
    tutorial, resident, bare = ways = [_fastest(measured, choices) for choices in _WAYS]
    known = [way for way in ways if way is not None]
    if len(known) < 2:  # noqa: PLR2004 - a difference takes two
        return None
    configuration, measurement = measured[known[0].key][0]
    whole = known[0].mean
    peak = _peak(configuration, peak_rate)
    flops = measurement.training_flops_per_sample * measurement.epochs[0].train_samples
    arithmetic = None if peak is None else flops / peak
    return Account(
        configuration=configuration,
        trials=len(known[0].seconds),
        epoch_seconds=whole,
        parts=(
            _difference("loader tax", tutorial, resident, whole),
            _difference("framework tax", resident, bare, whole),
            _gap(bare, arithmetic, whole),
            _arithmetic(flops, peak, known, whole),
        ),
    )


def _fastest(
    measured: dict[tuple[str, str], list[tuple[Configuration, Measurement]]], choices: Iterable[tuple[str, str]]
) -> Way | None:
    ways = [
        Way(key=key, seconds=tuple(outcome.epoch_seconds for _, outcome in measured[key]))
        for key in choices
        if key in measured
    ]
    return min(ways, key=lambda way: way.mean, default=None)


def _peak(configuration: Configuration, peak_rate: PeakRate) -> float | None:
    """Return the highest rate that was measured, of several ranks that many times, as `flops_utilisation` has it."""
    peak = peak_rate(configuration)
    return None if peak is None else peak * configuration.world_size


def _difference(name: str, dear: Way | None, cheap: Way | None, whole: float) -> Part:
    if dear is None or cheap is None:
        missing = " and ".join(what for way, what in ((dear, "the dearer"), (cheap, "the cheaper")) if way is None)
        return Part(name=name, seconds=None, low=None, high=None, share=None, meaning=f"{missing} way was not measured")
    seconds = dear.mean - cheap.mean
    low, high = _interval(seconds, (dear.seconds, cheap.seconds))
    return Part(
        name=name, seconds=seconds, low=low, high=high, share=seconds / whole, meaning=f"{dear.name} over {cheap.name}"
    )


def _gap(way: Way | None, arithmetic: float | None, whole: float) -> Part:
    name = "kernel gap"
    if way is None or arithmetic is None:
        missing = "no engine without autograd was measured" if way is None else "no peak is known"
        return Part(name=name, seconds=None, low=None, high=None, share=None, meaning=missing)
    seconds = way.mean - arithmetic
    low, high = _interval(seconds, (way.seconds,))
    meaning = f"{way.name} over the arithmetic"
    return Part(name=name, seconds=seconds, low=low, high=high, share=seconds / whole, meaning=meaning)


def _interval(value: float, sides: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """Return the interval of a mean or a difference of means: Student's t, with Welch's degrees of freedom for two."""
    if min(map(len, sides)) < 2:  # noqa: PLR2004 - one value tells no spread
        return None, None
    squares = [statistics.variance(side) / len(side) for side in sides]
    spread = math.fsum(squares)
    if spread == 0:
        return value, value
    freedom = spread**2 / math.fsum(square**2 / (len(side) - 1) for square, side in zip(squares, sides, strict=True))
    half = t_quantile(freedom) * math.sqrt(spread)
    return value - half, value + half


def _arithmetic(flops: int, peak: float | None, ways: Sequence[Way], whole: float) -> Part:
    name = "arithmetic"
    if peak is None:
        meaning = "no peak is known of this machine, device, precision, thread count and torch: "
        meaning += "python -m bench calibrate"
        return Part(name=name, seconds=None, low=None, high=None, share=None, meaning=meaning)
    seconds = flops / peak
    meaning = f"{format_flops(flops)} at the measured peak, {format_flops(peak)}/s"
    if any(way.mean < seconds for way in ways):
        meaning += f"; an epoch was {FASTER_THAN_PEAK}"
    return Part(name=name, seconds=seconds, low=None, high=None, share=seconds / whole, meaning=meaning)


def render_taxes(run: Run, profile: MachineProfile | None, layout: str, width: int) -> str:
    """Return the accounts of `run` as ``table``, ``markdown``, ``csv`` or ``json``; the last two unrounded.

    Raises:
        BadInputError: nothing was trained in two ways.
    """
    accounts = make_accounts(run, profile)
    if not accounts:
        raise BadInputError(
            f"run {run.header.run_id} trained nothing in two of the ways that an account of taxes compares: "
            "make one with python -m bench run --preset taxes"
        )
    if layout == "json":
        return json.dumps([_raw_account(account) for account in accounts], allow_nan=False, indent=2)
    if layout == "csv":
        rows = [row for account in accounts for row in _raw_rows(account)]
        return csv_text(rows[0], rows)
    return draw_word_tables(heading(run.header), map(tax_table, accounts), layout, width)


_HEADERS: Final = ("part", "time", "95 % interval", "share")
_NUMERIC: Final = (False, True, True, True)


def tax_table(account: Account) -> WordTable:
    """Return the parts of `account`, with what is trained how as the title."""
    c = account.configuration
    ranks = f"{c.world_size} ranks of " if c.world_size > 1 else ""
    threads = format_count(c.threads, "thread")
    return WordTable(
        title=f"{harmless(c.model, 60)} on {harmless(c.device, 20)}, batch size {c.batch_size}, {ranks}{threads}, "
        f"{c.precision}: {format_seconds(account.epoch_seconds)} an epoch with {c.pipeline} + {c.engine} "
        f"(mean of {account.trials})",
        headers=_HEADERS,
        rows=[_words(part) for part in account.parts],
        numeric=_NUMERIC,
        notes=[f"{part.name}: {part.meaning}" for part in account.parts],
    )


def _words(part: Part) -> Sequence[str]:
    return (
        part.name,
        "" if part.seconds is None else format_seconds(part.seconds),
        "" if part.low is None or part.high is None else f"{format_seconds(part.low)} to {format_seconds(part.high)}",
        "" if part.share is None else format_percent(part.share),
    )


def _raw_account(account: Account) -> dict[str, object]:
    return {
        "configuration": asdict(account.configuration),
        "trials": account.trials,
        "epoch_seconds": account.epoch_seconds,
        "parts": [asdict(part) for part in account.parts],
    }


def _raw_rows(account: Account) -> Iterator[dict[str, Value]]:
    c = account.configuration
    for part in account.parts:
        yield {
            "device": c.device,
            "model": c.model,
            "batch_size": c.batch_size,
            "threads": c.threads,
            "world_size": c.world_size,
            "precision": c.precision,
            "epoch_seconds": account.epoch_seconds,
            "part": part.name,
            "seconds": part.seconds,
            "low": part.low,
            "high": part.high,
            "share": part.share,
            "meaning": part.meaning,
        }
