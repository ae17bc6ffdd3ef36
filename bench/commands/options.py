"""What the commands' options have in common: types of values, defaults and help texts."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from bench.errors import BadInputError, ExitCode
from bench.planning.plan import PRESETS, SCALINGS, Request
from bench.system.outputs import say
from bench.system.redaction import redact
from mnist_mlp.paths import data_root_watch
from mnist_mlp.recipes import DATASETS, ENGINES, PIPELINES, PRECISIONS, RECIPES

if TYPE_CHECKING:
    from bench.system.locks import Patience

T = TypeVar("T")

RESULTS: Final = Path("results")
"""The default folder to store runs in and to look them up by id, relative to the current folder."""

FORMATS: Final = ("table", "markdown", "csv", "json")

_VOLUME: Final = "bench.volume"

EXIT_CODES: Final = (
    "Exit codes: 0 pass, 1 regression, 2 bad usage or input, 3 inconclusive, 4 a trial failed, or a result could not "
    "be written, 5 incomparable, 70 a bug in bench, 130 interrupted."
)
"""The exit codes of all commands together; the gates use every one."""


def exit_codes(own: Mapping[int, str] | None = None) -> str:
    """Return the help text on exit codes of a command that is not a gate, with the meanings of its `own` codes."""
    unwritten = "a result could not be written"
    codes = {0: "done", 2: "bad usage or input", 4: unwritten, 70: "a bug in bench", 130: "interrupted"}
    for code, meaning in (own or {}).items():
        codes[code] = f"{meaning}, or {unwritten}" if code == ExitCode.FAILED_TRIAL else meaning
    return f"Exit codes: {', '.join(f'{code} {codes[code]}' for code in sorted(codes))}."


# Not every supported version of click can subscript its types, so they have no arguments here.


class Choice(click.Choice):  # type: ignore[type-arg]
    """One of a few names; the message for a misspelt one suggests the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401 - click's signature
        """Return the name."""
        from mnist_mlp.spelling import did_you_mean

        if value not in self.choices:
            hint = did_you_mean(value, self.choices)
            self.fail(f"{value!r} is unknown{hint}: use one of {', '.join(self.choices)}", param, ctx)
        return str(value)


class CommaList(click.ParamType, Generic[T]):  # type: ignore[type-arg]
    """Values separated by commas, each converted by `read`. Shells complete the `known` ones."""

    def __init__(self, name: str, read: Callable[[str], T], known: Callable[[], Iterable[str]] = tuple) -> None:
        """Name the kind of value for help and messages."""
        self.name = name
        self._read = read
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[T, ...]:  # noqa: ANN401 - click's signature
        """Return the values, without blanks around them."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            self.fail(f"{value!r} has an empty item: name at least one, separated by single commas", param, ctx)
        try:
            return tuple(self._read(part) for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers: write them like 64,256,1024", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the last value, without offering earlier ones again."""
        del ctx, param
        before, comma, last = incomplete.rpartition(",")
        offered = (name for name in self._known() if name.startswith(last) and name not in before.split(","))
        return [CompletionItem(f"{before}{comma}{name}") for name in offered]


class Name(click.ParamType):  # type: ignore[type-arg]
    """A name that is checked later. Shells complete the `known` ones."""

    name = "name"

    def __init__(self, known: Iterable[str]) -> None:
        """Remember the names for completion."""
        self._known = known

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the name."""
        del ctx, param
        return [CompletionItem(name) for name in self._known if name.startswith(incomplete)]


class RunReference(click.ParamType):  # type: ignore[type-arg]
    """A stored run: a path, the beginning of a run id, ``latest``, or ``latest~1``; looked up later."""

    name = "run"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete ``latest`` and the ids of stored runs, the newest first, and the names of files."""
        from bench.storage.references import LATEST, find_runs

        del param
        found = sorted(find_runs(ctx.params.get("results") or RESULTS), key=lambda run: run.created_at, reverse=True)
        items = [CompletionItem(LATEST), *(CompletionItem(run.run_id, help=run.path.name) for run in found)]
        # Files come first: bash then falls back to them if nothing else matches.
        return [CompletionItem(incomplete, type="file"), *(each for each in items if each.value.startswith(incomplete))]


