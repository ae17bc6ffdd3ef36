"""The order of names and configurations in every table: numbers inside names are ordered by size."""

import functools
import re
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

from bench.records import Configuration


@functools.lru_cache(maxsize=4096)
def natural_key(text: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key that orders the numbers inside a text by size: ``784-128-10`` before ``784-1024-10``."""
    parts = re.split(r"([0-9]+)", text)
    # Odd places hold the digits: ordered by length, then as text, they are ordered as numbers of any size.
    return tuple((len(digits := part.lstrip("0")), digits) if i % 2 else (0, part) for i, part in enumerate(parts))


_MEMBERS: Final = attrgetter(*(member.name for member in fields(Configuration)))


def configuration_key(configuration: Configuration) -> tuple[Any, ...]:
    """Return a sort key: by device, model, layers, batch size, and then the rest."""
    return (
        natural_key(configuration.device),
        natural_key(configuration.model),
        configuration.layers,
        configuration.batch_size,
        _MEMBERS(configuration),
    )
