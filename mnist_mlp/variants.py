"""Variants of a recipe. No torch."""

from dataclasses import replace
from typing import TypedDict, Unpack

from mnist_mlp.checks import check_choice
from mnist_mlp.recipes import Recipe, find_recipe, scale_width


class Changes(TypedDict, total=False):
    """The fields of `Recipe` that `customise` can change; None keeps the recipe's value."""

    output: str | None
    loss: str | None
    optimizer: str | None
    learning_rate: float | None
    schedule: str | None
    momentum: float | None
    weight_decay: float | None
    batch_size: int | None
    test_batch_size: int | None
    epochs: int | None
    transform: str | None
    shuffle: bool | None


def customise(recipe: Recipe | str, *, width: int | None = None, **changes: Unpack[Changes]) -> Recipe:
    """Return `recipe` with some fields changed.

    If anything differs, the variant has no claims, because they were made for the published recipe.

    Args:
        recipe: the recipe to start from, its name, or a layer list.
        width: units of the first hidden layer; the other hidden layers are scaled in proportion.
        changes: new values for fields of `Recipe`; None keeps the recipe's value.

    Raises:
        InvalidValueError: there is no such recipe or field, or a value breaks a rule of `Recipe`.
    """
    for name in changes:
        check_choice("ingredient", name, ("width", *Changes.__annotations__))
    base = recipe if isinstance(recipe, Recipe) else find_recipe(recipe)
    widened = base if width is None else scale_width(base, width)
    different = {
        name: value for name, value in changes.items() if value is not None and value != getattr(widened, name)
    }
    return replace(widened, **different, claims=(), departures="") if different else widened  # type: ignore[arg-type]  # Changes and Recipe name the same types
