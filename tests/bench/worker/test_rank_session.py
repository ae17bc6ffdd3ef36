"""What one rank of several does differently, with a scripted group in place of other processes."""

from types import SimpleNamespace
from typing import Any

import pytest

from bench.worker.rank_session import RankSession
from mnist_mlp.ranks import Ranks


@pytest.mark.parametrize(("first", "own"), [("cuda:0", "cuda:1"), ("cpu", "cpu")])
def test_a_rank_trains_on_the_device_with_its_number_on_its_own_host(first: str, own: str) -> None:
    group: Any = SimpleNamespace(ranks=Ranks(rank=3, world_size=4), local_rank=1)  # the second rank of the second host
    assert RankSession(group).own_device(first) == own
