"""What a check of the ruler itself says: passed, failed, or not applicable here; measured values beside the rule."""

import enum
from dataclasses import dataclass


class Outcome(enum.StrEnum):
    """What came of one check."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check on one device. `measured` is what was found, or why nothing could be; `rule` is what must hold."""

    name: str
    device: str
    outcome: Outcome
    measured: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The worker's answer to ``selftest``: every check on one device, in the order in which they were made."""

    checks: tuple[Check, ...]
