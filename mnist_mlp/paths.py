"""The type of a file's or folder's name on the command line, for both packages."""

from pathlib import Path
from typing import Any, Final

import click


class NamedPath(click.Path):
    """A path. An empty text, such as an unset shell variable gives, is refused: it would mean the current folder."""

    def __init__(self) -> None:
        """Convert to `Path`."""
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """Return the path."""
        if not str(value):
            self.fail("'' names no file or folder: write its name", param, ctx)
        return super().convert(value, param, ctx)


PATH: Final = NamedPath()
