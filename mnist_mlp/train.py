"""The training loop's building blocks: one model, trained and evaluated stretch by stretch.

Nothing here measures time or prints. Within an epoch nothing is read back from the device: outputs stay there until
`Tally.read` fetches them. On a CPU, the same seed and number of threads give bit-identical results.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnist_mlp.checks import check_seed
from mnist_mlp.data import Dataset, default_root
from mnist_mlp.engines import DistributedEngine, make_engine, numeric_format
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.model import build_model, loss_function
from mnist_mlp.pipelines import DataLoaderPipeline, Pipeline, ResidentPipeline
from mnist_mlp.ranks import ALONE, Ranks
from mnist_mlp.recipes import Recipe
from mnist_mlp.schedules import schedule_of
from mnist_mlp.support import check_supported
from mnist_mlp.tally import Score, Tally

__all__ = ["SPLIT_STREAM", "Score", "Tally", "Training", "seeded_generator"]

ORDER_STREAM = 0
SPLIT_STREAM = 1
"""Stream numbers for `seeded_generator`: the order of samples in an epoch, and the validation split."""


class Training:
    """A model being trained.

    Initial weights and sample order are drawn on the CPU from the seed, so they are the same for every device.

    Args:
        recipe: what to train and how.
        dataset: from `mnist_mlp.data.load`.
        device: where to train.
        seed: determines initial weights and sample order, 0 to 2**63 - 1.
        pipeline: ``resident`` or ``dataloader``.
        engine: ``eager``, ``compiled``, ``fused`` or ``graph``, see `mnist_mlp.engines`.
        precision: ``fp32``, ``tf32`` or ``bf16``. For the first two, the caller must also call
            `mnist_mlp.devices.set_float32_products`, because torch has this setting for the whole process only.
        workers: worker processes of the DataLoader; 0 loads in this process.
        root: folder that holds the dataset's files, for the dataloader pipeline; by default
            `mnist_mlp.data.default_root`.
        held_out: positions of training samples to keep for validation, (k,) int64; None for none.
        ranks: this process's place among those that share the training; the recipe's batch size is for all together.

    Raises:
        InvalidValueError: the seed is out of range; pipeline, engine or precision is unknown, or they do not work
            together on this device; the pipeline cannot read the dataset; or `held_out` leaves no sample to train on.
    """

    def __init__(  # noqa: PLR0913 - each one is a dimension of an experiment
        self,
        recipe: Recipe,
        dataset: Dataset,
        *,
        device: torch.device,
        seed: int,
        pipeline: str = "resident",
        engine: str = "eager",
        precision: str = "fp32",
        workers: int = 0,
        root: Path | None = None,
        held_out: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Build model, optimizer and pipeline on `device`."""
        seed = check_seed(seed)
        check_supported(
            device=str(device), engine=engine, precision=precision, pipeline=pipeline, world_size=ranks.world_size
        )
        self.recipe = recipe
        self.seed = seed
        self._positions = _positions(len(dataset.train_labels), held_out)
        self.train_samples = len(self._positions)
        self.model = build_model(
            recipe.layers, activation=recipe.activation, output=recipe.output, seed=seed, device=device
        )
        self._loss = loss_function(recipe.loss)
        self._batch_size = ranks.local_batch_size(recipe.batch_size)
        local = replace(recipe, batch_size=self._batch_size)
        self._pipeline = _make_pipeline(local, dataset, device=device, pipeline=pipeline, workers=workers, root=root)
        self._engine = make_engine(
            engine,
            recipe,
            self.model,
            self._pipeline,
            precision=precision,
            schedule=schedule_of(recipe, self.train_samples),
            ranks=ranks,
        )
        self._precision = precision
        self._device = device
        self._test_samples = len(dataset.test_labels)

    def order(self, epoch: int) -> Tensor:
        """Return the order of training samples in `epoch` (counted from 0), (train_samples,) int64 on the CPU."""
        if not self.recipe.shuffle:
            return self._positions.clone()
        generator = seeded_generator(self.seed, ORDER_STREAM, epoch)
        return self._positions[torch.randperm(self.train_samples, generator=generator, device="cpu")]

    def train(self, order: Tensor, *, after_step: Callable[[], None] | None = None) -> Tally:
        """Train once on the samples at `order`, in batches, and return their tally, unread.

        Args:
            order: positions of training samples, (n,) int64 on the CPU. Several ranks all get the same one; each one's
                tally has its own samples only.
            after_step: called after each step, for example to sample memory while rehearsing.

        Raises:
            InvalidValueError: `order` is empty.
        """
        if len(order) == 0:
            raise InvalidValueError("the order of samples is empty: give at least one sample to train on")
        self.model.train()
        return self._engine.train(order, after_step=after_step)

    def check_model(self) -> None:
        """Raise `InvalidValueError` if `model` was edited in a way that `train` would leave out."""
        self._engine.check_model()

    def apart(self) -> AbstractContextManager[None]:
        """Return a context in which every rank trains alone, without exchanging gradients."""
        return self._engine.apart() if isinstance(self._engine, DistributedEngine) else nullcontext()

    def evaluate(self) -> Tally:
        """Apply the model to the whole test set and return the tally, unread."""
        return self._evaluate(self._pipeline.test_batches(), self._test_samples, self.recipe.test_batch_size)

    def evaluate_training_samples(self, positions: Tensor | None = None) -> Tally:
        """Apply the model, without training, to the training samples at `positions` and return the tally, unread.

        Args:
            positions: (n,) int64 on the CPU; by default all samples that are trained on.
        """
        chosen = self._positions if positions is None else positions
        return self._evaluate(self._pipeline.train_batches(chosen), len(chosen), self._batch_size)

    def _evaluate(self, batches: Iterator[tuple[Tensor, Tensor]], samples: int, batch_size: int) -> Tally:
        self.model.eval()
        tally = Tally.for_batches(samples, batch_size, self._device, self._loss)
        with torch.no_grad():
            for images, labels in batches:
                with numeric_format(self._precision, self._device.type):
                    output = self.model(images)
                tally.add(output, labels)
        return tally

    def rehearsal_order(self, steps: int) -> Tensor:
        """Return an order of samples with every batch size of an epoch: `steps` full batches, then its short last one.

        If an epoch is no longer than that, it is the epoch itself.
        """
        order = self.order(0)
        full = order[: steps * self.recipe.batch_size]
        short = self.train_samples % self.recipe.batch_size
        return order if len(full) + short >= len(order) else torch.cat((full, order[len(order) - short :]))

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the model's parameters by name, for `restart`."""
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def restart(self, snapshot: dict[str, Tensor]) -> None:
        """Undo all training: restore the untrained model's `snapshot`, and reset gradients and optimizer."""
        self.model.load_state_dict(snapshot)
        self.model.zero_grad(set_to_none=True)
        self._engine.reset_optimizer()


