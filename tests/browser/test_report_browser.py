"""The report in a browser: it loads without an error or a request, sorts, filters, draws, and shows what was stored.

Needs Chromium, its driver and selenium (`nox -s browser`); where they are missing, the tests are skipped, unless
BENCH_BROWSER says that they must not be.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkout import REFERENCE

from bench.report.contents import Stored, make_report
from bench.report.page import render_page
from bench.storage.store import read_run
from bench.tables.show import render_run

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

PRINTED = {"width": 1031, "height": 703, "deviceScaleFactor": 1, "mobile": False}
"""An A4 page in landscape without its margins, in pixels."""

# Any: selenium is not there where types are checked.
Driver = Any


def missing(reason: str) -> None:
    if os.environ.get("BENCH_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    try:
        from selenium import webdriver  # noqa: PLC0415 - only the session `browser` has it
        from selenium.webdriver.chrome.service import Service  # noqa: PLC0415 - only the session browser has it
    except ImportError:
        missing("selenium is not installed")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None or shutil.which("chromedriver") is None:
        missing("no Chromium with its driver is installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    runs = [read_run(REFERENCE / name) for name in ("scaling.jsonl", "quick.jsonl")]
    path.write_text(render_page(make_report([Stored(label="", run=run) for run in runs])), encoding="utf-8")
    return path


@pytest.fixture
def opened(driver: Driver, page: Path) -> Driver:
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)  # what came before is not the page's
    driver.get(page.as_uri())
    return driver


def column(driver: Driver, key: str, table: str = "table-1") -> list[str]:
    """Return what stands in a column's cells, from top to bottom, of the rows that are shown."""
    script = """
        const table = document.getElementById(arguments[0]);
        const place = [...table.tHead.rows[0].cells].findIndex((each) => each.dataset.key === arguments[1]);
        const shown = [...table.tBodies[0].rows].filter((row) => row.checkVisibility());
        return shown.map((row) => row.cells[place].dataset.v ?? row.cells[place].textContent);
    """
    found: list[str] = driver.execute_script(script, table, key)
    return found


def header(driver: Driver, key: str) -> Driver:
    return driver.find_element("css selector", f"#table-1 th[data-key='{key}']")


def type_filter(driver: Driver, text: str) -> None:
    box = driver.find_element("id", "filter-1")
    box.clear()
    box.send_keys(text)


def test_page_loads_without_an_error_and_asks_for_nothing(opened: Driver, page: Path) -> None:
    opened.execute_async_script("setTimeout(arguments[0], 300)")
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert asked <= {page.as_uri()}


def test_numbers_are_those_of_the_stored_run(opened: Driver) -> None:
    rows = json.loads(render_run(read_run(REFERENCE / "scaling.jsonl"), format="json"))["rows"]
    for key, field in (("epoch_seconds", "epoch_seconds_median"), ("test_accuracy", "test_accuracy_median")):
        assert [float(value) for value in column(opened, key)] == [row[field] for row in rows]
    assert column(opened, "model") == [row["model"] for row in rows]


def test_a_header_sorts_up_and_then_down_by_the_raw_values(opened: Driver) -> None:
    before = sorted(float(value) for value in column(opened, "epoch_seconds"))
    button = header(opened, "epoch_seconds").find_element("tag name", "button")
    button.click()
    assert header(opened, "epoch_seconds").get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in column(opened, "epoch_seconds")] == before
    button.send_keys(" ")  # by the keyboard
    assert header(opened, "epoch_seconds").get_attribute("aria-sort") == "descending"
    assert [float(value) for value in column(opened, "epoch_seconds")] == before[::-1]


def test_sorting_texts_orders_their_numbers_and_leaves_what_is_empty_last(opened: Driver) -> None:
    header(opened, "model").find_element("tag name", "button").click()
    assert header(opened, "epoch_seconds").get_attribute("aria-sort") is None
    assert column(opened, "model")[0] == "784-64-10"
    assert column(opened, "model")[-1] == "784-2048-10"
    for _ in range(2):
        header(opened, "seconds_to_97_percent").find_element("tag name", "button").click()
        assert column(opened, "seconds_to_97_percent")[-1] == ""