def _column_names() -> Iterable[str]:
    from bench.tables.columns import COLUMNS

    return COLUMNS


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:  # noqa: PLR2004 - what always fits 64 bits
        raise ValueError(text)
    return int(text)


def _list_of(names: Iterable[str]) -> CommaList[str]:
    return CommaList("names", str, lambda: names)


COLUMNS: Final = CommaList("names", str, _column_names)
DEVICES: Final = _list_of(("auto", "cpu", "cuda", "mps"))
PRESET: Final = Name(PRESETS)
RUN: Final = RunReference()
NUMBERS: Final = CommaList("numbers", _whole_number)


class Share(click.ParamType):  # type: ignore[type-arg]
    """A share of 1 given in percent (``5%``, ``5``) or, where `unit` is ``pp``, in percentage points (``0.5pp``)."""

    def __init__(self, unit: str = "%") -> None:
        """Remember the unit, which may be written or left out."""
        self.name = "percent" if unit == "%" else "points"
        self._unit = unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's signature
        """Return a fraction above 0 and below 1.

        A number below 1 needs its percent sign: without it, somebody may well mean the share itself.
        """
        if isinstance(value, float):
            return value
        match = re.fullmatch(rf"([0-9]{{1,3}}(?:\.[0-9]{{1,6}})?) ?({self._unit})?", value.strip(), flags=re.ASCII)
        if match is None or not 0 < float(match[1]) < 100:  # noqa: PLR2004 - of a hundred
            self.fail(
                f"{value!r} is not a number or out of range: write it like 5{self._unit}, above 0 and below 100",
                param,
                ctx,
            )
        if self._unit == "%" and match[2] is None and float(match[1]) < 1:
            self.fail(
                f"{value!r} could mean {float(match[1]):g} % or {100 * float(match[1]):g} %: write the percent sign",
                param,
                ctx,
            )
        return float(match[1]) / 100


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, or a duration such as 90s, 10m or 1h30m."""

    name = "duration"

    def __init__(self, *, or_zero: bool = False) -> None:
        """Remember whether it may be 0."""
        self._or_zero = or_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's signature
        """Return seconds."""
        from bench.units import parse_duration

        del param, ctx
        return value if isinstance(value, float) else parse_duration(value, or_zero=self._or_zero)


def _set_volume(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    if value:
        if _VOLUME in ctx.meta:
            raise BadInputError("--quiet and --verbose contradict each other: give only one of them")
        ctx.meta[_VOLUME] = parameter.name


def quiet_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the option to show no progress; see `show_progress`."""
    text = "Show no progress on standard error, only errors; results are printed as usual."
    return click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_set_volume, help=text)(command)


def verbose_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the option to show more progress; see `volume`."""
    text = "Show every epoch on standard error, and every trial's times, memory and warnings."
    return click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=_set_volume, help=text)(command)


def volume() -> Literal["quiet", "verbose"] | None:
    """Return how much progress the user asked for; None for the default."""
    asked: Literal["quiet", "verbose"] | None = click.get_current_context().meta.get(_VOLUME)
    return asked


def show_progress(line: str) -> None:
    """Print a line of progress to standard error, unless the user asked for quiet."""
    if volume() != "quiet":
        say(line)


DATA_ROOT: Final = data_root_watch(show_progress)
"""The callback of every ``--data-root``."""


def wait_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the option of how long to wait for devices, in seconds; see `patience`."""
    text = "How long to wait for a device that another run is using.  [default: do not wait]"
    return click.option("--wait", type=Duration(or_zero=True), default=0.0, help=text)(command)


def patience(wait: float) -> "Patience":
    """Return a `Patience` that waits `wait` seconds for devices and reports it as progress."""
    from bench.system.locks import Patience

    return Patience(seconds=wait, notify=show_progress)


