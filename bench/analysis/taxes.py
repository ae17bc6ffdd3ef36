"""Taxes: where the time of a tutorial's epoch goes, from its DataLoader down to the bare arithmetic.

There are four ways to train the same model, each with less overhead than the one before: torchvision's images through a
DataLoader, and autograd; the same with the data resident on the device; the same without autograd (engine fused, or
graph if that is faster); and the model's FLOPs at the highest rate that was measured on the machine. The differences
are the loader tax, the framework tax and the kernel gap.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, TypeAlias

from bench.calibration.profiles import MachineProfile, peak_rate_of
from bench.errors import BadInputError
from bench.records import Configuration, Measurement, Run
from bench.stats.student import t_quantile
from bench.storage.table import Value
from bench.tables.columns import harmless
from bench.tables.layout import WordTable, csv_text, draw_word_tables, json_text, range_text
from bench.tables.legend import FASTER_THAN_PEAK, heading
from bench.tables.ordering import configuration_key, natural_key
from bench.tables.summary import PeakRate
from bench.units import format_count, format_flops, format_percent, format_seconds

Key: TypeAlias = tuple[str, str]
"""Pipeline and engine."""

Measured: TypeAlias = dict[Key, list[tuple[Configuration, Measurement]]]
"""The trials of one model by the way they were trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to train: its pipeline and engine, and the trials' median epoch times."""

    key: Key
    seconds: tuple[float, ...]

    @property
    def name(self) -> str:
        """Pipeline and engine as ``resident + fused``."""
        return " + ".join(self.key)

    @property
    def mean(self) -> float:
        """Mean of the trials' median epoch times."""
        return statistics.fmean(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the slowest way's epoch; without `seconds` where it is unknown, and `meaning` says why.

    `low` and `high` bound the 95 % interval of `seconds`, which is the difference of two means (Welch's t), or of a
    mean and a number that is taken as exact. `share` is of the whole epoch.
    """

    name: str
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    share: float | None = None
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The parts of one configuration's epoch. `configuration` is that of the slowest way that was measured."""

    configuration: Configuration
    trials: int
    epoch_seconds: float
    parts: tuple[Part, ...]


def make_accounts(run: Run, profile: MachineProfile | None) -> tuple[Account, ...]:
    """Return an account of everything that `run` trained in at least two of the ways, in the order of `show`.

    `profile` is that of the run's machine; without one, or without a measured peak, the arithmetic is unknown.
    """
    peak_rate = peak_rate_of(profile, run.header.software)
    groups: dict[Configuration, Measured] = {}
    for record in run.records:
        if isinstance(record.outcome, Measurement):
            configuration = record.trial.configuration
            key = replace(configuration, pipeline="", engine="", workers=0)
            ways = groups.setdefault(key, {})
            way = (configuration.pipeline, configuration.engine)
            ways.setdefault(way, []).append((configuration, record.outcome))
    found = (_account(groups[key], peak_rate) for key in sorted(groups, key=configuration_key))
    return tuple(account for account in found if account is not None)


_TUTORIAL: Final[Sequence[Key]] = (("dataloader", "eager"),)
_RESIDENT: Final[Sequence[Key]] = (("resident", "eager"),)
_BARE: Final[Sequence[Key]] = (("resident", "fused"), ("resident", "graph"))
"""Pipeline and engine of each way; of two, the faster one counts."""


def _account(measured: Measured, peak_rate: PeakRate) -> Account | None:
    tutorial, resident, bare = ways = [_fastest(measured, choices) for choices in (_TUTORIAL, _RESIDENT, _BARE)]
    known = [way for way in ways if way is not None]
    if len(known) < 2:  # noqa: PLR2004 - a difference takes two
        return None
    configuration, measurement = measured[known[0].key][0]
    whole = known[0].mean
    peak = peak_rate(configuration)
    if peak is not None:
        peak *= configuration.world_size
    flops = measurement.training_flops_per_sample * measurement.epochs[0].train_samples
    arithmetic = None if peak is None else flops / peak
    return Account(
        configuration=configuration,
        trials=len(known[0].seconds),
        epoch_seconds=whole,
        parts=(
            _difference("loader tax", (_TUTORIAL, tutorial), (_RESIDENT, resident), whole),
            _difference("framework tax", (_RESIDENT, resident), (_BARE, bare), whole),
            _gap(bare, arithmetic, whole),
            _arithmetic(flops, peak, known, whole),
        ),
    )


def _fastest(measured: Measured, choices: Iterable[Key]) -> Way | None:
    ways = [
        Way(key=key, seconds=tuple(outcome.epoch_seconds for _, outcome in measured[key]))
        for key in choices
        if key in measured
    ]
    return min(ways, key=lambda way: way.mean, default=None)


def _difference(
    name: str, slow: tuple[Sequence[Key], Way | None], fast: tuple[Sequence[Key], Way | None], whole: float
) -> Part:
    (slow_choices, slower), (fast_choices, faster) = slow, fast
    if slower is None or faster is None:
        missing = [choices for choices, way in ((slow_choices, slower), (fast_choices, faster)) if way is None]
        return Part(name=name, meaning=f"unknown: {', '.join(map(_choices_text, missing))} was not measured")
    seconds = slower.mean - faster.mean
    low, high = _interval(seconds, (slower.seconds, faster.seconds))
    meaning = f"{slower.name} minus {faster.name}"
    return Part(name=name, meaning=meaning, seconds=seconds, low=low, high=high, share=seconds / whole)


def _choices_text(choices: Iterable[Key]) -> str:
    return " or ".join(" + ".join(key) for key in choices)


def _gap(way: Way | None, arithmetic: float | None, whole: float) -> Part:
    name = "kernel gap"
    if way is None:
        return Part(name=name, meaning=f"unknown: {_choices_text(_BARE)} was not measured")
    if arithmetic is None:
        return Part(name=name, meaning="unknown without the arithmetic")
    seconds = way.mean - arithmetic
    low, high = _interval(seconds, (way.seconds,))
    meaning = f"{way.name} minus the arithmetic"
    return Part(name=name, meaning=meaning, seconds=seconds, low=low, high=high, share=seconds / whole)


def _interval(value: float, sides: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """Return the interval of a mean or a difference of means: Student's t, with Welch's degrees of freedom for two."""
    if min(map(len, sides)) < 2:  # noqa: PLR2004 - one value has no spread
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
        meaning = "unknown: not calibrated for this machine, device, precision, thread count and torch version: "
        return Part(name=name, meaning=f"{meaning}python -m bench calibrate")
    seconds = flops / peak
    meaning = f"{format_flops(flops)} at the measured peak, {format_flops(peak)}/s"
    if any(way.mean < seconds for way in ways):
        meaning += f"; an epoch was {FASTER_THAN_PEAK}"
    return Part(name=name, meaning=meaning, seconds=seconds, share=seconds / whole)


def render_taxes(run: Run, profile: MachineProfile | None, layout: str, width: int) -> str:
    """Return the accounts of `run` as ``table``, ``markdown``, ``csv`` or ``json``; the last two unrounded.

    Raises:
        BadInputError: nothing was measured in two of the ways.
    """
    accounts = make_accounts(run, profile)
    if not accounts:
        raise BadInputError(
            f"run {run.header.run_id} has no model measured in two of the ways that --taxes compares: "
            "make one with python -m bench run --preset taxes"
        )
    if layout == "json":
        return json_text([_raw_account(account) for account in accounts])
    if layout == "csv":
        rows = [row for account in accounts for row in _raw_rows(account)]
        return csv_text(rows[0], rows)
    return draw_word_tables(heading(run.header), map(tax_table, accounts), layout, width)


_HEADERS: Final = ("part", "time", "95 % interval", "share")
_NUMERIC: Final = (False, True, True, True)


def tax_table(account: Account) -> WordTable:
    """Return the parts of `account`."""
    return WordTable(
        title=f"{_subject_text(account)}: {_epoch_text(account)}",
        headers=_HEADERS,
        rows=[_words(part) for part in account.parts],
        numeric=_NUMERIC,
        notes=[f"{part.name}: {part.meaning}" for part in account.parts],
    )


def shares_table(accounts: Iterable[Account]) -> WordTable:
    """Return the shares of all `accounts`: one row per account, one column per part."""
    ordered = sorted(accounts, key=lambda account: natural_key(_subject_text(account)))
    parts = [part.name for part in ordered[0].parts]
    return WordTable(
        title="shares of an epoch's time",
        headers=("trained", "epoch", *parts),
        rows=[[_subject_text(each), _epoch_text(each), *map(_share_text, each.parts)] for each in ordered],
        numeric=(False, False, *(True for _ in parts)),
    )


def _subject_text(account: Account) -> str:
    c = account.configuration
    ranks = f"{c.world_size} ranks of " if c.world_size > 1 else ""
    return (
        f"{harmless(c.model, 60)} on {harmless(c.device, 20)}, batch size {c.batch_size}, "
        f"{ranks}{format_count(c.threads, 'thread')}, {c.precision}"
    )


def _epoch_text(account: Account) -> str:
    way = f"{account.configuration.pipeline} + {account.configuration.engine}"
    trials = format_count(account.trials, "trial")
    return f"{format_seconds(account.epoch_seconds)} per epoch with {way} (mean of {trials})"


def _share_text(part: Part) -> str:
    return "" if part.share is None else format_percent(part.share)


def _words(part: Part) -> Sequence[str]:
    return (
        part.name,
        "" if part.seconds is None else format_seconds(part.seconds),
        range_text(part.low, part.high, format_seconds),
        _share_text(part),
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
