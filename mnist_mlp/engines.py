"""How a training step is executed. `eager` is idiomatic PyTorch: what users write."""

import torch
from torch import Tensor

from mnist_mlp.model import MLP, loss_function
from mnist_mlp.recipes import Recipe


class EagerEngine:
    """Forward, loss, backward and optimizer step through autograd, with torch's fused optimizers."""

    def __init__(self, recipe: Recipe, model: MLP) -> None:
        """Give `model` the recipe's loss and optimizer."""
        self.model = model
        self.optimizer = make_optimizer(recipe, model)
        self._loss = loss_function(recipe.loss)

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on one batch; return the output, (batch, classes), and the mean loss, both from before the step.

        Nothing is read back to the host.
        """
        output = self.model(images)
        loss = self._loss(output, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return output.detach(), loss.detach()

    def reset_optimizer(self) -> None:
        """Bring the optimizer back to the state before its first step, keeping its buffers.

        Adam's moments and step count start at zero. SGD's momentum buffer starts absent: its first step then stores the
        gradient, just as a zero buffer does.
        """
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()


def make_optimizer(recipe: Recipe, model: MLP) -> torch.optim.Optimizer:
    """Return the recipe's optimizer for the model's parameters, with torch's fused kernels."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    return torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
