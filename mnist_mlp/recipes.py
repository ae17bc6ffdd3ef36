"""Recipes: a model, how it is trained, and the results claimed for it. Pure data, no torch.

Five recipes reproduce public tutorials as documented; where a tutorial's code differs from its text,
`Recipe.departures` says so. The other recipes are our own. A layer list such as ``784-512-256-10`` is a recipe too,
trained with the defaults of `custom_recipe`. `customise` makes variants of any recipe.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Final, Literal, TypedDict, Unpack

from mnist_mlp.checks import (
    check_choice,
    check_name,
    check_positive_int,
    check_rate,
    check_seed,
    check_type,
    check_whole,
)
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.spelling import did_you_mean

INPUT_FEATURES: Final = 784
"""Pixels of one 28 by 28 image."""

CLASSES: Final = 10
"""Digits 0 to 9 (or the ten kinds of clothing of Fashion-MNIST)."""

MAX_LAYER_WIDTH: Final = 1_000_000
"""A wider layer is taken for a typing mistake: 784 by a million float32 weights alone take 3 GiB."""

MAX_LAYERS: Final = 64
"""A longer layer list is taken for a typing mistake."""

DATASETS: Final = ("mnist", "fashion-mnist", "digits", "synthetic")
"""Names that `mnist_mlp.data.load` accepts."""

PIPELINES: Final = ("resident", "dataloader")
"""Where batches come from: tensors on the device, or torchvision's dataset and transforms through a DataLoader."""

ENGINES: Final = ("eager", "compiled", "fused", "graph")
"""How a training step is executed; `mnist_mlp.support` lists which of them work where."""

PRECISIONS: Final = ("fp32", "tf32", "bf16")
"""Arithmetic of the matrix products."""

TORCHVISION_DATASETS: Final[Mapping[str, str]] = MappingProxyType({"mnist": "MNIST", "fashion-mnist": "FashionMNIST"})
"""Dataset → torchvision's class for it; the dataloader pipeline works with these datasets only."""

ACTIVATIONS: Final = ("relu",)
OUTPUTS: Final = ("logits", "log_softmax", "softmax")
LOSSES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"cross_entropy": ("logits", "log_softmax"), "nll": ("log_softmax",), "nll_of_log": ("softmax",)}
)
"""Loss → the model outputs that it accepts."""

OPTIMIZERS: Final = ("adam", "sgd")

SCHEDULES: Final = ("constant", "one_cycle")
"""How the learning rate changes during training, see `mnist_mlp.schedules`."""

TRANSFORMS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"unit": (0.0, 1.0), "mnist": (0.1307, 0.3081), "half": (0.5, 0.5)}
)
"""Name of an input transform → (mean, standard deviation) applied to pixels already scaled to [0, 1].

`unit` leaves pixels in [0, 1], `half` maps them to [-1, 1], `mnist` uses the training set's mean and deviation.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One published result: an accuracy, 0 to 1, or a loss in nats. `source` says who published it."""

    metric: Literal["test_accuracy", "test_loss", "train_accuracy", "train_loss"]
    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A named model plus how it is trained.

    Attributes:
        name: of the model, printable.
        layers: widths from input to output, such as ``(784, 128, 10)``.
        activation: one of `ACTIVATIONS`, applied after every layer but the last.
        output: one of `OUTPUTS`: what the model's `forward` returns.
        loss: one of `LOSSES`, applied to the output: ``cross_entropy`` takes logits (or log-probabilities, which its
            own log-softmax leaves unchanged), ``nll`` log-probabilities, ``nll_of_log`` probabilities.
        optimizer: one of `OPTIMIZERS`.
        learning_rate: of every step; with a schedule that changes it, the highest of all steps.
        schedule: one of `SCHEDULES`.
        momentum: for ``sgd`` only.
        weight_decay: multiple of each parameter that is added to its gradient (L2, not decoupled as in AdamW).
        batch_size: training samples per step.
        test_batch_size: samples per forward pass of an evaluation.
        epochs: passes over the training set.
        transform: one of `TRANSFORMS`.
        shuffle: whether every epoch draws a new order of samples.
        seed: the default seed; None if the tutorial sets none.
        claims: results published for this recipe.
        departures: where the original's code differs from its text or from this recipe.

    Raises:
        InvalidValueError: a field breaks its rule.
    """

    name: str
    layers: tuple[int, ...]
    activation: str = "relu"
    output: str = "logits"
    loss: str = "cross_entropy"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 64
    test_batch_size: int = 1000
    epochs: int = 5
    transform: str = "mnist"
    shuffle: bool = True
    seed: int | None = None
    claims: tuple[Claim, ...] = ()
    departures: str = ""

    def __post_init__(self) -> None:
        """Check every field; convert NumPy's numbers to plain ones."""
        check_name("recipe name", self.name)
        check_type("shuffle", self.shuffle, bool, "True or False")
        self._keep("layers", check_layers(self.layers))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("output", self.output, OUTPUTS)
        check_choice("loss", self.loss, tuple(LOSSES))
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("transform", self.transform, tuple(TRANSFORMS))
        if self.output not in LOSSES[self.loss]:
            needed = " or ".join(LOSSES[self.loss])
            raise InvalidValueError(
                f"loss {self.loss!r} needs output {needed}, not {self.output!r}: change one of them"
            )
        for name in ("learning_rate", "momentum", "weight_decay"):
            self._keep(name, check_rate(name, getattr(self, name), zero=name != "learning_rate"))
        for name in ("batch_size", "test_batch_size", "epochs"):
            self._keep(name, check_positive_int(name, getattr(self, name)))
        if self.seed is not None:
            self._keep("seed", check_seed(self.seed))
        if self.optimizer != "sgd" and self.momentum != 0:
            raise InvalidValueError(
                f"momentum {self.momentum} applies to sgd only, but the optimizer is {self.optimizer}: "
                f"set it to 0, or use optimizer sgd"
            )

    def _keep(self, name: str, value: float | tuple[int, ...]) -> None:
        object.__setattr__(self, name, value)  # a frozen dataclass has no other way


