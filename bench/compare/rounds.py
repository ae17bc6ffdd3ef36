"""Reads the rounds of each benchmark from pytest-benchmark's JSON files.

pytest-benchmark keeps every round's time only with ``--benchmark-save-data`` (or ``--benchmark-json``); otherwise a
file holds mean, standard deviation and number of rounds. Both forms give the moments of ln(seconds) that a comparison
of ratios needs. The rounds of one benchmark ran one after the other in one process, so they are not fresh trials: an
interval made from them says nothing about how processes differ.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.coding import from_json
from bench.errors import BadInputError
from bench.stats.inference import Moments, moments_of

MAX_FILE_BYTES: Final = 2**28
"""256 MiB: some seven million rounds. Parsing such a file takes a few times as much memory."""

_HEAD_BYTES: Final = 256
_FIRST_MEMBER: Final = re.compile(rb'\s*\{\s*"(machine_info|commit_info|benchmarks|datetime|version)"\s*:')
"""The members of a pytest-benchmark file. A stored run begins with another member, ``header``."""

_UNKNOWN_COMMITS: Final = ("unversioned", "unknown")
"""What pytest-benchmark writes outside a repository, or when git fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsBenchmark:
    """One benchmark. `name` is pytest's node id, parameters in brackets included.

    `seconds` holds one value per round, the mean over the round's iterations; it is empty if only a summary was saved.
    `moments` are those of ln(seconds), from the rounds if there are any, else from the summary (`moments_of_summary`).
    """

    name: str
    seconds: tuple[float, ...]
    moments: Moments


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsFile:
    """A pytest-benchmark file. `datetime` is as written there (ISO 8601); None is what the file does not say."""

    benchmarks: tuple[RoundsBenchmark, ...]
    python: str | None
    datetime: str | None
    commit: str | None
    dirty: bool | None
    cpu: str | None


def is_rounds_file(path: Path) -> bool:
    """Return whether the file at `path` begins like one of pytest-benchmark's; `read_rounds` checks the rest."""
    try:
        if not path.is_file():  # opening a pipe would block
            return False
        with path.open("rb") as file:
            return _FIRST_MEMBER.match(file.read(_HEAD_BYTES)) is not None
    except OSError:
        return False


def read_rounds(path: Path) -> RoundsFile:
    """Return what pytest-benchmark saved at `path`.

    Raises:
        BadInputError: it is not such a file, or a benchmark in it appears twice, lacks a member, or has a time that is
            not a finite number above 0.
    """
    data = _parse(path)
    try:
        benchmarks = tuple(
            _benchmark(entry, f"benchmarks[{place}]") for place, entry in enumerate(_list(data, "benchmarks"))
        )
        _require_distinct(benchmarks)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}; restore the file, or save it again with --benchmark-json") from error
    machine, commit = _object(data.get("machine_info")), _object(data.get("commit_info"))
    commit_id = _text(commit.get("id"))
    is_known = commit_id not in {None, *_UNKNOWN_COMMITS}
    return RoundsFile(
        benchmarks=benchmarks,
        python=_text(machine.get("python_version")),
        datetime=_text(data.get("datetime")),
        commit=commit_id if is_known else None,
        dirty=commit["dirty"] if is_known and isinstance(commit.get("dirty"), bool) else None,
        cpu=_text(_object(machine.get("cpu")).get("brand_raw")),
    )


def moments_of_summary(mean_seconds: float, deviation_seconds: float, rounds: int) -> Moments:
    """Return the moments of ln(seconds) of log-normal times with this mean and standard deviation.

    With the coefficient of variation c, the variance is ln(1 + c^2) and the mean ln(mean_seconds) less half of it
    (Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions" 1, 1994, ch. 14). For small c this is the
    delta method's c^2, whatever the distribution; a few stalls among many rounds make it an approximation.
    """
    variance = math.log1p((deviation_seconds / mean_seconds) ** 2)
    return Moments(n=rounds, mean=math.log(mean_seconds) - variance / 2, squares=(rounds - 1) * variance)


