"""Names of files and folders on the command line, for both packages."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import click


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
        path = Path(os.path.expanduser(str(super().convert(value, param, ctx))))  # noqa: PTH111 - leaves ~old.png alone
        if path.parts[:1] == ("~",):
            self.fail(f"{str(value)!r} cannot be used: there is no home folder for ~: write the whole path", param, ctx)
        return path


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
