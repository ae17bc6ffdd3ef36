"""Tables and notes as text: aligned columns for a terminal, Markdown, CSV.

A `layout` is ``table`` (for a terminal, as wide as `width` characters) or ``markdown``.
"""

import csv
import io
import itertools
import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar

from bench.storage.table import Value
from bench.tables.columns import EXPORTED_CHARACTERS, harmless

T = TypeVar("T")

Format: TypeAlias = Literal["table", "markdown", "csv", "json"]

_MARKDOWN_SPECIAL: Final = re.compile(r"([\\|<\[\]*`&~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")

GAP: Final = "  "
"""Between the columns of a text table."""

_ALIKE: Final = 3
"""Lines that say the same of different configurations; further ones are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordTable:
    """A table as text cells, for any layout: `numeric` says which columns are numbers; the notes go below it."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    notes: Sequence[str] = ()


def text_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], width: int | None = None
) -> str:
    """Return a table of at least one row with a rule under its headers; `numeric` columns are aligned right.

    A header is broken into lines no wider than the cells below it. If the table is wider than `width`, the cells of its
    widest columns are broken too, but never within a word or between a number and its unit.
    """
    cells = list(zip(*rows, strict=True))
    if width is not None and text_table_width(headers, cells) > width:
        rows = _broken_rows(headers, rows, width)
        cells = list(zip(*rows, strict=True))
    broken = [_narrow(header, column) for header, column in zip(headers, cells, strict=True)]
    height = max(map(len, broken))
    # Headers are aligned at the bottom, as in print.
    above = list(zip(*([""] * (height - len(lines)) + lines for lines in broken), strict=True))
    widths = [max(map(len, (*lines, *column))) for lines, column in zip(broken, cells, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(GAP.join(row).rstrip() for row in _padded([*above, rule, *rows], widths, numeric))


def text_table_width(headers: Sequence[str], columns: Sequence[Sequence[str]]) -> int:
    """Return how many characters wide `text_table` draws these columns, without drawing them."""
    widths = [
        max(map(len, (*_narrow(header, column), *column))) for header, column in zip(headers, columns, strict=True)
    ]
    return sum(widths) + len(GAP) * (len(widths) - 1)


def fitting(columns: Mapping[str, tuple[str, Sequence[str]]], drop_order: Iterable[str], width: int) -> list[str]:
    """Return the keys of the `columns` (header and cells) that fit into a text table of `width` characters.

    Columns are dropped one after the other in `drop_order` until the rest fits.
    """
    kept = list(columns)
    for key in drop_order:
        headers, cells = zip(*(columns[each] for each in kept), strict=True)
        if text_table_width(headers, cells) <= width:
            break
        kept = [each for each in kept if each != key]
    return kept


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Return a Markdown table of at least one row, with its texts escaped."""
    escaped = [[escape(cell) for cell in row] for row in (headers, *rows)]
    # Two more than a header needs, as tabulate does: the tables in the docs look the same.
    widths = [max(len(header) + 2, *map(len, column)) for header, *column in zip(*escaped, strict=True)]
    rule = [
        f"{'-' * (width + 1)}:" if right else f":{'-' * (width + 1)}"
        for width, right in zip(widths, numeric, strict=True)
    ]
    lines = [f"| {' | '.join(row)} |" for row in _padded(escaped, widths, numeric)]
    return "\n".join((lines[0], f"|{'|'.join(rule)}|", *lines[1:]))


def escape(text: str) -> str:
    """Return `text` with a backslash before every character that Markdown would treat as markup."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", text)


def wrap(lines: Iterable[str], width: int) -> str:
    """Return `lines`, each broken between words to fit `width` characters, with continuation lines indented."""
    fill = textwrap.TextWrapper(
        width=max(width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    ).fill
    return "\n".join(map(fill, lines))


def json_text(document: object) -> str:
    """Return indented JSON without a final line break; NaN and infinity are refused."""
    return json.dumps(document, allow_nan=False, indent=2)


def range_text(low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    """Return an interval as ``1.20 s to 1.30 s``, empty if a bound is unknown."""
    return "" if low is None or high is None else f"{text(low)} to {text(high)}"


def csv_text(keys: Iterable[str], rows: Iterable[Mapping[str, Value]]) -> str:
    """Return CSV without a final line break, one column per key; None is empty, and texts are made harmless."""
    columns = list(keys)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row[key]) for key in columns] for row in rows)
    return text.getvalue().removesuffix("\n")


