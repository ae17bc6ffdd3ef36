"""A training by several ranks: each is a process with its own `Session` and does what the first is asked. Worker only.

On one machine torch's elastic launcher starts the ranks of each trial. `torchrun` instead starts a harness in place of
each rank, and each harness starts a fresh process for each trial: the first harness's process leads, the others follow
what it publishes in torchrun's store. Their requests:

    await number     → Awaited    the trial with this number, counted from 0; None if there will be no further one
    join             → Joined     take part in it until it ends
    dismiss          → Awaited    (asked of the first) there will be no further trial

A rank that fails reports its failure in the store and ends. The others keep waiting for it until their connections to
it break, which with gloo happens at once. With NCCL they would wait for ever, so a thread watches the store for the
report and ends them.
"""

import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any, Final

from bench.coding import dumps, from_json, loads, to_json
from bench.protocol.channel import Channel, ChannelClosedError
from bench.protocol.messages import Awaited, Joined
from bench.records import Failure, FailureKind, Trial
from bench.system.torchrun import place_in_torchrun
from bench.worker.rank_answers import merge_answers
from bench.worker.rank_group import Group, open_store
from bench.worker.rank_session import RankSession
from bench.worker.session import import_all, take_standard_streams

_BROKEN_CONNECTION: Final = re.compile(
    r"[Cc]onnection (closed|reset|refused)|remote (worker|process)|[Bb]roken pipe|NCCL"
)
"""How torch's backends report that another rank has gone."""

_NO_REASON: Final = "a rank has ended without reporting why"
"""The failure of ranks none of which has reported one."""

_LAST_WORDS_SECONDS: Final = 2.0
"""How long a rank has to report a failure itself after it is told to end or learns of another rank's failure."""


def lead(channel: Channel, group: Group, request: Mapping[str, Any] | None = None) -> None:
    """Be the first rank: answer requests for all, until the last one is answered or one rank has failed.

    `request` is the first request if it has already been received.
    """
    session = RankSession(group)
    while True:
        request = channel.receive() if request is None else request
        answer = _answer_together(session, group, request)
        if "answer" not in answer:
            group.report(_as_of_rank(answer, group.ranks.rank))
        channel.send(answer)
        if _is_last(request) or "answer" not in answer:
            return
        request = None