def test_filter_takes_words_and_conditions(opened: Driver) -> None:
    everything = len(column(opened, "model"))
    type_filter(opened, "fused batch_size>=1024 model=784-64-10")
    assert column(opened, "batch_size") == ["1024", "4096"]
    count = opened.find_element("css selector", "[data-count='table-1']")
    assert count.text == f"2 of {everything} rows"
    type_filter(opened, "fused batch_size >= 1024 model=784-64-10")
    assert column(opened, "batch_size") == ["1024", "4096"]
    type_filter(opened, "no such words")
    assert column(opened, "model") == []
    type_filter(opened, " ")
    assert len(column(opened, "model")) == everything


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("epoch_time<1", "this table has no column epoch_time: use one of device, model"),
        ("batch_size>=", "batch_size>= needs a value"),
        ("batch_size>=abc", "batch_size needs = != < <= > >= and a plain number"),
        ("model>784-1000-10", "model holds text"),
        ("batch_size>=50%", "batch_size needs = != < <= > >= and a plain number"),
        ("batch_size>64,256", "batch_size needs = != < <= > >= and a plain number"),
        ("test_accuracy>=97", "test_accuracy is a fraction: write 0.97 or 97%"),
    ],
)
def test_filter_tells_what_is_wrong_with_a_condition(opened: Driver, condition: str, words: str) -> None:
    everything = len(column(opened, "model"))
    type_filter(opened, condition)
    count = opened.find_element("css selector", "[data-count='table-1']").text
    assert count.startswith(f"{everything} of {everything} rows: ")
    assert words in count


def test_filter_takes_percentages_of_fractions_as_show_does(opened: Driver) -> None:
    type_filter(opened, "test_accuracy>=0.97")
    chosen = column(opened, "test_accuracy")
    assert chosen
    type_filter(opened, "test_accuracy>=97%")
    assert column(opened, "test_accuracy") == chosen
    type_filter(opened, "test_accuracy<200%")
    assert set(chosen) <= set(column(opened, "test_accuracy"))


def test_a_condition_takes_several_values_as_that_of_show_does(opened: Driver) -> None:
    type_filter(opened, "fused batch_size=1024,4096 model=784-64-10,784-none-10")
    assert column(opened, "batch_size") == ["1024", "4096"]
    type_filter(opened, "fused batch_size!=1024,4096 model=784-64-10")
    others = column(opened, "batch_size")
    assert others
    assert not {"1024", "4096"} & set(others)


@pytest.mark.parametrize(
    ("shown", "other"),
    [("epoch_seconds", "epoch_seconds_median"), ("throughput_per_second_median", "throughput_per_second")],
)
def test_a_quantity_and_its_median_are_the_same_in_a_condition(opened: Driver, shown: str, other: str) -> None:
    limit = sorted(map(float, column(opened, shown)))[9]
    for key in (shown, other):
        type_filter(opened, f"{key}<{limit!r}")
        assert len(column(opened, "model")) == 9, key


def test_words_are_looked_for_within_a_cell(opened: Driver) -> None:
    type_filter(opened, "1064")  # the end of a model's name and the batch size beside it
    assert column(opened, "model") == []


def test_print_shows_the_rows_that_a_filter_hides(opened: Driver) -> None:
    type_filter(opened, "batch_size=16")
    hidden = "return [...document.querySelectorAll('#table-1 tbody tr')].filter((row) => row.hidden).length"
    shown = "return [...document.querySelectorAll('#table-1 tbody tr')].filter((row) => row.checkVisibility()).length"
    assert opened.execute_script(hidden)
    few = opened.execute_script(shown)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    everything = opened.execute_script(shown)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert everything == few + opened.execute_script(hidden)


