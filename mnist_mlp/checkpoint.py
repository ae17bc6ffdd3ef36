"""Saving and loading trained models.

A checkpoint is a file of `torch.save`: a dictionary of plain values and a state_dict of float32 tensors on the CPU, so
that it loads anywhere. It is not trusted when it is read: `mnist_mlp.archive` first inspects and rewrites it, every
field is checked, and only then `torch.load(weights_only=True)` reads it.
"""

import dataclasses
import io
import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from mnist_mlp import __version__
from mnist_mlp.archive import MAX_ARCHIVE_BYTES, CheckpointError, TensorSpec, read_structure, rewritten
from mnist_mlp.checks import MAX_NAME_CHARACTERS
from mnist_mlp.classifier import Classifier
from mnist_mlp.costs import parameter_count
from mnist_mlp.data import Dataset
from mnist_mlp.devices import choose_device
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.files import write_file
from mnist_mlp.model import MLP
from mnist_mlp.paths import expanded
from mnist_mlp.recipes import MAX_LAYERS, Recipe

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "TrainingSummary",
    "check_fits_checkpoint",
    "load_checkpoint",
    "load_model",
    "save_checkpoint",
]

FORMAT: Final = "mnist_mlp checkpoint"
VERSION: Final = 2
"""Version of the format. 1: the fields of `_FIELDS`; 2: the recipe has a schedule. Both can be read."""

_FIELDS: Final = ("format", "version", "library_version", "recipe", "dataset", "training", "state_dict")

_NONE: Final = type(None)
_RECIPE_TYPES: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType(
    {
        "name": (str,),
        "layers": (list,),
        "activation": (str,),
        "output": (str,),
        "loss": (str,),
        "optimizer": (str,),
        "learning_rate": (float,),
        "schedule": (str,),
        "momentum": (float,),
        "weight_decay": (float,),
        "batch_size": (int,),
        "test_batch_size": (int,),
        "epochs": (int,),
        "transform": (str,),
        "shuffle": (bool,),
        "seed": (int, _NONE),
    }
)
_TRAINING_TYPES: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType(
    {
        "seed": (int,),
        "epochs": (int,),
        "validation_split": (float,),
        "test_loss": (float, _NONE),
        "test_accuracy": (float, _NONE),
    }
)
_DATASET_TYPES: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType({"name": (str,), "sha256": (str,)})

_MAX_INT: Final = 2**63
_FLOAT32_BYTES: Final = 4
_HEADROOM_BYTES: Final = 1024**2
"""Upper bound for everything in a checkpoint except its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """How a model was trained. The test loss and accuracy are those of the last epoch; None if it was never trained."""

    seed: int
    epochs: int
    validation_split: float
    test_loss: float | None
    test_accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A saved model, rebuilt on the CPU, with its recipe, its dataset and a summary of its training."""

    recipe: Recipe
    network: MLP
    dataset: str
    dataset_sha256: str
    training: TrainingSummary
    library_version: str

    def classifier(self, device: str | torch.device) -> Classifier:
        """Move the model to `device`, which is named as for `mnist_mlp.devices.choose_device`.

        Raises:
            InvalidValueError: the device is unknown or not available.
        """
        return Classifier(self.recipe, self.network.to(choose_device(device)))


def check_fits_checkpoint(layers: tuple[int, ...]) -> None:
    """Raise `CheckpointError` if a model of these layer widths is too large for `save_checkpoint`."""
    needed = parameter_count(layers) * _FLOAT32_BYTES
    if needed > MAX_ARCHIVE_BYTES - _HEADROOM_BYTES:
        raise CheckpointError(
            f"a model of {parameter_count(layers)} parameters takes {needed} bytes, but a checkpoint holds at most "
            f"{MAX_ARCHIVE_BYTES}: use narrower layers, or do not save it"
        )


def save_checkpoint(path: Path, model: Classifier, dataset: Dataset, training: TrainingSummary) -> None:
    """Write `model` to `path` atomically.

    Raises:
        OutputError: `path` cannot be written.
        CheckpointError: the model is too large, its network is not the recipe's any more, or a weight is not a finite
            number because the training diverged.
    """
    check_fits_checkpoint(model.recipe.layers)
    if str(model.network) != str(_empty_network(model.recipe)) or any(
        value.dtype != torch.float32 for value in model.network.state_dict().values()
    ):
        raise CheckpointError(
            f"{str(path)!r} was not written: the network's layers, or the type of its weights, were edited, and it "
            f"would be loaded as its recipe {model.recipe.name!r} describes it; save its state_dict with torch.save"
        )
    # Cloned, so that each tensor has its own storage even if it was a view of a larger buffer.
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.network.state_dict().items()
    }
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise CheckpointError(
            f"{str(path)!r} was not written: some weights are not finite numbers, so the training has diverged; "
            "train again with a lower learning rate"
        )
    recipe = {name: getattr(model.recipe, name) for name in _RECIPE_TYPES}
    numbers = {name: float(recipe[name]) for name, types in _RECIPE_TYPES.items() if types == (float,)}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "library_version": __version__,
        "recipe": recipe | numbers | {"layers": list(model.recipe.layers)},
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "training": dataclasses.asdict(training),
        "state_dict": weights,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_file(path, buffer.getvalue())


