"""What one side of a comparison measured: one value per trial, never one per epoch.

Nothing here judges.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, TypeAlias

from bench.records import (
    Configuration,
    EpochRecord,
    Failure,
    Header,
    Measurement,
    Run,
    TrialRecord,
    TrialWarning,
)
from bench.stats.inference import mean
from bench.tables.machines import machine_headers
from bench.tables.ordering import configuration_key, natural_key
from bench.warning_rules import DISTURBED, is_flagged

Subject: TypeAlias = Configuration | str
"""What was measured: a configuration of a stored run, or a pytest-benchmark benchmark by its name."""

_TARGET_PERCENT: Final = 98
"""The test accuracy of `Trials.seconds_to_98_percent`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagged:
    """The measured trials of one side that something disturbed: their `log_seconds`, sorted, and the reasons.

    `warnings` are those of `bench.warning_rules.DISTURBED`, in the order of `TrialWarning`.
    """

    log_seconds: tuple[float, ...] = ()
    warnings: tuple[TrialWarning, ...] = ()

    @property
    def n(self) -> int:
        """How many trials are flagged."""
        return len(self.log_seconds)


_NOTHING: Final = Flagged()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """What one side measured of one subject, one value per trial, sorted because the order of records has no meaning.

    `n` counts measured trials. `log_seconds` are natural logarithms of the trials' median epoch times and
    `mean_log_seconds` is their mean, None without trials; of a benchmark that was stored as a summary only the mean is
    known. `log_relative` are logarithms of the median ratio of epoch time to the yardstick beside it, None unless every
    trial has a yardstick. `accuracies` are final test accuracies as fractions, None where labels are noise.
    `seconds_to_98_percent` are training seconds to that test accuracy, for the trials that reached it. `flagged` trials
    are included in all other values. `machine_id` is empty for a benchmark.
    """

    subject: Subject
    n: int
    mean_log_seconds: float | None
    log_seconds: tuple[float, ...] = ()
    log_relative: tuple[float, ...] | None = None
    accuracies: tuple[float, ...] | None = None
    datasets: frozenset[str] = frozenset()
    train_samples: frozenset[int] = frozenset()
    test_samples: frozenset[int] = frozenset()
    failures: tuple[Failure, ...] = ()
    seconds_to_98_percent: tuple[float, ...] = ()
    flagged: Flagged = _NOTHING
    machine_id: str = ""

    @property
    def device(self) -> str:
        """The device; empty for a benchmark, which does not name one."""
        return self.subject.device if isinstance(self.subject, Configuration) else ""

    @property
    def mean_accuracy(self) -> float | None:
        """Mean of the final test accuracies; None if there are none."""
        return mean(self.accuracies) if self.accuracies else None

    @property
    def unflagged_log_seconds(self) -> tuple[float, ...]:
        """`log_seconds` of the trials that are not flagged."""
        return tuple((Counter(self.log_seconds) - Counter(self.flagged.log_seconds)).elements())


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A stored run, prepared for comparison. `is_complete`: its plan was completed; `warnings` are about its file.

    `headers` holds the run's header as of each machine that its trials ran on, by machine id; `header` is the first.
    """

    headers: Mapping[str, Header]
    trials: tuple[Trials, ...]
    is_complete: bool
    warnings: tuple[str, ...]

    @property
    def header(self) -> Header:
        """The run's header, as of its first machine."""
        return next(iter(self.headers.values()))


def make_table(run: Run) -> Table:
    """Return what a comparison needs of `run`."""
    headers = machine_headers(run)
    return Table(headers=headers, trials=gather(run), is_complete=run.is_complete, warnings=run.warnings)


def gather(run: Run) -> tuple[Trials, ...]:
    """Return the trials of every configuration that `run` planned, measured or not, sorted as `bench show` sorts.

    A configuration that several machines measured appears once for each of them.
    """
    machine_ids = [fingerprint.machine.id for fingerprint in run.fingerprints]
    by_value: dict[tuple[Configuration, str], _Gathered] = {}
    # Hashing a configuration takes longer than everything else here. Trials share objects, so hash each object once.
    by_object: dict[tuple[int, str], _Gathered] = {}
    for record in run.records:
        configuration, machine_id = record.trial.configuration, machine_ids[record.fingerprint]
        key = (id(configuration), machine_id)
        group = by_object.get(key)
        if group is None:
            group = by_object[key] = by_value.setdefault((configuration, machine_id), _Gathered())
        group.add(record)
    measured = {configuration for configuration, _ in by_value}
    first = next(iter(machine_headers(run)))
    by_value |= {(chosen, first): _Gathered() for chosen in run.header.plan.configurations if chosen not in measured}
    found = sorted(by_value, key=lambda key: (configuration_key(key[0]), key[1]))
    return tuple(by_value[key].finish(*key) for key in found)