def test_a_long_table_scrolls_below_its_headers_and_is_printed_whole(opened: Driver) -> None:
    measured = """
        const box = document.getElementById("table-1").parentElement;
        box.scrollTop = 500;
        const [head, body] = [box.querySelector("th"), box.querySelector("tbody tr:last-child")];
        return [box.clientHeight < box.scrollHeight, box.tabIndex,
            head.getBoundingClientRect().top - box.getBoundingClientRect().top,
            body.getBoundingClientRect().bottom <= box.getBoundingClientRect().bottom + 1];
    """
    assert opened.execute_script(measured) == [True, 0, pytest.approx(0, abs=1), False]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    is_scrolled, _, _, is_whole = opened.execute_script(measured)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert (is_scrolled, is_whole) == (False, True)


def test_many_ratios_begin_on_the_printed_page_of_their_heading(driver: Driver, tmp_path: Path) -> None:
    run = read_run(REFERENCE / "scaling.jsonl")
    runs = [replace(run, header=replace(run.header, run_id=run_id)) for run_id in ("aaaa0000", "bbbb0000")]
    path = tmp_path / "compared.html"
    path.write_text(render_page(make_report([Stored(label="", run=each) for each in runs])), encoding="utf-8")
    driver.get(path.as_uri())
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PRINTED)
    bottom, inside = driver.execute_script(
        """
        const chart = document.querySelector("[id^=comparison] .chart");
        const inside = getComputedStyle(chart.closest("figure")).breakInside;
        return [chart.getBoundingClientRect().bottom + scrollY, inside];
        """
    )
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert inside == "auto"  # the charts that do not fit there follow on the next pages
    assert bottom < PRINTED["height"]


def test_headers_of_a_table_are_printed_on_every_page_that_it_takes(opened: Driver) -> None:
    # Chromium repeats a header that may not be broken, without the buttons in it.
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    head = opened.find_element("css selector", "#table-1 thead")
    button = header(opened, "model").find_element("tag name", "button")
    found = head.value_of_css_property("break-inside"), button.value_of_css_property("display")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert found == ("avoid", "contents")


def test_a_table_is_not_printed_with_its_first_row_on_the_next_page(opened: Driver) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    table = opened.find_element("css selector", "table:has(caption:not(.hidden))")
    caption = table.find_element("tag name", "caption").value_of_css_property("break-after")
    first, second = table.find_elements("css selector", "tbody tr")[:2]
    rows = [row.value_of_css_property("break-before") for row in (first, second)]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert (caption, rows) == ("avoid", ["avoid", "auto"])


def test_four_charts_and_their_marks_fit_on_a_printed_page(opened: Driver) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PRINTED)
    heights: list[float] = opened.execute_script(
        "return [...document.querySelectorAll('figure')].filter((each) => each.querySelectorAll('svg').length === 4)"
        ".map((each) => each.getBoundingClientRect().height)"
    )
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert heights
    assert max(heights) <= PRINTED["height"]


def test_print_leaves_out_a_figure_of_which_it_would_show_the_title_alone(opened: Driver) -> None:
    script = """
        const shown = [...document.querySelectorAll('figure')].filter((each) => each.checkVisibility());
        const parts = 'svg, .notes, table';
        return shown.filter((each) => ![...each.querySelectorAll(parts)].some((part) => part.checkVisibility())).length;
    """
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    bare = opened.execute_script(script)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert bare == 0


def test_texts_of_charts_take_the_colours_of_a_forced_palette(opened: Driver) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "forced-colors", "value": "active"}]})
    fills: list[str] = opened.execute_script(
        """
        const probe = document.body.appendChild(document.createElement('p'));
        probe.style.setProperty('color', 'CanvasText');
        const wanted = getComputedStyle(probe).color;
        probe.remove();
        return [wanted, ...[...document.querySelectorAll('svg text')].map((each) => getComputedStyle(each).fill)];
        """
    )
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(set(fills)) == 1


