"""How a recipe's learning rate changes from step to step. No torch."""

from dataclasses import dataclass
from typing import Final

from mnist_mlp.recipes import Recipe

WARM_UP_SHARE: Final = 0.2
"""Share of all steps in which a one-cycle learning rate rises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate of each of a training's `steps` steps; its highest value is `peak`.

    ``constant`` is always `peak`. ``one_cycle`` rises linearly from nearly 0 to `peak` over the first `WARM_UP_SHARE`
    of the steps (`rising` steps), falls linearly to nearly 0 over the others (`falling` steps), and is 0 after the last
    step (Smith, "A disciplined approach to neural network hyper-parameters", 2018, without its cycle of momentum).
    """

    name: str
    peak: float
    steps: int

    @property
    def is_constant(self) -> bool:
        """Whether every step has the same learning rate."""
        return self.name == "constant"

    @property
    def rising(self) -> int:
        """Number of steps up to the one with the highest rate, at least 1."""
        return max(1, round(WARM_UP_SHARE * self.steps))

    @property
    def falling(self) -> int:
        """Number of steps after that one, at least 1."""
        return max(1, self.steps - self.rising)

    def rate(self, step: int) -> float:
        """Return the learning rate of step number `step`, counted from 0."""
        if self.is_constant:
            return self.peak
        return self.peak * max(0.0, min((step + 1) / self.rising, (self.steps - step) / self.falling))


def constant(recipe: Recipe) -> Schedule:
    """Return the constant schedule at the recipe's learning rate."""
    return Schedule(name="constant", peak=recipe.learning_rate, steps=1)


def schedule_of(recipe: Recipe, train_samples: int) -> Schedule:
    """Return the recipe's schedule over all of its epochs on `train_samples` samples."""
    steps = recipe.epochs * -(-train_samples // recipe.batch_size)
    return Schedule(name=recipe.schedule, peak=recipe.learning_rate, steps=steps)
