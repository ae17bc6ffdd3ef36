"""A comparison as raw values for CSV and JSON: unrounded, and empty (null) where a value is unknown."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from bench.coding import finite, to_json
from bench.compare.comparison import Comparison, RoundsSource, Row, Source
from bench.compare.costs import cost_ratio, side_cost
from bench.compare.trials import Subject
from bench.planning.dimensions import DIMENSIONS, IDENTITY
from bench.stats.judgement import Judgement
from bench.stats.judgement_text import from_log
from bench.storage.table import Value
from bench.tables.layout import csv_text
from bench.tables.prices import Prices
from mnist_mlp.recipes import layers_text


def csv_of(comparison: Comparison, rows: Sequence[Row], prices: Prices | None = None) -> str:
    """Return `rows` of `comparison` as CSV, whose columns are the same whichever rows are chosen."""
    differing = _differing(comparison)
    keys = raw_row(comparison.rows[0], prices, differing).keys()
    return csv_text(keys, (raw_row(row, prices, differing) for row in rows))


def json_of(comparison: Comparison, rows: Sequence[Row], prices: Prices | None = None) -> str:
    """Return `comparison` as JSON with these `rows`, one per line."""
    members = {name: _dumps(value) for name, value in _document(comparison).items()}
    # json's own indentation would put every value on a line of its own, and needs its slow encoder.
    differing = _differing(comparison)
    lines = ",\n    ".join(_dumps(raw_row(row, prices, differing)) for row in rows)
    members["rows"] = f"[\n    {lines}\n  ]" if rows else "[]"
    members["rows_not_shown"] = str(len(comparison.rows) - len(rows))
    text = ",\n  ".join(f"{_dumps(name)}: {value}" for name, value in members.items())
    return f"{{\n  {text}\n}}"


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def _differing(comparison: Comparison) -> tuple[str, ...]:
    """Return the dimensions in which the sides of any row differ, and always threads, which may on other hardware."""
    pairs = [(row.baseline.subject, row.candidate.subject) for row in comparison.rows]
    return tuple(
        key
        for key in (*IDENTITY, *DIMENSIONS)
        if key == "threads"
        or any(not isinstance(ours, str) and getattr(ours, key) != getattr(theirs, key) for ours, theirs in pairs)
    )


def raw_row(row: Row, prices: Prices | None = None, differing: Sequence[str] = ()) -> dict[str, Value]:
    """Return a row's values by their names in CSV and JSON: ratios, seconds and fractions, unrounded.

    Costs are included with `prices` only, and the candidate's own value of each dimension in `differing`.
    """
    subject = row.baseline.subject
    values: dict[str, Value] = {}
    if isinstance(subject, str):
        values["benchmark"] = subject
    else:
        values |= {key: _dimension(subject, key) for key in (*IDENTITY, *DIMENSIONS)}
        values["machine_id"], values["candidate_machine_id"] = row.baseline.machine_id, row.candidate.machine_id
        values |= {f"candidate_{key}": _dimension(row.candidate.subject, key) for key in differing}
    relative = row.relative_log_ratio
    return values | {
        "baseline_n": row.baseline.n,
        "candidate_n": row.candidate.n,
        "baseline_failures": len(row.baseline.failures),
        "candidate_failures": len(row.candidate.failures),
        "baseline_flagged": row.baseline.flagged.n,
        "candidate_flagged": row.candidate.flagged.n,
        "baseline_seconds": _exp(row.baseline.mean_log_seconds),
        "candidate_seconds": _exp(row.candidate.mean_log_seconds),
        **_judged("time", row.time, _exp),
        **_without_flagged(row),
        "time_ratio_normalised": _exp(relative),
        "baseline_test_accuracy": row.baseline.mean_accuracy,
        "candidate_test_accuracy": row.candidate.mean_accuracy,
        **_judged("accuracy", row.accuracy, lambda value: value),
        **({} if prices is None else _costs(row, prices)),
    }


def _dimension(subject: Subject, key: str) -> Value:
    value = getattr(subject, key)
    return layers_text(value) if isinstance(value, tuple) else value


def _without_flagged(row: Row) -> dict[str, Value]:
    """Return the judgement of time without flagged trials: if none is flagged, that of all trials."""
    judgement = row.time if row.without_flagged is None else row.without_flagged.judgement
    return {
        "time_ratio_without_flagged": None if judgement.estimate is None else _exp(judgement.estimate.value),
        "time_verdict_without_flagged": judgement.verdict.value,
        "time_reason_without_flagged": judgement.reason,
    }


def _costs(row: Row, prices: Prices) -> dict[str, Value]:
    ours, theirs = side_cost(row.baseline, prices, "baseline"), side_cost(row.candidate, prices, "candidate")
    ratio = cost_ratio(row.time, ours, theirs)
    span = None if ratio is None else ratio.interval
    values: dict[str, Value] = {
        "epoch_cost_ratio": None if ratio is None else _exp(ratio.log_ratio),
        "epoch_cost_ratio_low": None if span is None else _exp(finite(span.low)),
        "epoch_cost_ratio_high": None if span is None else _exp(finite(span.high)),
    }
    for side, cost in (("baseline", ours), ("candidate", theirs)):
        values |= {
            f"{side}_price_per_hour": cost.price_per_hour,
            f"{side}_cost_per_epoch": finite(cost.per_epoch),
            f"{side}_cost_to_98_percent": finite(cost.to_98_percent),
            f"{side}_cost_to_98_percent_n": cost.reached,
        }
    return values


def _judged(
    quantity: Literal["time", "accuracy"], judgement: Judgement | None, present: Callable[[float | None], float | None]
) -> dict[str, Value]:
    name = "time_ratio" if quantity == "time" else "test_accuracy_difference"
    estimate = None if judgement is None else judgement.estimate
    span = None if judgement is None else judgement.interval
    effect = None if judgement is None else judgement.minimum_detectable_effect
    return {
        name: None if estimate is None else present(estimate.value),
        f"{name}_low": None if span is None else present(finite(span.low)),
        f"{name}_high": None if span is None else present(finite(span.high)),
        f"{name}_least_found": present(finite(effect)),
        f"{name}_adjusted_p": None if judgement is None else judgement.adjusted_p,
        f"{quantity}_needed_n": None if judgement is None else judgement.needed_n,
        f"{quantity}_verdict": None if judgement is None else judgement.verdict.value,
        f"{quantity}_reason": None if judgement is None else judgement.reason,
    }


def _document(comparison: Comparison) -> dict[str, Any]:
    mean = comparison.mean
    return {
        "baseline": _side(comparison.baseline),
        "candidate": _side(comparison.candidate),
        "is_hardware_comparison": comparison.is_hardware,
        "differences": list(comparison.differences),
        "geometric_mean": None
        if mean is None
        else {
            "ratio": _exp(mean.log_ratio),
            "low": _exp(finite(mean.interval.low)),
            "high": _exp(finite(mean.interval.high)),
            "count": mean.count,
        },
        "baseline_only": [_subject_json(subject) for subject in comparison.baseline_only],
        "candidate_only": [_subject_json(subject) for subject in comparison.candidate_only],
        "notes": list(comparison.notes),
    }


def _side(source: Source | RoundsSource) -> dict[str, Any]:
    if isinstance(source, RoundsSource):
        file = source.file
        return {"label": source.label, "datetime": file.datetime, "python": file.python, "commit": file.commit}
    header = source.table.header
    return {
        "label": source.label,
        "run_id": header.run_id,
        "complete": source.table.is_complete,
        "machine": to_json(header.machine),
        "software": to_json(header.software),
        "machines": {name: to_json(each.machine) for name, each in source.table.headers.items()},
    }


def _subject_json(subject: Subject) -> Any:  # noqa: ANN401 - a JSON value has no narrower type
    return subject if isinstance(subject, str) else to_json(subject)


def _exp(log_value: float | None) -> float | None:
    return None if log_value is None else finite(from_log(log_value))
