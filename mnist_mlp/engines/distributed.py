"""The eager step in several processes at once, each with its share of every batch."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mnist_mlp.engines.eager import EagerEngine
from mnist_mlp.model import MLP
from mnist_mlp.pipelines import Pipeline
from mnist_mlp.ranks import Ranks
from mnist_mlp.recipes import INPUT_FEATURES, Recipe
from mnist_mlp.schedules import Schedule
from mnist_mlp.tally import Tally


class DistributedEngine(EagerEngine):
    """The eager engine with torch's DistributedDataParallel, which averages gradients during the backward pass.

    Each rank trains on its share of the global batch. Apart from rounding, all ranks take the step that one process
    would take on the whole batch. The caller must have set up torch's default process group.
    """

    def __init__(  # noqa: PLR0913 - the parts of an engine
        self,
        recipe: Recipe,
        model: MLP,
        pipeline: Pipeline,
        *,
        ranks: Ranks,
        precision: str = "fp32",
        schedule: Schedule | None = None,
    ) -> None:
        """Wrap `model`, which is the same in every rank; `pipeline` yields batches of this rank's size."""
        super().__init__(recipe, model, pipeline, precision=precision, schedule=schedule)
        self._ranks = ranks
        self._global_batch_size = recipe.batch_size
        self._batch_size = ranks.local_batch_size(recipe.batch_size)
        devices = None if self._device.type == "cpu" else [self._device]
        self._wrapped = DistributedDataParallel(model, device_ids=devices)
        self._module = self._wrapped
        self._weight = 1.0

    def train(self, order: Tensor, *, after_step: Callable[[], None] | None = None) -> Tally:
        """See `Engine.train`; `order` is that of the global batches, the tally has this rank's samples only."""
        own = self._ranks.share(order, self._global_batch_size)
        tally = Tally.for_batches(len(own), self._batch_size, self._device, self._loss)
        steps = -(-len(order) // self._global_batch_size)
        batches = self._pipeline.train_batches(own)
        for number in range(steps):
            if number == steps - 1:
                self._weight = self._ranks.last_weight(len(order), self._global_batch_size)
            images, labels = next(batches) if self._weight else self._empty_batch()
            output, _ = self.step(images, labels)
            if len(labels):
                tally.add(output, labels)
            if after_step is not None:
                after_step()
        self._weight = 1.0
        return tally

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `EagerEngine.forward`; the loss is that of this rank, weighted for the mean over ranks."""
        if self._weight == 1.0:
            return super().forward(images, labels)
        if self._weight == 0.0:  # no sample here, but the other ranks wait for this one's gradients
            output = self._module(images)
            return output, output.sum()
        output, loss = super().forward(images, labels)
        return output, loss * self._weight

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Have every rank train alone within the context: the same work without exchanging gradients."""
        with self._wrapped.no_sync():
            yield

    def _empty_batch(self) -> tuple[Tensor, Tensor]:
        shape = (0, INPUT_FEATURES)
        return torch.empty(shape, device=self._device), torch.empty(0, dtype=torch.int64, device=self._device)
