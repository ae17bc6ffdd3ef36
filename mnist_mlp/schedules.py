"""How a recipe's learning rate moves from step to step. No torch."""

from dataclasses import dataclass
from typing import Final

from mnist_mlp.recipes import Recipe

WARM_UP_SHARE: Final = 0.2
"""Share of a one-cycle training's steps in which the learning rate rises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate of each step of a training of `steps` steps, `peak` at its highest.

    ``constant`` is `peak` throughout. ``one_cycle`` rises in a straight line from nearly 0 to `peak` over the first
    `WARM_UP_SHARE` of the steps, `rising` of them, and falls in a straight line to nearly 0 over the rest, `falling`
    of them; after the last step it is 0. (Smith, "A disciplined approach to neural network hyper-parameters", 2018,
    without his cycle of momentum.)
    """

    name: str
    peak: float
    steps: int

    @property
    def is_constant(self) -> bool:
        """Whether every step has the same rate."""
        return self.name == "constant"

    @property
    def rising(self) -> int:
        """Steps up to the one with the highest rate, at least 1."""
        return max(1, round(WARM_UP_SHARE * self.steps))

    @property
    def falling(self) -> int:
        """Steps from the one after that to the last, at least 1."""
        return max(1, self.steps - self.rising)

    def rate(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        if self.is_constant:
            return self.peak
        return self.peak * max(0.0, min((step + 1) / self.rising, (self.steps - step) / self.falling))


def constant(recipe: Recipe) -> Schedule:
    """Return the schedule that keeps the recipe's learning rate."""
    return Schedule(name="constant", peak=recipe.learning_rate, steps=1)


def schedule_of(recipe: Recipe, train_samples: int) -> Schedule:
    """Return the schedule of a training of all the recipe's epochs on `train_samples` samples."""
    steps = recipe.epochs * -(-train_samples // recipe.batch_size)
    return Schedule(name=recipe.schedule, peak=recipe.learning_rate, steps=steps)
