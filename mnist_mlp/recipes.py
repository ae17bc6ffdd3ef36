"""Recipes: a model, how it is trained, and the result claimed for it. Pure data, no torch.

Five recipes are public tutorials' models, reproduced as documented; where an original's code departs from its own
text, `Recipe.departures` says so. Two canaries are our own, for the accuracy gate. Any layer list such as
``784-512-256-10`` is a recipe too, trained with the defaults of `custom_recipe`, and `scale_width` makes wider or
narrower relatives of either.
"""

import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import Final, Literal

from mnist_mlp.errors import InvalidValueError
from mnist_mlp.spelling import did_you_mean

INPUT_FEATURES: Final = 784
"""Pixels of one 28 by 28 image."""

CLASSES: Final = 10
"""Digits 0 to 9 (or the ten kinds of clothing of Fashion-MNIST)."""

MAX_LAYER_WIDTH: Final = 1_000_000
"""A wider layer than this is a typing mistake: 784 by a million float32 weights are 3 GiB before the optimizer."""

MAX_LAYERS: Final = 64
"""More layers than this in a plain MLP is a typing mistake."""

DATASETS: Final = ("mnist", "fashion-mnist", "digits", "synthetic")
"""Names that `mnist_mlp.data.load` accepts."""

PIPELINES: Final = ("resident", "dataloader")
"""Where batches come from: tensors on the device, or torchvision's dataset, transforms and a DataLoader."""

ENGINES: Final = ("eager", "compiled", "fused", "graph")
"""How a training step is executed; `mnist_mlp.support` says where."""

PRECISIONS: Final = ("fp32", "tf32", "bf16")
"""Arithmetic of the matrix products."""

TORCHVISION_DATASETS: Final[Mapping[str, str]] = MappingProxyType({"mnist": "MNIST", "fashion-mnist": "FashionMNIST"})
"""Datasets that torchvision reads itself, so that the dataloader pipeline can → its class."""

ACTIVATIONS: Final = ("relu",)
OUTPUTS: Final = ("logits", "log_softmax", "softmax")
LOSSES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"cross_entropy": ("logits", "log_softmax"), "nll": ("log_softmax",), "nll_of_log": ("softmax",)}
)
"""Loss → the model outputs it may be applied to."""

OPTIMIZERS: Final = ("adam", "sgd")

SCHEDULES: Final = ("constant", "one_cycle")
"""How the learning rate moves over a training, see `mnist_mlp.schedules`."""

TRANSFORMS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"unit": (0.0, 1.0), "mnist": (0.1307, 0.3081), "half": (0.5, 0.5)}
)
"""Name of an input transform → (mean, standard deviation) applied to pixels already scaled to [0, 1].

`mnist` holds the training set's own mean and standard deviation, `half` maps to [-1, 1], `unit` leaves [0, 1].
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One published result. `value` is a fraction for accuracies and nats for losses; `source` says who states it."""

    metric: Literal["test_accuracy", "test_loss", "train_accuracy", "train_loss"]
    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A named model plus how it is trained. `epochs` are passes over the training set.

    `learning_rate` is of each step, or the highest of all steps where `schedule` moves it.

    `output` is what the model's `forward` returns and `loss` what is applied to it: ``cross_entropy`` takes logits (or
    log-probabilities, which it leaves unchanged), ``nll`` log-probabilities, ``nll_of_log`` probabilities.
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
        """Raise `InvalidValueError` if a field breaks its rule, whoever built the recipe; keep plain numbers."""
        check_type("name", self.name, str, "text")
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
        for rate, least in (("learning_rate", "above"), ("momentum", "at least"), ("weight_decay", "at least")):
            number = getattr(self, rate)
            if isinstance(number, bool) or not isinstance(number, Real):
                raise InvalidValueError(f"{rate} {number!r} is of type {type(number).__name__}: give a number")
            self._keep(rate, float(number))
            if not math.isfinite(number) or number < 0 or (number == 0 and least == "above"):
                raise InvalidValueError(f"{rate} {number} is out of range: it must be finite and {least} 0")
        for name in ("batch_size", "test_batch_size", "epochs"):
            self._keep(name, check_positive_int(name, getattr(self, name)))
        if self.seed is not None:
            self._keep("seed", check_whole("seed", self.seed))
        if self.optimizer != "sgd" and self.momentum != 0:
            raise InvalidValueError(
                f"momentum {self.momentum} applies to sgd only, and the optimizer is {self.optimizer}: "
                f"make it 0, or use optimizer sgd"
            )

    def _keep(self, name: str, value: float | tuple[int, ...]) -> None:
        object.__setattr__(self, name, value)  # frozen for all others


HYPERPARAMETERS: Final = tuple(
    field.name for field in fields(Recipe) if field.name not in {"name", "seed", "claims", "departures"}
)
"""Fields of a `Recipe` that say how it is trained, and not what it is called or claimed to give."""


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `InvalidValueError`, with the nearest valid name, unless `value` is one of `choices`."""
    if value in choices:
        return
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    raise InvalidValueError(f"{what} {value!r} is unknown{hint}: use one of {', '.join(choices)}")


def check_type(what: str, value: object, kind: type, remedy: str) -> None:
    """Raise `InvalidValueError`, with what to give instead, unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise InvalidValueError(f"{what} {reprlib.repr(value)} is of type {type(value).__name__}: give {remedy}")


