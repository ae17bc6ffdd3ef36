"""A specification as one of this project's recipes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout need not be installed

from peer import Spec

from mnist_mlp.recipes import RECIPES, Recipe


def recipe_of(spec: Spec) -> Recipe:
    """Return the recipe that `spec` names, or the recipe for its layers that all peers can train."""
    if spec.recipe is not None:
        return RECIPES[spec.recipe]
    return Recipe(name="peers", layers=tuple(spec.layers), batch_size=spec.batch_size, learning_rate=spec.learning_rate)