def _csv_cell(value: Value) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    return harmless(value, EXPORTED_CHARACTERS) if isinstance(value, str) else value


_BREAK: Final = re.compile(r"(?<!\d) | (?=[±(])")
"""Spaces at which a cell may be broken: not between a number and its unit."""


def _broken_rows(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[tuple[str, ...]]:
    """Return `rows` with the cells of the widest columns broken into further rows until they fit `width`."""
    columns = [[_BREAK.sub("\n", cell).split("\n") for cell in column] for column in zip(*rows, strict=True)]
    words = [[word for cell in column for word in cell] for column in columns]
    least = [max(map(len, (*each, *header.split()))) for header, each in zip(headers, words, strict=True)]
    natural = [max(len(" ".join(cell)) for cell in column) for column in columns]
    limits = list(map(max, least, natural))
    over = sum(limits) + len(GAP) * (len(limits) - 1) - width
    while over > 0 and limits != least:
        widest = max(range(len(limits)), key=lambda i: limits[i] if limits[i] > least[i] else 0)
        limits[widest] -= 1
        over -= 1
    filled = [[_filled(cell, limit) for cell in column] for column, limit in zip(columns, limits, strict=True)]
    return [line for row in zip(*filled, strict=True) for line in itertools.zip_longest(*row, fillvalue="")]


def _filled(words: Sequence[str], width: int) -> list[str]:
    """Return `words` as lines of at most `width` characters where possible."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _narrow(header: str, cells: Sequence[str]) -> list[str]:
    """Return `header` as lines that are no wider than the cells below it, where its words allow that."""
    return textwrap.wrap(header, max(map(len, (*cells, *header.split()))), break_long_words=False)


def _padded(rows: Sequence[Sequence[str]], widths: Sequence[int], numeric: Sequence[bool]) -> Iterator[tuple[str, ...]]:
    """Yield `rows` with every cell padded to its column's width: column by column, because tables can be very long."""
    columns = zip(*rows, strict=True)
    yield from zip(
        *(
            [cell.rjust(width) if right else cell.ljust(width) for cell in column]
            for column, width, right in zip(columns, widths, numeric, strict=True)
        ),
        strict=True,
    )


def draw_heading(lines: Iterable[str], layout: str, width: int) -> str:
    """Return the `lines` above a table."""
    return wrap(lines, width) if layout == "table" else "  \n".join(map(escape, lines))


def draw_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], layout: str, width: int
) -> str:
    """Return a table of at least one row."""
    if layout == "table":
        return text_table(headers, rows, numeric, width)
    return markdown_table(headers, rows, numeric)


def draw_notes(lines: Iterable[str], layout: str, width: int) -> str:
    """Return the `lines` below a table."""
    return wrap(lines, width) if layout == "table" else markdown_notes(lines)


def markdown_notes(lines: Iterable[str]) -> str:
    """Return `lines` as a Markdown list, with their texts escaped."""
    return "\n".join(f"- {escape(line)}" for line in lines)


def shortened(items: Sequence[T], kind: Callable[[T], Hashable]) -> Iterator[tuple[T, int]]:
    """Yield the `items` to list, each with the number that it stands for.

    Of many of one kind the first few stand for themselves, and the next one for the rest. An item whose kind is None is
    always listed.
    """
    left = Counter(map(kind, items))
    listed = Counter[Hashable]()
    for item in items:
        of = kind(item)
        if of is None or listed[of] < _ALIKE:
            yield item, 1
            left[of] -= 1
        elif listed[of] == _ALIKE:
            yield item, left[of]
        listed[of] += 1


def left_out_note(columns: Collection[str], instead: str = "use --format csv") -> Iterator[str]:
    """Yield the note that `columns` did not fit; nothing if there are none."""
    if columns:
        yield f"left out for lack of space: {', '.join(columns)}; widen the terminal or {instead}"


def draw_word_tables(above: Iterable[str], tables: Iterable[WordTable], layout: str, width: int) -> str:
    """Return the lines `above`, then each table with its title above and its notes below."""
    parts = [draw_heading(above, layout, width)]
    for table in tables:
        parts += (
            draw_heading([table.title], layout, width),
            draw_table(table.headers, table.rows, table.numeric, layout, width),
            draw_notes(table.notes, layout, width),
        )
    return "\n\n".join(parts)