def _parse(path: Path) -> dict[str, Any]:
    """Return the file's JSON object.

    `bench.coding.loads` is too strict: pytest-benchmark writes NaN if a test's own parameters or extra_info hold one.
    Those members are not read; a NaN among the times is refused later.
    """
    try:
        if not path.is_file():
            raise _no_rounds(path, "it is not a regular file" if path.exists() else "there is no such file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _no_rounds(path, f"it is larger than {MAX_FILE_BYTES // 2**20} MiB")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise _no_rounds(path, f"it cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _no_rounds(path, f"it is not valid JSON: {reason}") from error
    if not isinstance(data, dict) or not {"benchmarks", "machine_info"} <= data.keys():
        raise _no_rounds(path, "it is not an object with the members benchmarks and machine_info")
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raw:
    data: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Brief:
    mean: float
    stddev: float
    rounds: int


def _benchmark(entry: object, where: str) -> RoundsBenchmark:
    members = _object(entry)
    name, stats = members.get("fullname"), _object(members.get("stats"))
    if not isinstance(name, str) or not name or not name.isprintable():
        raise BadInputError(f"{where}.fullname must be a string of printable characters, not {_shown(name)}")
    if "data" in stats:
        seconds = from_json(_Raw, {"data": stats["data"]}, f"{where}.stats").data
        return _from_rounds(name, seconds, f"{where}.stats.data")
    found = {member: stats[member] for member in ("mean", "stddev", "rounds") if member in stats}
    return _from_brief(name, from_json(_Brief, found, f"{where}.stats"), f"{where}.stats")


def _from_rounds(name: str, seconds: tuple[float, ...], where: str) -> RoundsBenchmark:
    if not seconds:
        raise BadInputError(f"{where} is empty, but a benchmark has at least one round")
    if min(seconds) <= 0:
        raise BadInputError(f"{where} holds {min(seconds)}, but a time must be above 0")
    return RoundsBenchmark(name=name, seconds=seconds, moments=moments_of(list(map(math.log, seconds))))


def _from_brief(name: str, brief: _Brief, where: str) -> RoundsBenchmark:
    if brief.mean <= 0 or brief.rounds < 1:
        raise BadInputError(f"{where}: mean {brief.mean} and rounds {brief.rounds} must be above 0")
    # The standard deviation of n positive numbers is largest if all but one are near 0: mean times the root of n.
    largest = brief.mean * math.sqrt(brief.rounds) * (1 + 1e-9)
    if not 0 <= brief.stddev <= largest or (brief.rounds == 1 and brief.stddev != 0):
        raise BadInputError(
            f"{where}: stddev {brief.stddev} is impossible for {brief.rounds} positive times of mean {brief.mean}"
        )
    moments = moments_of_summary(brief.mean, brief.stddev, brief.rounds)
    return RoundsBenchmark(name=name, seconds=(), moments=moments)


def _require_distinct(benchmarks: tuple[RoundsBenchmark, ...]) -> None:
    if not benchmarks:
        raise BadInputError("it holds no benchmark")
    names: set[str] = set()
    for benchmark in benchmarks:
        if benchmark.name in names:
            raise BadInputError(f"benchmark {benchmark.name} appears twice")
        names.add(benchmark.name)


def _list(data: dict[str, Any], member: str) -> list[Any]:
    value = data[member]
    if not isinstance(value, list):
        raise BadInputError(f"{member} must be a list, not {_shown(value)}")
    return value


def _object(value: object) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty one: its missing members are then reported."""
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    """Return `value` if it is printable text, else None: machine and commit only label a comparison."""
    return value if isinstance(value, str) and value and value.isprintable() else None


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - about a line of a message


def _no_rounds(path: Path, reason: str) -> BadInputError:
    return BadInputError(
        f"{path} is not a pytest-benchmark file: {reason}; "
        "name one that pytest --benchmark-json or --benchmark-save wrote"
    )
