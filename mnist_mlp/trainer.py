"""The high-level API: train a recipe on a dataset with `fit`, then use, evaluate and save the model.

Nothing here prints or measures time; a caller that wants to passes callbacks to `Trainer.fit`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mnist_mlp.checkpoint import TrainingSummary, save_checkpoint
from mnist_mlp.checks import check_choice, check_positive_int, check_seed, check_whole
from mnist_mlp.classifier import Classifier, Images
from mnist_mlp.data import Dataset, load
from mnist_mlp.devices import check_precision, choose_device, float32_products
from mnist_mlp.errors import InvalidValueError, NonFiniteLossError
from mnist_mlp.history import Epoch, History
from mnist_mlp.paths import expanded
from mnist_mlp.recipes import Recipe, find_recipe
from mnist_mlp.scores import Evaluation, evaluate_predictions
from mnist_mlp.train import SPLIT_STREAM, Score, Tally, Training, seeded_generator

Part = Literal["train", "validation", "test"]
"""The samples trained on, the training samples held out for validation, or the test set."""


class Trainer:
    """One training of one recipe.

    Args:
        recipe: a `Recipe`, the name of one, or a layer list such as ``784-512-256-10``; `mnist_mlp.customise` makes
            variants of a recipe.
        dataset: a `Dataset`, for example from `mnist_mlp.load_dataset`, or the name of one. Pipeline ``dataloader``
            needs the name.
        seed: determines initial weights, sample order and validation split; by default the recipe's seed, or else 0.
        device: ``auto`` (the first available of cuda, mps and cpu), a device's name, or a `torch.device`.
        validation_split: fraction of the training samples, drawn at random, to hold out for validation; 0 for none.
        pipeline: ``resident`` or ``dataloader``; both give the same batches.
        engine: how steps are executed: ``eager``, ``compiled``, ``fused`` or ``graph``, see `mnist_mlp.engines`.
        precision: of the matrix products in `fit` and `evaluate`: ``fp32``, ``tf32`` or ``bf16``, whatever torch's own
            settings are, even within ``torch.autocast``. With ``bf16``, `evaluate` uses autocast, but a saved model
            computes in float32, so that its results may differ in the last digits.
        workers: worker processes of the DataLoader; 0 loads in this process.
        data_root: folder that holds the datasets; by default `mnist_mlp.data.default_root`.

    Attributes:
        dataset: the dataset.
        device: the `torch.device` used.
        history: the epochs so far.

    Raises:
        InvalidValueError: an argument breaks its rule, or the device is not available.
        DatasetUnavailableError: no source could supply the dataset.
    """

    def __init__(  # noqa: PLR0913 - each one is a user's choice
        self,
        recipe: Recipe | str,
        *,
        dataset: Dataset | str = "mnist",
        seed: int | None = None,
        device: str | torch.device = "auto",
        validation_split: float = 0.0,
        pipeline: str = "resident",
        engine: str = "eager",
        precision: str = "fp32",
        workers: int = 0,
        data_root: Path | str | None = None,
    ) -> None:
        """Build model, optimizer and pipeline."""
        self._recipe = recipe if isinstance(recipe, Recipe) else find_recipe(recipe)
        self._seed = check_seed(self.recipe.seed or 0 if seed is None else seed)
        self.device = choose_device(device)
        check_precision(precision, self.device)
        self._precision = precision
        self.validation_split = validation_split
        root = None if data_root is None else expanded(data_root)
        self.dataset = dataset if isinstance(dataset, Dataset) else load(dataset, root)
        if self.dataset.name == "synthetic":
            raise InvalidValueError(
                "dataset 'synthetic' is random noise for timing, with nothing to learn: use another dataset"
            )
        _check_pipeline(pipeline, dataset, workers)
        self._held_out = _draw_held_out(len(self.dataset.train_labels), validation_split, self.seed)
        with _own_modes(precision, self.device):
            self._training = Training(
                self.recipe,
                self.dataset,
                device=self.device,
                seed=self.seed,
                pipeline=pipeline,
                engine=engine,
                precision=precision,
                workers=workers,
                root=root,
                held_out=self._held_out,
            )
        self._model = Classifier(self.recipe, self._training.model)
        self.history = History()
        self._unfinished = False

    def __repr__(self) -> str:
        """Return recipe, dataset, seed, device and the number of epochs trained."""
        return (
            f"Trainer({self.recipe.name!r}, dataset {self.dataset.name!r}, seed {self.seed}, "
            f"device {str(self.device)!r}, {len(self.history)} epochs)"
        )

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self._recipe

    @property
    def seed(self) -> int:
        """The seed used."""
        return self._seed

    @property
    def model(self) -> Classifier:
        """A classifier that shares the weights being trained."""
        return self._model

    @property
    def train_samples(self) -> int:
        """Number of samples in an epoch."""
        return self._training.train_samples

    @property
    def validation_samples(self) -> int:
        """Number of training samples held out for validation."""
        return 0 if self._held_out is None else len(self._held_out)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch; the last one may be short."""
        return -(-self.train_samples // self.recipe.batch_size)

    def fit(
        self,
        epochs: int | None = None,
        *,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> History:
        """Train, and evaluate after each epoch. Return the history of all epochs so far; another call continues it.

        If an exception such as Ctrl-C interrupts an epoch, the weights stay as they are at that moment, and the next
        call repeats the whole epoch. With a schedule that changes the learning rate, the next call is refused instead,
        because the repeated steps would make the schedule end too early.

        Args:
            epochs: passes over the training samples; by default the recipe's.
            on_epoch: called after each epoch.
            on_step: called after each batch.

        Raises:
            InvalidValueError: `epochs` is below 1 or goes beyond the end of the recipe's schedule, an epoch of a
                schedule was interrupted, or the model was edited in a way that the engine cannot train.
            NonFiniteLossError: a loss became infinite or not a number.
        """
        count = self.recipe.epochs if epochs is None else epochs
        count = check_positive_int("epochs", count)
        self._training.check_model()
        self._check_schedule(count)
        for _ in range(count):
            self._unfinished = True
            with _own_modes(self._precision, self.device):
                epoch = self._train_epoch(len(self.history), on_step)
            self.history = History((*self.history, epoch))
            self._unfinished = False
            if on_epoch is not None:
                on_epoch(epoch)
        return self.history

    def evaluate(self, part: Part = "test") -> Evaluation:
        """Evaluate the current weights on the test set, or on the samples trained on or held out.

        Raises:
            InvalidValueError: `part` is unknown, or is ``validation`` without a validation split.
        """
        check_choice("part", part, ("train", "validation", "test"))
        with _own_modes(self._precision, self.device):
            tally = self._tally(part)
        predicted, labels = tally.predictions()
        return evaluate_predictions(tally.read().loss, predicted.numpy(), labels.numpy())

    def predict(self, images: Images) -> Tensor:
        """Return the most probable digit of each picture, (n,) int64; see `Classifier.predict`."""
        return self.model.predict(images)

    def probabilities(self, images: Images) -> Tensor:
        """Return the softmax probabilities of each picture, (n, 10) float32; see `Classifier.probabilities`."""
        return self.model.probabilities(images)

    def save(self, path: Path | str) -> None:
        """Write the current weights, and all that `load_model` needs to rebuild the model, to `path`.

        Raises:
            OutputError: `path` cannot be written.
            CheckpointError: the model is too large for a checkpoint, its layers are not the recipe's any more, or a
                weight is not a finite number.
            InvalidValueError: `path` starts with ``~``, but there is no home folder.
        """
        last = self.history[-1] if self.history else None
        save_checkpoint(
            expanded(path),
            self.model,
            self.dataset,
            TrainingSummary(
                seed=self.seed,
                epochs=len(self.history),
                validation_split=float(self.validation_split),
                test_loss=last.test_loss if last else None,
                test_accuracy=last.test_accuracy if last else None,
            ),
        )

    def _check_schedule(self, epochs: int) -> None:
        """Refuse epochs after the end of a schedule, where the learning rate is 0 and nothing would be learnt."""
        recipe, done = self.recipe, len(self.history)
        if recipe.schedule == "constant":
            return
        if self._unfinished:
            raise InvalidValueError(
                f"epoch {done + 1} was interrupted, so schedule {recipe.schedule} of {recipe.name!r} would end too "
                f"early: start again with a new Trainer"
            )
        if done + epochs > recipe.epochs:
            raise InvalidValueError(
                f"{epochs} epochs after {done} are more than the {recipe.epochs} that schedule {recipe.schedule} of "
                f"{recipe.name!r} lasts: start again with a recipe of more epochs"
            )

    def _train_epoch(self, index: int, on_step: Callable[[], None] | None) -> Epoch:
        trained = self._training.train(self._training.order(index), after_step=on_step)
        train = self._finite("train", trained, index)
        validation = self._finite("validation", self._tally("validation"), index) if self.validation_samples else None
        test = self._finite("test", self._tally("test"), index)
        return Epoch(
            epoch=index + 1,
            train_loss=train.loss,
            train_accuracy=train.accuracy,
            validation_loss=validation.loss if validation else None,
            validation_accuracy=validation.accuracy if validation else None,
            test_loss=test.loss,
            test_accuracy=test.accuracy,
        )

    def _tally(self, part: Part) -> Tally:
        if part == "test":
            return self._training.evaluate()
        if part == "train":
            return self._training.evaluate_training_samples()
        if self._held_out is None:
            raise InvalidValueError("no samples were held out for validation: give Trainer a validation_split above 0")
        return self._training.evaluate_training_samples(self._held_out)

    def _finite(self, what: str, tally: Tally, index: int) -> Score:
        score = tally.read()
        if not math.isfinite(score.loss):
            momentum = f", or the momentum, which is {self.recipe.momentum:g}" if self.recipe.momentum else ""
            raise NonFiniteLossError(
                f"the {what} loss became {score.loss} in epoch {index + 1}, so the training has diverged: "
                f"lower the learning rate, which is {self.recipe.learning_rate:g}{momentum}"
            )
        return score


@contextmanager
def _own_modes(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in `precision` and with gradients, whatever modes of torch's the caller is in."""
    # Only the end of the outermost autocast empties its cache, which would keep copies of weights that steps change.
    autocast = torch.autocast(device.type, enabled=False, cache_enabled=False)
    with torch.inference_mode(mode=False), torch.enable_grad(), autocast, float32_products(precision):
        yield


def _check_pipeline(pipeline: str, dataset: Dataset | str, workers: int) -> None:
    if pipeline == "dataloader" and isinstance(dataset, Dataset):
        raise InvalidValueError(
            f"pipeline 'dataloader' reads the dataset's files itself and cannot use the loaded dataset "
            f"{dataset.name!r}: give the dataset's name (and its data_root), or use pipeline resident"
        )
    if check_whole("workers", workers) < 0:
        raise InvalidValueError(f"workers {workers} is out of range: use 0 or more")
    if workers and pipeline == "resident":
        raise InvalidValueError(f"workers {workers} only apply to pipeline dataloader: use that pipeline, or 0 workers")


def _draw_held_out(samples: int, fraction: float, seed: int) -> Tensor | None:
    """Draw `fraction` of the positions below `samples`, (k,) int64, ascending, whatever their class; None for 0."""
    if not isinstance(fraction, Real) or not 0 <= fraction < 1:
        raise InvalidValueError(f"validation split {fraction!r} is out of range: use a fraction from 0 to below 1")
    if fraction == 0:
        return None
    count = round(samples * fraction)
    if not 0 < count < samples:
        raise InvalidValueError(
            f"validation split {fraction} of {samples} training samples leaves one part empty: use another fraction"
        )
    generator = seeded_generator(seed, SPLIT_STREAM)
    return torch.randperm(samples, generator=generator, device="cpu")[:count].sort().values
