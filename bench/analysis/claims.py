"""Claims and reproductions: what the recipes' authors published beside what the seeds of a run achieved."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.errors import BadInputError
from bench.records import Configuration, Run
from bench.stats.student import t_quantile
from bench.storage.table import Value
from bench.tables.layout import csv_text, json_text, left_out_note, markdown_table, range_text, text_table, wrap
from bench.tables.summary import Sample, Summary, summarise
from mnist_mlp.recipes import HYPERPARAMETERS, RECIPES, Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimCheck:
    """One claim beside the seeds' results. `low` and `high` bound the 95 % prediction interval of one further seed.

    A claim is reproduced if it lies within that interval or on its worse side (a lower accuracy, a higher loss: the
    model does better than claimed). A single seed gives no interval, and few seeds may give one that reaches beyond
    what is possible at all (an accuracy of 100 %, a loss of 0), which no claim could fall out of.
    """

    configuration: Configuration
    claim: Claim
    result: Sample
    low: float | None
    high: float | None

    @property
    def reproduced(self) -> bool | None:
        """Whether the claim is reproduced; None without an interval that could exclude one."""
        if self.low is None or self.high is None:
            return None
        if self.claim.metric.endswith("accuracy"):
            return self.claim.value <= self.high if self.high < 1 else None
        return self.claim.value >= self.low if self.low > 0 else None


def check_claims(run: Run) -> tuple[ClaimCheck, ...]:
    """Check the claims of every recipe that `run` trained as documented, in the recipes' order.

    A configuration counts if everything that affects the result (layers, loss, optimizer, batch size, epochs, …) is the
    recipe's, on real MNIST, in float32; device, engine and pipeline do not matter.
    """
    documented = [summary for summary in summarise(run.records) if _is_documented(summary.configuration)]
    documented.sort(key=lambda summary: list(RECIPES).index(summary.configuration.model))
    return tuple(check for summary in documented for check in _checks(summary))


def _is_documented(configuration: Configuration) -> bool:
    recipe = RECIPES.get(configuration.model)
    if recipe is None or configuration.dataset != "mnist" or configuration.precision != "fp32":
        return False
    decisive = set(HYPERPARAMETERS) - {"test_batch_size"}  # it does not affect training
    return all(getattr(configuration, name) == getattr(recipe, name) for name in decisive)


def _checks(summary: Summary) -> Iterator[ClaimCheck]:
    for claim in RECIPES[summary.configuration.model].claims:
        result: Sample | None = getattr(summary, claim.metric)
        if result is not None:
            low, high = predict_one_more(result)
            yield ClaimCheck(configuration=summary.configuration, claim=claim, result=result, low=low, high=high)


def predict_one_more(sample: Sample) -> tuple[float | None, float | None]:
    """Return the interval that contains one further value with probability 95 %; None, None for a single value.

    For independent normal values it is mean ± t · s · √(1 + 1/n), with t of n - 1 degrees of freedom (Hahn and Meeker,
    Statistical Intervals, 1991, section 4.7).
    """
    if sample.standard_deviation is None:
        return None, None
    half = t_quantile(sample.n - 1) * sample.standard_deviation * math.sqrt(1 + 1 / sample.n)
    return sample.mean - half, sample.mean + half


def render_claims(run: Run, layout: str, width: int = 80) -> str:
    """Return the checks of `run` as ``table``, ``markdown``, ``csv`` or ``json``; the last two unrounded.

    A table leaves out columns that do not fit into `width`.

    Raises:
        BadInputError: no trial of `run` trained a recipe as documented.
    """
    checks = check_claims(run)
    if not checks:
        raise BadInputError(
            f"run {run.header.run_id} has no measured trial of a recipe as documented: "
            "make one with python -m bench run --preset recipes"
        )
    if layout == "markdown":
        columns = _columns(checks)
        return markdown_table(list(columns), list(zip(*columns.values(), strict=True)), (False,) * len(columns))
    if layout == "table":
        return _table(checks, width)
    rows = [_raw(check) for check in checks]
    return json_text(rows) if layout == "json" else csv_text(rows[0], rows)


def _table(checks: Sequence[ClaimCheck], width: int) -> str:
    """Return the table; cells are broken first, and columns left out only if that is not enough."""
    columns = _columns(checks)
    for count in range(len(_DROP_ORDER) + 1):
        dropped = _DROP_ORDER[:count]
        kept = {header: cells for header, cells in columns.items() if header not in dropped}
        table = text_table(list(kept), list(zip(*kept.values(), strict=True)), (False,) * len(kept), width)
        if max(map(len, table.splitlines())) <= width:
            break
    return "\n\n".join(filter(None, (table, wrap(left_out_note(dropped), width))))


_DROP_ORDER: Final = ("device", "seeds", "s.d.", "mean")

_HEADERS: Final = ("recipe", "device", "metric", "claimed", "mean", "s.d.", "seeds", "95 % prediction", "verdict")

_WAYS: Final = ("pipeline", "engine", "threads", "world_size")
"""Members that do not affect a result, but distinguish rows that would otherwise look the same."""

_VERDICTS: Final = {True: "reproduced", False: "not reproduced", None: "undecided (too few seeds)"}


def _columns(checks: Sequence[ClaimCheck]) -> dict[str, Sequence[str]]:
    """Return the columns by header, including each of `_WAYS` in which the checks differ."""
    columns: dict[str, Sequence[str]] = dict(zip(_HEADERS, zip(*map(_words, checks), strict=True), strict=True))
    for name in _WAYS:
        values = [str(getattr(check.configuration, name)) for check in checks]
        if len(set(values)) > 1:
            columns[name.replace("_", " ")] = values
    return columns


def _words(check: ClaimCheck) -> tuple[str, ...]:
    deviation = check.result.standard_deviation
    return (
        check.configuration.model,
        check.configuration.device,
        check.claim.metric.replace("_", " "),
        _value(check, check.claim.value),
        _value(check, check.result.mean),
        "" if deviation is None else _value(check, deviation),
        str(check.result.n),
        range_text(check.low, check.high, functools.partial(_value, check)),
        _VERDICTS[check.reproduced],
    )


def _raw(check: ClaimCheck) -> dict[str, Value]:
    return {
        "recipe": check.configuration.model,
        "device": check.configuration.device,
        **{name: getattr(check.configuration, name) for name in _WAYS},
        "metric": check.claim.metric,
        "claimed": check.claim.value,
        "source": check.claim.source,
        "mean": check.result.mean,
        "standard_deviation": check.result.standard_deviation,
        "n": check.result.n,
        "prediction_low": check.low,
        "prediction_high": check.high,
        "reproduced": check.reproduced,
    }


def _value(check: ClaimCheck, value: float) -> str:
    return f"{value * 100:.2f} %" if check.claim.metric.endswith("accuracy") else f"{value:.4f}"
