"""What a check allows, what it found of each configuration, and the verdict that follows from all of it."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from bench.compare.comparison import Source
from bench.compare.flagged import WithoutFlagged
from bench.compare.matching import Subject, describe
from bench.errors import BadInputError, ExitCode
from bench.stats.judgement import GATE_EXIT_CODES, Judgement, Verdict

Gate: TypeAlias = Literal["all", "accuracy", "time"]
Quantity: TypeAlias = Literal["epoch time", "test accuracy", "trials"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is allowed, as fractions, and what is gated. `min_accuracy` None: no floor."""

    max_slowdown: float = 0.10
    max_accuracy_drop: float = 0.005
    min_accuracy: float | None = None
    gate: Gate = "all"

    def __post_init__(self) -> None:
        """Refuse limits that contradict each other.

        Raises:
            BadInputError: a floor of accuracy is given and accuracy is not gated.
        """
        if self.gate == "time" and self.min_accuracy is not None:
            raise BadInputError("--min-accuracy does nothing with --gate time: leave one of them out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is said of one configuration: of a quantity, or of its trials before any quantity. `advice` can be empty.

    `without_flagged` is what the judgement of time would be without flagged trials, None where none is flagged. It
    decides nothing.
    """

    subject: Subject | None
    quantity: Quantity
    judgement: Judgement
    advice: str
    without_flagged: WithoutFlagged | None = None

    @property
    def change(self) -> str | None:
        """What becomes of the verdict without flagged trials, in words; None where it stays."""
        return None if self.without_flagged is None else self.without_flagged.change(self.judgement.verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """A finished check. `dimensions` are the keys that names of configurations need to be told apart."""

    baseline: Source
    candidate: Source
    limits: Limits
    findings: tuple[Finding, ...]
    dimensions: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings' verdicts; without a finding, nothing was compared."""
        found = {finding.judgement.verdict for finding in self.findings} or {Verdict.INCOMPARABLE}
        return next(verdict for verdict in GATE_EXIT_CODES if verdict in found)

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return GATE_EXIT_CODES[self.verdict]

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, in one sentence."""
        verdict = self.verdict
        decisive = [finding for finding in self.findings if finding.judgement.verdict is verdict]
        if not decisive:
            return "neither side has a configuration"
        if verdict is Verdict.PASS:
            return f"all {len(decisive)} judgements pass"
        first = decisive[0]
        more = f" (and {len(decisive) - 1} more)" if len(decisive) > 1 else ""
        return f"{self.name(first)}: {first.judgement.reason}{more}"

    def name(self, finding: Finding) -> str:
        """Return what `finding` is about, as harmless text."""
        if finding.subject is None:
            return finding.quantity
        return f"{describe(finding.subject, self.dimensions)}, {finding.quantity}"