def _answer_together(session: RankSession, group: Group, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        own = session.answer(group.share(request))
        if "answer" not in own:
            return group.reported() or _in_plain_words(own)
        answers = group.exchange(own["answer"])
    except RuntimeError as error:  # what torch raises when a connection breaks
        return group.reported() or _in_plain_words(_crash(_first_line(error)))
    return {"answer": merge_answers(str(request["do"]), answers, group.hosts)}


def take_part(group: Group, own: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any] | None:
    """Be another rank: do what the first is asked until the trial ends; return the failing answer if there was one.

    Members of `own` replace those of the first rank's requests, because they apply to this machine.
    """
    session = RankSession(group)
    while True:
        try:
            request = {**group.share(None), **own}
            answer = session.answer(request)
            if "answer" not in answer:
                answer = _as_of_rank(answer, group.ranks.rank)
                group.report(answer)
                return answer
            group.exchange(answer["answer"])
        except RuntimeError as error:
            return _crash(f"the first rank has ended: {_first_line(error)}")
        if _is_last(request):
            return None


def _is_last(request: Mapping[str, Any]) -> bool:
    """Return whether the ranks part after this request: an estimate prepares a trial and goes no further."""
    return request.get("do") == "finish" or request.get("last", False)


def _in_plain_words(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a failing answer, without torch's guesses if a broken connection to another rank caused it."""
    message = str(answer.get("failure", {}).get("message", ""))
    return _crash(_NO_REASON) if _BROKEN_CONNECTION.search(message) else answer


def _crash(message: str) -> dict[str, Any]:
    return {"failure": to_json(Failure(kind=FailureKind.CRASH, message=message))}


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def _as_of_rank(answer: Mapping[str, Any], rank: int) -> dict[str, Any]:
    if "bad_input" in answer:
        return {"bad_input": f"rank {rank}: {answer['bad_input']}"}
    failure = from_json(Failure, answer["failure"])
    return {"failure": to_json(Failure(kind=failure.kind, message=f"rank {rank}: {failure.message}"))}


def serve(reader: Connection, writer: Connection, world_size: int, modules: Sequence[str] = ()) -> None:
    """Serve one conversation about a training by `world_size` ranks, under torchrun if that started the harness.

    Each rank first imports `modules`, if it did not inherit them.
    """
    place = place_in_torchrun(os.environ)
    if place is None:
        _launch(reader, writer, world_size, modules)
        return
    import_all(modules)
    if place.rank == 0:
        _lead_torchrun(_channel(reader, writer))
    else:
        _follow_torchrun(_channel(reader, writer), place.rank)


def _channel(reader: Connection, writer: Connection) -> Channel:
    streams = os.fdopen(os.dup(reader.fileno()), "rb"), os.fdopen(os.dup(writer.fileno()), "wb")
    return Channel(*streams, on_close=lambda: os._exit(1))


def _launch(reader: Connection, writer: Connection, world_size: int, modules: Sequence[str]) -> None:
    """Have torch's elastic launcher start the ranks on this machine; the first one takes over the conversation."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs  # noqa: PLC0415 - where ranks are launched
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415 - likewise
    from torch.numa.binding import AffinityMode, NumaOptions  # noqa: PLC0415 - likewise

    # All ranks are on this machine: use the loopback interface, whatever the host's name resolves to.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world_size,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        run_id="trial",
        max_restarts=0,
        monitor_interval=0.05,
        # As for the trial itself: forked where forking is safe, otherwise spawned.
        start_method="fork" if sys.platform == "linux" else "spawn",
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        # Without any, the launcher would query the devices, after which forked ranks could not use CUDA.
        numa_options=NumaOptions(affinity_mode=AffinityMode.NODE),
    )
    config.numa_options = None  # ranks are not bound to processors, just as trials of one process are not
    elastic_launch(config, _launched_rank)(reader, writer, modules)


def _launched_rank(reader: Connection, writer: Connection, modules: Sequence[str]) -> None:
    import_all(modules)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank == 0:
        channel = _channel(reader, writer)
        failure_watch = _FailureWatch(channel)
        failure_watch.watch_for_signal()
    reader.close()
    writer.close()
    with Group(open_store(), "trial", rank=rank, world_size=world_size) as group:
        if rank == 0:
            failure_watch.watch_for_report(group)
            lead(channel, group)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if take_part(group) is not None:
                os._exit(1)  # breaks the connections to this rank and makes the launcher end the others


class _FailureWatch:
    """Answers for this rank and ends it once another rank has failed, for which this rank may be waiting in vain.

    Its threads sleep until something happens, so they take no time from what is measured.
    """

    def __init__(self, channel: Channel, wrap: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict) -> None:
        """Answer over `channel`; `wrap` turns a failing answer into what is expected there."""
        self._channel = channel
        self._wrap = wrap
        self._failing = _crash(_NO_REASON)
        self._answering = threading.Lock()

    def watch_for_signal(self) -> None:
        """Start a thread that answers when the launcher asks this rank to end.

        The launcher does so when any rank has ended abnormally.
        """
        receiving, sending = socket.socketpair()
        sending.setblocking(False)  # noqa: FBT003 - its only parameter

        def watch(receiving: socket.socket, _kept_open: socket.socket) -> None:
            receiving.recv(1)
            self._answer_and_end()

        threading.Thread(target=watch, name="signal-watch", args=(receiving, sending), daemon=True).start()
        signal.set_wakeup_fd(sending.fileno())
        signal.signal(signal.SIGTERM, lambda *_: None)

    def watch_for_report(self, group: Group) -> None:
        """Start a thread that answers when a rank of `group` reports its failure, which a signal then reports too."""

        def watch() -> None:
            try:
                self._failing = group.await_report()
            except RuntimeError:  # the store has gone, together with the launcher that kept it
                return
            self._answer_and_end()

        threading.Thread(target=watch, name="report-watch", daemon=True).start()

    def _answer_and_end(self) -> None:
        time.sleep(_LAST_WORDS_SECONDS)
        with self._answering:  # never released: only one of the threads may answer
            self._channel.send(self._wrap(self._failing))
            os._exit(1)


_COUNT: Final = "bench/trials"
"""The store's key for the number of trials so far."""


def _key(number: int) -> str:
    return f"bench/trial/{number}"


def _lead_torchrun(channel: Channel) -> None:
    """Be torchrun's first rank for one trial, or let the others know that there will be none."""
    request = channel.receive()
    store = open_store()
    key = _key(store.add(_COUNT, 1) - 1)
    if request.get("do") == "dismiss":
        store.set(key, dumps(None))
        channel.send({"answer": to_json(Awaited(trial=None))})
        return
    store.set(key, dumps(request["trial"]))
    world_size = from_json(Trial, request["trial"]).configuration.world_size
    with Group(store, key, rank=0, world_size=world_size) as group:
        _FailureWatch(channel).watch_for_report(group)
        lead(channel, group, request)


def _follow_torchrun(channel: Channel, rank: int) -> None:
    """Be another of torchrun's ranks: wait for a trial, and take part in it when asked to."""
    request = channel.receive()
    store = open_store()
    key = _key(request["number"])
    awaited = loads(store.get(key))
    trial = None if awaited is None else from_json(Trial, awaited)
    channel.send({"answer": to_json(Awaited(trial=trial))})
    request = channel.receive()
    if trial is None:
        return
    with Group(store, key, rank=rank, world_size=trial.configuration.world_size) as group:
        _FailureWatch(channel, _joined).watch_for_report(group)
        failed = take_part(group, {"root": request["root"]})
        channel.send(_joined(failed))


def _joined(failed: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"answer": to_json(Joined(failure=None if failed is None else _as_failure(failed)))}


def _as_failure(answer: Mapping[str, Any]) -> Failure:
    if "bad_input" in answer:
        return Failure(kind=FailureKind.UNSUPPORTED, message=answer["bad_input"])
    return from_json(Failure, answer["failure"])


def main() -> None:
    """Serve one conversation over standard input and output (where processes are spawned, not forked)."""
    reader, writer = take_standard_streams()
    status = 1
    try:
        with contextlib.suppress(ChannelClosedError):
            serve(
                Connection(reader, writable=False), Connection(writer, readable=False), int(sys.argv[1]), sys.argv[2:]
            )
        status = 0
    except BaseException:  # noqa: BLE001 - nothing else would report it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        # At once: the streams close long before an orderly shutdown ends, and whoever sees that kills this process.
        os._exit(status)


if __name__ == "__main__":
    main()
