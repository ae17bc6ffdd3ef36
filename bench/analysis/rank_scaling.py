"""How an epoch's time shrinks with the number of ranks: three terms fitted to a run's world sizes. Pure mathematics.

A rank's own work takes ``serial + parallel / ranks`` seconds (Amdahl, 1967), and the exchange of gradients takes
``exchange · 2 (ranks - 1) / ranks``: in a ring each rank sends that share of the gradients (Patarasuk and Yuan, 2009).
Latency, which grows with the number of ranks, is not modelled, so that predictions beyond the measured world sizes are
lower bounds if steps are short. Both parts are measured: the exchange by leaving it out (`bench.records.Exchange`).

Each repeat is fitted separately, because its trials had the same seed and ran in the same round. Means and intervals
are over repeats.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.records import Configuration, Measurement, TrialRecord
from bench.stats.student import t_quantile

FURTHER: Final = 2
"""How many doublings of the largest measured world size are predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean over repeats and its 95 % interval by Student's t; a single repeat has no interval."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The terms of one repeat, in seconds per epoch, none of them negative."""

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

    `measured` holds mean epoch times by world size; `predicted` and `efficiencies` are those of the fit, including
    further world sizes. Efficiency is the time of one rank over the number of ranks times their time.
    """

    configuration: Configuration
    repeats: int
    serial_seconds: Spread
    parallel_seconds: Spread
    exchange_seconds: Spread
    measured: Mapping[int, float]
    predicted: Mapping[int, Spread]
    efficiencies: Mapping[int, Spread]


def ring_share(ranks: int) -> float:
    """Return how many times the size of all gradients each rank in a ring sends so that every rank has their sum."""
    return 2 * (ranks - 1) / ranks


def fit_ranks(records: Iterable[TrialRecord]) -> tuple[RankFit, ...]:
    """Return a fit of each configuration that one process and several ranks both trained with the same batch size."""
    families: dict[Configuration, dict[int, dict[int, Measurement]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if isinstance(record.outcome, Measurement):
            configuration = record.trial.configuration
            family = families[replace(configuration, world_size=1)]
            family[record.trial.seed][configuration.world_size] = record.outcome
    fits = (_fit(configuration, list(by_seed.values())) for configuration, by_seed in families.items())
    return tuple(each for each in fits if each is not None)


def _fit(configuration: Configuration, repeats: Sequence[Mapping[int, Measurement]]) -> RankFit | None:
    sizes = sorted({size for repeat in repeats for size in repeat})
    whole = [repeat for repeat in repeats if len(repeat) == len(sizes)]
    if len(sizes) < 2 or sizes[0] != 1 or not whole:  # noqa: PLR2004 - one process and several ranks
        return None
    parts = [_parts(repeat) for repeat in whole]
    further = [sizes[-1] * 2**step for step in range(1, FURTHER + 1)]
    return RankFit(
        configuration=configuration,
        repeats=len(whole),
        serial_seconds=_spread([each.serial_seconds for each in parts]),
        parallel_seconds=_spread([each.parallel_seconds for each in parts]),
        exchange_seconds=_spread([each.exchange_seconds for each in parts]),
        measured={size: statistics.fmean(repeat[size].epoch_seconds for repeat in whole) for size in sizes},
        predicted={size: _spread([each.epoch_seconds(size) for each in parts]) for size in (*sizes, *further)},
        efficiencies={
            size: _spread([each.epoch_seconds(1) / size / each.epoch_seconds(size) for each in parts])
            for size in (*sizes, *further)
        },
    )


def _parts(repeat: Mapping[int, Measurement]) -> Parts:
    """Fit one repeat's terms by least squares of relative errors, none below 0."""
    import numpy as np  # noqa: PLC0415 - most tables do not need it
    from scipy.optimize import nnls  # noqa: PLC0415 - likewise

    seconds = {size: measured.epoch_seconds for size, measured in repeat.items()}
    shares = {size: 0.0 if m.exchange is None else min(1.0, max(0.0, m.exchange.share)) for size, m in repeat.items()}
    alone = {size: seconds[size] * (1 - shares[size]) for size in seconds}
    rows = np.array([[1 / each, 1 / size / each] for size, each in alone.items()])
    (serial, parallel), _ = nnls(rows, np.ones(len(alone)))
    several = [size for size in seconds if size > 1]
    exchange = statistics.fmean(seconds[size] * shares[size] / ring_share(size) for size in several)
    return Parts(serial_seconds=float(serial), parallel_seconds=float(parallel), exchange_seconds=exchange)


def _spread(values: Sequence[float]) -> Spread:
    mean = statistics.fmean(values)
    if len(values) < 2:  # noqa: PLR2004 - one value has no spread
        return Spread(mean=mean, low=None, high=None)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Spread(mean=mean, low=mean - half, high=mean + half)
