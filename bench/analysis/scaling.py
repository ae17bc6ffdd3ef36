"""How the time of a training step grows with its size: a model with few parameters, fitted to a stored run.

    seconds per step = overhead + FLOPs / rate + bytes / bandwidth + samples * seconds per sample

The first two terms are Hockney's (1982) model of a pipelined machine. The third is the roofline's (Williams, Waterman
and Patterson, 2009), but added instead of taking the maximum, because the products and the passes over the parameters
run one after the other; bytes are those of the parameters, their gradients and the optimizer's moments. The fourth is
what each sample costs whatever the layers: its input pipeline. The last two terms are included only if they predict
left-out sizes better. FLOPs and bytes are counted from the layers (`mnist_mlp.costs`), so rate and bandwidth are what
this software achieves on the device, not what the device is capable of.

An accelerator works while the host prepares the next operations, and a step takes as long as the busier of the two:

    seconds per step = max(overhead, FLOPs / rate + bytes / bandwidth + samples * seconds per sample)

With a DataLoader, the samples are the host's work too. Left-out sizes decide which of the two forms fits an
accelerator: where its work is sequential, as in a graph, the terms add up. Once it is known which side decides each
size, the second form is a sum as well, of that side's terms (`bench.analysis.step_forms`). Intervals assume that this
division is known.

The coefficients, none below zero (Lawson and Hanson, 1974), minimise the sum of squared errors of the times'
logarithms, because times range over a factor of a thousand. Intervals are those of linear regression, with Student's t.
The model's own misfit is in the residuals and therefore in every prediction's interval. A coefficient fitted as zero
counts as estimated: its interval begins there, and its error is in every other interval.

Sizes that cannot separate all four terms (a single batch size or a single width) still predict similar sizes. But their
fit is to sums of terms, and a coefficient that may be such a sum is not reported.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bench.analysis.size_series import Observation, SizeSeries
from bench.analysis.step_forms import Form, Matrix, Solution, normalised, search, solve
from bench.records import Configuration
from bench.stats.judgement_text import from_log
from bench.stats.student import t_quantile
from mnist_mlp.costs import training_bytes, training_flops

MIN_FREEDOM: Final = 2
"""Observations beyond the number of coefficients; with fewer, the model has no intervals and cannot be tested."""

MIN_SINGULAR_VALUE: Final = 1e-3
"""Of the terms' columns, scaled to length 1. Below it they differ by a thousandth, far less than times are known."""

MIN_SEPARATION: Final = 0.05
"""The same, for reporting a coefficient: a smaller difference between the terms is lost in the errors of the times."""

_TERMS: Final = ("overhead", "arithmetic", "traffic", "input")