def seeded_generator(seed: int, *stream: int) -> torch.Generator:
    """Return a CPU generator; different `stream` numbers make independent generators from one seed."""
    state = np.random.SeedSequence(seed, spawn_key=stream).generate_state(1, dtype=np.uint64)
    return torch.Generator().manual_seed(int(state[0]) % 2**63)


def _positions(samples: int, held_out: Tensor | None) -> Tensor:
    """Return the positions to train on, (n,) int64 ascending: all of `samples` except `held_out`."""
    if held_out is None:
        return torch.arange(samples, device="cpu")
    kept = torch.ones(samples, dtype=torch.bool, device="cpu")
    kept[held_out] = False
    positions = kept.nonzero().flatten()
    if len(positions) == 0:
        raise InvalidValueError(f"all {samples} training samples are held out: leave at least one to train on")
    return positions


def _make_pipeline(  # noqa: PLR0913 - Training's arguments
    recipe: Recipe, dataset: Dataset, *, device: torch.device, pipeline: str, workers: int, root: Path | None
) -> Pipeline:
    if pipeline == "dataloader":
        return DataLoaderPipeline(
            dataset,
            recipe.transform,
            batch_size=recipe.batch_size,
            test_batch_size=recipe.test_batch_size,
            device=device,
            root=root or default_root(),
            workers=workers,
        )
    return ResidentPipeline(
        dataset,
        recipe.transform,
        batch_size=recipe.batch_size,
        test_batch_size=recipe.test_batch_size,
        device=device,
    )
