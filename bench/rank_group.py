"""Where the ranks of a training find and tell each other things: torch's process group and its store. Worker only."""

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import distributed
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from bench.coding import dumps, loads
from mnist_mlp.ranks import Ranks

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_LONG: Final = timedelta(days=30)
"""Longer than any trial's time limit, which the harness keeps: it ends the ranks, so none waits for ever."""


def open_store() -> TCPStore:
    """Return the store that the launcher of these ranks keeps, at the address it left in the environment."""
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=_LONG)


class Group:
    """The ranks of one trial, having found each other.

    Objects and small tensors go from host to host by gloo; gradients by what serves their device: gloo or NCCL.
    """

    def __init__(self, store: Store, name: str, *, rank: int, world_size: int) -> None:
        """Wait for all `world_size` ranks that use this `name` in this `store`."""
        self.ranks = Ranks(rank=rank, world_size=world_size)
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self._store = PrefixStore(name, store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
        distributed.init_process_group(backend, store=self._store, rank=rank, world_size=world_size, timeout=_LONG)
        names = self.exchange(_host_name())
        self.hosts: tuple[int, ...] = tuple(list(dict.fromkeys(names)).index(name) for name in names)

    def meet(self) -> None:
        """Wait until all ranks are here."""
        distributed.all_reduce(torch.zeros(1))

    def exchange(self, value: object) -> list[Any]:
        """Return what each rank gave here, by rank."""
        values: list[Any] = [None] * self.ranks.world_size
        distributed.all_gather_object(values, value)
        return values

    def share(self, value: object) -> Any:  # noqa: ANN401 - whatever the first rank gave
        """Return what the first rank gave here."""
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def report(self, answer: Mapping[str, Any]) -> None:
        """Leave this rank's failing answer for the first one, which may be waiting for it in vain."""
        self._store.set(f"failed/{self.ranks.rank}", dumps(dict(answer)))

    def reported(self) -> dict[str, Any] | None:
        """Return a failing answer that another rank has left."""
        for rank in range(1, self.ranks.world_size):
            if self._store.check([f"failed/{rank}"]):
                answer: dict[str, Any] = loads(self._store.get(f"failed/{rank}"))
                return answer
        return None

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the group."""
        distributed.destroy_process_group()


def _host_name() -> str:
    """Return what tells this host from others; it is compared between ranks and never stored."""
    try:
        return f"{socket.gethostname()} {_BOOT_ID.read_text()}"
    except OSError:
        return socket.gethostname()