def test_charts_keep_their_size_on_a_narrow_page(opened: Driver) -> None:
    opened.set_window_size(390, 900)
    shrunk: int = opened.execute_script(
        "return [...document.querySelectorAll('svg')].filter((svg) =>"
        " svg.getBoundingClientRect().width < Number(svg.getAttribute('width')) - 1).length"
    )
    assert shrunk == 0


@pytest.mark.parametrize(("width", "is_cut"), [(390, True), (1400, False)])
def test_a_chart_that_is_cut_off_shows_it_and_can_be_scrolled_by_the_keyboard(
    opened: Driver, width: int, *, is_cut: bool
) -> None:
    opened.set_window_size(width, 900)
    charts: list[list[bool]] = opened.execute_async_script(
        """
        setTimeout(() => arguments[0]([...document.querySelectorAll('.charts:has(> :nth-child(4)) > .chart')].map(
          (each) => [each.scrollWidth > each.clientWidth, each.tabIndex === 0, each.hasAttribute('aria-label')]
        )), 300);
        """
    )
    assert charts
    assert all(chart == [is_cut, is_cut, True] for chart in charts)
    # A shadow at the edge stays where it is, and what covers it at the chart's own end moves with the chart.
    attachments = opened.find_element("class name", "chart").value_of_css_property("background-attachment")
    assert attachments == "local, local, scroll, scroll"


@pytest.mark.parametrize("width", [390, 1400])
def test_charts_are_drawn_within_the_page(opened: Driver, width: int) -> None:
    opened.set_window_size(width, 900)
    script = """
        return [...document.querySelectorAll('svg')].map((svg) => {
          const box = svg.getBoundingClientRect();
          return [box.width, box.height, svg.querySelectorAll('path, rect').length];
        });
    """
    boxes: list[list[float]] = opened.execute_script(script)
    assert len(boxes) > 20
    assert all(wide > 100 and high > 50 and shapes > 1 for wide, high, shapes in boxes)
    page_width = opened.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert page_width <= 0  # wide tables scroll by themselves


def test_labels_of_charts_are_not_cut_off(opened: Driver) -> None:
    cut: list[str] = opened.execute_script(
        """
        return [...document.querySelectorAll('svg text')].filter((text) => {
          const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
          return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
            || box.bottom > frame.bottom + 1;
        }).map((text) => `${text.textContent} in ${text.ownerSVGElement.querySelector('title').textContent}`);
        """
    )
    assert cut == []


def test_every_control_can_be_reached_by_the_keyboard_and_the_first_one_skips(opened: Driver) -> None:
    first = opened.switch_to.active_element
    first.send_keys("\ue004")  # tab
    assert opened.switch_to.active_element.get_attribute("class") == "skip"
    unreachable: int = opened.execute_script(
        "return [...document.querySelectorAll('th button, input, summary, .scroll')]"
        ".filter((each) => each.tabIndex < 0).length"
    )
    assert unreachable == 0


def test_data_of_a_chart_unfolds(opened: Driver) -> None:
    details = opened.find_element("css selector", "figure details")
    assert not details.find_element("tag name", "table").is_displayed()
    details.find_element("tag name", "summary").click()
    assert details.find_element("tag name", "table").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(opened: Driver, scheme: str) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    script = """
        const light = (name) => {
          const probe = document.createElement('canvas').getContext('2d');
          probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
          const parts = probe.fillStyle.match(/[0-9a-f]{2}/g).map((part) => parseInt(part, 16) / 255);
          const [r, g, b] = parts.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        return (([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05))(arguments[0].map(light));
    """
    for behind in ("--page", "--panel"):
        for name in ("--ink", "--soft", "--accent"):
            assert opened.execute_script(script, [name, behind]) >= 4.5, (name, behind)
        for series in range(8):
            assert opened.execute_script(script, [f"--s{series}", behind]) >= 3, (series, behind)