_CANDIDATES: Final = (_TERMS[:2], _TERMS[:3], ("overhead", "arithmetic", "input"), _TERMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """An estimate and its interval. A bound is infinite if the data set no limit on that side.

    A time that was fitted as zero was not detected and is below `high`; a rate fitted as infinite is above `low`.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Seconds per step, and the interval in which the mean of another configuration of this size would lie.

    `half` is half the width of the interval of ln(seconds).
    """

    step_seconds: float
    half: float

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.step_seconds * math.exp(-self.half)

    @property
    def high(self) -> float:
        """The upper end of the interval, infinite where no float can hold it: far outside the measured sizes."""
        return self.step_seconds * from_log(self.half)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOneOut:
    """Errors |predicted / measured - 1| of the configurations, each predicted by a fit to all others."""

    median: float
    largest: float
    worst: Configuration


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """The model fitted to one series.

    `is_overlapped`: the host's overhead and the device's work take place at the same time and do not add up. `rate` is
    in FLOP/s and `bandwidth` in bytes/s. A coefficient is None if its term is not in the model, or if the term is not
    among the `separable` ones, which the sizes can distinguish from others. `deviation` is the standard deviation of
    the residuals of ln(seconds). `r_squared` is the share of the variance of ln(seconds) that the model explains, 0 if
    there is no variance.
    """

    series: SizeSeries
    terms: tuple[str, ...]
    is_overlapped: bool
    separable: frozenset[str]
    overhead: Coefficient | None
    rate: Coefficient | None
    bandwidth: Coefficient | None
    sample_seconds: Coefficient | None
    deviation: float
    r_squared: float
    leave_one_out: LeaveOneOut
    _solution: Solution
    _covariance: Matrix
    _quantile: float

    @property
    def half_performance_flops(self) -> float | None:
        """FLOPs of a step that reaches half of `rate`, other terms aside: Hockney's n½, in work.

        Arithmetic takes as long as the overhead there, or half as long if the two overlap. None if one of them is
        unknown or was not detected.
        """
        if self.overhead is None or self.rate is None or not 0 < self.overhead.value * self.rate.value < math.inf:
            return None
        return self.overhead.value * self.rate.value / (2 if self.is_overlapped else 1)

    def half_performance_batch(self, layers: tuple[int, ...]) -> float | None:
        """Return the batch size at which throughput is half of what ever larger batches approach.

        If all terms add up, it is a step's fixed time over the time that each sample adds. None if either is zero or
        unknown.
        """
        solution, configuration = self._solution, self.series.configuration
        none, one = (_row(configuration, layers, batch, _TERMS) for batch in (0.0, 1.0))
        sides = solution.form.sides(_TERMS)
        if not all(_is_separable(self.series, solution, row) for row in (*sides * none, *sides * (one - none))):
            return None
        fixed, first = (self._side_seconds(layers, batch) for batch in (0.0, 1.0))
        slopes = first - fixed
        if slopes.max() <= 0:
            return None
        # At that size the longer side takes twice as long as the largest slope alone.
        batch = float(max(fixed / (2 * slopes.max() - slopes)))
        return batch if batch > 0 else None

    def predict(self, layers: tuple[int, ...], batch_size: float) -> Prediction:
        """Return the predicted time of a step of `batch_size` samples through `layers`."""
        seconds = float(self._side_seconds(layers, batch_size).max())
        half = self._quantile * math.sqrt(self.deviation**2 + self.variance(layers, batch_size))
        return Prediction(step_seconds=seconds, half=half)

    def is_inside(self, layers: tuple[int, ...], batch_size: float) -> bool:
        """Return whether batch size and number of weights are within the measured range."""
        known = [o.configuration for o in self.series.observations]
        weights, sizes = [each.weights for each in known], [each.batch_size for each in known]
        asked = replace(known[0], layers=layers).weights
        return min(weights) <= asked <= max(weights) and min(sizes) <= batch_size <= max(sizes)

    def variance(self, layers: tuple[int, ...], batch_size: float) -> float:
        """Return the variance of ln(predicted seconds) from the coefficients' errors alone."""
        seconds = self._side_seconds(layers, batch_size)
        row = _row(self.series.configuration, layers, batch_size, self.terms)
        row = row * self._solution.form.sides(self.terms)[seconds.argmax()]
        return float(row @ self._covariance @ row) / float(seconds.max()) ** 2

    def _side_seconds(self, layers: tuple[int, ...], batch_size: float) -> Matrix:
        row = _row(self.series.configuration, layers, batch_size, self.terms)
        return self._solution.form.seconds(row, self._solution.coefficients)


def fit(series: SizeSeries) -> Fit | None:
    """Return the model fitted to `series`; None if there are too few sizes to fit and test one.

    Of all forms, with and without the optional terms, it is the one that predicts left-out sizes best (root mean square
    of the relative errors). Terms that the sizes cannot separate are not tried together: with a single width, the
    traffic of the parameters looks like overhead.
    """
    count = len(series.observations)
    tried = [_solved(series, form) for form in _forms(series) if count >= len(form.terms) + MIN_FREEDOM]
    left_out = [(each, _left_out(series, each)) for each in tried if _is_possible(series, each)]
    if not left_out:
        return None
    return _finish(series, *min(left_out, key=lambda each: statistics.fmean(error**2 for error in each[1])))


def _forms(series: SizeSeries) -> Iterator[Form]:
    """Yield the forms to try. On the CPU nothing overlaps, because the host is the device."""
    configuration = series.configuration
    host = {"overhead", "input"} if configuration.pipeline == "dataloader" else {"overhead"}
    for terms in _CANDIDATES:
        yield Form(terms=terms)
        if configuration.device != "cpu":
            yield Form(terms=terms, host=frozenset(host))


def _solved(series: SizeSeries, form: Form) -> Solution:
    rows, seconds = _system(series, form.terms)
    return solve(form, rows, seconds, rows[:, form.terms.index("arithmetic")])


def _is_possible(series: SizeSeries, solution: Solution) -> bool:
    rows, seconds = _system(series, solution.form.terms)
    relative = solution.effective(rows, solution.form.terms) / seconds[:, None]
    smallest = float(np.linalg.svd(normalised(relative)[0], compute_uv=False)[-1])
    return solution.is_supported and smallest > MIN_SINGULAR_VALUE


def _is_separable(series: SizeSeries, solution: Solution, row: Matrix) -> bool:
    """Return whether the sizes determine the combination `row` of the coefficients of all four terms."""
    rows, seconds = _system(series, _TERMS)
    columns, scale = normalised(solution.effective(rows, _TERMS) / seconds[:, None])
    _, sizes, directions = np.linalg.svd(columns)
    wanted = row / scale
    undetermined = directions[sizes < MIN_SEPARATION] @ wanted
    return float(np.linalg.norm(undetermined)) <= MIN_SEPARATION * float(np.linalg.norm(wanted))


def _finish(series: SizeSeries, solution: Solution, left_out: list[float]) -> Fit:
    observations, terms, coefficients = series.observations, solution.form.terms, solution.coefficients
    rows, seconds = _system(series, terms)
    effective = solution.effective(rows, terms)
    fitted = effective @ coefficients
    relative = effective / fitted[:, None]
    freedom = len(observations) - len(terms)
    residuals = np.log(seconds / fitted)
    variance = float(residuals @ residuals) / freedom
    columns, scale = normalised(relative)
    covariance: Matrix = variance * np.linalg.inv(columns.T @ columns) / np.outer(scale, scale)
    quantile = t_quantile(freedom)
    half = quantile * np.sqrt(np.diag(covariance))
    separable = frozenset(
        term for term, row in zip(_TERMS, np.eye(len(_TERMS)), strict=True) if _is_separable(series, solution, row)
    )
    known = {
        term: Coefficient(value=float(value), low=max(0.0, float(value - width)), high=float(value + width))
        for term, value, width in zip(terms, coefficients, half, strict=True)
        if term in separable
    }
    return Fit(
        series=series,
        terms=terms,
        is_overlapped=bool(solution.form.host),
        separable=separable,
        overhead=known.get("overhead"),
        rate=_inverse(known.get("arithmetic")),
        bandwidth=_inverse(known.get("traffic")),
        sample_seconds=known.get("input"),
        deviation=math.sqrt(variance),
        r_squared=_r_squared(np.log(seconds), residuals),
        leave_one_out=_leave_one_out(observations, left_out),
        _solution=solution,
        _covariance=covariance,
        _quantile=quantile,
    )


def _r_squared(logs: Matrix, errors: Matrix) -> float:
    spread = float(((logs - logs.mean()) ** 2).sum())
    return 1 - float(errors @ errors) / spread if spread else 0.0


def _leave_one_out(observations: Sequence[Observation], errors: Sequence[float]) -> LeaveOneOut:
    worst = int(np.argmax(errors))
    return LeaveOneOut(median=statistics.median(errors), largest=errors[worst], worst=observations[worst].configuration)


def _left_out(series: SizeSeries, solution: Solution) -> list[float]:
    """Return the error of each size, predicted from the others, which may then be divided between the sides anew."""
    form = solution.form
    rows, seconds = _system(series, form.terms)
    everyone = np.arange(len(seconds))
    errors = []
    for left_out in everyone:
        others = everyone != left_out
        without = search(form, rows[others], seconds[others], solution.deciding[others])
        predicted = float(form.seconds(rows[left_out], without.coefficients).max())
        errors.append(abs(predicted / float(seconds[left_out]) - 1))
    return errors


def _system(series: SizeSeries, terms: tuple[str, ...]) -> tuple[Matrix, Matrix]:
    rows = [_step_row(observation, terms) for observation in series.observations]
    seconds = [observation.step_seconds for observation in series.observations]
    return np.array(rows, dtype=np.float64), np.array(seconds, dtype=np.float64)


def _inverse(seconds_per_unit: Coefficient | None) -> Coefficient | None:
    if seconds_per_unit is None:
        return None
    value, low, high = (
        1 / each if each > 0 else math.inf
        for each in (seconds_per_unit.value, seconds_per_unit.high, seconds_per_unit.low)
    )
    return Coefficient(value=value, low=low, high=high)


def _step_row(observation: Observation, terms: Sequence[str]) -> Matrix:
    """Return the row of an epoch's average step, because its last batch may be short."""
    configuration = observation.configuration
    steps = -(-observation.train_samples // configuration.batch_size)
    return _row(configuration, configuration.layers, observation.train_samples / steps, terms)


def _row(configuration: Configuration, layers: tuple[int, ...], batch_size: float, terms: Sequence[str]) -> Matrix:
    """Return the factors of the coefficients: 1, FLOPs, bytes moved by passes over the parameters, samples."""
    momentum = configuration.momentum != 0
    known = {
        "overhead": 1.0,
        "arithmetic": batch_size * training_flops(layers),
        "traffic": training_bytes(layers, 0, optimizer=configuration.optimizer, momentum=momentum),
        "input": batch_size,
    }
    return np.array([known[term] for term in terms])
