"""From pixels to a network's input, bit for bit as torchvision's transforms compute it."""

from typing import Final

import torch
from torch import Tensor

from mnist_mlp.recipes import TRANSFORMS

_PIXEL_MAX: Final = 255.0


class Normalise:
    """Scales uint8 pixels to [0, 1] and standardises them, on their device.

    Args:
        transform: one of `mnist_mlp.recipes.TRANSFORMS`.
        device: the device of the pixels.
    """

    def __init__(self, transform: str, device: torch.device) -> None:
        """Keep the constants on the device."""
        mean, deviation = TRANSFORMS[transform]
        # Tensors, because for a Python number CUDA multiplies with its rounded reciprocal instead of dividing, which
        # would not give the same bits as torchvision's transforms.
        self._pixel_max, self._mean, self._deviation = (
            torch.tensor(value, dtype=torch.float32, device=device) for value in (_PIXEL_MAX, mean, deviation)
        )
        self._standardise = transform != "unit"

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return pixels, uint8 of any shape, as a new float32 tensor of that shape."""
        return self.into(pixels, torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device))

    def into(self, pixels: Tensor, images: Tensor) -> Tensor:
        """Write pixels, uint8 of any shape, to `images`, float32 of that shape; return `images`."""
        images.copy_(pixels).div_(self._pixel_max)
        return images.sub_(self._mean).div_(self._deviation) if self._standardise else images
