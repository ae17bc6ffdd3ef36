"""How an epoch's time shrinks with the number of ranks: three terms fitted to a run's world sizes. Pure mathematics.

A rank's own work takes ``serial + parallel / ranks`` seconds (Amdahl, 1967), and the exchange of gradients takes
``exchange · 2 (ranks - 1) / ranks``: in a ring each rank sends that share of the gradients (Patarasuk and Yuan, 2009).
Latency, which grows with the number of ranks, is not modelled, so that predictions beyond the measured world sizes are
lower bounds if steps are short. Both parts are measured: the exchange by leaving it out (`bench.records.Exchange`).

Each repeat is fitted separately, because its trials had the same seed and ran in the same round. Means and intervals
are over repeats. In a single repeat a term may be negative by chance: were it not, means of small terms would be too
high and their intervals too narrow. A term whose mean is negative is left out of the fit of every repeat; but it may be
there, so intervals are those of both fits together.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.records import Configuration, Measurement, TrialRecord
from bench.stats.student import t_quantile
from bench.tables.ordering import configuration_key

FURTHER: Final = 2
"""How many doublings of the largest measured world size are predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean over repeats and its 95 % interval by Student's t; a single repeat has no interval.

    That of an efficiency is the ratio of two mean times, with the error of a ratio estimate (Cochran, Sampling
    Techniques, 1977, section 6.3).
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The terms of one repeat, in seconds per epoch."""

    serial_seconds: float
    parallel_seconds: float
    exchange_seconds: float

    def epoch_seconds(self, ranks: int) -> float:
        """Return the seconds of an epoch with this many ranks."""
        own_work = self.serial_seconds + self.parallel_seconds / ranks
        return own_work + self.exchange_seconds * ring_share(ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFit:
    """The fit of one configuration, given with world size 1, over its `repeats`.

    `left_out` counts the repeats of which a world size was not measured. `measured` holds mean epoch times by world
    size, `predicted` those of the fit, including further world sizes. Efficiency is the time of one rank over the
    number of ranks times their time, as measured, and for further world sizes that of the fit.
    """

    configuration: Configuration
    repeats: int
    left_out: int
    serial_seconds: Spread
    parallel_seconds: Spread
    exchange_seconds: Spread
    measured: Mapping[int, float]
    predicted: Mapping[int, Spread]
    efficiencies: Mapping[int, Spread]

    @property
    def worst(self) -> tuple[int, float]:
        """The measured world size whose time the fit misses most, and predicted / measured time there."""
        ratios = {size: self.predicted[size].mean / seconds for size, seconds in self.measured.items()}
        size = max(ratios, key=lambda each: abs(ratios[each] - 1))
        return size, ratios[size]


def ring_share(ranks: int) -> float:
    """Return how many times the size of all gradients each rank in a ring sends so that every rank has their sum."""
    return 2 * (ranks - 1) / ranks


def fit_ranks(records: Iterable[TrialRecord]) -> tuple[RankFit, ...]:
    """Return a fit of each configuration that one process and several ranks both trained with the same batch size.

    The fits are sorted as configurations are in every table; the order of `records` does not matter.
    """
    families: dict[Configuration, dict[int, dict[int, Measurement]]] = defaultdict(lambda: defaultdict(dict))
    # Least squares of the same equations in another order differ in their last digits.
    for record in sorted(records, key=lambda each: each.trial.configuration.world_size):
        if isinstance(record.outcome, Measurement):
            configuration = record.trial.configuration
            family = families[replace(configuration, world_size=1)]
            family[record.trial.seed][configuration.world_size] = record.outcome
    fits = (_fit(each, list(families[each].values())) for each in sorted(families, key=configuration_key))
    return tuple(each for each in fits if each is not None)


def _fit(configuration: Configuration, repeats: Sequence[Mapping[int, Measurement]]) -> RankFit | None:
    sizes = sorted({size for repeat in repeats for size in repeat})
    whole = [repeat for repeat in repeats if len(repeat) == len(sizes)]
    if len(sizes) < 2 or sizes[0] != 1 or not whole:  # noqa: PLR2004 - one process and several ranks
        return None
    fits = _fits(whole)

    def over_repeats(value: Callable[[Parts], float]) -> Spread:
        return _both([_spread([value(each) for each in parts]) for parts in fits])

    def predicted(size: int) -> Spread:
        return over_repeats(lambda each: each.epoch_seconds(size))

    def efficiency(size: int) -> Spread:
        if size == 1:
            return Spread(mean=1.0, low=None, high=None)  # by definition
        if size in sizes:
            times = [(each[1].epoch_seconds, size * each[size].epoch_seconds) for each in whole]
            return _both([_spread_of_ratio(times)])
        fitted = [[(each.epoch_seconds(1), size * each.epoch_seconds(size)) for each in parts] for parts in fits]
        # With a negative term, many ranks could take no time at all.
        return _both([_spread_of_ratio(each) for each in fitted if math.fsum(several for _, several in each) > 0])

    further = [sizes[-1] * 2**step for step in range(1, FURTHER + 1)]
    return RankFit(
        configuration=configuration,
        repeats=len(whole),
        left_out=len(repeats) - len(whole),
        serial_seconds=over_repeats(lambda each: each.serial_seconds),
        parallel_seconds=over_repeats(lambda each: each.parallel_seconds),
        exchange_seconds=over_repeats(lambda each: each.exchange_seconds),
        measured={size: statistics.fmean(repeat[size].epoch_seconds for repeat in whole) for size in sizes},
        predicted={size: predicted(size) for size in (*sizes, *further)},
        efficiencies={size: efficiency(size) for size in (*sizes, *further)},
    )


def _fits(repeats: Sequence[Mapping[int, Measurement]]) -> list[list[Parts]]:
    """Return the terms of each repeat; first without a term whose mean is negative, if there is one, and then with."""
    parts = [_parts(repeat, (True, True)) for repeat in repeats]
    serial = statistics.fmean(each.serial_seconds for each in parts) >= 0
    parallel = statistics.fmean(each.parallel_seconds for each in parts) >= 0
    return [parts] if serial and parallel else [[_parts(repeat, (serial, parallel)) for repeat in repeats], parts]


def _parts(repeat: Mapping[int, Measurement], terms: tuple[bool, bool]) -> Parts:
    """Fit one repeat's terms by least squares of relative errors; `terms` says whether serial and parallel are in."""
    import numpy as np  # noqa: PLC0415 - most tables do not need it

    seconds = {size: measured.epoch_seconds for size, measured in repeat.items()}
    shares = {size: 0.0 if m.exchange is None else min(1.0, max(0.0, m.exchange.share)) for size, m in repeat.items()}
    alone = {size: seconds[size] * (1 - shares[size]) for size in seconds}
    rows = np.array([[1 / each, 1 / size / each] for size, each in alone.items()]) * terms
    serial, parallel = np.linalg.lstsq(rows, np.ones(len(alone)), rcond=None)[0]  # 0 for a term that is left out
    several = [size for size in seconds if size > 1]
    exchange = statistics.fmean(seconds[size] * shares[size] / ring_share(size) for size in several)
    return Parts(serial_seconds=float(serial), parallel_seconds=float(parallel), exchange_seconds=exchange)


def _spread(values: Sequence[float]) -> Spread:
    mean = statistics.fmean(values)
    if len(values) < 2:  # noqa: PLR2004 - one value has no spread
        return Spread(mean=mean, low=None, high=None)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Spread(mean=mean, low=mean - half, high=mean + half)


def _spread_of_ratio(times: Sequence[tuple[float, float]]) -> Spread:
    """Return the ratio of the means of the first and the second of `times`, one pair of them for each repeat."""
    divisor = statistics.fmean(each for _, each in times)
    ratio = statistics.fmean(each for each, _ in times) / divisor
    return replace(_spread([ratio + (value - ratio * each) / divisor for value, each in times]), mean=ratio)


def _both(spreads: Sequence[Spread]) -> Spread:
    """Return the first of `spreads` with an interval that contains all of theirs, and nothing below 0."""
    lows = [each.low for each in spreads if each.low is not None]
    highs = [each.high for each in spreads if each.high is not None]
    return Spread(
        mean=spreads[0].mean,
        low=max(0.0, min(lows)) if lows else None,
        high=max(highs) if highs else None,
    )
