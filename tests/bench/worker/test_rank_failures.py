"""How ranks part, and what the first reports if one fails, with a scripted group in place of other processes."""

import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from torch._C._distributed_c10d import TCPStore

from bench.coding import to_json
from bench.records import Failure, FailureKind
from bench.worker import ranks
from bench.worker.rank_group import open_store
from bench.worker.rank_session import RankSession
from bench.worker.ranks import lead, take_part
from mnist_mlp.ranks import Ranks

FROM_RANK_1 = {"failure": to_json(Failure(kind=FailureKind.OUT_OF_MEMORY, message="rank 1: 9 GiB wanted"))}


class Scripted:
    """A group of two whose other rank has `reported` this, and the channel to the harness."""

    ranks = Ranks(rank=0, world_size=2)
    hosts = (0, 0)

    def __init__(self, reported: Mapping[str, Any] | None, *, is_broken: bool = False) -> None:
        self._reported = reported
        self._is_broken = is_broken
        self.reports: list[Mapping[str, Any]] = []
        self.sent: list[Mapping[str, Any]] = []

    def share(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._is_broken:
            raise RuntimeError("Connection closed by peer [127.0.0.1]:4711")
        return request

    def exchange(self, value: object) -> list[object]:
        return [value, value]

    def receive(self) -> Mapping[str, Any]:
        raise EOFError("no further request is to come")

    def reported(self) -> Mapping[str, Any] | None:
        return self._reported

    def report(self, answer: Mapping[str, Any]) -> None:
        self.reports.append(answer)

    def send(self, answer: Mapping[str, Any]) -> None:
        self.sent.append(answer)


def lead_into_failure(scripted: Any) -> Failure:  # noqa: ANN401 - it stands for a channel and for a group
    lead(scripted, scripted, {"do": "what it cannot"})
    (answer,) = scripted.sent
    return Failure(kind=FailureKind(answer["failure"]["kind"]), message=answer["failure"]["message"])


def test_a_failure_of_the_first_rank_is_answered_and_reported_to_the_others_who_may_wait_for_it() -> None:
    scripted = Scripted(None)
    failure = lead_into_failure(scripted)
    assert failure.message == "the worker knows no request 'what it cannot'"
    (report,) = scripted.reports
    assert report["failure"]["message"] == f"rank 0: {failure.message}"


def test_what_the_workload_refuses_is_reported_as_bad_input_of_that_rank() -> None:
    scripted: Any = Scripted(None)
    lead(scripted, scripted, {"do": "dataset", "name": "emnist", "root": None})
    (answer,), (report,) = scripted.sent, scripted.reports
    assert "emnist" in answer["bad_input"]
    assert report == {"bad_input": f"rank 0: {answer['bad_input']}"}


def test_another_rank_does_what_the_first_is_asked_with_what_holds_for_its_own_machine() -> None:
    scripted: Any = Scripted(None)
    scripted.ranks = Ranks(rank=1, world_size=2)
    scripted.share = lambda _: {"do": "dataset", "name": "digits", "root": None}
    failed = take_part(scripted, {"name": "emnist"})
    assert failed is not None
    assert failed["bad_input"].startswith("rank 1: ")
    assert "emnist" in failed["bad_input"]
    assert scripted.reports == [failed]


@pytest.mark.parametrize("is_broken", [False, True])
def test_of_two_failures_the_one_that_was_reported_first_is_the_trials(
    is_broken: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    failure = lead_into_failure(Scripted(FROM_RANK_1, is_broken=is_broken))
    assert (failure.kind, failure.message) == (FailureKind.OUT_OF_MEMORY, "rank 1: 9 GiB wanted")


def test_a_connection_that_broke_without_a_report_is_said_in_plain_words() -> None:
    failure = lead_into_failure(Scripted(None, is_broken=True))
    assert (failure.kind, failure.message) == (FailureKind.CRASH, "a rank has ended without reporting why")


def test_a_connection_that_broke_within_a_request_is_said_in_plain_words_too(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Failure(kind=FailureKind.CRASH, message="RuntimeError: [gloo] Connection reset by peer")
    monkeypatch.setattr(RankSession, "answer", lambda *_: {"failure": to_json(broken)})
    assert lead_into_failure(Scripted(None)).message == "a rank has ended without reporting why"


LAST = {"do": "prepare", "last": True}


class Following(Scripted):
    """The group as the second rank sees it, whose first one makes these requests."""

    ranks = Ranks(rank=1, world_size=2)

    def __init__(self, *requests: Mapping[str, Any]) -> None:
        super().__init__(None)
        self.requests = list(requests)

    def share(self, _own: object) -> Mapping[str, Any]:
        return self.requests.pop(0)


def test_ranks_part_after_a_request_that_says_it_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RankSession, "answer", lambda _self, request: {"answer": request})
    monkeypatch.setattr("bench.worker.ranks.merge_answers", lambda _request, answers, _hosts: answers)
    first: Any = Scripted(None)
    lead(first, first, LAST)
    assert first.sent == [{"answer": [LAST, LAST]}]
    assert first.reports == []
    second: Any = Following({"do": "prepare"}, LAST)
    assert take_part(second) is None
    assert second.requests == []


def test_a_store_that_has_gone_is_an_error_at_once_but_one_that_is_there_is_waited_on_for_longer_than_any_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    assert open_store().timeout == timedelta(days=30)  # type: ignore[attr-defined]  # which torch's stub lacks
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr("bench.worker.rank_group.TCPStore", None)  # it would go on trying for a minute
    with pytest.raises(RuntimeError, match=r"the store of the ranks' launcher cannot be reached: .*refused"):
        open_store()


class EndedError(BaseException):
    """Stands for the end of the process."""


def test_a_spawned_launcher_of_ranks_that_fails_ends_itself_before_its_closed_streams_get_it_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a rank has ended")

    def end(status: int) -> None:
        raise EndedError(status)

    monkeypatch.setattr(ranks, "take_standard_streams", os.pipe)
    monkeypatch.setattr(ranks, "serve", fail)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(sys, "argv", ["ranks", "2"])
    with pytest.raises(EndedError) as ended:
        ranks.main()
    assert ended.value.args == (1,)
    assert capsys.readouterr().err.endswith("RuntimeError: a rank has ended\n")
