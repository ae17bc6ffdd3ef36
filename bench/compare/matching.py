"""Two stored runs side by side: what each measured of every configuration, and which configurations both have.

One value a trial, never one an epoch. Nothing here judges.
"""

import dataclasses
import functools
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Final, TypeAlias

from bench.errors import BadInputError
from bench.records import (
    Configuration,
    EpochRecord,
    Failure,
    Header,
    Measurement,
    Run,
    Software,
    TrialRecord,
    TrialWarning,
)
from bench.tables.columns import harmless
from bench.tables.fields import FIELDS, IDENTITY, varying_members
from bench.tables.machines import Placed, machine_headers, on_machine
from bench.tables.ordering import natural_key
from bench.warning_rules import DISTURBED
from mnist_mlp.spelling import did_you_mean

Subject: TypeAlias = Configuration | str
"""What was measured: a configuration of a stored run, or a benchmark of pytest-benchmark by its name."""

MAX_NAME_CHARACTERS: Final = 60

_MAX_VERSION_CHARACTERS: Final = 40

_SEARCHED: Final = 10_000
"""Pairs of configurations, at most, of which the nearest is looked for: more would take seconds."""

_TARGET_PERCENT: Final = 98
"""Test accuracy that `Trials.seconds_to_98_percent` is about."""

