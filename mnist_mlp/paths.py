"""Names of files and folders, on both packages' command lines and in Python."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import click

from mnist_mlp.errors import InvalidValueError


def expanded(path: Path | str) -> Path:
    """Return `path` with the home folder in place of a leading ``~``, as a shell would write it.

    Raises:
        InvalidValueError: there is no home folder.
    """
    found = Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser refuses files with names such as ~old.png
    if found.parts[:1] == ("~",):
        raise InvalidValueError(f"{str(path)!r} cannot be used: there is no home folder for ~: write the whole path")
    return found


class NamedPath(click.Path):
    """A path. A leading ``~`` means the home folder: shells leave it as it is in ``--option=~/name``.

    An empty text, such as an unset shell variable gives, is refused: it would mean the current folder.
    """

    def __init__(self) -> None:
        """Convert to `Path`."""
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """Return the path."""
        if not str(value):
            self.fail("'' names no file or folder: write its name", param, ctx)
        try:
            return expanded(os.fsdecode(super().convert(value, param, ctx)))
        except InvalidValueError as error:
            self.fail(str(error), param, ctx)


PATH: Final = NamedPath()

DataRootCallback: TypeAlias = Callable[[click.Context, click.Parameter, Path | None], Path | None]


def data_root_watch(tell: Callable[[str], None]) -> DataRootCallback:
    """Return the callback of an option for the data root: when the command ends, `tell` says if it created that folder.

    A misspelt name would otherwise become a new copy of the datasets unnoticed.
    """

    def watch(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
        named = value or os.path.expanduser(os.environ.get("MNIST_MLP_DATA", ""))  # noqa: PTH111 - no home is no error here
        if named and not os.path.exists(named):  # noqa: PTH110 - Path.exists raises on names too long
            ctx.call_on_close(lambda: _tell_created(named, tell))
        return value

    return watch


def _tell_created(root: Path | str, tell: Callable[[str], None]) -> None:
    if os.path.exists(root):  # noqa: PTH110 - likewise
        tell(
            f"data root {str(root)!r} did not exist and was created: if it is misspelt, remove it, and correct "
            "--data-root or MNIST_MLP_DATA"
        )
