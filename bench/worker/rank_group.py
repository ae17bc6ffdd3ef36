"""How the ranks of a training meet and communicate: torch's process group and its store. Worker only."""

import os
import socket
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
"""Longer than any trial's time limit, at which the harness ends the ranks, so that none waits for ever."""

_REACH: Final = timedelta(seconds=30)
"""How long the launcher's store may take to be reached."""

_REPORT: Final = "failed"
"""The store's key for the failing answer of the first rank that has one."""


def open_store() -> TCPStore:
    """Return the store that the launcher of these ranks keeps, at the address given in the environment.

    Raises:
        RuntimeError: the store cannot be reached.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # The store is older than its ranks: where nothing listens, it has gone. TCPStore would go on trying to connect, for
    # up to twice its time limit.
    try:
        socket.create_connection((host, port), _REACH.total_seconds()).close()
    except OSError as error:
        raise RuntimeError(f"the store of the ranks' launcher cannot be reached: {error}") from error
    store = TCPStore(host, port, is_master=False, timeout=_REACH)
    store.set_timeout(_LONG)
    return store


class Group:
    """The ranks of one trial, connected to each other.

    Objects and small tensors are sent by gloo, gradients by whichever of gloo and NCCL serves their device.
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
        """Return every rank's `value`, in the order of ranks."""
        values: list[Any] = [None] * self.ranks.world_size
        distributed.all_gather_object(values, value)
        return values

    def share(self, value: object) -> Any:  # noqa: ANN401 - whatever the first rank passed
        """Return the first rank's `value`; that of the others is ignored."""
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def report(self, answer: Mapping[str, Any]) -> None:
        """Leave this rank's failing answer for the others, which may be waiting for it. The first report counts."""
        if self._store.add("failures", 1) == 1:
            self._store.set(_REPORT, dumps(dict(answer)))

    def reported(self) -> dict[str, Any] | None:
        """Return the failing answer that a rank has left; None if there is none."""
        return _report_in(self._store) if self._store.check([_REPORT]) else None

    def await_report(self) -> dict[str, Any]:
        """Wait for a failing answer and return it: for a thread, over a connection of its own."""
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
