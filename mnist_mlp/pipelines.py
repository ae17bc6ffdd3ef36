"""Where batches come from. For the same order of samples, both pipelines give the same batches, bit for bit.

`resident` keeps all images as uint8 on the device and normalises each batch there. `dataloader` is what tutorials use:
torchvision's dataset with its transforms applied to each image, and a DataLoader.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mnist_mlp.data import Dataset
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import TORCHVISION_DATASETS, TRANSFORMS
from mnist_mlp.transforms import Normalise


class Pipeline(Protocol):
    """A source of normalised batches on the device."""

    def train_batches(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training samples at `order`, (n,) int64 on the CPU, as batches; the last may be short.

        A batch is images, (batch, 784) or (batch, 1, 28, 28) float32, and labels, (batch,) int64.
        """

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the whole test set in the same form and in its own order."""


class ResidentPipeline:
    """All images on the device as uint8; a batch is gathered and normalised there."""

    def __init__(
        self, dataset: Dataset, transform: str, *, batch_size: int, test_batch_size: int, device: torch.device
    ) -> None:
        """Move the dataset to `device`; MNIST's training set takes 47 MB for images and 0.5 MB for labels."""
        self._batch_size = batch_size
        self._test_batch_size = test_batch_size
        self._device = device
        self._train = (dataset.train_images.flatten(1).to(device), dataset.train_labels.to(device))
        self._test = (dataset.test_images.flatten(1).to(device), dataset.test_labels.to(device))
        self._normalise = Normalise(transform, device)
        self.train_samples = len(dataset.train_labels)

    def train_batches(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Pipeline.train_batches`. The whole order is moved, and all labels are gathered, at the start."""
        images, labels = self._train
        order = order.to(self._device)
        for chosen, targets in zip(
            order.split(self._batch_size), labels.index_select(0, order).split(self._batch_size), strict=True
        ):
            yield self._normalise(images.index_select(0, chosen)), targets

    def assemble(self, chosen: Tensor, pixels: Tensor, images: Tensor, labels: Tensor) -> None:
        """Gather the training samples at `chosen` into buffers, without allocating memory.

        Args:
            chosen: positions of samples, (n,) int64 on the device.
            pixels: gets their pixels, (n, 784) uint8.
            images: gets their normalised pixels, (n, 784) float32, bit for bit as in `train_batches`.
            labels: gets their labels, (n,) int64.
        """
        torch.index_select(self._train[0], 0, chosen, out=pixels)
        torch.index_select(self._train[1], 0, chosen, out=labels)
        self._normalise.into(pixels, images)

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Pipeline.test_batches`."""
        images, labels = self._test
        for pixels, targets in zip(
            images.split(self._test_batch_size), labels.split(self._test_batch_size), strict=True
        ):
            yield self._normalise(pixels), targets


class DataLoaderPipeline:
    """The tutorials' pipeline: `torchvision.datasets`, `transforms.ToTensor` and `Normalize`, `DataLoader`.

    It decodes the test images anew in each evaluation, too.
    """

    def __init__(  # noqa: PLR0913 - what a DataLoader needs
        self,
        dataset: Dataset,
        transform: str,
        *,
        batch_size: int,
        test_batch_size: int,
        device: torch.device,
        root: Path,
        workers: int,
    ) -> None:
        """Open torchvision's dataset below `root`, where `mnist_mlp.data.load` has stored and verified it.

        Raises:
            InvalidValueError: torchvision has no class for this dataset, or would read files that were not verified.
        """
        from torchvision import datasets, transforms  # noqa: PLC0415 - 0.4 s that the resident pipeline need not pay

        if dataset.name not in TORCHVISION_DATASETS:
            raise InvalidValueError(
                f"pipeline 'dataloader' cannot read dataset {dataset.name!r}: torchvision has no class for it; "
                f"use pipeline resident, or one of the datasets {', '.join(TORCHVISION_DATASETS)}"
            )
        steps: list[Any] = [transforms.ToTensor()]
        if transform != "unit":
            mean, deviation = TRANSFORMS[transform]
            steps.append(transforms.Normalize((mean,), (deviation,)))
        reader = getattr(datasets, TORCHVISION_DATASETS[dataset.name])
        _check_no_older_copy(root / TORCHVISION_DATASETS[dataset.name] / "processed")
        self._train = reader(root, train=True, transform=transforms.Compose(steps))
        self._test = reader(root, train=False, transform=transforms.Compose(steps))
        self._batch_size = batch_size
        self._test_batch_size = test_batch_size
        self._device = device
        self._workers = workers

    def train_batches(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Pipeline.train_batches`. Each call starts new worker processes, as a loop over epochs does."""
        return self._batches(self._train, self._batch_size, order.tolist())

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Pipeline.test_batches`."""
        return self._batches(self._test, self._test_batch_size, range(len(self._test)))

    def _batches(
        self,
        dataset: Any,  # noqa: ANN401 - torchvision ships no types
        batch_size: int,
        order: list[int] | range,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=order,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # otherwise each pass draws from the global random state
        )
        for images, labels in loader:
            yield images.to(self._device), labels.to(self._device)


def _check_no_older_copy(folder: Path) -> None:
    """Refuse files of old torchvision releases, which its reader would prefer to the verified ones."""
    for name in ("training.pt", "test.pt"):
        if (folder / name).exists():
            raise InvalidValueError(
                f"pipeline 'dataloader' would read {str(folder / name)!r}, which an older torchvision wrote, instead "
                f"of the dataset's verified files: remove the folder {str(folder)!r}"
            )
