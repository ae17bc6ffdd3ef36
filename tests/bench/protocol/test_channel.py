import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from bench.protocol import channel
from bench.protocol.channel import Channel, ChannelClosedError, ChannelTimeoutError, ProtocolError

PATIENCE_SECONDS: Final = 60.0
"""So long a test waits before it fails; none takes it when all is well."""

Connect = Callable[[], tuple[Channel, socket.socket]]


def drain(end: Channel) -> None:
    """Receive to the end, after which the reader thread uses its stream no more."""
    with contextlib.suppress(ChannelClosedError):
        while True:
            with contextlib.suppress(ProtocolError):
                end.receive(PATIENCE_SECONDS)


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that makes a channel and the bare socket at its other end."""
    with contextlib.ExitStack() as ends:

        def make() -> tuple[Channel, socket.socket]:
            ours, theirs = socket.socketpair()
            theirs.settimeout(PATIENCE_SECONDS)
            reader = ours.makefile("rb")
            end = Channel(reader, ours.makefile("wb"))
            # In the order of a conversation's end, which is this stack's backwards.
            ends.enter_context(reader)
            ends.enter_context(ours)
            ends.callback(end.close)
            ends.callback(drain, end)
            ends.enter_context(theirs)
            return end, theirs

        yield make


def pipes(*, on_close: Callable[[], None] | None = None) -> tuple[Channel, Channel]:
    """Return both ends of a conversation over two pipes, as parent and child have them."""
    down_reader, down_writer = os.pipe()
    up_reader, up_writer = os.pipe()
    one = Channel(os.fdopen(up_reader, "rb"), os.fdopen(down_writer, "wb"), on_close=on_close)
    return one, Channel(os.fdopen(down_reader, "rb"), os.fdopen(up_writer, "wb"))


def test_messages_arrive_in_order_both_ways_over_pipes() -> None:
    one, other = pipes()
    for number in range(100):
        one.send({"number": number, "text": "two\nlines µ"})
    assert [other.receive(PATIENCE_SECONDS) for _ in range(100)] == [
        {"number": number, "text": "two\nlines µ"} for number in range(100)
    ]
    other.send({"answer": None})
    assert one.receive(PATIENCE_SECONDS) == {"answer": None}
    one.close()
    other.close()


def test_a_message_larger_than_any_buffer_arrives_complete(connect: Connect) -> None:
    end, peer = connect()
    text = "x" * 3_000_000
    sender = threading.Thread(target=lambda: peer.sendall(b'{"text":"%b"}\n' % text.encode()))
    sender.start()
    assert end.receive(PATIENCE_SECONDS) == {"text": text}
    sender.join(PATIENCE_SECONDS)


def test_a_message_is_one_line_on_the_wire(connect: Connect) -> None:
    end, peer = connect()
    end.send({"a": 1, "b": [True, None, 0.5]})
    assert peer.recv(100) == b'{"a":1,"b":[true,null,0.5]}\n'


def test_waiting_without_a_message_times_out_and_the_channel_stays_usable(connect: Connect) -> None:
    end, peer = connect()
    with pytest.raises(ChannelTimeoutError):
        end.receive(0.001)
    peer.sendall(b'{"half":')
    with pytest.raises(ChannelTimeoutError):
        end.receive(0.001)
    peer.sendall(b'"a message"}\n')
    assert end.receive(PATIENCE_SECONDS) == {"half": "a message"}


def test_what_a_peer_sent_before_it_died_is_still_received(connect: Connect) -> None:
    end, peer = connect()
    peer.sendall(b'{"first":1}\n{"second":2}\n')
    peer.close()
    assert end.receive(PATIENCE_SECONDS) == {"first": 1}
    assert end.receive(PATIENCE_SECONDS) == {"second": 2}
    for _ in range(3):
        with pytest.raises(ChannelClosedError):
            end.receive(PATIENCE_SECONDS)


def test_a_message_cut_off_by_death_is_not_a_message(connect: Connect) -> None:
    end, peer = connect()
    peer.sendall(b'{"first":1')
    peer.close()
    with pytest.raises(ProtocolError):
        end.receive(PATIENCE_SECONDS)
    with pytest.raises(ChannelClosedError):
        end.receive(PATIENCE_SECONDS)


def test_the_end_is_noticed_by_one_who_waits_for_ever(connect: Connect) -> None:
    end, peer = connect()
    threading.Timer(0.01, lambda: peer.shutdown(socket.SHUT_RDWR)).start()
    with pytest.raises(ChannelClosedError):
        end.receive()


def test_closing_one_end_closes_the_other_and_calls_on_close() -> None:
    closed = threading.Event()
    one, other = pipes(on_close=closed.set)
    assert not closed.is_set()
    other.send({"last": "words"})
    other.close()
    assert closed.wait(PATIENCE_SECONDS)
    assert one.receive(PATIENCE_SECONDS) == {"last": "words"}
    with pytest.raises(ChannelClosedError):
        one.receive(PATIENCE_SECONDS)
    one.close()
    with pytest.raises(ChannelClosedError):
        other.receive(PATIENCE_SECONDS)


def test_a_connection_that_is_reset_counts_as_closed(connect: Connect) -> None:
    end, peer = connect()
    end.send({"never": "read"})
    peer.close()  # with unread data: the reader sees a reset, not an end
    with pytest.raises(ChannelClosedError):
        end.receive(PATIENCE_SECONDS)


def test_a_stream_that_was_closed_here_counts_as_closed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as reader, ours.makefile("wb") as writer:
        reader.close()
        closed = threading.Event()
        end = Channel(reader, writer, on_close=closed.set)
        with pytest.raises(ChannelClosedError):
            end.receive(PATIENCE_SECONDS)
        assert closed.wait(PATIENCE_SECONDS)


def test_sending_to_a_dead_peer_says_that_it_is_gone(connect: Connect) -> None:
    end, peer = connect()
    peer.close()
    with pytest.raises(ChannelClosedError):
        end.receive(PATIENCE_SECONDS)
    with pytest.raises(ChannelClosedError):
        end.send({"are": "you there"})
    end.close()  # with the message still in the buffer


def test_a_message_that_is_not_json_is_the_senders_error(connect: Connect) -> None:
    ours, _ = connect()
    with pytest.raises(ValueError, match="not JSON compliant"):
        ours.send({"loss": float("nan")})


def test_nothing_can_be_sent_after_closing() -> None:
    one, other = pipes()
    one.close()
    one.close()
    with pytest.raises(ChannelClosedError):
        one.send({"too": "late"})
    other.close()


@pytest.mark.parametrize(
    "line",
    [
        b"Segmentation fault",
        b"",
        b"\x00\xff\xfe",
        b'{"a":1,"a":2}',
        b'{"loss":NaN}',
        b'{"a":1} {"b":2}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_not_json_violates_the_protocol_and_the_next_is_still_read(
    connect: Connect, line: bytes
) -> None:
    end, peer = connect()
    peer.sendall(line + b'\n{"next":1}\n')
    with pytest.raises(ProtocolError, match="not valid JSON") as caught:
        end.receive(PATIENCE_SECONDS)
    assert len(str(caught.value)) < 500
    assert end.receive(PATIENCE_SECONDS) == {"next": 1}


@pytest.mark.parametrize("line", [b"[]", b"1", b'"text"', b"null"])
def test_json_that_is_not_an_object_violates_the_protocol(connect: Connect, line: bytes) -> None:
    end, peer = connect()
    peer.sendall(line + b"\n")
    with pytest.raises(ProtocolError, match="not an object"):
        end.receive(PATIENCE_SECONDS)


def test_a_line_beyond_the_limit_is_not_read_completely(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_LINE_BYTES", 100)
    end, peer = connect()
    peer.sendall(b'{"text":"%b"}\n' % (b"x" * 150))
    for _ in range(2):
        with pytest.raises(ProtocolError):
            end.receive(PATIENCE_SECONDS)
    peer.sendall(b'{"next":1}\n')
    assert end.receive(PATIENCE_SECONDS) == {"next": 1}
