"""What the commands' options have in common: kinds of values, defaults and words of help."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import click

from bench.errors import BadInputError
from bench.plan import PRESETS, Request

T = TypeVar("T")

RESULTS: Final = Path("results")
"""Where runs are stored, and looked up by id, unless told otherwise: under the present folder."""

FORMATS: Final = ("table", "markdown", "csv", "json")

EXIT_CODES: Final = (
    "Exit codes: 0 pass, 1 regression, 2 bad usage or input, 3 inconclusive, 4 a trial failed, 5 incomparable, "
    "130 interrupted."
)


class CommaList(click.ParamType["tuple[T, ...]"], Generic[T]):
    """Values separated by commas, each read by `read`."""

    def __init__(self, name: str, read: Callable[[str], T]) -> None:
        """Name the kind of value for help and messages."""
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[T, ...]:  # noqa: ANN401 - click's signature
        """Return the values; blanks around them do not count."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            self.fail(f"{value!r} has an empty place: name at least one, separated by single commas", param, ctx)
        try:
            return tuple(self._read(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers: write them like 64,256,1024", param, ctx)


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:  # noqa: PLR2004 - what always fits 64 bits
        raise ValueError(text)
    return int(text)


NAMES: Final = CommaList("names", str)
NUMBERS: Final = CommaList("numbers", _whole_number)


class Duration(click.ParamType["float"]):
    """Seconds, or a duration such as 90s, 10m or 1h30m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's signature
        """Return seconds."""
        from bench.units import parse_duration  # noqa: PLC0415 - keeps `--help` quick

        del param, ctx
        return value if isinstance(value, float) else parse_duration(value)


def terminal_width() -> int:
    """Return how many characters a line of standard output may have."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 80


def command_line(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments without the folders in them, which would tell of the user's home."""
    return tuple(Path(argument).name if "/" in argument or "\\" in argument else argument for argument in arguments)


def make_request(preset: str, asked: dict[str, Any]) -> Request:
    """Return the preset's request with the parts in `asked` replaced.

    Raises:
        BadInputError: there is no such preset.
    """
    from dataclasses import replace  # noqa: PLC0415 - only here

    from mnist_mlp.errors import InvalidValueError  # noqa: PLC0415 - only here
    from mnist_mlp.recipes import check_choice  # noqa: PLC0415 - only here

    try:
        check_choice("--preset", preset, tuple(PRESETS))
    except InvalidValueError as error:
        raise BadInputError(str(error)) from error
    base = PRESETS[preset]
    if "models" in asked:
        # A preset's widths and batch sizes belong to its models: other models bring their own.
        base = replace(base, widths=(), batch_sizes=())
    return replace(base, **asked)
