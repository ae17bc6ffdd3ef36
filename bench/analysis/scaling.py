"""How the time of a training step grows with its size: a model of few parameters, fitted to a stored run.

    seconds a step = overhead + FLOPs / rate + bytes / bandwidth + samples * seconds a sample

The first two terms are Hockney's (1982) model of a pipelined machine. The third is the roofline's (Williams, Waterman
and Patterson, 2009), but added, not the maximum of both, since the products and the sweeps over the parameters come one
after the other: bytes are those of the parameters, their gradients and the optimizer's moments. The fourth is what
each sample costs whatever the layers: its input pipeline. The last two are there only where they make the predictions
of sizes left out better. FLOPs and bytes are counted from the layers (`mnist_mlp.costs`), so rate and bandwidth are
what this software reaches on the device, not what the device could do.

An accelerator works while the host prepares what follows, and a step takes as long as the busier of the two:

    seconds a step = max(overhead, FLOPs / rate + bytes / bandwidth + samples * seconds a sample)

With a DataLoader the samples are the host's too. Which of the two forms holds of an accelerator, the sizes left out
tell: what it does one after the other, as in a graph, adds up. Where it is known which side decides each size, the
second form is a sum as well, of that side's terms (`bench.analysis.step_forms`). Intervals take the division for known.

The coefficients, none below zero (Lawson and Hanson, 1974), minimise the sum of squared relative errors, for times
range over a factor of a thousand. One observation is a configuration, by the geometric mean of its trials. Intervals
are those of linear regression, Student's t; how far a size may lie off the line, the model's own misfit, is in the
residuals and so in every prediction's interval. A coefficient that was fitted as zero counts as estimated: its interval
begins there, and its error is in every other interval.

Sizes that do not tell all four terms apart, of one batch size or one width alone, still predict their like. But what
they are fitted to are sums of terms, and no coefficient is told that may be such a sum.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bench.analysis.step_forms import Form, Matrix, Solution, normalised, search, solve
from bench.records import Configuration, TrialWarning
from bench.stats.student import t_quantile
from mnist_mlp.costs import training_bytes, training_flops

MIN_FREEDOM: Final = 2
"""Observations beyond the coefficients; with fewer there is neither an interval nor a test of the model."""

MIN_SINGULAR_VALUE: Final = 1e-3
"""Of the terms' columns at length 1. Below it they differ by a thousandth, far less than any time is known."""

MIN_TOLD: Final = 0.05
"""The same for what is told of all four terms: a smaller difference between them drowns in the times' errors."""

_TERMS: Final = ("overhead", "arithmetic", "traffic", "input")

