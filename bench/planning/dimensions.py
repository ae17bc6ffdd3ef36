"""The dimensions of a configuration, and which of them tell several configurations apart."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Final

from bench.records import Configuration
from bench.units import format_count
from mnist_mlp.recipes import layers_text

IDENTITY: Final = ("device", "model", "batch_size")
"""What every table and every line about a trial starts with."""

DIMENSIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "dataset": (),
        "pipeline": (),
        "workers": ("pipeline",),
        "engine": (),
        "precision": (),
        "threads": (),
        "world_size": (),
        "epochs": (),
        "width": ("model",),
        "layers": ("model", "width"),
        "activation": ("model",),
        "output": ("model",),
        "loss": ("model",),
        "optimizer": ("model",),
        "learning_rate": ("model",),
        "schedule": ("model",),
        "momentum": ("model",),
        "weight_decay": ("model",),
        "test_batch_size": ("model",),
        "transform": ("model",),
        "shuffle": ("model",),
    }
)
"""Every other dimension of a configuration → the columns that usually determine it.

Recipes differ in loss, transform and more, but their name stands for all of that. Such a dimension needs a column only
if the same model was trained with two values of it.
"""

_COUNTED: Final = {"threads": "thread", "workers": "worker", "world_size": "rank"}


def dimension_header(key: str) -> str:
    """Return the words for a dimension."""
    return "ranks" if key == "world_size" else key.replace("_", " ")


def dimension_text(value: object) -> str:
    """Return the value of a dimension as text of any length."""
    if isinstance(value, tuple):
        return layers_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def dimension_words(key: str, value: object) -> str:
    """Return a dimension in as few words as tell it, numbers in full: ``fused``, ``2 ranks``, ``learning rate 0.1``."""
    if key in _COUNTED and isinstance(value, int):
        return format_count(value, _COUNTED[key])
    if isinstance(value, str):
        return value
    return f"{dimension_header(key)} {layers_text(value) if isinstance(value, tuple) else value}"


def constant_dimensions(configurations: Sequence[Configuration]) -> tuple[str, ...]:
    """Return the keys of the dimensions that follow from no other column and have one value in all `configurations`.

    That there is a single rank goes without saying.
    """
    independent = (key for key, others in DIMENSIONS.items() if not others)
    values = {key: {getattr(each, key) for each in configurations} for key in independent}
    return tuple(key for key, found in values.items() if len(found) == 1 and (key, found) != ("world_size", {1}))


def varying_members(configurations: Sequence[Configuration]) -> tuple[str, ...]:
    """Return the keys among `IDENTITY` and `DIMENSIONS` in which they differ and no other column shows it."""
    if not configurations:
        return ()
    keys = (*IDENTITY, *DIMENSIONS)
    # One pass over the configurations, of which there can be very many: a pass per key would miss the cache each time.
    rows = map(attrgetter(*keys), configurations)
    values = dict(zip(keys, zip(*rows, strict=True), strict=True))
    return tuple(key for key in keys if _varies(values[key], [values[other] for other in DIMENSIONS.get(key, ())]))


def _varies(values: Sequence[object], others: Sequence[Sequence[object]]) -> bool:
    """Return whether `values` differ among rows whose `others` are equal."""
    if len(set(values)) <= 1:  # the usual case
        return False
    return len(set(zip(*others, values, strict=True))) > max(1, len(set(zip(*others, strict=True))))
