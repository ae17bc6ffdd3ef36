"""A group of one rank, which is real: its connections lead to itself."""

import pytest
from torch._C._distributed_c10d import HashStore

from bench.worker.rank_group import Group


@pytest.fixture(autouse=True)
def local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")


def test_what_is_sent_arrives() -> None:
    with Group(HashStore(), "trial", rank=0, world_size=1) as group:
        group.meet()
        assert group.exchange({"a": 1}) == [{"a": 1}]
        assert group.share("request") == "request"
        assert group.hosts == (0,)


def test_hosts_are_numbered_by_their_first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "exchange", lambda *_: ["node c", "node a", "node c", "node b"])
    with Group(HashStore(), "trial", rank=0, world_size=1) as group:
        assert group.hosts == (0, 1, 0, 2)


def test_of_several_failures_of_a_trial_the_first_counts_and_the_next_trial_has_none() -> None:
    store = HashStore()
    with Group(store, "first trial", rank=0, world_size=1) as group:
        assert group.reported() is None
        group.report({"bad_input": "first"})
        group.report({"bad_input": "second"})
        assert group.reported() == {"bad_input": "first"}
    with Group(store, "second trial", rank=0, world_size=1) as group:
        assert group.reported() is None
