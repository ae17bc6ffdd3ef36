"""One training shared by several processes (ranks), and the share of each batch that a rank trains on."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mnist_mlp.errors import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process's `rank`, counted from 0, among `world_size` processes that train one model together.

    Raises:
        InvalidValueError: the rank is not below the world size.
    """

    rank: int
    world_size: int

    def __post_init__(self) -> None:
        """Check the rank."""
        if not 0 <= self.rank < self.world_size:
            raise InvalidValueError(
                f"rank {self.rank} is out of range: use a rank from 0 to below the world size, {self.world_size}"
            )

    def local_batch_size(self, batch_size: int) -> int:
        """Return the number of samples of this rank in a full batch of `batch_size`.

        Raises:
            InvalidValueError: `batch_size` is not a multiple of the world size.
        """
        if batch_size % self.world_size:
            raise InvalidValueError(
                f"batch size {batch_size} cannot be shared equally by {self.world_size} ranks: "
                f"use a multiple of {self.world_size}"
            )
        return batch_size // self.world_size

    def share(self, order: Tensor, batch_size: int) -> Tensor:
        """Return this rank's part of `order`, (n,) int64: its share of each batch, in the order of the batches.

        The shares of a short last batch differ by at most one sample, and can be empty.
        """
        full = len(order) // batch_size * batch_size
        parts = order[:full].view(-1, self.world_size, self.local_batch_size(batch_size))[:, self.rank]
        return torch.cat((parts.flatten(), order[full:].tensor_split(self.world_size)[self.rank]))

    def last_weight(self, samples: int, batch_size: int) -> float:
        """Return the weight of this rank's mean loss in the last batch of an order of `samples` samples.

        With it, the mean of the ranks' gradients is the gradient of the whole batch's mean loss, although the shares
        differ in size.
        """
        short = samples % batch_size
        if short == 0:
            return 1.0
        part = short // self.world_size + (self.rank < short % self.world_size)
        return part * self.world_size / short


ALONE: Final = Ranks(rank=0, world_size=1)
"""Training in one process."""
