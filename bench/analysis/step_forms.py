"""Least squares for the forms that a step's time can have: a sum of terms, or the longer of two such sums.

Inputs are `rows` (sizes, terms), the factors of the coefficients of a form's terms, and `seconds` (sizes,). The longer
of two sums is linear once it is known which side decides each size. So fitting and dividing the sizes between the sides
alternate until nothing changes, from several starting points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.intp]

_STARTS: Final = 8
"""Divisions of the sizes, by their arithmetic, from which the search for the best one starts."""

_MAX_STEPS: Final = 10
"""Of the fit of logarithms. Three are enough unless the times are very noisy."""

_PRECISION: Final = 1e-6
"""Relative change of the fitted times at which it ends: far below their errors."""

_MAX_TURNS: Final = 20
"""Per search. Most end after three, but one could cycle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The terms of a model, and which of them are the `host`'s work while the device does the rest.

    Without host terms all terms add up. So a step has one or two sides, the host's first; the longer one decides.
    """

    terms: tuple[str, ...]
    host: frozenset[str] = frozenset()

    def sides(self, terms: Sequence[str]) -> Matrix:
        """Return a row for each side: 1 for the `terms` that belong to it, 0 for the others."""
        if not self.host:
            return np.ones((1, len(terms)))
        is_host = np.array([term in self.host for term in terms])
        return np.stack([is_host, ~is_host]).astype(np.float64)

    def seconds(self, rows: Matrix, coefficients: Matrix) -> Matrix:
        """Return the seconds of each side for each of `rows`: (sizes, sides)."""
        seconds: Matrix = rows @ (self.sides(self.terms) * coefficients).T
        return seconds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """A form's coefficients, and the side that decides each observation."""

    form: Form
    coefficients: Matrix
    deciding: Places

    @property
    def is_supported(self) -> bool:
        """Whether each side decides more sizes than it has terms."""
        sides = self.form.sides(self.form.terms)
        counts = np.bincount(self.deciding, minlength=len(sides))
        return bool((counts > sides.sum(axis=1)).all())

    def effective(self, rows: Matrix, terms: Sequence[str]) -> Matrix:
        """Return the observations' `rows` of `terms`, with 0 for the terms of sides that do not decide."""
        effective: Matrix = rows * self.form.sides(terms)[self.deciding]
        return effective


def solve(form: Form, rows: Matrix, seconds: Matrix, work: Matrix) -> Solution:
    """Return the solution with the least sum of squared errors of logarithms that was found.

    If all terms add up, it is the global optimum. Otherwise each search starts with the host deciding the sizes with
    the least `work`.
    """
    count = len(seconds)
    if not form.host:
        return search(form, rows, seconds, np.zeros(count, dtype=np.intp))
    rank = work.argsort().argsort()
    starts = sorted({round(each) for each in np.linspace(1, count - 1, _STARTS)})
    found = [search(form, rows, seconds, (rank >= first).astype(np.intp)) for first in starts]

    def misfit(solution: Solution) -> float:
        errors = np.log(form.seconds(rows, solution.coefficients).max(axis=1) / seconds)
        return float(errors @ errors)

    return min(found, key=misfit)


def search(form: Form, rows: Matrix, seconds: Matrix, deciding: Places) -> Solution:
    """Fit, and divide the sizes between the sides, by turns until nothing changes, starting from `deciding`."""
    for _ in range(_MAX_TURNS):
        coefficients = _least_squares(rows * form.sides(form.terms)[deciding], seconds)
        before, deciding = deciding, form.seconds(rows, coefficients).argmax(axis=1)
        if (before == deciding).all():
            break
    return Solution(form=form, coefficients=coefficients, deciding=deciding)


def _least_squares(rows: Matrix, seconds: Matrix) -> Matrix:
    """Return the non-negative coefficients with the least sum of squared errors ln(measured / fitted).

    By Gauss and Newton's steps, from the least errors relative to what was measured. Those alone would be too low: a
    time that is short by chance weighs more than one that is long by chance.
    """
    from scipy.optimize import nnls  # noqa: PLC0415 - the import takes a fraction of a second

    fitted, target = seconds, np.ones(len(seconds))
    for _ in range(_MAX_STEPS):
        relative, scale = normalised(rows / fitted[:, None])
        solution: Any = nnls(relative, target)
        coefficients: Matrix = solution[0] / scale
        before, fitted = fitted, rows @ coefficients
        # A side that decides sizes may have no time at all while their division is searched.
        if not (fitted > 0).all() or np.allclose(fitted, before, rtol=_PRECISION, atol=0):
            break
        target = 1 + np.log(seconds / fitted)
    return coefficients


def normalised(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Return `rows` with columns scaled to length 1, and the scales, which differ by 12 orders of magnitude.

    A column of zeros, of a side that decides no size, stays as it is.
    """
    lengths = np.linalg.norm(rows, axis=0)
    scale = np.where(lengths > 0, lengths, 1.0)
    return rows / scale, scale
