"""Tables and paragraphs as text: columns aligned for a terminal, Markdown, CSV."""

import csv
import io
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.tables.columns import harmless
from bench.tables.fields import Value

_MARKDOWN_SPECIAL: Final = re.compile(r"([\\|<\[\]*`&~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_EXPORTED_CHARACTERS: Final = 10_000
"""CSV keeps texts in full as far as any sane one goes."""


_GAP: Final = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class WordTable:
    """A table as words, to be drawn by any layout: which columns are numbers, and the notes that belong below it."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    notes: Sequence[str] = ()


def text_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], width: int | None = None
) -> str:
    """Return a table of at least one row with a rule under its headers; columns that are `numeric` end flush right.

    A header takes as many lines as make it no wider than the cells below it. Where `width` is given and the table is
    wider, so do the cells of its widest columns, as far as words and numbers with their units can be kept whole.
    """
    cells = list(zip(*rows, strict=True))
    if width is not None and text_table_width(headers, cells) > width:
        rows = _broken_rows(headers, rows, width)
        cells = list(zip(*rows, strict=True))
    broken = [_narrow(header, column) for header, column in zip(headers, cells, strict=True)]
    height = max(map(len, broken))
    # Headers of fewer lines than their neighbours stand on the rule, as in print.
    above = list(zip(*([""] * (height - len(lines)) + lines for lines in broken), strict=True))
    widths = [max(map(len, (*lines, *column))) for lines, column in zip(broken, cells, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(_GAP.join(row).rstrip() for row in _padded([*above, rule, *rows], widths, numeric))


def text_table_width(headers: Sequence[str], columns: Sequence[Sequence[str]]) -> int:
    """Return how many characters wide `text_table` draws these columns, without drawing them."""
    widths = [
        max(map(len, (*_narrow(header, column), *column))) for header, column in zip(headers, columns, strict=True)
    ]
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def fitting(columns: Mapping[str, tuple[str, Sequence[str]]], drop_order: Iterable[str], width: int) -> list[str]:
    """Return the keys of the `columns`, headers with cells, that a text table of `width` characters has room for.

    Where it has none for all, those of `drop_order` go, one after the other.
    """
    kept = list(columns)
    for key in drop_order:
        headers, cells = zip(*(columns[each] for each in kept), strict=True)
        if text_table_width(headers, cells) <= width:
            break
        kept = [each for each in kept if each != key]
    return kept


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Return a Markdown table of at least one row, its texts escaped."""
    escaped = [[escape(cell) for cell in row] for row in (headers, *rows)]
    # Two more than a header needs, as tabulate has it, whose tables stand in the docs.
    widths = [max(len(header) + 2, *map(len, column)) for header, *column in zip(*escaped, strict=True)]
    rule = [
        f"{'-' * (width + 1)}:" if right else f":{'-' * (width + 1)}"
        for width, right in zip(widths, numeric, strict=True)
    ]
    lines = [f"| {' | '.join(row)} |" for row in _padded(escaped, widths, numeric)]
    return "\n".join((lines[0], f"|{'|'.join(rule)}|", *lines[1:]))


def escape(text: str) -> str:
    """Return `text` with a backslash before whatever Markdown would take for more than text."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", text)


def wrap(lines: Iterable[str], width: int) -> str:
    """Return `lines`, each broken between words to fit `width` characters, its further lines set in."""
    fill = textwrap.TextWrapper(
        width=max(width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    ).fill
    return "\n".join(map(fill, lines))


def csv_text(keys: Iterable[str], rows: Iterable[Mapping[str, Value]]) -> str:
    """Return CSV without a final line break, with a column a key; what is None is empty, and texts are harmless."""
    columns = list(keys)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row[key]) for key in columns] for row in rows)
    return text.getvalue().removesuffix("\n")


def _csv_cell(value: Value) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str) or (value.isprintable() and len(value) <= _EXPORTED_CHARACTERS):
        return value  # at once: an export holds millions of cells, and printable texts are harmless
    return harmless(value, _EXPORTED_CHARACTERS)


_BREAK: Final = re.compile(r"(?<!\d) | (?=[±(])")
"""Blanks at which a cell may be broken: not between a number and its unit."""


def _broken_rows(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[tuple[str, ...]]:
    """Return `rows` with cells broken into further rows, the widest columns first, until they fit `width`."""
    columns = [[_BREAK.sub("\n", cell).split("\n") for cell in column] for column in zip(*rows, strict=True)]
    words = [[word for cell in column for word in cell] for column in columns]
    least = [max(map(len, (*each, *header.split()))) for header, each in zip(headers, words, strict=True)]
    natural = [max(len(" ".join(cell)) for cell in column) for column in columns]
    limits = list(map(max, least, natural))
    over = sum(limits) + len(_GAP) * (len(limits) - 1) - width
    while over > 0 and limits != least:
        widest = max(range(len(limits)), key=lambda i: limits[i] if limits[i] > least[i] else 0)
        limits[widest] -= 1
        over -= 1
    filled = [[_filled(cell, limit) for cell in column] for column, limit in zip(columns, limits, strict=True)]
    return [line for row in zip(*filled, strict=True) for line in itertools.zip_longest(*row, fillvalue="")]


def _filled(words: Sequence[str], width: int) -> list[str]:
    """Return lines of `words`, each as long as `width` lets it be."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _narrow(header: str, cells: Sequence[str]) -> list[str]:
    """Return `header` on as many lines as it takes to be no wider than the cells below it."""
    return textwrap.wrap(header, max(map(len, (*cells, *header.split()))), break_long_words=False)


def _padded(rows: Sequence[Sequence[str]], widths: Sequence[int], numeric: Sequence[bool]) -> Iterator[tuple[str, ...]]:
    """Yield `rows` with every cell as wide as its column: column by column, as tables can have very many rows."""
    columns = zip(*rows, strict=True)
    yield from zip(
        *(
            [cell.rjust(width) if right else cell.ljust(width) for cell in column]
            for column, width, right in zip(columns, widths, numeric, strict=True)
        ),
        strict=True,
    )


def draw_heading(lines: Iterable[str], layout: str, width: int) -> str:
    """Return `lines` that stand above a table, as ``table`` or ``markdown``."""
    return wrap(lines, width) if layout == "table" else "  \n".join(map(escape, lines))


def draw_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], layout: str, width: int
) -> str:
    """Return a table of at least one row, as ``table`` of at most `width` characters if it can be, or ``markdown``."""
    if layout == "table":
        return text_table(headers, rows, numeric, width)
    return markdown_table(headers, rows, numeric)


def draw_notes(lines: Iterable[str], layout: str, width: int) -> str:
    """Return `lines` that stand below a table, as ``table`` or ``markdown``."""
    return wrap(lines, width) if layout == "table" else "\n".join(f"- {escape(line)}" for line in lines)


def draw_word_tables(above: Iterable[str], tables: Iterable[WordTable], layout: str, width: int) -> str:
    """Return lines `above`, then each table between its title and its notes, as ``table`` or ``markdown``."""
    parts = [draw_heading(above, layout, width)]
    for table in tables:
        parts += (
            draw_heading([table.title], layout, width),
            draw_table(table.headers, table.rows, table.numeric, layout, width),
            draw_notes(table.notes, layout, width),
        )
    return "\n\n".join(parts)
