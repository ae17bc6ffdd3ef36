"""What the two sides of a comparison cost, given prices per hour: training time only."""

import math
import statistics
from dataclasses import dataclass

from bench.compare.trials import Trials
from bench.records import Configuration
from bench.stats.inference import Interval
from bench.stats.judgement import Judgement
from bench.stats.judgement_text import from_log
from bench.tables.prices import Prices, Side, cost_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SideCost:
    """What one side of a row costs; None without a price or a measurement.

    `price_per_hour` is the total for all accelerators that train together. `per_epoch` is the cost of the geometric
    mean of the trials' epoch times, `to_98_percent` that of the median training time to 98 % test accuracy over the
    trials that got there, of which there are `reached`.
    """

    price_per_hour: float | None
    per_epoch: float | None
    to_98_percent: float | None
    reached: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRatio:
    """Candidate / baseline of the cost of an epoch: its logarithm and the interval of that, None if time has none.

    Prices are exact, so this is the ratio of times, with its interval, multiplied by the ratio of prices.
    """

    log_ratio: float
    interval: Interval | None


def side_cost(trials: Trials, prices: Prices, side: Side) -> SideCost:
    """Return what `trials`, those of `side`, cost."""
    subject = trials.subject
    devices = len(subject.devices) if isinstance(subject, Configuration) else 1
    price = prices.of(trials.device, side, devices=devices)
    seconds, reached = trials.mean_log_seconds, trials.seconds_to_98_percent
    return SideCost(
        price_per_hour=price,
        per_epoch=None if seconds is None else cost_of(from_log(seconds), price),
        to_98_percent=cost_of(statistics.median(reached), price) if reached else None,
        reached=len(reached),
    )


def cost_ratio(time: Judgement, baseline: SideCost, candidate: SideCost) -> CostRatio | None:
    """Return the ratio of what an epoch costs; None if a price is missing or the times cannot be compared."""
    if time.estimate is None or baseline.price_per_hour is None or candidate.price_per_hour is None:
        return None
    shift = math.log(candidate.price_per_hour / baseline.price_per_hour)
    span = time.interval
    return CostRatio(
        log_ratio=time.estimate.value + shift,
        interval=None if span is None else Interval(low=span.low + shift, high=span.high + shift, level=span.level),
    )
