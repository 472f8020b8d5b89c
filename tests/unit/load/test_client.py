import asyncio

import orjson
import pytest

from load.client import TOPICS_A_MESSAGE, Client, ConnectionRefused, realtime_url
from load.frames import CLOSE, PONG, FrameReader, client_frame

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps what the client writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.aborted = True


class Connected:
    """A client at the moment its connection is made."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.got: list[tuple[bytes, float]] = []
        self.client = Client(
            b"request", lambda payload, at: self.got.append((payload, at)), clock=lambda: 7.5
        )
        self.client.connection_made(self.wire)

    def messages(self) -> list[object]:
        # A mask of zeros changes nothing, so a reader for servers' frames needs only the bit taken off.
        unmasked = [bytes([frame[0], frame[1] & 0x7F]) + frame[2:] for frame in self.wire.written[1:]]
        return [orjson.loads(FrameReader().feed(_without_mask(frame))[0].payload) for frame in unmasked]


def _without_mask(frame: bytes) -> bytes:
    head = {126: 4, 127: 10}.get(frame[1], 2)
    return frame[:head] + frame[head + 4 :]


@pytest.fixture
async def connected() -> Connected:
    return Connected()


class TestTheHandshake:
    async def test_begins_with_the_request(self, connected: Connected) -> None:
        assert connected.wire.written == [b"request"]
        assert not connected.client.opened.done()

    @pytest.mark.parametrize("cut", [1, len(HEAD) - 1, len(HEAD), len(HEAD) + 3])
    async def test_may_come_in_pieces_and_with_frames_behind_it(self, connected: Connected, cut: int) -> None:
        data = HEAD + b"\x81\x02hi"
        connected.client.data_received(data[:cut])
        connected.client.data_received(data[cut:])
        await connected.client.opened
        assert connected.got == [(b"hi", 7.5)]

    async def test_fails_with_the_status_of_another_answer(self, connected: Connected) -> None:
        connected.client.data_received(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        with pytest.raises(ConnectionRefused, match="403 Forbidden"):
            await connected.client.opened
        assert connected.wire.aborted

    async def test_comes_too_late_for_who_has_given_up(self, connected: Connected) -> None:
        connected.client.opened.cancel()
        connected.client.data_received(HEAD + b"\x81\x02hi")
        assert connected.got == []

    async def test_fails_when_the_server_hangs_up(self, connected: Connected) -> None:
        connected.client.connection_lost(None)
        with pytest.raises(ConnectionRefused, match="closed"):
            await connected.client.opened


class TestOpen:
    @pytest.fixture
    async def connected(self) -> Connected:
        connected = Connected()
        connected.client.data_received(HEAD)
        return connected

    async def test_a_ping_is_answered(self, connected: Connected) -> None:
        connected.client.data_received(b"\x89\x01p")
        assert connected.wire.written[-1] == client_frame(b"p", PONG)

    async def test_the_close_code_is_kept(self, connected: Connected) -> None:
        connected.client.data_received(b"\x88\x02\x03\xf4")
        connected.client.connection_lost(None)
        assert connected.client.close_code == 1012
        assert connected.client.closed.done()

    async def test_the_servers_close_is_answered_with_its_code(self, connected: Connected) -> None:
        connected.client.data_received(b"\x88\x02\x03\xf4")
        assert connected.wire.written[-1] == client_frame(b"\x03\xf4", CLOSE)

    async def test_it_closes_once(self, connected: Connected) -> None:
        connected.client.close()
        connected.client.close()
        connected.client.data_received(b"\x88\x02\x03\xe8")
        assert connected.wire.written[1:] == [client_frame(b"\x03\xe8", CLOSE)]

    async def test_nothing_is_written_once_it_is_gone(self, connected: Connected) -> None:
        connected.client.connection_lost(None)
        connected.client.send({"type": "ping"})
        connected.client.close()
        assert connected.wire.written == [b"request"]

    async def test_many_topics_take_several_messages(self, connected: Connected) -> None:
        topics = [f"product:{number}" for number in range(2 * TOPICS_A_MESSAGE + 1)]
        connected.client.subscribe(topics)
        sent = connected.messages()
        assert [len(message["topics"]) for message in sent if isinstance(message, dict)] == [100, 100, 1]
        assert sent[2] == {"type": "subscribe", "topics": topics[-1:]}


def test_the_realtime_url_is_made_of_the_gateways() -> None:
    assert realtime_url("http://h:1") == "ws://h:1/realtime"
