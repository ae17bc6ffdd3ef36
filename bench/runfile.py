"""The format of a stored run: which lines there are, what each must keep to, and how a file of them is read.

Every line is an object with exactly one member, which names its kind: the header first, then trials, then a footer; a
resumed run goes on with more trials and ends with a footer of its own. docs/results-format.schema.json describes it.
"""

import json
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import coding
from bench.canonical import CanonicalReader
from bench.collection import garbage_collection_paused
from bench.errors import BadInputError
from bench.records import (
    SCHEMA_VERSION,
    Configuration,
    Footer,
    Header,
    Measurement,
    Plan,
    Run,
    Settings,
    TrialRecord,
)

MAX_LINE_BYTES: Final = 2**26
"""64 MiB: a header with a plan of some hundred thousand configurations. A file with a longer line is no stored run."""

_BUFFER_BYTES: Final = 2**20
"""Some hundred lines: with the usual 8 KiB, asking the system for them is half of what it costs to get them."""

Item = Header | TrialRecord | Footer
"""What one line holds."""

_TRIAL_START: Final = b'{"trial":'
_TRIAL_END: Final = b"}\n"

_KINDS: Final[dict[str, type[Item]]] = {"header": Header, "trial": TrialRecord, "footer": Footer}


@dataclass(frozen=True, slots=True)
class Reading:
    """A run as read, where the last line that counts ends (bytes from the start), and which trials it holds."""

    run: Run
    end: int
    ledger: "Ledger"


class Ledger:
    """Which trials of a plan are stored, and the rules that a record must keep to be among them."""

    def __init__(self, plan: Plan) -> None:
        """Begin with nothing stored."""
        self._plan = plan
        self._places = {configuration: place for place, configuration in enumerate(plan.configurations)}
        # Records as read hold the plan's own objects, and to hash the 21 members of each takes its time.
        self._places_by_identity = {id(configuration): place for configuration, place in self._places.items()}
        self._stored: set[int] = set()

    def admit(self, record: TrialRecord) -> None:
        """Enter `record`.

        Raises:
            BadInputError: its trial is not in the plan or is entered already, or its measurement is impossible.
        """
        trial = record.trial
        place = self._places_by_identity.get(id(trial.configuration))
        if place is None:
            place = self._places.get(trial.configuration)
        if place is None or not 0 <= trial.repeat < self._plan.repeats or trial.seed != self._plan.seed + trial.repeat:
            raise BadInputError(
                f"configuration {trial.configuration.id}, repeat {trial.repeat}, seed {trial.seed} is not in the "
                f"plan: {len(self._places)} configurations, {self._plan.repeats} repeats, seeds from {self._plan.seed}"
            )
        key = place * self._plan.repeats + trial.repeat
        if key in self._stored:
            raise BadInputError(f"configuration {trial.configuration.id}, repeat {trial.repeat} is stored already")
        if isinstance(record.outcome, Measurement):
            _require_possible(record.outcome)
        self._stored.add(key)

    def forget(self, record: TrialRecord) -> None:
        """Take an admitted `record` out again."""
        self._stored.remove(self._places[record.trial.configuration] * self._plan.repeats + record.trial.repeat)


def _require_possible(measurement: Measurement) -> None:
    """Refuse what would make a division by zero or a median of nothing out of a record."""
    if not measurement.epochs:
        raise BadInputError("a measurement needs at least one epoch")
    for epoch in measurement.epochs:
        if epoch.train_seconds <= 0 or epoch.train_samples <= 0 or epoch.test_samples <= 0:
            raise BadInputError("an epoch's train_seconds, train_samples and test_samples must be above 0")


def encode(item: Item) -> bytes:
    """Return `item` as its line, newline included.

    Raises:
        BadInputError: it could not be read back: a number in it is not finite, or of a wrong type or size.
    """
    (kind,) = (name for name, type_ in _KINDS.items() if type_ is type(item))
    try:
        line = coding.dumps({kind: coding.to_json(item)}).encode() + b"\n"
    except ValueError as error:
        raise BadInputError(f"a {kind} cannot be stored: {error}; every number in it must be finite") from error
    if decode(line) != item:
        raise BadInputError(f"a {kind} cannot be stored: it would be read back as another value")
    return line


def decode(line: bytes) -> Item:
    """Return what `line` holds.

    Raises:
        BadInputError: it is not one of the three kinds of line, or a member in it is not as the records have it.
    """
    data = coding.loads(line)
    if not isinstance(data, dict) or len(data) != 1 or not _KINDS.keys() >= data.keys():
        raise BadInputError(f"a line must be an object with one member, one of {', '.join(_KINDS)}")
    ((kind, body),) = data.items()
    return coding.from_json(_KINDS[kind], body, kind)


def read(path: Path) -> Reading:
    """Return what the file at `path` holds; a last line that was cut off is dropped, with a warning.

    Records of a configuration of the plan hold the very object that the plan holds.

    Raises:
        BadInputError: it is no stored run, or a line in it breaks a rule.
    """
    require_file(path)
    with garbage_collection_paused():
        return _read(path)


