"""Reports for tests: runs to report, and a parsed page to ask for its elements, tables and text."""

from collections.abc import Sequence
from html.parser import HTMLParser

from bench_builders import (
    Change,
    make_configuration,
)
from stored_runs import side

from bench.records import Run
from bench.report.contents import Report, Stored, make_report
from bench.report.page import render_page

VOID = frozenset({"meta", "input", "link", "br", "img"})


class Page(HTMLParser):
    """What the tests ask of a page: its elements in order, its tables' cells, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[tuple[str, dict[str, str]]]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag == "path" or tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append(("", attributes))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            text, attributes = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (text + data, attributes)

    def find(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def words(self, table: int) -> list[list[str]]:
        return [[text for text, _ in row] for row in self.tables[table]]

    def has_table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
        wanted = [list(headers), *map(list, rows)]
        return any(self.words(place) == wanted for place in range(len(self.tables)))


def report(*runs: Run) -> Report:
    return make_report([Stored(label="", run=run) for run in runs])


def page(*runs: Run) -> Page:
    html = render_page(report(*runs))
    found = Page(html)
    assert found.open == []  # every element is closed
    return found


def varied(batch_sizes: Sequence[int] = (64, 256), widths: Sequence[int] = (128, 512), **changes: Change) -> Run:
    chosen = [
        make_configuration(model=f"784-{width}-10", layers=(784, width, 10), batch_size=batch_size, **changes)
        for width in widths
        for batch_size in batch_sizes
    ]
    return side({each: 100.0 / each.batch_size + 1 for each in chosen}, repeats=3)
