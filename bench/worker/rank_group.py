"""Where the ranks of a training find and tell each other things: torch's process group and its store. Worker only."""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, Self

import torch
from torch import distributed
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from bench.coding import dumps, loads
from bench.system.hosts import host_identity
from mnist_mlp.ranks import Ranks

_LONG: Final = timedelta(days=30)
"""Longer than any trial's time limit, which the harness keeps: it ends the ranks, so none waits for ever."""

_REPORT: Final = "failed"
"""Where a trial's ranks leave the failing answer of the first of them that has one."""


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
        self._name = name
        self._store = PrefixStore(name, store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
        distributed.init_process_group(backend, store=self._store, rank=rank, world_size=world_size, timeout=_LONG)
        found = self.exchange(host_identity())
        self.hosts: tuple[int, ...] = tuple(list(dict.fromkeys(found)).index(host) for host in found)

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
        """Leave this rank's failing answer for the others, which may wait for it in vain. The first one counts."""
        if self._store.add("failures", 1) == 1:
            self._store.set(_REPORT, dumps(dict(answer)))

    def reported(self) -> dict[str, Any] | None:
        """Return the failing answer that a rank has left."""
        return _report_in(self._store) if self._store.check([_REPORT]) else None

    def await_report(self) -> dict[str, Any]:
        """Return the failing answer that a rank leaves, once it does: for a thread, by a connection of its own."""
        return _report_in(PrefixStore(self._name, open_store()))

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the group."""
        distributed.destroy_process_group()


def _report_in(store: Store) -> dict[str, Any]:
    answer: dict[str, Any] = loads(store.get(_REPORT))
    return answer
