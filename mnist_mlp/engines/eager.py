"""Training through autograd: as users write it, and compiled."""

import functools
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from mnist_mlp.errors import EngineUnavailableError, InvalidValueError
from mnist_mlp.model import MLP, loss_function
from mnist_mlp.pipelines import Pipeline
from mnist_mlp.recipes import Recipe
from mnist_mlp.schedules import Schedule, constant
from mnist_mlp.tally import Tally


class Engine(Protocol):
    """Trains one model."""

    def train(self, order: Tensor, *, after_step: Callable[[], None] | None = None) -> Tally:
        """Train once on the samples at `order`, (n,) int64 on the CPU, in batches, and return their tally, unread.

        Nothing is read back to the host. `after_step` is called after each step.
        """

    def reset_optimizer(self) -> None:
        """Return the optimizer to its state before the first step, but keep its buffers."""

    def check_model(self) -> None:
        """Raise `InvalidValueError` if the model was edited in a way that `train` would leave out."""


class EagerEngine:
    """Forward, loss, backward and optimizer step through autograd, with torch's fused optimizers."""

    def __init__(
        self,
        recipe: Recipe,
        model: MLP,
        pipeline: Pipeline,
        *,
        precision: str = "fp32",
        schedule: Schedule | None = None,
    ) -> None:
        """Set up the recipe's loss and optimizer for `model`; without a `schedule` the learning rate is constant."""
        self.model = model
        self._module: torch.nn.Module = model
        self._schedule = schedule or constant(recipe)
        self._steps = 0
        self.optimizer = make_optimizer(recipe, model)
        self._pipeline = pipeline
        self._loss = loss_function(recipe.loss)
        self._bf16 = precision == "bf16"
        self._batch_size = recipe.batch_size
        self._device = next(model.parameters()).device

    def train(self, order: Tensor, *, after_step: Callable[[], None] | None = None) -> Tally:
        """See `Engine.train`."""
        tally = Tally.for_batches(len(order), self._batch_size, self._device, self._loss)
        for images, labels in self._pipeline.train_batches(order):
            output, _ = self.step(images, labels)
            tally.add(output, labels)
            if after_step is not None:
                after_step()
        return tally

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on one batch; return output, (batch, classes), and mean loss, both with the weights before the step.

        Nothing is read back to the host.
        """
        output, loss = self.forward(images, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self._set_learning_rate()
        self.optimizer.step()
        return output.detach(), loss.detach()

    def _set_learning_rate(self) -> None:
        if not self._schedule.is_constant:
            for group in self.optimizer.param_groups:
                group["lr"] = self._schedule.rate(self._steps)
            self._steps += 1

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output, (batch, classes) float32, and the mean loss of a batch, a float32 scalar."""
        if self._bf16:
            with numeric_format("bf16", self._device.type):
                output = self._module(images)
            output = output.float()
        else:
            output = self._module(images)
        return output, self._loss(output, labels)

    def reset_optimizer(self) -> None:
        """See `Engine.reset_optimizer`.

        Adam's moments and step count are zero before the first step. SGD has no momentum buffer then, but its first
        step stores the gradient, which is what a zero buffer leads to as well.
        """
        self._steps = 0
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()

    def check_model(self) -> None:
        """See `Engine.check_model`. Edits of modules and frozen parameters (requires_grad) are heeded."""
        trained = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        left_out = [name for name, parameter in self.model.named_parameters() if id(parameter) not in trained]
        if left_out:
            raise InvalidValueError(
                f"the model's parameters {', '.join(left_out)} were replaced after its Trainer was made, so its "
                f"optimizer would not train them: change their values in place (load_state_dict without assign), or "
                f"train the network in plain PyTorch"
            )


class CompiledEngine(EagerEngine):
    """The eager engine with forward pass, loss and backward pass compiled by torch.compile, once per batch size.

    The optimizer remains torch's fused kernel: no compiled optimizer was as fast on the CPU.
    """

    @functools.cached_property
    def _compiled(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The compiled forward pass; compilation happens in the first step of each batch size."""
        # torch compiles one code object at most 8 times (recompile_limit), so each engine gets a copy of the code.
        code = EagerEngine.forward.__code__.replace()
        forward = types.MethodType(types.FunctionType(code, globals()), self)
        return torch.compile(forward, dynamic=False, fullgraph=True)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the compiled pass out of a copy: it would go on computing with this engine's model."""
        return {name: value for name, value in vars(self).items() if name != "_compiled"}

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `EagerEngine.forward`.

        Raises:
            EngineUnavailableError: the compiler failed.
        """
        from torch._dynamo.exc import BackendCompilerFailed  # noqa: PLC0415 - takes seconds, which only compiling needs

        try:
            output, loss = self._compiled(images, labels)
        except BackendCompilerFailed as error:
            cause = error.inner_exception
            # The compiler runs products at their full size to choose between them.
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from error
            reason = f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
            raise EngineUnavailableError(
                f"engine 'compiled' cannot be used here: torch.compile failed ({reason}); use another engine"
            ) from error
        return output, loss


def numeric_format(precision: str, device_kind: str) -> AbstractContextManager[object]:
    """Return the context for a forward pass in this precision: autocast for ``bf16``, without effect for the others."""
    return torch.autocast(device_kind, dtype=torch.bfloat16, enabled=precision == "bf16")


def make_optimizer(recipe: Recipe, model: MLP) -> torch.optim.Optimizer:
    """Return the recipe's optimizer for the model's parameters, in torch's fused implementation."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    return torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