_CANDIDATES: Final = (_TERMS[:2], _TERMS[:3], ("overhead", "arithmetic", "input"), _TERMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was measured of one configuration: `step_seconds`, the geometric mean of its `trials`.

    `flagged` of them were disturbed, of which `warnings` tell; `unflagged_step_seconds` is that of the others, None
    without any.
    """

    configuration: Configuration
    train_samples: int
    trials: int
    step_seconds: float
    flagged: int
    warnings: tuple[TrialWarning, ...]
    unflagged_step_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """What stays the same while sizes vary: a device with its software. `configuration` has the sizes blanked."""

    configuration: Configuration
    observations: tuple[Observation, ...]

    @property
    def flagged(self) -> int:
        """How many trials were disturbed."""
        return sum(observation.flagged for observation in self.observations)

    def without_flagged(self) -> "Contender":
        """Return what the trials measured that were not disturbed."""
        return replace(
            self,
            observations=tuple(
                replace(each, step_seconds=each.unflagged_step_seconds)
                for each in self.observations
                if each.unflagged_step_seconds is not None
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """An estimate and its interval. A bound is infinite where the data set no limit on that side.

    A time that was fitted as zero was not seen, and is below `high`; a rate that was is infinite, and above `low`.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A step's seconds and the interval in which another run's mean of a configuration of this size would lie.

    `is_inside` tells whether batch size and number of weights lie between those that were measured.
    """

    step_seconds: float
    low: float
    high: float
    is_inside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOneOut:
    """Errors |predicted / measured - 1| of each configuration, predicted by a fit to all others."""

    median: float
    largest: float
    worst: Configuration


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """The model fitted to one contender.

    `is_overlapped` says that the host's overhead and the device's work go on at the same time, and do not add up.
    `rate` is in FLOP/s and `bandwidth` in bytes/s. A coefficient is None where its term is absent from the model, and
    where it is not among those that are `told`: the sizes do not tell it from others. `deviation` is the relative
    residuals' standard deviation, `r_squared` that of log times: the share of the variance of ln(seconds) that the
    model explains, 0 without any.
    """

    contender: Contender
    terms: tuple[str, ...]
    is_overlapped: bool
    told: frozenset[str]
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
        """FLOPs of a step that reaches half of `rate`, but for other terms: Hockney's n½, in work.

        Arithmetic takes as long as the overhead there, or half as long where the two overlap. None where one of them is
        not told, or was not seen.
        """
        if self.overhead is None or self.rate is None or not 0 < self.overhead.value * self.rate.value < math.inf:
            return None
        return self.overhead.value * self.rate.value / (2 if self.is_overlapped else 1)

    def half_performance_batch(self, layers: tuple[int, ...]) -> float | None:
        """Return the batch size at which throughput is half of what ever larger batches approach.

        Where all adds up it is what of a step does not grow with the batch over what a sample adds. None if either is
        none or not told.
        """
        solution, configuration = self._solution, self.contender.configuration
        still, one = (_row(configuration, layers, batch, _TERMS) for batch in (0.0, 1.0))
        sides = solution.form.sides(_TERMS)
        if not all(_is_told(self.contender, solution, row) for row in (*sides * still, *sides * (one - still))):
            return None
        fixed, first = (self._side_seconds(layers, batch) for batch in (0.0, 1.0))
        slopes = first - fixed
        if slopes.max() <= 0:
            return None
        # There the longer side takes twice as long as at the largest slope alone.
        batch = float(max(fixed / (2 * slopes.max() - slopes)))
        return batch if batch > 0 else None

    def predict(self, layers: tuple[int, ...], batch_size: float) -> Prediction:
        """Return the predicted time of a step of `batch_size` samples through `layers`."""
        seconds = float(self._side_seconds(layers, batch_size).max())
        half = self._quantile * math.sqrt(self.deviation**2 + self.variance(layers, batch_size))
        known = [o.configuration for o in self.contender.observations]
        weights, sizes = [each.weights for each in known], [each.batch_size for each in known]
        asked = replace(known[0], layers=layers).weights
        inside = min(weights) <= asked <= max(weights) and min(sizes) <= batch_size <= max(sizes)
        return Prediction(
            step_seconds=seconds, low=seconds * math.exp(-half), high=seconds * math.exp(half), is_inside=inside
        )

    def variance(self, layers: tuple[int, ...], batch_size: float) -> float:
        """Return the variance of ln(predicted seconds) from the coefficients' errors alone."""
        seconds = self._side_seconds(layers, batch_size)
        row = _row(self.contender.configuration, layers, batch_size, self.terms)
        row = row * self._solution.form.sides(self.terms)[seconds.argmax()]
        return float(row @ self._covariance @ row) / float(seconds.max()) ** 2

    def _side_seconds(self, layers: tuple[int, ...], batch_size: float) -> Matrix:
        row = _row(self.contender.configuration, layers, batch_size, self.terms)
        return self._solution.form.seconds(row, self._solution.coefficients)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All trials of a configuration: the natural logarithms of their median epoch times.

    `unflagged_log_seconds` are those of trials that nothing disturbed; `warnings` tell what disturbed the others.
    """

    configuration: Configuration
    train_samples: int
    log_seconds: Sequence[float]
    unflagged_log_seconds: Sequence[float]
    warnings: tuple[TrialWarning, ...]


def contenders(measured: Iterable[Measured]) -> tuple[Contender, ...]:
    """Return what was measured, by all that is no size, in the order of their names."""
    groups: dict[Configuration, list[Observation]] = defaultdict(list)
    for each in measured:
        calm = each.unflagged_log_seconds
        groups[blanked(each.configuration)].append(
            Observation(
                configuration=each.configuration,
                train_samples=each.train_samples,
                trials=len(each.log_seconds),
                step_seconds=_step_seconds(each, each.log_seconds),
                flagged=len(each.log_seconds) - len(calm),
                warnings=each.warnings,
                unflagged_step_seconds=_step_seconds(each, calm) if calm else None,
            )
        )
    return tuple(
        Contender(configuration=group, observations=tuple(sorted(found, key=_size)))
        for group, found in sorted(groups.items(), key=lambda each: _name_key(each[0]))
    )


def _step_seconds(measured: Measured, log_seconds: Iterable[float]) -> float:
    steps = -(-measured.train_samples // measured.configuration.batch_size)
    return math.exp(statistics.fmean(log_seconds)) / steps


def blanked(configuration: Configuration) -> Configuration:
    """Return `configuration` without its sizes and without what does not decide a step's time."""
    return replace(
        configuration,
        model="",
        layers=(),
        batch_size=0,
        test_batch_size=0,
        epochs=0,
        learning_rate=0.0,
        schedule="constant",
        weight_decay=0.0,
        shuffle=True,
    )


def fit(contender: Contender) -> Fit | None:
    """Return the model fitted to `contender`; None with too few sizes to fit and test one.

    Of the forms, with and without the last terms, that one is taken which predicts left-out sizes best (root mean
    square of the relative errors). Terms that the sizes cannot tell apart are not tried together: with one width alone,
    the traffic of the parameters looks like overhead.
    """
    count = len(contender.observations)
    tried = [_solved(contender, form) for form in _forms(contender) if count >= len(form.terms) + MIN_FREEDOM]
    left_out = [(each, _left_out(contender, each)) for each in tried if _is_possible(contender, each)]
    if not left_out:
        return None
    return _finish(contender, *min(left_out, key=lambda each: statistics.fmean(error**2 for error in each[1])))


def _forms(contender: Contender) -> Iterator[Form]:
    """Yield the forms to try. On the CPU nothing overlaps: the host is the device."""
    configuration = contender.configuration
    host = {"overhead", "input"} if configuration.pipeline == "dataloader" else {"overhead"}
    for terms in _CANDIDATES:
        yield Form(terms=terms)
        if configuration.device != "cpu":
            yield Form(terms=terms, host=frozenset(host))


def _solved(contender: Contender, form: Form) -> Solution:
    rows, seconds = _system(contender, form.terms)
    return solve(form, rows, seconds, rows[:, form.terms.index("arithmetic")])


def _is_possible(contender: Contender, solution: Solution) -> bool:
    rows, seconds = _system(contender, solution.form.terms)
    relative = solution.effective(rows, solution.form.terms) / seconds[:, None]
    smallest = float(np.linalg.svd(normalised(relative)[0], compute_uv=False)[-1])
    return solution.is_supported and smallest > MIN_SINGULAR_VALUE


def _is_told(contender: Contender, solution: Solution, row: Matrix) -> bool:
    """Return whether the sizes tell what `row` makes of the coefficients of all four terms."""
    rows, seconds = _system(contender, _TERMS)
    columns, scale = normalised(solution.effective(rows, _TERMS) / seconds[:, None])
    _, sizes, directions = np.linalg.svd(columns)
    wanted = row / scale
    untold = directions[sizes < MIN_TOLD] @ wanted
    return float(np.linalg.norm(untold)) <= MIN_TOLD * float(np.linalg.norm(wanted))


def _finish(contender: Contender, solution: Solution, left_out: list[float]) -> Fit:
    observations, terms, coefficients = contender.observations, solution.form.terms, solution.coefficients
    rows, seconds = _system(contender, terms)
    relative = solution.effective(rows, terms) / seconds[:, None]
    freedom = len(observations) - len(terms)
    residuals = relative @ coefficients - 1
    variance = float(residuals @ residuals) / freedom
    columns, scale = normalised(relative)
    covariance: Matrix = variance * np.linalg.inv(columns.T @ columns) / np.outer(scale, scale)
    quantile = t_quantile(freedom)
    half = quantile * np.sqrt(np.diag(covariance))
    told = frozenset(
        term for term, row in zip(_TERMS, np.eye(len(_TERMS)), strict=True) if _is_told(contender, solution, row)
    )
    known = {
        term: Coefficient(value=float(value), low=max(0.0, float(value - width)), high=float(value + width))
        for term, value, width in zip(terms, coefficients, half, strict=True)
        if term in told
    }
    logs = np.log(seconds)
    errors = np.log(relative @ coefficients)
    spread = float(((logs - logs.mean()) ** 2).sum())
    worst = int(np.argmax(left_out))
    return Fit(
        contender=contender,
        terms=terms,
        is_overlapped=bool(solution.form.host),
        told=told,
        overhead=known.get("overhead"),
        rate=_inverse(known.get("arithmetic")),
        bandwidth=_inverse(known.get("traffic")),
        sample_seconds=known.get("input"),
        deviation=math.sqrt(variance),
        r_squared=1 - float(errors @ errors) / spread if spread else 0.0,
        leave_one_out=LeaveOneOut(
            median=statistics.median(left_out),
            largest=left_out[worst],
            worst=observations[worst].configuration,
        ),
        _solution=solution,
        _covariance=covariance,
        _quantile=quantile,
    )


def _left_out(contender: Contender, solution: Solution) -> list[float]:
    """Return the error of each size, predicted from the others, which may then be divided between sides anew."""
    form = solution.form
    rows, seconds = _system(contender, form.terms)
    everyone = np.arange(len(seconds))
    errors = []
    for left_out in everyone:
        others = everyone != left_out
        without = search(form, rows[others], seconds[others], solution.deciding[others])
        predicted = float(form.seconds(rows[left_out], without.coefficients).max())
        errors.append(abs(predicted / float(seconds[left_out]) - 1))
    return errors


def _system(contender: Contender, terms: tuple[str, ...]) -> tuple[Matrix, Matrix]:
    rows = [_step_row(observation, terms) for observation in contender.observations]
    seconds = [observation.step_seconds for observation in contender.observations]
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
    """Return what the average step of an epoch costs: its last batch may be short."""
    configuration = observation.configuration
    steps = -(-observation.train_samples // configuration.batch_size)
    return _row(configuration, configuration.layers, observation.train_samples / steps, terms)


def _row(configuration: Configuration, layers: tuple[int, ...], batch_size: float, terms: Sequence[str]) -> Matrix:
    """Return what the coefficients are multiplied by: 1, FLOPs, bytes of the parameters' sweeps, samples."""
    momentum = configuration.momentum != 0
    known = {
        "overhead": 1.0,
        "arithmetic": batch_size * training_flops(layers),
        "traffic": training_bytes(layers, 0, optimizer=configuration.optimizer, momentum=momentum),
        "input": batch_size,
    }
    return np.array([known[term] for term in terms])


def _size(observation: Observation) -> tuple[tuple[int, ...], int, str]:
    configuration = observation.configuration
    return configuration.layers, configuration.batch_size, configuration.id


def _name_key(configuration: Configuration) -> tuple[str, str, int, str, str, int, int, str]:
    c = configuration
    return c.device, c.pipeline, c.workers, c.engine, c.precision, c.world_size, c.threads, c.id
