"""The format of a stored run: its kinds of lines, the rules for each, and how such a file is read.

Every line is an object with exactly one member, which names its kind: first the header, then trials, then a footer. A
resumed run continues with more trials and another footer. If trials ran on another machine or with other software than
the header says, a fingerprint line precedes the first of them. docs/results-format.schema.json describes the format.
"""

import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from bench import coding
from bench.errors import BadInputError
from bench.records import (
    SCHEMA_VERSION,
    Configuration,
    Fingerprint,
    Footer,
    Header,
    Run,
    Settings,
    TrialRecord,
)
from bench.storage.canonical import CanonicalReader, Shared
from bench.storage.ledger import Ledger, require_possible_machine
from bench.system.collection import garbage_collection_paused

MAX_LINE_BYTES: Final = 2**26
"""64 MiB, enough for a header with over 100 000 configurations of usual models. No stored run has a longer line."""

_BUFFER_BYTES: Final = 2**20
"""A few hundred lines: with the usual 8 KiB, system calls are half the cost of reading."""

Record = TypeVar("Record", Header, TrialRecord)

Item = Header | Fingerprint | TrialRecord | Footer
"""The content of one line."""

_FOOTER_START: Final = b'{"footer":'
_FOOTER_BYTES: Final = 4096
"""A footer is far shorter."""

_KINDS: Final[dict[str, type[Item]]] = {
    "header": Header,
    "fingerprint": Fingerprint,
    "trial": TrialRecord,
    "footer": Footer,
}
_NAMES: Final = {type_: kind for kind, type_ in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Reading:
    """A run that was read, the byte at which its last valid line ends, and the ledger of its trials."""

    run: Run
    end: int
    ledger: Ledger


def encode(item: Item) -> bytes:
    """Return the line for `item`, newline included.

    Raises:
        BadInputError: it could not be read back, because a number in it is not finite or has a wrong type or size, or
            because the line would be too long.
    """
    kind = _NAMES[type(item)]
    try:
        line = _line_of(item).encode()
    except ValueError as error:
        raise BadInputError(f"a {kind} cannot be stored: {error}; every number in it must be finite") from error
    if decode(line) != item:
        raise BadInputError(f"a {kind} cannot be stored: it would be read back as a different value")
    return line


def lines_of(run: Run) -> Iterator[str]:
    """Yield the lines of `run`, whose records were read from files and so need no check that they can be stored.

    Raises:
        BadInputError: a line would be too long: the plans of several runs together can be.
    """
    items: tuple[Item | None, ...] = (run.header, *run.other_fingerprints, *run.records, run.footer)
    yield from (_line_of(item) for item in items if item is not None)


def _line_of(item: Item) -> str:
    """Return the line for `item`, newline included; it is ASCII."""
    kind = _NAMES[type(item)]
    line = coding.dumps({kind: coding.to_json(item)}) + "\n"
    if len(line) > MAX_LINE_BYTES:
        raise BadInputError(
            f"a {kind} of {len(line)} bytes cannot be stored, because no line may exceed {MAX_LINE_BYTES}: divide the "
            "plan into runs with fewer configurations"
        )
    return line


def decode(line: bytes) -> Item:
    """Return the content of `line`.

    Raises:
        BadInputError: it is not one of the kinds of lines, or a member in it does not match the record types.
    """
    data = coding.loads(line)
    if not isinstance(data, dict) or len(data) != 1 or not _KINDS.keys() >= data.keys():
        raise BadInputError(f"a line must be an object with one member, one of {', '.join(_KINDS)}")
    ((kind, body),) = data.items()
    return coding.from_json(_KINDS[kind], body, kind)


def read(path: Path) -> Reading:
    """Return the contents of the file at `path`; a last line that was cut off is dropped, with a warning.

    Records share the plan's configuration objects.

    Raises:
        BadInputError: it is not a stored run, or a line in it breaks a rule.
    """
    with garbage_collection_paused():
        return _read(path)


def _read(path: Path) -> Reading:
    lines = _lines(path)
    first = _first(path, lines)
    header, configurations = _read_plan(path, first)
    ledger = Ledger(header)
    read_canonical = _canonical_reader("trial", TrialRecord, {Configuration: configurations, Settings: {}})
    records: list[TrialRecord] = []
    footer: Footer | None = None
    warnings: tuple[str, ...] = ()
    end = first.end
    for line in lines:
        try:
            item = _read_line(line, ledger, read_canonical)
        except BadInputError as error:
            raise BadInputError(
                f"{path}, line {line.number}: {error}; restore the file from a copy, or delete this line and run the "
                "missing trials with --resume"
            ) from error
        if item is None:
            warnings = (f"line {line.number}, the last one, was cut off: its {len(line.text)} bytes are dropped",)
            break
        footer = item if isinstance(item, Footer) else None
        if isinstance(item, TrialRecord):
            records.append(item)
        end = line.end
    run = Run(
        header=header,
        records=tuple(records),
        footer=footer,
        warnings=warnings,
        other_fingerprints=tuple(ledger.fingerprints[1:]),
    )
    return Reading(run, end, ledger)


def peek(path: Path) -> dict[str, Any]:
    """Return the header at `path` as JSON, checking only that it is an object; the rest is not read.

    Raises:
        BadInputError: there is no header.
    """
    return _header_body(path, _first(path, _lines(path)))


def skim(path: Path) -> tuple[Header, Footer | None]:
    """Return the header at `path`, and its footer, or None if the last line is not a footer.

    The lines in between are not read.

    Raises:
        BadInputError: it is not a stored run, or one of a later version.
    """
    header = _read_header(path, _first(path, _lines(path)))
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _FOOTER_BYTES))
            last = file.read().splitlines(keepends=True)[-1]
    except OSError as error:
        raise _no_run(path, f"it cannot be read: {error.strerror}") from error
    if not (last.startswith(_FOOTER_START) and last.endswith(b"\n")):
        return header, None
    try:
        item = decode(last)
    except BadInputError as error:
        raise _no_run(path, f"its last line is damaged: {error}") from error
    return header, item if isinstance(item, Footer) else None


