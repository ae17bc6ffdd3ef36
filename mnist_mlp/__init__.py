"""The reference MNIST multi-layer perceptrons: train them, use them, save them.

    from mnist_mlp import Trainer
    trainer = Trainer("mlp_512_256", seed=42)
    history = trainer.fit()
    trainer.evaluate().accuracy
    trainer.save("mnist_model.pth")

The public names are imported on first use, so that `import mnist_mlp` is quick and needs no torch.
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_mlp.checkpoint import load_model
    from mnist_mlp.classifier import Classifier
    from mnist_mlp.data import load as load_dataset
    from mnist_mlp.history import Epoch, History
    from mnist_mlp.images import prepare_image
    from mnist_mlp.model import MLP
    from mnist_mlp.recipes import RECIPES, Recipe, customise, find_recipe
    from mnist_mlp.scores import Evaluation
    from mnist_mlp.trainer import Trainer

__version__ = "0.1.1"

__all__ = [
    "MLP",
    "RECIPES",
    "Classifier",
    "Epoch",
    "Evaluation",
    "History",
    "Recipe",
    "Trainer",
    "customise",
    "find_recipe",
    "load_dataset",
    "load_model",
    "prepare_image",
]

_HOMES = MappingProxyType(
    {
        "MLP": ("model", "MLP"),
        "RECIPES": ("recipes", "RECIPES"),
        "Classifier": ("classifier", "Classifier"),
        "Epoch": ("history", "Epoch"),
        "Evaluation": ("scores", "Evaluation"),
        "History": ("history", "History"),
        "Recipe": ("recipes", "Recipe"),
        "Trainer": ("trainer", "Trainer"),
        "customise": ("recipes", "customise"),
        "find_recipe": ("recipes", "find_recipe"),
        "load_dataset": ("data", "load"),
        "load_model": ("checkpoint", "load_model"),
        "prepare_image": ("images", "prepare_image"),
    }
)
"""Public name → its module and its name there, for `__getattr__` (PEP 562)."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the public names
    """Import a public name on first use."""
    try:
        module, attribute = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