_GRID: Final = (
    click.option("--devices", type=DEVICES, help="Devices, such as cpu,cuda:1,mps.  [default: auto, all available]"),
    click.option("--models", type=_list_of(RECIPES), help="Recipes or layer lists, such as mlp_128,784-512-256-10."),
    click.option("--widths", type=NUMBERS, help="Units of the first hidden layer; the others follow in proportion."),
    click.option("--batch-sizes", type=NUMBERS, help="Training samples per step."),
    click.option("--precisions", type=_list_of(PRECISIONS), help="Arithmetic: fp32, tf32, bf16."),
    click.option("--engines", type=_list_of(ENGINES), help="How a step is executed: eager, compiled, fused, graph."),
    click.option("--pipelines", type=_list_of(PIPELINES), help="Where batches come from: resident, dataloader."),
    click.option("--skip-unsupported", is_flag=True, default=None, help="Leave out unsupported combinations."),
    click.option("--workers", type=int, help="DataLoader's worker processes.  [default: 0]"),
    click.option("--threads", type=NUMBERS, help="CPU threads.  [default: torch's, as a rule the physical cores]"),
    click.option("--dataset", type=Name(DATASETS), help="mnist, fashion-mnist, digits or synthetic.  [default: mnist]"),
)


def grid_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options that select configurations, named like the fields of `Request`."""
    for option in reversed(_GRID):
        command = option(command)
    return command


def plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options that say what to measure: preset, grid, epochs, repeats, seed and ranks."""
    seed = "Seed of the first repeat; each further repeat uses the next one.  [default: 0]"
    ranks = "Processes that train one model together, such as 1,2,4."
    scaling = "Whether a batch size is shared by all ranks (strong) or per rank (weak).  [default: strong]"
    for option in (
        click.option("--scaling", type=Name(SCALINGS), help=scaling),
        click.option("--world-size", "world_sizes", type=NUMBERS, help=ranks),
        click.option("--seed", type=int, help=seed),
        click.option("--repeats", type=int, help="Trials of each configuration, each with its own seed."),
        click.option("--epochs", type=int, help="Passes over the training set.  [default: the recipe's]"),
        grid_options,
        click.option("--preset", type=PRESET, help=f"Starting point: {', '.join(PRESETS)}.  [default: quick]"),
    ):
        command = option(command)
    return command


def command_line(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments without folders, host's and user's names in paths, and a cluster's address.

    What is not valid UTF-8 is replaced, because other programs would refuse it in a stored run.
    """
    return tuple(map(_anonymous, arguments))


def _anonymous(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    value = re.sub("^ray:.*", "ray", value)
    prefix = "python:" if value.startswith("python:") else ""
    path = value.removeprefix(prefix)
    is_shard_or_revision = re.fullmatch("[0-9]+/[0-9]+|rev:.*", value)
    is_path = re.search(r"[/\\]|^~|\.[A-Za-z]\w*$", path) and not is_shard_or_revision
    text = f"{option}{equals}{prefix}{redact(Path(path).name) if is_path else path}"
    return text.encode(errors="replace").decode()


def make_request(preset: str | None, asked: dict[str, Any]) -> Request:
    """Return the request of the preset, by default quick, with the parts in `asked` replaced that are not None.

    Raises:
        BadInputError: there is no such preset.
    """
    from dataclasses import replace

    from mnist_mlp.checks import check_choice
    from mnist_mlp.errors import InvalidValueError

    preset = "quick" if preset is None else preset
    try:
        check_choice("--preset", preset, tuple(PRESETS))
    except InvalidValueError as error:
        raise BadInputError(str(error)) from error
    base = PRESETS[preset]
    asked = {option: value for option, value in asked.items() if value is not None}
    if "models" in asked:
        # A preset's widths and batch sizes belong to its models; other models have their own.
        base = replace(base, widths=(), batch_sizes=())
    return replace(base, **asked)


def split_labels(references: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """Return the labels and the paths of several ``label=path``, see `split_label`.

    Raises:
        BadInputError: two labels are the same.
    """
    labels, paths = zip(*map(split_label, references), strict=True)
    twice = next((each for place, each in enumerate(labels) if each is not None and each in labels[:place]), None)
    if twice is not None:
        raise BadInputError(f"label {twice!r} is given twice: give every run a label of its own")
    return list(labels), list(paths)


def split_label(reference: str) -> tuple[str | None, str]:
    """Return the label and the path of ``label=path``; the label is None if there is none, or the whole is a file."""
    label, equals, rest = reference.partition("=")
    if not equals or not label or os.path.isfile(reference):  # noqa: PTH113 - Path.is_file raises on names too long
        return None, reference
    return label, rest