HYPERPARAMETERS: Final = tuple(
    field.name for field in fields(Recipe) if field.name not in {"name", "seed", "claims", "departures"}
)
"""Fields of a `Recipe` that determine the training; the others are its name, default seed and claims."""


def check_widths(layers: Sequence[int]) -> tuple[int, ...]:
    """Return layer widths as plain ints.

    Raises:
        InvalidValueError: they are not whole numbers from 1 to `MAX_LAYER_WIDTH`.
    """
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise InvalidValueError(f"layers {layers!r} are of type {type(layers).__name__}: give them like (784, 128, 10)")
    widths = tuple(check_whole("layer width", width) for width in layers)
    for width in widths:
        if not 1 <= width <= MAX_LAYER_WIDTH:
            raise InvalidValueError(
                f"layer width {width} in {layers_text(widths)!r} is out of range: use 1 to {MAX_LAYER_WIDTH} units"
            )
    return widths


def check_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """Return `layers` as plain ints.

    Raises:
        InvalidValueError: they do not lead from 784 pixels to 10 classes, are more than `MAX_LAYERS`, or break a rule
            of `check_widths`.
    """
    widths = check_widths(layers)
    if widths[:1] != (INPUT_FEATURES,) or widths[-1] != CLASSES:
        raise InvalidValueError(
            f"layers {layers_text(widths)!r} must start at {INPUT_FEATURES} (pixels) and end at {CLASSES} (classes): "
            f"write them like 784-128-10"
        )
    if len(widths) > MAX_LAYERS:
        raise InvalidValueError(f"layers: {len(widths)} of them are more than the {MAX_LAYERS} allowed: use fewer")
    return widths


def layers_text(layers: Iterable[int]) -> str:
    """Return layers as ``784-128-10``."""
    return "-".join(map(str, layers))


def parse_layers(text: str) -> tuple[int, ...]:
    """Read a layer list such as ``784-512-256-10``.

    Raises:
        InvalidValueError: the text is not a list of whole numbers, or breaks a rule of `check_layers`.
    """
    if re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})+", text, flags=re.ASCII) is None:
        raise InvalidValueError(
            f"model {text!r} is neither a recipe ({', '.join(RECIPES)}) nor a layer list: write one like 784-128-10"
        )
    return check_layers([int(part) for part in text.split("-")])


def custom_recipe(layers: Sequence[int]) -> Recipe:
    """Return the recipe for a layer list: Adam at 0.001 on cross-entropy, batches of 64, 5 epochs, transform mnist."""
    layers = check_layers(layers)
    return Recipe(name=layers_text(layers), layers=layers)


def scale_width(recipe: Recipe, width: int) -> Recipe:
    """Return `recipe` with its hidden layers scaled by `scale_layers`, so that the first one has `width` units.

    Unless `width` is what the recipe has anyway, the result is another model than the published one: its name is its
    layer list, and it has no claims.

    Raises:
        InvalidValueError: `width` is out of range, or the model has no hidden layer.
    """
    width = check_positive_int("width", width)
    if not recipe.layers[1:-1]:
        raise InvalidValueError(f"model {recipe.name!r} has no hidden layer to widen: leave the width out")
    if width == recipe.layers[1]:
        return recipe
    layers = scale_layers(recipe.layers, width)
    return replace(recipe, name=layers_text(layers), layers=layers, claims=(), departures="")


