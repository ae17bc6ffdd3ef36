"""One training: a recipe, a dataset, a device and a seed, taken through epochs and evaluations.

Nothing here reads a clock or prints. Within an epoch nothing is read back from the device; losses and outputs stay
there, and `Tally.read` fetches their sums afterwards. The same seed on the same device with the same number of threads
gives bit-identical results on the CPU.
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
"""First stream number of what is drawn from a training's seed: the epochs' orders, and the validation split."""


class Training:
    """A model being trained.

    Initial weights and the order of samples are drawn on the CPU from the seed, so they are the same on every device.

    Args:
        recipe: what to train and how.
        dataset: from `mnist_mlp.data.load`.
        device: where to train.
        seed: decides weights and sample order, 0 to 2**63 - 1.
        pipeline: ``resident`` or ``dataloader``.
        engine: ``eager``, ``compiled``, ``fused`` or ``graph``, see `mnist_mlp.engines`.
        precision: ``fp32``, ``tf32`` or ``bf16``. Which of the first two float32 products are computed in is a setting
            of the whole process, `mnist_mlp.devices.set_float32_products`, that is the caller's.
        workers: DataLoader's worker processes; 0 loads in this process.
        root: where the dataset's files are, for the dataloader pipeline; the default is `mnist_mlp.data.default_root`.
        held_out: positions of training samples that are never trained on, (k,) int64, for validation.
        ranks: which of several processes this is that share the training; the recipe's batch size is that of all.

    Raises:
        InvalidValueError: the seed is out of range, pipeline, engine or precision is unknown or cannot be had together
            or on this device, the pipeline cannot serve the dataset, or `held_out` leaves no sample to train on.
    """

    def __init__(  # noqa: PLR0913 - each one a dimension of the experiment
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
        return self._positions[torch.randperm(self.train_samples, generator=generator)]

    def train(self, order: Tensor, *, after_step: Callable[[], None] | None = None) -> Tally:
        """Train once on the samples at `order`, in batches; return their tally, unread.

        With several ranks, `order` is the same in all, and the tally is of this one's samples. `after_step` is called
        after each step; it is meant for rehearsals that sample memory.

        Raises:
            InvalidValueError: there is no sample to train on.
        """
        if len(order) == 0:
            raise InvalidValueError("the order of samples is empty: train on at least one")
        self.model.train()
        return self._engine.train(order, after_step=after_step)

    def apart(self) -> AbstractContextManager[None]:
        """Return a context in which ranks train each by itself, without exchanging gradients."""
        return self._engine.apart() if isinstance(self._engine, DistributedEngine) else nullcontext()

    def evaluate(self) -> Tally:
        """Run the model over the whole test set; return the tally, unread."""
        return self._evaluate(self._pipeline.test_batches(), self._test_samples, self.recipe.test_batch_size)

    def evaluate_training_samples(self, positions: Tensor | None = None) -> Tally:
        """Run the model, without training it, over the training set's samples at `positions`; return the tally, unread.

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
        """Return an order with every batch shape of the real path: `steps` full batches, then an epoch's short one.

        Where an epoch is shorter than that, it is the epoch itself.
        """
        order = self.order(0)
        full = order[: steps * self.recipe.batch_size]
        short = self.train_samples % self.recipe.batch_size
        return order if len(full) + short >= len(order) else torch.cat((full, order[len(order) - short :]))

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the model's parameters, for `restart`."""
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def restart(self, snapshot: dict[str, Tensor]) -> None:
        """Undo all training since `snapshot` was taken of the untrained model: parameters, gradients, optimizer."""
        self.model.load_state_dict(snapshot)
        self.model.zero_grad(set_to_none=True)
        self._engine.reset_optimizer()


def seeded_generator(seed: int, *stream: int) -> torch.Generator:
    """Return a generator on the CPU for one purpose: different `stream` numbers draw unrelated values from one seed."""
    state = np.random.SeedSequence(seed, spawn_key=stream).generate_state(1, dtype=np.uint64)
    return torch.Generator().manual_seed(int(state[0]) % 2**63)


def _positions(samples: int, held_out: Tensor | None) -> Tensor:
    """Return the positions to train on, (n,) int64, ascending: all of `samples` but those in `held_out`."""
    if held_out is None:
        return torch.arange(samples)
    kept = torch.ones(samples, dtype=torch.bool)
    kept[held_out] = False
    positions = kept.nonzero().flatten()
    if len(positions) == 0:
        raise InvalidValueError(f"all {samples} training samples are held out: leave at least one to train on")
    return positions


def _make_pipeline(  # noqa: PLR0913 - passes on what Training takes
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
