"""A list of the stored runs in every format: one row per run, the newest first.

Only header and footer of a run are read, unless it has no footer, so that thousands are listed in no time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bench.errors import BadInputError
from bench.records import Footer, Header, Measurement
from bench.storage import runfile
from bench.storage.references import find_files, parse_instant
from bench.tables.columns import harmless
from bench.tables.layout import Format, csv_text, draw_notes, draw_table, fitting, json_text, left_out_note

UNFINISHED: Final = "unfinished"
"""The state of a run without a footer."""

UNREADABLE: Final = "unreadable"
"""The state of a file that is not a stored run, or one of a later version."""

_MAX_CHARACTERS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A file under the results. `state` is its footer's reason, `UNFINISHED` or `UNREADABLE`.

    `machine` is that of its header, `shards` says which parts of a larger plan it holds (``2 of 3``). `problem` says
    why a file is unreadable, and all other members are then None; otherwise it is empty.
    """

    path: str
    state: str
    problem: str = ""
    run_id: str | None = None
    name: str | None = None
    created_at: str | None = None
    machine: str | None = None
    devices: tuple[str, ...] | None = None
    shards: str | None = None
    planned: int | None = None
    measured: int | None = None
    failed: int | None = None


def list_runs(directory: Path) -> tuple[StoredRun, ...]:
    """Return every stored run under `directory`, however deep, the newest first, and unreadable files last."""
    found = [_look(path) for path in sorted(find_files(directory))]
    instants = {run.path: parse_instant(run.created_at) for run in found}
    dated = [(instant, run) for run in found if (instant := instants[run.path]) is not None]
    dated.sort(key=lambda each: each[0], reverse=True)
    return (*(run for _, run in dated), *(run for run in found if instants[run.path] is None))


def _look(path: Path) -> StoredRun:
    try:
        header, footer = runfile.skim(path)
        if footer is None:
            return _counted(path, header)
    except BadInputError as error:
        return StoredRun(path=str(path), state=UNREADABLE, problem=str(error))
    return _stored(path, header, footer, (footer.measured, footer.failed))


def _counted(path: Path, header: Header) -> StoredRun:
    run = runfile.read(path).run
    measured = sum(isinstance(record.outcome, Measurement) for record in run.records)
    return _stored(path, header, run.footer, (measured, len(run.records) - measured))


def _stored(path: Path, header: Header, footer: Footer | None, counts: tuple[int, int]) -> StoredRun:
    configurations = header.plan.configurations
    return StoredRun(
        path=str(path),
        state=UNFINISHED if footer is None else footer.reason,
        run_id=header.run_id,
        name=header.name,
        created_at=header.created_at,
        machine=header.machine.id,
        devices=tuple(dict.fromkeys(configuration.device for configuration in configurations)),
        shards=_shards(header),
        planned=header.plan.trial_count,
        measured=counts[0],
        failed=counts[1],
    )


def _shards(header: Header) -> str | None:
    if header.division is None:
        return None
    return f"{','.join(str(shard.number) for shard in header.division.held)} of {header.division.shards}"


def render_list(runs: Sequence[StoredRun], layout: Format, width: int, directory: Path) -> str:
    """Return `runs`, found under `directory`, without a final line break; a table with the columns that fit."""
    if layout == "json":
        return json_text([asdict(run) for run in runs])
    if layout == "csv":
        rows = [{**asdict(run), "devices": None if run.devices is None else " ".join(run.devices)} for run in runs]
        return csv_text(StoredRun.__slots__, rows)
    listed = [run for run in runs if run.state != UNREADABLE]
    columns = {
        key: (key, [cell(run) for run in listed])
        for key, cell in _COLUMNS.items()
        if key != "shards" or any(run.shards for run in listed)
    }
    kept = fitting(columns, _DROP_ORDER, width) if layout == "table" and listed else list(columns)
    cells = list(zip(*(columns[key][1] for key in kept), strict=True))
    table = draw_table(kept, cells, [False] * len(kept), layout, width) if cells else ""
    notes = _notes(runs, directory, [key for key in columns if key not in kept])
    return "\n\n".join(filter(None, (table, draw_notes(notes, layout, width))))


def _trials(run: StoredRun) -> str:
    failed = f", {run.failed} failed" if run.failed else ""
    return f"{(run.measured or 0) + (run.failed or 0)} of {run.planned}{failed}"


_COLUMNS: Final[Mapping[str, Callable[[StoredRun], str]]] = MappingProxyType(
    {
        "run": lambda run: harmless(run.run_id or "", _MAX_CHARACTERS),
        "name": lambda run: harmless(run.name or "", _MAX_CHARACTERS),
        "created (UTC)": lambda run: f"{instant:%Y-%m-%d %H:%M}" if (instant := parse_instant(run.created_at)) else "",
        "machine": lambda run: harmless(run.machine or "", _MAX_CHARACTERS),
        "devices": lambda run: harmless(" ".join(run.devices or ()), _MAX_CHARACTERS),
        "shards": lambda run: run.shards or "",
        "trials": _trials,
        "state": lambda run: harmless(run.state, _MAX_CHARACTERS),
    }
)
"""Headers and cells of a table. Shards have a column only if there are any."""

_DROP_ORDER: Final = ("machine", "devices", "name")
"""Columns that are left out on a narrow terminal, the first one first."""


def _notes(runs: Sequence[StoredRun], directory: Path, dropped: Sequence[str]) -> list[str]:
    if not runs:
        return [f"there is no stored run under {directory}: make one with `python -m bench run`"]
    notes = list(left_out_note(dropped))
    if any(run.state == UNFINISHED for run in runs):
        notes.append(f"{UNFINISHED}: still running, or killed; python -m bench run --resume completes it")
    notes += [f"{UNREADABLE}: {harmless(run.problem, 400)}" for run in runs if run.state == UNREADABLE]
    return notes