_OTHER_FIELDS: Final = attrgetter(*(member.name for member in dataclasses.fields(Configuration)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagged:
    """The measured trials of one side that something disturbed: their `log_seconds`, sorted, and what disturbed them.

    `warnings` are those of `bench.warning_rules.DISTURBED`, in the order of `TrialWarning`.
    """

    log_seconds: tuple[float, ...]
    warnings: tuple[TrialWarning, ...]

    @property
    def n(self) -> int:
        """How many trials are flagged."""
        return len(self.log_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """What one side measured of one subject, a value a trial, sorted: the order of records says nothing.

    `n` counts measured trials. `log_seconds` are natural logarithms of the trials' median epoch times and
    `mean_log_seconds` is their mean, None for none of them; of a benchmark that was stored as a summary only the mean
    is known. `log_relative` are logarithms of the median ratio of epoch time to the yardstick beside it, None unless
    every trial has a yardstick. `accuracies` are final test accuracies as fractions, None where labels are noise.
    `seconds_to_98_percent` are training seconds to that test accuracy, of the trials that reached it. `flagged` trials
    are among all others here; None without one. `machine_id` is empty of a benchmark.
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
    flagged: Flagged | None = None
    machine_id: str = ""

    @property
    def mean_accuracy(self) -> float | None:
        """Mean of the final test accuracies; None without any."""
        return math.fsum(self.accuracies) / len(self.accuracies) if self.accuracies else None

    @property
    def unflagged_log_seconds(self) -> tuple[float, ...]:
        """`log_seconds` of the trials that are not flagged."""
        if self.flagged is None:
            return self.log_seconds
        return tuple((Counter(self.log_seconds) - Counter(self.flagged.log_seconds)).elements())


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """The pairs of baseline and candidate that were measured alike, and what only one side has; all sorted."""

    pairs: tuple[tuple[Trials, Trials], ...]
    baseline_only: tuple[Trials, ...]
    candidate_only: tuple[Trials, ...]


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

    def add(self, measurement: Measurement) -> None:
        """Add one trial. Written for 100 000 of them: most of a comparison's time is spent here."""
        epochs = measurement.epochs
        self.log_seconds.append(math.log(_median([epoch.train_seconds for epoch in epochs])))
        # What is no finite ratio above 0 is not added, and `finish` sees that one is missing.
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

    def flag(self, warnings: Iterable[TrialWarning]) -> None:
        """Flag the trial that was added last."""
        self.flagged_log_seconds.append(self.log_seconds[-1])
        self.flagged_by.update(DISTURBED.intersection(warnings))

    def finish(self, configuration: Configuration, machine_id: str) -> Trials:
        n = len(self.log_seconds)
        return Trials(
            subject=configuration,
            n=n,
            mean_log_seconds=math.fsum(self.log_seconds) / n if n else None,
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

    def _add_target(self, epochs: Sequence[EpochRecord], least_correct: int) -> None:
        """Add the training seconds to the first epoch with `least_correct`; all are tested on the same images."""
        for place, epoch in enumerate(epochs):
            if (epoch.test_correct or 0) >= least_correct:
                self.seconds_to_98_percent.append(sum(each.train_seconds for each in epochs[: place + 1]))
                return

    def _flagged(self) -> Flagged | None:
        if not self.flagged_log_seconds:
            return None
        warnings = tuple(warning for warning in TrialWarning if warning in self.flagged_by)
        return Flagged(log_seconds=tuple(sorted(self.flagged_log_seconds)), warnings=warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A stored run for comparing. `is_whole`: nothing of its plan is missing; `warnings` are those of its file.

    `headers` are its header as of each machine that its trials ran on, by the machine's id; `header` is the first.
    """

    headers: Mapping[str, Header]
    trials: tuple[Trials, ...]
    is_whole: bool
    warnings: tuple[str, ...]

    @property
    def header(self) -> Header:
        """The run's header, as of its first machine."""
        return next(iter(self.headers.values()))


def make_table(run: Run) -> Table:
    """Return what of `run` a comparison needs."""
    headers = machine_headers(run)
    return Table(headers=headers, trials=gather(run), is_whole=is_whole(run), warnings=run.warnings)


def gather(run: Run) -> tuple[Trials, ...]:
    """Return the trials of every configuration that `run` planned, measured or not, sorted as `bench show` sorts.

    What several machines measured comes once for each of them.
    """
    machine_ids = [fingerprint.machine.id for fingerprint in run.fingerprints]
    by_value: dict[tuple[Configuration, str], _Gathered] = {}
    # Hashing a configuration takes longer than all else here: it is done once an object, and trials share objects.
    by_object: dict[tuple[int, str], _Gathered] = {}
    for record in run.records:
        configuration, machine_id = record.trial.configuration, machine_ids[record.fingerprint]
        key = (id(configuration), machine_id)
        group = by_object.get(key)
        if group is None:
            group = by_object[key] = by_value.setdefault((configuration, machine_id), _Gathered())
        _add(group, record)
    measured = {configuration for configuration, _ in by_value}
    first = next(iter(machine_headers(run)))
    by_value |= {(chosen, first): _Gathered() for chosen in run.header.plan.configurations if chosen not in measured}
    order = _Order()
    found = sorted(by_value, key=lambda key: (order(key[0]), key[1]))
    return tuple(by_value[key].finish(*key) for key in found)


def told_apart(ours: Table, theirs: Table, *, always: bool = False) -> tuple[Table, Table]:
    """Return both tables with the machine in every subject where one has trials of several, or `always`."""
    if not always and max(len(ours.headers), len(theirs.headers)) == 1:
        return ours, theirs
    return _placed(ours), _placed(theirs)


def _placed(table: Table) -> Table:
    trials = (
        replace(each, subject=on_machine(each.subject, each.machine_id))
        if isinstance(each.subject, Configuration)
        else each
        for each in table.trials
    )
    return replace(table, trials=tuple(trials))


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Two values of one dimension to compare with each other, such as ``device``: ``cpu`` and ``cuda:0``."""

    dimension: str
    baseline: str
    candidate: str

    @property
    def ignored(self) -> tuple[str, ...]:
        """The members in which a pair may differ: a device has threads of its own, a pipeline its workers."""
        return (self.dimension, *{"device": ("threads",), "pipeline": ("workers",)}.get(self.dimension, ()))


def only(trials: Sequence[Trials], name: str, value: str, label: str) -> tuple[Trials, ...]:
    """Return those of `trials` whose dimension `name` has `value`; ``cuda`` stands for ``cuda:0`` too.

    Raises:
        BadInputError: there are none; the message lists the values there are.
    """
    values: dict[Subject, str] = {
        each.subject: dimension(each.subject, name) for each in trials if isinstance(each.subject, Configuration)
    }
    wanted = {value, f"{value}:0"} if name == "device" else {value}
    chosen = tuple(each for each in trials if values.get(each.subject, "") in wanted)
    if not chosen:
        there = sorted(set(values.values()), key=natural_key)
        raise BadInputError(
            f"--between {name}: {label} has no configuration with {name} {harmless(value, MAX_NAME_CHARACTERS)}"
            f"{did_you_mean(value, there)}; it has {', '.join(there)}"
        )
    return chosen


def match(baseline: Sequence[Trials], candidate: Sequence[Trials], *, ignoring: Sequence[str] = ()) -> Matching:
    """Pair what both sides have, and then what differs in nothing but the members named by `ignoring`.

    Equal configurations are paired first. Of the others, those that are alike but for these members are paired only
    where there is one of them on each side: with more, which belongs to which is anybody's guess.
    """
    by_subject = {trials.subject: trials for trials in candidate}
    pairs = [(trials, by_subject.pop(trials.subject)) for trials in baseline if trials.subject in by_subject]
    paired = {ours.subject for ours, _ in pairs}
    baseline_only = [trials for trials in baseline if trials.subject not in paired]
    candidate_only = list(by_subject.values())
    if ignoring:
        ours, theirs = _by_all_but(ignoring, baseline_only), _by_all_but(ignoring, candidate_only)
        alike = [key for key in ours if len(ours[key]) == len(theirs.get(key, ())) == 1]
        pairs += [(ours[key][0], theirs[key][0]) for key in alike]
        paired = {trials.subject for pair in pairs for trials in pair}
        baseline_only = [trials for trials in baseline_only if trials.subject not in paired]
        candidate_only = [trials for trials in candidate_only if trials.subject not in paired]
        order = _Order()
        pairs.sort(key=lambda pair: order(pair[0].subject))
    return Matching(pairs=tuple(pairs), baseline_only=tuple(baseline_only), candidate_only=tuple(candidate_only))


def can_be_searched(baseline: Sequence[Subject], candidate: Sequence[Subject]) -> bool:
    """Return whether there are so few that each can be held against each."""
    return len(baseline) * len(candidate) <= _SEARCHED


def nearest_difference(baseline: Sequence[Subject], candidate: Sequence[Subject]) -> str:
    """Return in which members the two most similar configurations of two runs differ: ``epochs: 5 against 3``.

    Nothing where there are none, or more than `can_be_searched`.
    """
    if not can_be_searched(baseline, candidate):
        return ""
    ours = [subject for subject in baseline if isinstance(subject, Configuration)]
    theirs = [subject for subject in candidate if isinstance(subject, Configuration)]
    differences = (
        [
            member.name
            for member in dataclasses.fields(Configuration)
            if getattr(a, member.name) != getattr(b, member.name)
        ]
        for a, b in itertools.product(ours, theirs)
    )
    pairs = zip(itertools.product(ours, theirs), differences, strict=True)
    (a, b), names = min(pairs, key=lambda pair: len(pair[1]), default=((None, None), []))
    return ", ".join(
        f"{name}: {harmless(str(getattr(a, name)), MAX_NAME_CHARACTERS)} against "
        f"{harmless(str(getattr(b, name)), MAX_NAME_CHARACTERS)}"
        for name in names
    )


def software_differences(baseline: Software, candidate: Software) -> tuple[str, ...]:
    """Return what of the software differs, member by member: ``torch: 2.11.0 against 2.12.0``."""
    members = ((member.name, *_both(baseline, candidate, member.name)) for member in dataclasses.fields(Software))
    return tuple(
        f"{name.replace('_', ' ')}: {_plain(ours)} against {_plain(theirs)}"
        for name, ours, theirs in members
        if ours != theirs
    )


def varying_dimensions(subjects: Iterable[Subject]) -> tuple[str, ...]:
    """Return the keys of the dimensions beyond device, model and batch size that tell `subjects` apart.

    Like the columns of `bench show`: a dimension in which a model's name tells the value already is left out.
    """
    configurations = [subject for subject in subjects if isinstance(subject, Configuration)]
    machines = {subject.machine_id for subject in configurations if isinstance(subject, Placed)}
    varying = (key for key in varying_members(configurations) if key not in IDENTITY)
    return (*(("machine_id",) if len(machines) > 1 else ()), *varying)


def describe(subject: Subject, dimensions: Sequence[str] = ()) -> str:
    """Return a harmless one-line name of `subject`, with its value of each of `dimensions`."""
    if isinstance(subject, str):
        return harmless(subject, MAX_NAME_CHARACTERS)
    device, model = harmless(subject.device, 20), harmless(subject.model, MAX_NAME_CHARACTERS)
    others = (f"{FIELDS[key].header} {dimension(subject, key)}" for key in dimensions)
    return ", ".join((f"{device} {model} batch {subject.batch_size}", *others))


def dimension(configuration: Configuration, key: str) -> str:
    """Return one dimension of `configuration` as harmless text."""
    return _value_text(getattr(configuration, key))


@functools.lru_cache(maxsize=1024, typed=True)
def _value_text(value: object) -> str:
    if isinstance(value, tuple):
        value = "-".join(map(str, value))
    return harmless(f"{value:g}" if isinstance(value, float) else str(value), MAX_NAME_CHARACTERS)


def is_whole(run: Run) -> bool:
    """Return whether `run` ended with every trial of its plan in it, whatever its footer says: a shard is not whole."""
    if run.header.division is not None and run.header.division.missing:
        return False
    planned = len(set(run.header.plan.configurations)) * run.header.plan.repeats
    return run.footer is not None and run.footer.complete and len(run.records) == planned


def _add(group: _Gathered, record: TrialRecord) -> None:
    if isinstance(record.outcome, Failure):
        group.failures.append(record.outcome)
    else:
        group.add(record.outcome)
        if record.warnings and not DISTURBED.isdisjoint(record.warnings):
            group.flag(record.warnings)


def _median(values: list[float]) -> float:
    """Return what `statistics.median` does, in a quarter of its time; `values` are put in order."""
    values.sort()
    middle, odd = divmod(len(values), 2)
    return values[middle] if odd else (values[middle - 1] + values[middle]) / 2


class _Order:
    """Sort key of subjects: device, model, layers, batch size and then the rest, numbers inside texts by size.

    It remembers the texts: they are few where configurations are many.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, str], ...]] = {}

    def __call__(self, subject: Subject) -> tuple[object, ...]:
        if isinstance(subject, str):
            return (self._natural(subject),)
        return (
            self._natural(subject.device),
            self._natural(subject.model),
            subject.layers,
            subject.batch_size,
            _OTHER_FIELDS(subject),
        )

    def _natural(self, text: str) -> tuple[tuple[int, str], ...]:
        if text not in self._known:
            self._known[text] = natural_key(text)
        return self._known[text]


def _by_all_but(ignored: Iterable[str], trials: Iterable[Trials]) -> Mapping[Subject, list[Trials]]:
    groups: dict[Subject, list[Trials]] = defaultdict(list)
    nothing: dict[str, Any] = dict.fromkeys(ignored)
    for each in trials:
        subject = each.subject
        key = dataclasses.replace(subject, **nothing) if isinstance(subject, Configuration) else subject
        groups[key].append(each)
    return groups


def _both(baseline: Software, candidate: Software, name: str) -> tuple[object, object]:
    return getattr(baseline, name), getattr(candidate, name)


def _plain(value: object) -> str:
    return "none" if value is None else harmless(str(value), _MAX_VERSION_CHARACTERS)
