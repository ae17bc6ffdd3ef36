"""A trained network together with its recipe: it takes pictures and predicts digits."""

from collections.abc import Iterator
from typing import Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mnist_mlp.checks import check_type
from mnist_mlp.data import Dataset
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.model import MLP, loss_function
from mnist_mlp.recipes import Recipe
from mnist_mlp.scores import Evaluation, evaluate_predictions
from mnist_mlp.transforms import Normalise

_IMAGE_SHAPE: Final = (28, 28)


@runtime_checkable
class HasPixels(Protocol):
    """A prepared picture, as `mnist_mlp.images.prepare_image` returns it."""

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """(28, 28) uint8: 0 is paper, 255 full ink."""


Images = Tensor | npt.NDArray[np.uint8] | HasPixels
"""Pictures as in a dataset, (n, 28, 28) or (28, 28) uint8 where 0 is paper and 255 full ink; or a prepared picture."""


class Classifier:
    """Predicts the digits in pictures that look like MNIST's.

    Args:
        recipe: the recipe that the network was trained with; its transform is applied to every picture.
        network: the trained network; it stays on its device.
    """

    def __init__(self, recipe: Recipe, network: MLP) -> None:
        """Keep both."""
        self._recipe = recipe
        self._network = network

    def __repr__(self) -> str:
        """Return recipe and device."""
        return f"Classifier({self.recipe.name!r}, device {str(self.device)!r})"

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self._recipe

    @property
    def network(self) -> MLP:
        """The network. Values of its parameters can be changed in place; another network needs another classifier."""
        return self._network

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.network.parameters()).device

    def predict(self, images: Images) -> Tensor:
        """Return the most probable class of each picture, (n,) int64 on the CPU; arguments as for `probabilities`."""
        return self.probabilities(images).argmax(dim=1)

    def probabilities(self, images: Images) -> Tensor:
        """Return the softmax probability of each class, (n, 10) float32 on the CPU; rows add up to 1.

        Args:
            images: (n, 28, 28) or (28, 28) uint8 where 0 is paper and 255 full ink, or a picture prepared by
                `mnist_mlp.images.prepare_image`.

        Raises:
            InvalidValueError: `images` have another shape or type, or the weights are so large that a probability is
                not a number.
        """
        outputs = torch.cat([output.cpu() for output in self._outputs(_checked(images))])
        probabilities = outputs if self.recipe.output == "softmax" else functional.softmax(outputs, dim=1)
        if bool(probabilities.isnan().any()):
            raise InvalidValueError(
                "the model's weights are so large that its probabilities are not numbers: train it again"
            )
        return probabilities

    def evaluate(self, dataset: Dataset) -> Evaluation:
        """Evaluate the model on the dataset's test images; the loss is computed in float64.

        Raises:
            InvalidValueError: `dataset` is not a `Dataset`.
        """
        check_type("dataset", dataset, Dataset, "a Dataset, for example load_dataset('mnist')")
        outputs = torch.cat([output.cpu() for output in self._outputs(dataset.test_images)])
        labels = dataset.test_labels.cpu()
        loss = loss_function(self.recipe.loss)(outputs.double(), labels)
        return evaluate_predictions(float(loss), outputs.argmax(dim=1).numpy(), labels.numpy())

    def _outputs(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the outputs for images, (n, 28, 28) uint8, batch by batch: (batch, 10) float32 on the device."""
        normalise = Normalise(self.recipe.transform, self.device)
        self.network.eval()
        with torch.no_grad():
            for pixels in torch.split(images, self.recipe.test_batch_size):
                yield self.network(normalise(pixels.to(self.device)))


def _checked(images: Images) -> Tensor:
    from PIL import Image  # noqa: PLC0415 - training needs no Pillow

    if isinstance(images, Image.Image):  # numpy would read it, but its paper may be white, and its digit anywhere
        raise _unclassifiable(f"of type {type(images).__name__}")
    given = images.pixels if isinstance(images, HasPixels) else images
    try:
        if isinstance(given, Tensor):
            tensor = given
        else:  # np.require copies what torch cannot share: arrays that are read-only or have negative strides
            tensor = torch.as_tensor(np.require(given, requirements=("C", "W")), device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise _unclassifiable(f"of type {type(images).__name__}") from error
    if tensor.shape == _IMAGE_SHAPE:
        tensor = tensor[None]
    if tensor.shape[1:] != _IMAGE_SHAPE or len(tensor) == 0 or tensor.dtype != torch.uint8:
        raise _unclassifiable(f"of shape {tuple(tensor.shape)} and type {tensor.dtype}")
    return tensor


def _unclassifiable(what: str) -> InvalidValueError:
    return InvalidValueError(
        f"images {what} cannot be classified: give at least one, as (n, 28, 28) uint8 with 0 for paper and 255 for "
        f"full ink, or prepare a picture with mnist_mlp.prepare_image"
    )