def subject_key(subject: Subject) -> tuple[object, ...]:
    """Return a sort key: configurations as in every table, benchmarks by name, numbers inside names by size."""
    return (natural_key(subject),) if isinstance(subject, str) else configuration_key(subject)


@dataclass(slots=True)
class _Gathered:
    log_seconds: list[float] = field(default_factory=list)
    log_relative: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    datasets: set[str] = field(default_factory=set)
    train_samples: set[int] = field(default_factory=set)
    test_samples: set[int] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    seconds_to_98_percent: list[float] = field(default_factory=list)
    flagged_log_seconds: list[float] = field(default_factory=list)
    flagged_by: set[TrialWarning] = field(default_factory=set)

    def add(self, record: TrialRecord) -> None:
        if isinstance(record.outcome, Failure):
            self.failures.append(record.outcome)
            return
        self._add_measurement(record.outcome)
        if is_flagged(record):
            self.flagged_log_seconds.append(self.log_seconds[-1])
            self.flagged_by.update(DISTURBED.intersection(record.warnings))

    def finish(self, configuration: Configuration, machine_id: str) -> Trials:
        n = len(self.log_seconds)
        return Trials(
            subject=configuration,
            n=n,
            mean_log_seconds=mean(self.log_seconds) if n else None,
            log_seconds=tuple(sorted(self.log_seconds)),
            log_relative=tuple(sorted(self.log_relative)) if len(self.log_relative) == n else None,
            accuracies=tuple(sorted(self.accuracies)) if len(self.accuracies) == n else None,
            datasets=frozenset(self.datasets),
            train_samples=frozenset(self.train_samples),
            test_samples=frozenset(self.test_samples),
            failures=tuple(sorted(self.failures, key=attrgetter("kind", "message"))),
            seconds_to_98_percent=tuple(sorted(self.seconds_to_98_percent)),
            flagged=self._flagged(),
            machine_id=machine_id,
        )

    def _add_measurement(self, measurement: Measurement) -> None:
        """Add one trial. Tuned for 100 000 of them: a comparison spends most of its time here."""
        epochs = measurement.epochs
        self.log_seconds.append(math.log(_median([epoch.train_seconds for epoch in epochs])))
        # A ratio that is not finite and above 0 is left out; `finish` notices that one is missing.
        ratios = [epoch.train_seconds / epoch.yardstick_seconds for epoch in epochs if epoch.yardstick_seconds > 0]
        if len(ratios) == len(epochs) and 0 < (relative := _median(ratios)) < math.inf:
            self.log_relative.append(math.log(relative))
        last = epochs[-1]
        if last.test_correct is not None:
            self.accuracies.append(last.test_correct / last.test_samples)
            self._add_target(epochs, -(-_TARGET_PERCENT * last.test_samples // 100))
        self.datasets.add(measurement.dataset_sha256)
        self.train_samples.add(last.train_samples)
        self.test_samples.add(last.test_samples)

    def _add_target(self, epochs: Sequence[EpochRecord], least_correct: int) -> None:
        """Add the training seconds to the first epoch with `least_correct`; all are tested on the same images."""
        for place, epoch in enumerate(epochs):
            if (epoch.test_correct or 0) >= least_correct:
                self.seconds_to_98_percent.append(sum(each.train_seconds for each in epochs[: place + 1]))
                return

    def _flagged(self) -> Flagged:
        warnings = tuple(warning for warning in TrialWarning if warning in self.flagged_by)
        return Flagged(log_seconds=tuple(sorted(self.flagged_log_seconds)), warnings=warnings)


def _median(values: list[float]) -> float:
    """Return what `statistics.median` does, in a quarter of the time; sorts `values` in place."""
    values.sort()
    middle, odd = divmod(len(values), 2)
    return values[middle] if odd else (values[middle - 1] + values[middle]) / 2
