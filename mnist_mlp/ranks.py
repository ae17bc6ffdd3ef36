"""One training shared by several processes: which of them this is, and which samples of a batch are its own."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mnist_mlp.errors import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process's `rank`, counted from 0, among `world_size` processes that train one model together.

    Raises:
        InvalidValueError: there is no such rank.
    """

    rank: int
    world_size: int

    def __post_init__(self) -> None:
        """Check the rank."""
        if not 0 <= self.rank < self.world_size:
            raise InvalidValueError(f"rank {self.rank} is out of range: with {self.world_size}, use 0 to one less")

    def local_batch_size(self, batch_size: int) -> int:
        """Return this rank's samples of a full batch of `batch_size`.

        Raises:
            InvalidValueError: the ranks' parts would not be equal.
        """
        if batch_size % self.world_size:
            raise InvalidValueError(
                f"batch size {batch_size} cannot be shared equally by {self.world_size} ranks: use a multiple of them"
            )
        return batch_size // self.world_size

    def share(self, order: Tensor, batch_size: int) -> Tensor:
        """Return this rank's part of `order`, (n,) int64: of each batch the part with its number, in their order.

        Parts of a last, short batch differ by at most one sample, and can be empty.
        """
        full = len(order) // batch_size * batch_size
        parts = order[:full].view(-1, self.world_size, self.local_batch_size(batch_size))[:, self.rank]
        return torch.cat((parts.flatten(), order[full:].tensor_split(self.world_size)[self.rank]))

    def last_weight(self, samples: int, batch_size: int) -> float:
        """Return what to scale the mean loss of this rank's part of an order's last batch by; the order has `samples`.

        The mean of the ranks' gradients is then the gradient of the batch's mean loss, though the parts differ in size.
        """
        short = samples % batch_size
        if short == 0:
            return 1.0
        part = short // self.world_size + (self.rank < short % self.world_size)
        return part * self.world_size / short


ALONE: Final = Ranks(rank=0, world_size=1)
"""Training in one process."""