def _read(path: Path) -> Reading:
    lines = _lines(path)
    first = _first(path, lines)
    header = _read_header(path, first)
    ledger = Ledger(header.plan)
    read_canonical = _canonical_trial_reader(header.plan)
    records: list[TrialRecord] = []
    footer: Footer | None = None
    warnings: tuple[str, ...] = ()
    end = first.end
    for line in lines:
        try:
            item = _read_line(line, ledger, read_canonical)
        except BadInputError as error:
            raise BadInputError(
                f"{path}, line {line.number}: {error}; restore the file from a copy, or delete this line and run what "
                "is missing with --resume"
            ) from error
        if item is None:
            warnings = (f"line {line.number}, the last, was cut off: its {len(line.text)} bytes are dropped",)
            break
        footer = item if isinstance(item, Footer) else None
        if isinstance(item, TrialRecord):
            records.append(item)
        end = line.end
    return Reading(Run(header=header, records=tuple(records), footer=footer, warnings=warnings), end, ledger)


def peek(path: Path) -> dict[str, Any]:
    """Return the JSON of the header at `path`, unchecked but for being an object; the rest is not read.

    Raises:
        BadInputError: there is none.
    """
    require_file(path)
    return _header_body(path, _first(path, _lines(path)))


def require_file(path: Path) -> None:
    """Refuse what cannot be a stored run before anything is opened: opening a pipe would wait for ever.

    Raises:
        BadInputError: `path` is not an ordinary file.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise _no_run(path, f"it cannot be opened: {reason}") from error
    if not stat.S_ISREG(mode):
        raise _no_run(path, "it is a directory" if stat.S_ISDIR(mode) else "it is not an ordinary file")


class _Line(NamedTuple):
    number: int
    text: bytes
    end: int
    is_last: bool


def _lines(path: Path) -> Iterator[_Line]:
    number = end = 0
    try:
        with path.open("rb", buffering=_BUFFER_BYTES) as file:
            text = file.readline(MAX_LINE_BYTES + 1)
            while text:
                number += 1
                end += len(text)
                if len(text) > MAX_LINE_BYTES:
                    raise _no_run(path, f"line {number} is longer than {MAX_LINE_BYTES} bytes")
                following = file.readline(MAX_LINE_BYTES + 1)
                yield _Line(number, text, end, is_last=not following)
                text = following
    except OSError as error:
        raise _no_run(path, f"it cannot be read: {error.strerror}") from error


def _first(path: Path, lines: Iterator[_Line]) -> _Line:
    line = next(lines, None)
    if line is None:
        raise _no_run(path, "it is empty")
    if not line.text.endswith(b"\n"):
        raise _no_run(path, "its first line is cut off, or is not a header")
    return line


def _read_header(path: Path, line: _Line) -> Header:
    body = _header_body(path, line)
    version = body.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        raise BadInputError(
            f"{path} has schema version {version}, and this bench reads versions up to {SCHEMA_VERSION}: upgrade bench"
        )
    # Older versions need no migration so far, see `SCHEMA_VERSION`.
    if type(version) is not int or version < 1:
        raise _no_run(path, f"its schema_version is {version!r}, and versions are whole numbers from 1")
    try:
        return coding.from_json(Header, body, "header")
    except BadInputError as error:
        raise BadInputError(f"{path}, line 1: {error}; restore the file from a copy") from error


def _header_body(path: Path, line: _Line) -> dict[str, Any]:
    try:
        data = coding.loads(line.text)
    except BadInputError as error:
        raise _no_run(path, f"its first line is {error}") from error
    if not isinstance(data, dict) or list(data) != ["header"] or not isinstance(data["header"], dict):
        raise _no_run(path, "its first line is not a header")
    return data["header"]


def _canonical_trial_reader(plan: Plan) -> Callable[[bytes], TrialRecord | None]:
    """Return a fast `decode` for trials of `plan` as `encode` writes them; it returns None for every other line."""
    known = {coding.dumps(configuration): configuration for configuration in plan.configurations}
    reader = CanonicalReader(TrialRecord, {Configuration: known, Settings: {}})

    def read_canonical(line: bytes) -> TrialRecord | None:
        if not (line.startswith(_TRIAL_START) and line.endswith(_TRIAL_END) and line.isascii()):
            return None
        return reader.read(line[len(_TRIAL_START) : -len(_TRIAL_END)].decode("ascii"))

    return read_canonical


def _read_line(
    line: _Line, ledger: Ledger, read_canonical: Callable[[bytes], TrialRecord | None]
) -> TrialRecord | Footer | None:
    """Return what `line` holds; None when it is the last and was cut off."""
    if not line.text.endswith(b"\n"):
        return None
    try:
        item = read_canonical(line.text) or decode(line.text)
    except BadInputError as error:
        # A crashed file system may end a file anywhere in any way: but not with JSON that breaks only our rules.
        if line.is_last and isinstance(error.__cause__, json.JSONDecodeError | UnicodeDecodeError):
            return None
        raise
    if isinstance(item, Header):
        raise BadInputError("a second header, and a run has one: two runs were put into one file")
    if isinstance(item, TrialRecord):
        ledger.admit(item)
    return item


def _no_run(path: Path, reason: str) -> BadInputError:
    return BadInputError(f"{path} is not a stored run: {reason}; name a file that `python -m bench run` wrote")
