"""What the sinks count, however the bytes are cut."""

import socket
import struct
from collections.abc import Iterator

import pytest

from load.frames import BINARY, PING, PONG
from load.sink_worker import Peer, Sink

DELTA = b'{"type":"delta","items":[]}'
SNAPSHOT = b'{"type":"snapshot","items":["' + b"x" * 70_000 + b'"]}'
SHORT = b"{}"
CLOSE = 8


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """From a server: final, not masked."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


class Fed(Sink):
    """A sink that is given the bytes by hand."""

    def __init__(self, opened: socket.socket) -> None:
        super().__init__()
        self.peer = Peer(opened, b"", 0.0)
        self.peer.head = None
        self._peers[opened.fileno()] = self.peer
        self._open = 1

    def feed(self, data: bytes) -> None:
        self._view[: len(data)] = data
        self._count(self.peer, len(data))

    @property
    def counted(self) -> tuple[int, int, dict[str, int]]:
        counts = self.do_counts({})
        return counts["frames"], counts["bytes"], counts["kinds"]


STREAM = frame(DELTA) + frame(SHORT) + frame(SNAPSHOT) + frame(DELTA * 20) + frame(DELTA)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 11, 64, 1000, 65_536, len(STREAM)])
def test_frames_are_counted_by_kind_wherever_they_are_cut(
    pair: tuple[socket.socket, socket.socket], step: int
) -> None:
    sink = Fed(pair[0])
    for at in range(0, len(STREAM), step):
        sink.feed(STREAM[at : at + step])
    frames, size, kinds = sink.counted
    assert (frames, size) == (5, len(STREAM))
    assert kinds == {"d": 3, "s": 1, "\0": 1}
    assert (sink.peer.rest, sink.peer.missing) == (b"", 0)


def test_a_ping_is_answered_and_not_counted(pair: tuple[socket.socket, socket.socket]) -> None:
    sink = Fed(pair[0])
    sink.feed(frame(b"hi", PING) + frame(DELTA))
    answer = pair[1].recv(100)
    assert answer[0] & 0x0F == PONG
    assert answer.endswith(b"hi")
    assert sink.counted[0] == 1


def test_binary_frames_count_as_well(pair: tuple[socket.socket, socket.socket]) -> None:
    sink = Fed(pair[0])
    sink.feed(frame(DELTA, BINARY))
    assert sink.counted == (1, len(DELTA) + 2, {"d": 1})


def test_a_close_frame_is_a_lost_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    sink = Fed(pair[0])
    sink.feed(frame(DELTA) + frame(struct.pack("!H", 1012), CLOSE))
    counts = sink.do_counts({})
    assert (counts["frames"], counts["open"], counts["lost"]) == (1, 0, 1)


def test_what_the_loop_does_not_know_is_left_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    sink = Fed(pair[0])
    sink.do_drop({})
    sink._on_event(pair[0].fileno(), 1)
    assert sink.do_counts({})["lost"] == 0
