"""A check: its limits, what it found of each configuration, and the verdict that follows."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bench.compare.comparison import Source
from bench.compare.flagged import WithoutFlagged
from bench.compare.matching import describe
from bench.compare.trials import Subject
from bench.errors import BadInputError, ExitCode
from bench.stats.judgement import GATE_EXIT_CODES, Judgement, Verdict
from bench.units import format_count

Gate: TypeAlias = Literal["all", "accuracy", "time"]
Quantity: TypeAlias = Literal["epoch time", "test accuracy", "trials"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is allowed, as fractions, and what is gated. Without `min_accuracy` there is no floor."""

    max_slowdown: float = 0.10
    max_accuracy_drop: float = 0.005
    min_accuracy: float | None = None
    gate: Gate = "all"

    def __post_init__(self) -> None:
        """Refuse limits that contradict each other.

        Raises:
            BadInputError: there is a floor of accuracy, but accuracy is not gated.
        """
        if self.gate == "time" and self.min_accuracy is not None:
            raise BadInputError("--min-accuracy does nothing with --gate time: leave one of them out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The judgement of one configuration's time or accuracy, or of its trials where those allow neither.

    Without a `subject` it is about the runs as a whole. `candidate` is the configuration that a baseline's was paired
    with, None without a pair; across machines their numbers of threads may differ. `advice` says what to do next, and
    can be empty. `cause` is what the reason has in common with those of other configurations, empty if that is all of
    it. `without_flagged` is what the judgement of time would be without flagged trials, None if none is flagged. It
    decides nothing.
    """

    subject: Subject | None
    candidate: Subject | None = None
    quantity: Quantity
    judgement: Judgement
    advice: str
    without_flagged: WithoutFlagged | None = None
    cause: str = ""

    @property
    def kind(self) -> Hashable:
        """What is equal for findings that say the same of different configurations; None if it has its own numbers."""
        judgement = self.judgement
        if judgement.estimate is not None:
            return None
        return judgement.verdict, self.quantity, self.cause or judgement.reason

    @property
    def change(self) -> str | None:
        """How the verdict would change without flagged trials, in words; None if it would not."""
        return None if self.without_flagged is None else self.without_flagged.change(self.judgement.verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """A finished check. `dimensions` are the keys that must be part of a configuration's name to make it unique."""

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
        """The exit code of the command."""
        return GATE_EXIT_CODES[self.verdict]

    @property
    def reason(self) -> str:
        """The reason for the verdict, in one sentence."""
        verdict = self.verdict
        decisive = [finding for finding in self.findings if finding.judgement.verdict is verdict]
        if not decisive:
            return "neither run has a configuration"
        if verdict is Verdict.PASS:
            return f"{format_count(len(decisive), 'check')} passed"
        first = decisive[0]
        more = f" (and {len(decisive) - 1} more)" if len(decisive) > 1 else ""
        return f"{self.name(first)}: {first.judgement.reason}{more}"

    def name(self, finding: Finding, count: int = 1) -> str:
        """Return the configuration and quantity of `finding`, or of the `count` it stands for, as harmless text."""
        if count > 1:
            return f"{count} others (--json lists them), {finding.quantity}"
        if finding.subject is None:
            return finding.quantity
        return f"{describe(finding.subject, self.dimensions, finding.candidate)}, {finding.quantity}"