def scale_layers(layers: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Return `layers` with `width` units in the first hidden layer and the other hidden layers in proportion.

    512-256 at width 1024 becomes 1024-512. Widths are rounded to the nearest whole number, at least 1.
    """
    first, *hidden, last = layers
    # Halves round up; round() would take them to the nearest even number.
    scaled = (max(1, (2 * units * width + hidden[0]) // (2 * hidden[0])) for units in hidden)
    return (first, *scaled, last)


def find_recipe(model: str) -> Recipe:
    """Return the recipe called `model`, or the custom recipe for the layer list `model`.

    Raises:
        InvalidValueError: `model` is neither; for a misspelt name the message suggests the nearest one.
    """
    check_type("model", model, str, "a recipe's name, or layers as text, like '784-128-10'")
    if model in RECIPES:
        return RECIPES[model]
    if model[:1].isdigit():
        return custom_recipe(parse_layers(model))
    raise InvalidValueError(
        f"model {model!r} is unknown{did_you_mean(model, RECIPES)}: use a recipe ({', '.join(RECIPES)}) or a layer "
        "list like 784-128-10"
    )


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


_README = "the tutorial's README"
_CODE = "the tutorial's own run"

RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(
                name="mlp_100_100",
                layers=(784, 100, 100, 10),
                output="softmax",
                loss="nll_of_log",
                optimizer="sgd",
                learning_rate=1e-3,
                batch_size=16,
                test_batch_size=16,
                epochs=5,
                transform="unit",
                shuffle=False,
                claims=(Claim(metric="test_accuracy", value=0.8846, source=_CODE),),
                departures="Its text says 50 epochs and 93 %; its run, reproduced here, has 5 epochs and 88.46 %.",
            ),
            Recipe(
                name="mlp_120_84",
                layers=(784, 120, 84, 10),
                output="log_softmax",
                loss="cross_entropy",
                batch_size=100,
                test_batch_size=500,
                epochs=10,
                transform="unit",
                seed=101,
                claims=(Claim(metric="test_accuracy", value=0.9773, source=_CODE),),
                departures=(
                    "Cross-entropy on log-probabilities is a harmless double log-softmax, kept as documented. "
                    "The original plots the last batch's loss as the epoch's; here it is the epoch's mean."
                ),
            ),
            Recipe(
                name="mlp_512_256",
                layers=(784, 512, 256, 10),
                batch_size=64,
                test_batch_size=64,
                epochs=5,
                transform="mnist",
                seed=42,
                claims=(
                    Claim(metric="test_accuracy", value=0.9787, source=_README),
                    Claim(metric="test_loss", value=0.0732, source=_README),
                    Claim(metric="train_accuracy", value=0.9881, source=_README),
                    Claim(metric="train_loss", value=0.0370, source=_README),
                ),
                departures="The original un-normalises its pictures with the wrong constants; training is unaffected.",
            ),
            Recipe(
                name="mlp_128_90_50",
                layers=(784, 128, 90, 50, 10),
                learning_rate=5e-4,
                batch_size=64,
                test_batch_size=64,
                epochs=15,
                transform="half",
                claims=(Claim(metric="test_accuracy", value=0.9726, source=_README),),
                departures=(
                    "The original trains on 48 000 images, holds out 12 000, never calls its output layer (50 ReLU "
                    "values serve as logits) and saves another model than the one it reports; here the documented "
                    "model trains on all 60 000."
                ),
            ),
            Recipe(
                name="mlp_128",
                layers=(784, 128, 10),
                batch_size=64,
                test_batch_size=64,
                epochs=10,
                transform="unit",
                claims=(Claim(metric="test_accuracy", value=0.9783, source=f"{_README} (its log also says 96.20 %)"),),
                departures="Optimizer, learning rate, batch size and transform are inferred: the original is silent.",
            ),
            # The least training that reaches 98 % test accuracy, see docs/recipes.md.
            Recipe(
                name="speedrun",
                layers=(784, 128, 10),
                learning_rate=0.0125,
                schedule="one_cycle",
                weight_decay=4e-4,
                batch_size=256,
                epochs=4,
            ),
            # Canaries for the accuracy gate: quick to train, and sensitive to bugs. Together they cover both
            # optimizers, momentum, and both ways to compute a cross-entropy.
            Recipe(name="canary_adam", layers=(784, 128, 10), learning_rate=4e-3, batch_size=256, epochs=3),
            Recipe(
                name="canary_sgd",
                layers=(784, 128, 10),
                output="log_softmax",
                loss="nll",
                optimizer="sgd",
                learning_rate=0.1,
                momentum=0.9,
                batch_size=256,
                epochs=3,
            ),
        )
    }
)
"""The recipes by name: the five tutorials, then our own."""

TUTORIALS: Final = tuple(recipe.name for recipe in RECIPES.values() if recipe.claims)
"""Names of the recipes that reproduce a published tutorial: those with claims."""
