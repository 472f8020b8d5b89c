"""What a connection remembers of its client's frames, and when it remembers nothing."""

import struct

import pytest
from websockets.frames import Opcode
from websockets.protocol import State

from gateway.incoming import LATE_BYTES, Incoming
from load.frames import client_frame

MESSAGE = b'{"type":"ping"}'


def fragment(payload: bytes, opcode: int, *, fin: bool) -> bytes:
    frame = bytearray(client_frame(payload, opcode))
    frame[0] = (0x80 if fin else 0) | opcode
    return bytes(frame)


FRAGMENTS = (
    fragment(MESSAGE[:4], Opcode.TEXT, fin=False)
    + client_frame(b"in between", Opcode.PING)
    + fragment(MESSAGE[4:9], Opcode.CONT, fin=False)
    + fragment(MESSAGE[9:], Opcode.CONT, fin=True)
)


def messages(incoming: Incoming, data: bytes) -> list[tuple[bytes, bool]]:
    data_frames = [frame for frame in incoming.receive(data) if frame.opcode is not Opcode.PING]
    return [message for frame in data_frames if (message := incoming.message(frame)) is not None]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_whole_frame_leaves_nothing_behind(size: int) -> None:
    incoming = Incoming(0)
    assert messages(incoming, client_frame(b"x" * size)) == [(b"x" * size, False)]
    assert incoming.idle


@pytest.mark.parametrize("stream", [client_frame(MESSAGE), client_frame(b"y" * 300), FRAGMENTS])
def test_wherever_it_is_cut_there_is_something_to_remember_until_its_end(stream: bytes) -> None:
    for cut in range(1, len(stream)):
        incoming = Incoming(0)
        assert messages(incoming, stream[:cut]) == []
        assert not incoming.idle
        assert len(messages(incoming, stream[cut:])) == 1
        assert incoming.idle


def test_fragments_make_one_message() -> None:
    assert messages(Incoming(0), FRAGMENTS) == [(MESSAGE, False)]


def test_a_ping_is_the_callers_to_answer_in_its_turn() -> None:
    incoming = Incoming(0)
    frames = incoming.receive(FRAGMENTS + client_frame(b"", Opcode.PING))
    assert [Opcode(frame.opcode).name for frame in frames] == ["TEXT", "PING", "CONT", "CONT", "PING"]
    assert incoming.protocol.data_to_send() == []


def test_a_close_between_fragments_is_a_close() -> None:
    """RFC 6455 5.4: the rest of the message never comes, which is no error."""
    incoming = Incoming(0)
    incoming.receive(fragment(MESSAGE[:4], Opcode.TEXT, fin=False) + client_frame(b"\x03\xe9", Opcode.CLOSE))
    assert incoming.protocol.data_to_send() == [b"\x88\x02\x03\xe9", b""]


@pytest.mark.parametrize("fin", [True, False])
def test_a_binary_message_is_one_to_its_end(fin: bool) -> None:
    stream = fragment(b"a", Opcode.BINARY, fin=fin)
    if not fin:
        stream += fragment(b"b", Opcode.CONT, fin=True)
    assert messages(Incoming(0), stream) == [(b"a" if fin else b"ab", True)]


def test_a_length_written_longer_than_need_be_costs_nothing_but_memory() -> None:
    incoming = Incoming(0)
    stream = struct.pack("!BBH", 0x81, 0x80 | 126, 2) + bytes(4) + b"{}"
    assert messages(incoming, stream) == [(b"{}", False)]
    assert not incoming.idle
    assert messages(incoming, client_frame(MESSAGE)) == [(MESSAGE, False)]


def test_a_peer_that_breaks_the_rules_is_remembered() -> None:
    incoming = Incoming(0)
    assert incoming.receive(b"\x81\x02{}") == []  # not masked
    assert incoming.closing
    assert not incoming.idle


def test_the_limit_is_that_of_a_whole_message() -> None:
    incoming = Incoming(8)
    messages(incoming, fragment(b"12345", Opcode.TEXT, fin=False) + fragment(b"6789", Opcode.CONT, fin=True))
    assert incoming.protocol.state is State.CLOSING
    assert incoming.protocol.close_sent is not None
    assert incoming.protocol.close_sent.code == 1009


def test_who_goes_on_after_a_close_is_too_late_some_time() -> None:
    incoming = Incoming(0)
    assert not incoming.too_late(bytes(LATE_BYTES))
    assert incoming.too_late(b"x")
