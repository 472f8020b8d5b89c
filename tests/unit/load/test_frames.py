import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame as Reference
from websockets.frames import Opcode
from websockets.streams import StreamReader

from load.frames import CLOSE, PING, TEXT, Frame, FrameReader, client_frame, server_frame

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 70000]


def from_server(payload: bytes, opcode: int = TEXT) -> bytes:
    return Reference(Opcode(opcode), payload).serialize(mask=False)


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_every_form_of_length_is_read(size: int) -> None:
    assert FrameReader().feed(from_server(b"x" * size)) == [Frame(TEXT, b"x" * size)]


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(1, 50), min_size=1))
def test_frames_are_the_same_however_the_bytes_arrive(payloads: list[bytes], pieces: list[int]) -> None:
    data = b"".join(from_server(payload) for payload in payloads)
    reader, read = FrameReader(), []
    while data:
        for piece in pieces:
            read += reader.feed(data[:piece])
            data = data[piece:]
    assert read == [Frame(TEXT, payload) for payload in payloads]


def test_control_frames_are_told_apart() -> None:
    data = from_server(b"p", PING) + from_server(b"\x03\xf4", CLOSE)
    assert FrameReader().feed(data) == [Frame(PING, b"p"), Frame(CLOSE, b"\x03\xf4")]


@pytest.mark.parametrize("data", [b"\x01\x01x", b"\x81\x81\0\0\0\0x"], ids=["fragment", "mask"])
def test_what_the_gateway_never_sends_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="fragmented or masked"):
        FrameReader().feed(data)


@pytest.mark.parametrize("size", SIZES)
def test_a_server_understands_the_frames_of_a_client(size: int) -> None:
    stream = StreamReader()
    stream.feed_data(client_frame(b"y" * size))
    parsing = Reference.parse(stream.read_exact, mask=True, max_size=None, extensions=[])
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    assert parsed.value.value == Reference(Opcode.TEXT, b"y" * size)


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_to_a_client_is_what_the_gateway_would_send(size: int) -> None:
    assert server_frame(b"z" * size) == from_server(b"z" * size)