def load_model(path: Path | str, *, device: str | torch.device = "cpu") -> Classifier:
    """Load the model saved at `path` onto `device`, which is named as for `mnist_mlp.devices.choose_device`.

    Raises:
        CheckpointError: the file is missing, damaged, foreign or hostile.
        InvalidValueError: the device is unknown or not available, or there is no home folder for the ``~`` in `path`.
    """
    return load_checkpoint(expanded(path)).classifier(device)


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a file that `save_checkpoint` wrote. Nothing in the file is executed, whoever made it.

    Raises:
        CheckpointError: the file is missing, damaged, foreign or hostile.
    """
    try:
        content = _read(path)
        _check_structure(read_structure(content))
        return _rebuild(content)
    except (CheckpointError, InvalidValueError) as error:
        raise CheckpointError(
            f"model {str(path)!r} cannot be loaded: {error}. Give a file that `train --save` or Trainer.save wrote"
        ) from error


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise CheckpointError("it is a folder or a device" if path.exists() else "there is no such file")
        if path.stat().st_size > MAX_ARCHIVE_BYTES:
            raise CheckpointError(f"it is larger than the {MAX_ARCHIVE_BYTES} bytes allowed for a checkpoint")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"it cannot be read ({error.strerror or error})") from error


def _check_structure(content: Any) -> None:  # noqa: ANN401 - from a stranger's file
    """Raise `CheckpointError` unless `content`, with a `TensorSpec` in place of each tensor, is a valid checkpoint."""
    if not isinstance(content, dict):
        raise CheckpointError("it does not contain a dictionary")
    if content and all(isinstance(value, TensorSpec) for value in content.values()):
        raise CheckpointError(
            "it is a bare state_dict: the weights cannot be used without their recipe (layers, output, loss, transform)"
        )
    if content.get("format") != FORMAT:
        raise CheckpointError("it is not marked as a checkpoint of mnist_mlp")
    version = _typed(content, "version", (int,))
    if not 1 <= version <= VERSION:
        raise CheckpointError(
            f"it has format version {version}, but this library reads 1 to {VERSION}: upgrade the library"
        )
    if set(content) != set(_FIELDS):
        raise CheckpointError(f"its fields are not the {', '.join(_FIELDS)} of a checkpoint")
    _typed(content, "library_version", (str,))
    _check_fields("training", content["training"], _TRAINING_TYPES)
    _check_fields("dataset", content["dataset"], _DATASET_TYPES)
    if not re.fullmatch("([0-9a-f]{64})?", content["dataset"]["sha256"]):
        raise CheckpointError("the SHA-256 of its dataset is malformed")
    recipe = _recipe(content["recipe"], version)
    expected = {name: tuple(value.shape) for name, value in _empty_network(recipe).state_dict().items()}
    state = content["state_dict"]
    found = (
        {name: spec.shape if isinstance(spec, TensorSpec) else None for name, spec in state.items()}
        if isinstance(state, dict)
        else None
    )
    if found != expected:
        raise CheckpointError("its weights do not have the names and shapes that its recipe needs")


def _check_fields(name: str, values: Any, types: Mapping[str, tuple[type, ...]]) -> None:  # noqa: ANN401 - unread yet
    if not isinstance(values, dict) or set(values) != set(types):
        raise CheckpointError(f"its field {name} does not have the entries {', '.join(types)}")
    for key, allowed in types.items():
        _typed(values, key, allowed)


def _typed(values: Mapping[str, Any], key: str, allowed: tuple[type, ...]) -> Any:  # noqa: ANN401 - what `allowed` says
    """Return the value at `key` once it has one of the types and is safe to print and to compute with."""
    value = values.get(key)
    # An exact comparison, because isinstance takes True for an int.
    if type(value) not in allowed:
        raise CheckpointError(f"its field {key} is not of type {' or '.join(kind.__name__ for kind in allowed)}")
    harmless = {
        str: lambda text: len(text) <= MAX_NAME_CHARACTERS and text.isprintable(),
        int: lambda number: 0 <= number < _MAX_INT,
        float: math.isfinite,
    }.get(type(value))
    if harmless is not None and not harmless(value):
        raise CheckpointError(f"its field {key} is out of range")
    return value


def _recipe(values: Any, version: int) -> Recipe:  # noqa: ANN401 - from a stranger's file
    if version == 1 and isinstance(values, dict):
        values = {"schedule": "constant", **values}
    _check_fields("recipe", values, _RECIPE_TYPES)
    layers = values["layers"]
    if not 1 < len(layers) <= MAX_LAYERS or any(type(width) is not int for width in layers):
        raise CheckpointError("its layers are not a list of whole numbers")
    recipe = Recipe(**{**values, "layers": tuple(layers)})
    check_fits_checkpoint(recipe.layers)
    return recipe


def _empty_network(recipe: Recipe) -> MLP:
    """Return the recipe's network on the meta device, without memory for its weights."""
    with torch.device("meta"):
        return MLP(recipe.layers, activation=recipe.activation, output=recipe.output)


def _rebuild(content: bytes) -> Checkpoint:
    """Load a file that `_check_structure` has accepted."""
    try:
        values = torch.load(io.BytesIO(rewritten(content)), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, ValueError, EOFError) as error:
        raise CheckpointError(f"torch cannot load it ({type(error).__name__})") from error
    if not all(bool(weights.isfinite().all()) for weights in values["state_dict"].values()):
        raise CheckpointError("some of its weights are not finite numbers")
    recipe = _recipe(values["recipe"], values["version"])
    network = _empty_network(recipe)
    network.load_state_dict(values["state_dict"], assign=True)
    return Checkpoint(
        recipe=recipe,
        network=network,
        dataset=values["dataset"]["name"],
        dataset_sha256=values["dataset"]["sha256"],
        training=TrainingSummary(**values["training"]),
        library_version=values["library_version"],
    )