def require_file(path: Path) -> None:
    """Check that `path` is an ordinary file before it is opened: opening a pipe would wait for ever.

    Raises:
        BadInputError: it is not.
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
    require_file(path)
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
            f"{path} has schema version {version}, but this bench reads versions up to {SCHEMA_VERSION}: upgrade bench"
        )
    # Older versions need no migration so far, see `SCHEMA_VERSION`.
    if type(version) is not int or version < 1:
        raise _no_run(path, f"its schema_version is {version!r}, but versions are whole numbers from 1")
    try:
        header = coding.from_json(Header, body, "header")
    except BadInputError as error:
        raise _damaged_header(path, error) from error
    _require_sound(path, header)
    return header


def _read_plan(path: Path, line: _Line) -> tuple[Header, dict[str, object]]:
    """Return the header, and its plan's configurations by their JSON text, which speeds up reading large plans."""
    texts: dict[str, object] = {}
    header = _canonical_reader("header", Header, {Configuration: texts})(line.text)
    if header is None or header.schema_version != SCHEMA_VERSION:
        header = _read_header(path, line)
        return header, {coding.dumps(configuration): configuration for configuration in header.plan.configurations}
    _require_sound(path, header)
    return header, texts


def _require_sound(path: Path, header: Header) -> None:
    """Refuse a machine that cannot be, an empty plan, models without layers, and an impossible division."""
    try:
        require_possible_machine(header.machine)
    except BadInputError as error:
        raise _damaged_header(path, error) from error
    division, configurations = header.division, len(header.plan.configurations)
    if not configurations:
        raise _damaged_header(path, "header.plan has no configurations")
    if any(len(configuration.layers) < 2 for configuration in header.plan.configurations):  # noqa: PLR2004 - in and out
        raise _damaged_header(path, "header.plan has a configuration with fewer than two layers")
    if division is None:
        return
    numbers = [shard.number for shard in division.held]
    if not numbers or numbers != sorted(set(numbers)) or not 1 <= numbers[0] <= numbers[-1] <= division.shards:
        rule = f"header.division has shards {numbers}, but they must ascend within 1 to {division.shards}"
        raise _damaged_header(path, rule)
    parts = [shard.configurations for shard in division.held]
    if min(parts) < 0 or sum(parts) != configurations or division.configurations < configurations:
        whole = division.configurations
        rule = f"header.division has {parts} of {whole} configurations, but the plan has {configurations}"
        raise _damaged_header(path, rule)


def _damaged_header(path: Path, problem: object) -> BadInputError:
    return BadInputError(f"{path}, line 1: {problem}; restore the file from a copy")


def _header_body(path: Path, line: _Line) -> dict[str, Any]:
    try:
        data = coding.loads(line.text)
    except BadInputError as error:
        raise _no_run(path, f"its first line is {error}") from error
    if not isinstance(data, dict) or list(data) != ["header"] or not isinstance(data["header"], dict):
        raise _no_run(path, "its first line is not a header")
    return data["header"]


def _canonical_reader(name: str, kind: type[Record], shared: Shared) -> Callable[[bytes], Record | None]:
    """Return a fast `decode` for lines of a `kind` exactly as `encode` writes them; for any other it returns None."""
    reader = CanonicalReader(kind, shared)
    start, end = f'{{"{name}":'.encode(), b"}\n"

    def read_canonical(line: bytes) -> Record | None:
        if not (line.startswith(start) and line.endswith(end) and line.isascii()):
            return None
        return reader.read(line[len(start) : -len(end)].decode("ascii"))

    return read_canonical


def _read_line(
    line: _Line, ledger: Ledger, read_canonical: Callable[[bytes], TrialRecord | None]
) -> Fingerprint | TrialRecord | Footer | None:
    """Return the content of `line`; None if it is the last one and was cut off."""
    if not line.text.endswith(b"\n"):
        return None
    try:
        item = read_canonical(line.text) or decode(line.text)
    except BadInputError as error:
        # After a crash a file may end in any bytes, but not in valid JSON that only breaks this format's rules.
        if line.is_last and isinstance(error.__cause__, json.JSONDecodeError | UnicodeDecodeError):
            return None
        raise
    if isinstance(item, Header):
        raise BadInputError("a second header, but a run has only one: two runs were put into one file")
    if isinstance(item, TrialRecord):
        return ledger.admit(item)
    if isinstance(item, Fingerprint):
        ledger.add_fingerprint(item)
    return item


def _no_run(path: Path, reason: str) -> BadInputError:
    return BadInputError(f"{path} is not a stored run: {reason}; name a file that `python -m bench run` wrote")
