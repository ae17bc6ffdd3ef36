"""A report as one self-contained HTML file: its policy allows nothing but the styles and script inside it."""

import base64
import hashlib
from importlib.resources import files
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench import __version__
from bench.report.charts import Chart
from bench.report.contents import Report
from bench.report.svg import draw
from bench.tables.columns import harmless

MAX_TEXT_CHARACTERS: Final = 2_000
"""Longer texts are cut, with an ellipsis."""


def render_page(report: Report) -> str:
    """Return the HTML of `report`."""
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        version=__version__,
        policy=Markup(policy),  # noqa: S704 - our own words and base64
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        draw=_drawn,
        raw=_raw,
    )


def _harmless(value: object) -> object:
    """Return the value of a template expression with its text made harmless, unless it is our own markup."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return harmless(value, MAX_TEXT_CHARACTERS)
    return value


def _drawn(chart: Chart, key: str) -> Markup:
    return Markup(draw(chart, key))  # noqa: S704 - `draw` escapes all texts


def _raw(value: object) -> str:
    """Return a number as in JSON, for the script to sort by."""
    return repr(value) if isinstance(value, int | float) else str(value)


def _asset(name: str) -> str:
    return (files("bench.report") / "templates" / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return the Content-Security-Policy source that allows an inline element with exactly this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
