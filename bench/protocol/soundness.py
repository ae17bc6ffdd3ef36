"""The result of a check of the harness itself: passed, failed or not applicable, with measured value and rule."""

import enum
from dataclasses import dataclass


class Outcome(enum.StrEnum):
    """The outcome of one check."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check on one device. `measured` is the value, or why there is none; `rule` is what must hold."""

    name: str
    device: str
    outcome: Outcome
    measured: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The worker's answer to ``selftest``: all checks on one device, in the order in which they were made."""

    checks: tuple[Check, ...]