def check_whole(what: str, value: int) -> int:
    """Return `value`, NumPy's whole numbers too, as a plain int; raise `InvalidValueError` if it is none."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidValueError(f"{what} {value!r} is of type {type(value).__name__}: give a whole number")
    return int(value)


def check_positive_int(what: str, value: int) -> int:
    """Return `value` as `check_whole` does; it is at least 1, and within torch's and a checkpoint's 64 bits."""
    number = check_whole(what, value)
    if not 1 <= number < 2**63:
        raise InvalidValueError(
            f"{what} {value} is out of range: it must be a whole number of at least 1 and below 2**63"
        )
    return number


def check_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """Return `layers` as plain ints; they lead from 784 pixels to 10 classes through widths of at least 1.

    Raises:
        InvalidValueError: they do not.
    """
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise InvalidValueError(f"layers {layers!r} are of type {type(layers).__name__}: give them like (784, 128, 10)")
    layers = tuple(check_whole("layer width", width) for width in layers)
    text = "-".join(map(str, layers))
    if layers[:1] != (INPUT_FEATURES,) or layers[-1] != CLASSES:
        raise InvalidValueError(
            f"layers {text!r} must start at {INPUT_FEATURES} (pixels) and end at {CLASSES} (classes): "
            f"write them like 784-128-10"
        )
    if len(layers) > MAX_LAYERS:
        raise InvalidValueError(f"layers: {len(layers)} of them are more than the {MAX_LAYERS} allowed: use fewer")
    for width in layers:
        if not 1 <= width <= MAX_LAYER_WIDTH:
            raise InvalidValueError(
                f"layer width {width} in {text!r} is out of range: use 1 to {MAX_LAYER_WIDTH} units"
            )
    return layers


def parse_layers(text: str) -> tuple[int, ...]:
    """Read a layer list such as ``784-512-256-10``.

    Raises:
        InvalidValueError: the text is no list of whole numbers, or breaks a rule of `check_layers`.
    """
    if re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})+", text, flags=re.ASCII) is None:
        raise InvalidValueError(
            f"model {text!r} is neither a recipe ({', '.join(RECIPES)}) nor a layer list: write one like 784-128-10"
        )
    return check_layers([int(part) for part in text.split("-")])


def custom_recipe(layers: Sequence[int]) -> Recipe:
    """Return the recipe of an unnamed model: Adam at 0.001 on cross-entropy, batches of 64, 5 epochs."""
    layers = check_layers(layers)
    return Recipe(name="-".join(map(str, layers)), layers=layers)


def scale_width(recipe: Recipe, width: int) -> Recipe:
    """Return `recipe` with `width` units in the first hidden layer and the other hidden layers in proportion.

    See `scale_layers`. The result is no longer the published model: it carries no claims and is named by its layers.

    Raises:
        InvalidValueError: `width` is out of range, or the model has no hidden layer.
    """
    width = check_positive_int("width", width)
    if not recipe.layers[1:-1]:
        raise InvalidValueError(f"model {recipe.name!r} has no hidden layer to widen: leave the width out")
    if width == recipe.layers[1]:
        return recipe
    layers = scale_layers(recipe.layers, width)
    return replace(recipe, name="-".join(map(str, layers)), layers=layers, claims=(), departures="")


def scale_layers(layers: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Return `layers` with `width` units in the first hidden layer and the other hidden layers in proportion.

    512-256 at width 1024 is 1024-512; a proportional width is rounded to the nearest whole number, at least 1.
    """
    first, *hidden, last = layers
    # Halves round up: round() would take them to the even neighbour, so that widths would not grow evenly.
    scaled = (max(1, (2 * units * width + hidden[0]) // (2 * hidden[0])) for units in hidden)
    return (first, *scaled, last)


def find_recipe(model: str) -> Recipe:
    """Return the recipe called `model`, or the custom recipe of the layer list `model`.

    Raises:
        InvalidValueError: neither; a misspelt recipe name is answered with the nearest one.
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
                departures="Its text says 50 epochs and 93 %; its run, reproduced here, is 5 epochs and 88.46 %.",
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
                departures="The original un-normalises its pictures with wrong constants; training is unaffected.",
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
            # The least training that brings an MLP to 98 %, see docs/recipes.md.
            Recipe(
                name="speedrun",
                layers=(784, 160, 10),
                learning_rate=1e-2,
                schedule="one_cycle",
                batch_size=256,
                epochs=4,
            ),
            # Canaries: quick to train, and quick to suffer from a bug in what they go through. Between them they take
            # both optimizers, momentum, and both ways to a cross-entropy.
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
"""The reference recipes by name: five tutorials' models, then our own."""

TUTORIALS: Final = tuple(recipe.name for recipe in RECIPES.values() if recipe.claims)
"""Names of the recipes that reproduce a published tutorial, which claims a result."""
