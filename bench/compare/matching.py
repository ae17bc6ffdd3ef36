"""Which configurations two sides have in common, how the others differ, and what each is called."""

import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.compare.trials import Subject, Trials, subject_key
from bench.planning.dimensions import IDENTITY, dimension_text, varying_members
from bench.records import Configuration, Software
from bench.tables.columns import harmless, short_layers
from bench.tables.fields import FIELDS
from bench.tables.machines import Placed

MAX_NAME_CHARACTERS: Final = 60
"""A longer name is cut, unless there is more room."""

_MAX_VERSION_CHARACTERS: Final = 40
_COMMIT_CHARACTERS: Final = 10

_MAX_COMPARED: Final = 10_000
"""Pairs of configurations among which the nearest is looked for; more would take seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """The pairs of baseline and candidate that were measured alike, and what only one side has; all sorted."""

    pairs: tuple[tuple[Trials, Trials], ...]
    baseline_only: tuple[Trials, ...]
    candidate_only: tuple[Trials, ...]


def match(baseline: Sequence[Trials], candidate: Sequence[Trials], *, ignoring: Sequence[str] = ()) -> Matching:
    """Pair equal configurations first, then those that differ only in the members named by `ignoring`.

    The latter are paired only if each side has exactly one of them: with more, the pairing would be arbitrary.
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
        pairs.sort(key=lambda pair: subject_key(pair[0].subject))
    return Matching(pairs=tuple(pairs), baseline_only=tuple(baseline_only), candidate_only=tuple(candidate_only))


def can_be_searched(baseline: Sequence[Subject], candidate: Sequence[Subject]) -> bool:
    """Return whether there are few enough configurations for `nearest_difference` to compare each with each."""
    return len(baseline) * len(candidate) <= _MAX_COMPARED


def nearest_difference(baseline: Sequence[Subject], candidate: Sequence[Subject]) -> str:
    """Return in which members the two most similar configurations of two runs differ: ``epochs: 5 / 3``.

    The baseline's value comes first, as in the tables.

    Empty without configurations, or if there are too many of them (`can_be_searched`).
    """
    if not can_be_searched(baseline, candidate):
        return ""
    ours = [subject for subject in baseline if isinstance(subject, Configuration)]
    theirs = [subject for subject in candidate if isinstance(subject, Configuration)]
    nearest = min(itertools.product(ours, theirs), key=lambda pair: len(_differing(*pair)), default=None)
    if nearest is None:
        return ""
    ours_nearest, theirs_nearest = nearest
    return ", ".join(
        f"{name}: {dimension(ours_nearest, name)} / {dimension(theirs_nearest, name)}"
        for name in _differing(ours_nearest, theirs_nearest)
    )


def software_differences(baseline: Software, candidate: Software) -> tuple[str, ...]:
    """Return how the software differs, baseline / candidate, member by member: ``torch: 2.11.0 / 2.12.0``."""
    members = (
        (member.name, getattr(baseline, member.name), getattr(candidate, member.name))
        for member in dataclasses.fields(Software)
    )
    return tuple(
        f"{name.replace('_', ' ')}: {_version(name, ours)} / {_version(name, theirs)}"
        for name, ours, theirs in members
        if ours != theirs
    )


def varying_dimensions(subjects: Iterable[Subject]) -> tuple[str, ...]:
    """Return the keys of the dimensions, beyond device, model and batch size, in which `subjects` differ.

    As in the columns of `bench show`, a dimension whose value follows from the model's name is left out.
    """
    configurations = [subject for subject in subjects if isinstance(subject, Configuration)]
    machines = {subject.machine_id for subject in configurations if isinstance(subject, Placed)}
    varying = (key for key in varying_members(configurations) if key not in IDENTITY)
    return (*(("machine_id",) if len(machines) > 1 else ()), *varying)


def describe(subject: Subject, dimensions: Sequence[str] = (), candidate: Subject | None = None) -> str:
    """Return a harmless one-line name of `subject`, with its value of each of `dimensions`.

    With `candidate`, which `subject` is the baseline of, both values are given where they differ: ``threads 2 / 4``.
    """
    if isinstance(subject, str):
        return harmless(subject, MAX_NAME_CHARACTERS)
    device, model = harmless(subject.device, 20), _value_text(subject.model)
    sides = [side for side in (subject, candidate) if isinstance(side, Configuration)]
    values = {key: dict.fromkeys(dimension(side, key) for side in sides) for key in dimensions}
    others = (f"{FIELDS[key].header} {' / '.join(values[key])}" for key in dimensions)
    return ", ".join((f"{device} {model} batch {subject.batch_size}", *others))


def dimension(configuration: Configuration, key: str, limit: int = MAX_NAME_CHARACTERS) -> str:
    """Return one dimension of `configuration` as harmless text of at most `limit` characters."""
    return _value_text(getattr(configuration, key), limit)


def whole_dimension(configuration: Configuration, key: str) -> str:
    """Return one dimension of `configuration` as text of any length."""
    return dimension_text(getattr(configuration, key))


@functools.lru_cache(maxsize=1024, typed=True)
def _value_text(value: object, limit: int = MAX_NAME_CHARACTERS) -> str:
    return harmless(short_layers(dimension_text(value), MAX_NAME_CHARACTERS), limit)


def _differing(ours: Configuration, theirs: Configuration) -> list[str]:
    names = (member.name for member in dataclasses.fields(Configuration))
    return [name for name in names if getattr(ours, name) != getattr(theirs, name)]


def _by_all_but(ignored: Iterable[str], trials: Iterable[Trials]) -> Mapping[Subject, list[Trials]]:
    groups: dict[Subject, list[Trials]] = defaultdict(list)
    nothing: dict[str, Any] = dict.fromkeys(ignored)
    for each in trials:
        subject = each.subject
        key = dataclasses.replace(subject, **nothing) if isinstance(subject, Configuration) else subject
        groups[key].append(each)
    return groups


def _version(name: str, value: object) -> str:
    if value is None:
        return "none"
    text = str(value)
    return harmless(text[:_COMMIT_CHARACTERS] if name == "git_commit" else text, _MAX_VERSION_CHARACTERS)
