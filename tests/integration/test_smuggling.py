"""Requests that a proxy might read otherwise than we do, answers that a client might write: raw bytes, and
what must come of them. See docs/conformance.md."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import orjson
import pytest

from load.frames import CLOSE, PONG, TEXT, Frame, FrameReader, client_frame
from tests.support.gate import Gate, Raw, make_gate
from tests.support.tokens import base64url

HOST: Final = "Host: x\r\n"
UPGRADE: Final = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
KEY: Final = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
VERSION: Final = "Sec-WebSocket-Version: 13\r\n"
CHUNKED: Final = "Transfer-Encoding: chunked\r\n"
OTHER: Final = b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n"  # answered by 404
LENGTH_OF_OTHER: Final = f"Content-Length: {len(OTHER)}\r\n"
# What ends the table's cases that are answered and stay open: one more answer that must be the last.
PING: Final = client_frame(b"alive", 9)
QUIET_S: Final = 0.1


def handshake(
    more: str = "",
    *,
    line: str = "GET /realtime HTTP/1.1",
    host: str = HOST,
    upgrade: str = UPGRADE,
    key: str = KEY,
    version: str = VERSION,
    then: bytes = b"",
) -> bytes:
    return f"{line}\r\n{host}{upgrade}{key}{version}{more}\r\n".encode("latin-1") + then


class Case(NamedTuple):
    """`statuses` are those of all answers. After 101 the connection is a WebSocket that answers a ping; after
    anything else it is closed, unless `open`."""

    what: str
    sent: bytes
    statuses: tuple[int, ...]
    open: bool = False


# fmt: off
CASES: Final = (
    # Where a request ends: RFC 9112 section 6. A handshake has no content at all.
    Case("no content", handshake("Content-Length: 0\r\n"), (101,)),
    Case("content before the upgrade", handshake("Content-Length: 5\r\n", then=b"hello"), (400,)),
    Case("a request as content", handshake(LENGTH_OF_OTHER, then=OTHER), (400,)),
    Case("content without end", handshake("Content-Length: 1000000000000\r\n"), (400,)),
    Case("chunks", handshake(CHUNKED, then=b"0\r\n\r\n"), (400,)),
    Case("a request behind chunks", handshake(CHUNKED, then=b"0\r\n\r\n" + OTHER), (400,)),
    Case("CL.TE", handshake(f"{LENGTH_OF_OTHER}{CHUNKED}", then=b"0\r\n\r\n" + OTHER), (400,)),
    Case("TE.CL", handshake(f"{CHUNKED}{LENGTH_OF_OTHER}", then=b"0\r\n\r\n" + OTHER), (400,)),
    Case("TE.TE", handshake(f"{CHUNKED}Transfer-Encoding: x\r\n", then=b"0\r\n\r\n" + OTHER), (400,)),
    Case("TE xchunked", handshake("Transfer-Encoding: xchunked\r\n", then=OTHER), (400,)),
    Case("TE chunked, identity", handshake("Transfer-Encoding: chunked, identity\r\n", then=OTHER), (400,)),
    Case("TE behind VT", handshake("Transfer-Encoding: \x0bchunked\r\n", then=OTHER), (400,)),
    Case("TE with a space before the colon", handshake("Transfer-Encoding : chunked\r\n"), (400,)),
    Case("two lengths", handshake("Content-Length: 5\r\nContent-Length: 6\r\n", then=b"hello"), (400,)),
    Case("twice the same length", handshake("Content-Length: 0\r\nContent-Length: 0\r\n"), (400,)),
    Case("a list of lengths", handshake("Content-Length: 0, 0\r\n"), (400,)),
    Case("length +0", handshake("Content-Length: +0\r\n"), (400,)),
    Case("length -1", handshake("Content-Length: -1\r\n"), (400,)),
    Case("length 0x0", handshake("Content-Length: 0x0\r\n"), (400,)),
    Case("length beyond 64 bits", handshake("Content-Length: 99999999999999999999\r\n"), (400,)),
    Case("CL.TE without an upgrade", OTHER[:-2] + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
         b"0\r\n\r\n" + OTHER, (400,)),
    Case("content of a GET", OTHER[:-2] + LENGTH_OF_OTHER.encode() + b"\r\n" + OTHER, (400,)),
    Case("content of a POST", b"POST" + OTHER[3:-2] + LENGTH_OF_OTHER.encode() + b"\r\n" + OTHER + OTHER,
         (404, 404), True),
    Case("an upgrade in content", b"POST" + OTHER[3:-2] + b"Content-Length: %d\r\n\r\n" % len(handshake())
         + handshake(), (404,), True),
    Case("a request behind Connection: close", OTHER[:-2] + b"Connection: close\r\n\r\n" + OTHER, (404,)),

    # Lines and fields: RFC 9112 sections 2.2 and 5.
    Case("LF alone everywhere", handshake().replace(b"\r\n", b"\n"), (400,)),
    Case("LF alone in one line", handshake("X-A: a\nX-B: b\r\n"), (400,)),
    Case("CR alone", handshake("X-A: a\rX-B: b\r\n"), (400,)),
    Case("a folded line", handshake("X-A: a\r\n b\r\n"), (400,)),
    Case("a line folded by a tab", handshake("X-A: a\r\n\tTransfer-Encoding: chunked\r\n"), (400,)),
    Case("a first line that is folded", handshake(host=" Host: x\r\n"), (400,)),
    Case("NUL in a value", handshake("X-A: a\0b\r\n"), (400,)),
    Case("NUL in a name", handshake("X\0A: b\r\n"), (400,)),
    Case("a control character", handshake("X-A: a\x01b\r\n"), (400,)),
    Case("DEL", handshake("X-A: a\x7fb\r\n"), (400,)),
    Case("a space in a name", handshake("X A: b\r\n"), (400,)),
    Case("a space behind a name", handshake("X-A : b\r\n"), (400,)),
    Case("no name", handshake(": b\r\n"), (400,)),
    Case("no colon", handshake("X-A\r\n"), (400,)),
    Case("an empty line before", b"\r\n" + handshake(), (101,)),

    # Fields that are there once: RFC 9112 3.2, RFC 6455 4.2.1.
    Case("no Host", handshake(host=""), (400,)),
    Case("two Hosts", handshake(host="Host: x\r\nHost: y\r\n"), (400,)),
    Case("twice the same Host", handshake(host="Host: x\r\nhost: x\r\n"), (400,)),
    Case("a list of Hosts", handshake(host="Host: x, y\r\n"), (400,)),
    Case("a Host with a path", handshake(host="Host: x/y\r\n"), (400,)),
    Case("a Host with a name before", handshake(host="Host: a@x\r\n"), (400,)),
    Case("no Host, without an upgrade", b"GET /other HTTP/1.1\r\n\r\n", (400,)),
    Case("two Hosts, without an upgrade", OTHER[:-2] + b"Host: y\r\n\r\n", (400,)),
    Case("two keys", handshake(key=KEY + KEY), (400,)),
    Case("no key", handshake(key=""), (400,)),
    Case("a key that is too short", handshake(key="Sec-WebSocket-Key: AAAA\r\n"), (400,)),
    Case("a key that is no base64", handshake(key="Sec-WebSocket-Key: \xff<script>\r\n"), (400,)),
    Case("two versions", handshake(version=VERSION + VERSION), (400,)),
    Case("a list of versions", handshake(version="Sec-WebSocket-Version: 13, 13\r\n"), (400,)),
    Case("no version", handshake(version=""), (400,)),
    Case("two upgrades", handshake(upgrade=f"Upgrade: websocket\r\n{UPGRADE}"), (426,)),
    Case("another upgrade", handshake(upgrade=UPGRADE.replace("websocket", "h2c")), (404,), True),
    Case("other letters' case", handshake(upgrade="uPGRADE: WebSocket\r\ncONNECTION: upgrade\r\n"), (101,)),

    # The request's line: RFC 9112 section 3.
    Case("HTTP/1.0", handshake(line="GET /realtime HTTP/1.0"), (505,)),
    Case("HTTP/0.9", b"GET /realtime\r\n\r\n", (400,)),
    Case("HTTP/1.2", handshake(line="GET /realtime HTTP/1.2"), (400,)),
    Case("HTTP/2.0", handshake(line="GET /realtime HTTP/2.0"), (400,)),
    Case("HTTP/2 without asking", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    Case("http/1.1", handshake(line="GET /realtime http/1.1"), (400,)),
    Case("get", handshake(line="get /realtime HTTP/1.1"), (400,)),
    Case("POST", handshake(line="POST /realtime HTTP/1.1"), (405,)),
    Case("HEAD", handshake(line="HEAD /realtime HTTP/1.1"), (405,)),
    Case("CONNECT", handshake(line="CONNECT x:80 HTTP/1.1"), (404,)),
    Case("a target in absolute form", handshake(line="GET http://x/realtime HTTP/1.1"), (101,)),
    Case("a target of another host", handshake(line="GET http://y/realtime HTTP/1.1"), (400,)),
    Case("a target of half a host", handshake(line="GET http://[x/realtime HTTP/1.1"), (400,)),
    Case("a path that looks like a host", handshake(line="GET //x/realtime HTTP/1.1"), (404,)),
    Case("a path that looks like half a host", handshake(line="GET //[x/realtime HTTP/1.1"), (404,)),
    Case("a path with dots", handshake(line="GET /x/../realtime HTTP/1.1"), (404,)),
    Case("a path that is encoded", handshake(line="GET /%72ealtime HTTP/1.1"), (404,)),
    Case("a fragment", handshake(line="GET /realtime#x HTTP/1.1"), (404,)),
    Case("a space in the target", handshake(line="GET /real time HTTP/1.1"), (400,)),
    Case("tabs in the line", handshake(line="GET\t/realtime\tHTTP/1.1"), (400,)),
    Case("bytes above 127", handshake(line="GET /realtime?topics=\xe9 HTTP/1.1"), (400,)),

    # Origin: it is read before anything is known of who sends it.
    Case("an origin of half a host", handshake("Origin: http://[\r\n"), (403,)),
    Case("an origin with a path", handshake("Origin: http://x/\r\n"), (403,)),
    Case("our origin and another", handshake("Origin: http://x\r\nOrigin: http://y\r\n"), (403,)),
    Case("no origin at all", handshake("Origin: null\r\n"), (403,)),

    # More than a request at once.
    Case("an upgrade behind a request", OTHER + handshake(), (400,)),
    Case("two requests", OTHER + OTHER, (404, 404), True),
)
# fmt: on


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    async with make_gate() as gate:
        yield gate


@pytest.fixture
async def failures() -> list[str]:
    """What the loop was told that nobody has caught, in the test that asks for this."""
    found: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(str(context)))
    return found


async def heads_of(reader: asyncio.StreamReader) -> tuple[list[bytes], bytes, bool]:
    """The heads of the answers that come, what follows the last, and whether the connection stays open."""
    got, stays = b"", True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            got = await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(QUIET_S):
            while data := await reader.read(65536):
                got += data
            stays = False
    heads = re.findall(rb"HTTP/1\.1 \d{3} .*?\r\n\r\n", got, re.DOTALL)
    return heads, got.rpartition(b"\r\n\r\n")[2], stays


async def answers_pings(raw: Raw, received: bytes) -> bool:
    reader, writer = raw
    frames = FrameReader()
    found = frames.feed(received)
    writer.write(PING)
    async with asyncio.timeout(5):
        while Frame(PONG, b"alive") not in found:
            found += frames.feed(await reader.read(65536))
    return {frame.opcode for frame in found} == {TEXT, PONG}


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
async def test_each_request_has_its_answer_and_no_other(case: Case, gate: Gate, failures: list[str]) -> None:
    async with gate.raw() as raw:
        raw[1].write(case.sent)
        heads, rest, stays = await heads_of(raw[0])
        assert tuple(int(head[9:12]) for head in heads) == case.statuses
        assert stays == (case.open or case.statuses == (101,))
        if case.statuses == (101,):
            assert await answers_pings(raw, rest)
    assert failures == []


async def test_a_request_behind_the_upgrade_is_no_frame(gate: Gate, failures: list[str]) -> None:
    async with gate.raw() as (reader, writer):
        writer.write(handshake(then=OTHER))
        heads, rest, _ = await heads_of(reader)
    assert [head[9:12] for head in heads] == [b"101"]
    frames = FrameReader().feed(rest)
    assert [(frame.opcode, frame.payload[:2]) for frame in frames if frame.opcode != TEXT] == [
        (CLOSE, b"\x03\xea")
    ]
    assert failures == []


async def test_an_answer_never_comes_among_frames(gate: Gate) -> None:
    """One request after the other on one connection is fine: each is answered before the next."""
    async with gate.raw() as (reader, writer):
        writer.write(OTHER)
        heads, _, _ = await heads_of(reader)
        assert heads[0].startswith(b"HTTP/1.1 404 ")
        writer.write(handshake())
        heads, rest, stays = await heads_of(reader)
        assert heads[0].startswith(b"HTTP/1.1 101 ")
        assert stays
        assert await answers_pings((reader, writer), rest)


class TestInjection:
    """Nothing that a client says comes back as a line of the head, and in a message only as JSON."""

    EVIL: Final = "\r\nX-Evil: 1\r\n\r\n<script>\u2028\x00\x7f"

    @pytest.mark.parametrize(
        "more",
        [
            "Sec-WebSocket-Protocol: inventory.v1\r\n",
            "Sec-WebSocket-Protocol: a, inventory.v1, b\r\n",
            "Sec-WebSocket-Protocol: INVENTORY.V1, inventory.v1\r\n",
            f"Sec-WebSocket-Protocol: inventory.v1, bearer.{base64url(EVIL.encode())}\r\n",
        ],
    )
    async def test_the_subprotocol_is_ours_or_none(self, gate: Gate, more: str) -> None:
        async with gate.raw() as (reader, writer):
            writer.write(handshake(more))
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.split(b"\r\n")[1:] == [
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=",
            b"Sec-WebSocket-Protocol: inventory.v1",
            *(b"", b""),
        ]

    @pytest.mark.parametrize(
        "line",
        [
            "Sec-WebSocket-Protocol: inventory.v1%0d%0aX-Evil:1\r\n",
            'Sec-WebSocket-Protocol: "inventory.v1\r\n',
            "Sec-WebSocket-Protocol: \xff, inventory.v1\r\n",
            "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: ,,;\r\n",
            "Sec-WebSocket-Key: <script>\r\n",
        ],
    )
    async def test_a_refusal_has_a_head_of_ours_alone(self, gate: Gate, line: str) -> None:
        """What was wrong is named in its text, which is plain and has a length."""
        async with gate.raw() as (reader, writer):
            writer.write(handshake(line))
            answer = await asyncio.wait_for(reader.read(), 5)
        head, _, body = answer.partition(b"\r\n\r\n")
        names = [row.partition(b":")[0].lower() for row in head.split(b"\r\n")[1:]]
        assert sorted(names) == [b"connection", b"content-length", b"content-type", b"date"]
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"text/plain" in head
        assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"

    @pytest.mark.parametrize("name", ["topics", "ticket"])
    async def test_what_the_url_says_is_no_line(self, gate: Gate, name: str) -> None:
        line = f"GET /realtime?{name}=%0d%0aX-Evil:%201%0d%0a%0d%0a%00%ff HTTP/1.1"
        async with gate.raw() as (reader, writer):
            writer.write(handshake(line=line))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Evil" not in head
            messages = await messages_of(reader, 2)
        assert messages[0]["type"] == "welcome"
        assert messages[1]["code"] == ("unknown_topic" if name == "topics" else "unauthenticated")

    @pytest.mark.parametrize("kind", ["ping", "subscribe", "unsubscribe"])
    async def test_what_a_message_says_comes_back_as_one_string(self, gate: Gate, kind: str) -> None:
        async with gate.raw_websocket() as (reader, writer):
            message = {"type": kind, "id": self.EVIL, "topics": [self.EVIL]}
            writer.write(client_frame(orjson.dumps(message)))
            answer = (await messages_of(reader, 2))[1]
        assert answer["id"] == self.EVIL
        assert answer.get("topic", self.EVIL) == self.EVIL


async def messages_of(reader: asyncio.StreamReader, count: int) -> list[dict[str, object]]:
    frames = FrameReader()
    found: list[Frame] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            found += [f for f in frames.feed(await reader.read(65536)) if f.opcode in (TEXT, CLOSE)]
    return [orjson.loads(frame.payload) for frame in found[:count]]


class TestCompression:
    """RFC 7692 is offered by every browser, and left out of every answer."""

    @pytest.mark.parametrize(
        "offer",
        [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=8; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits, permessage-deflate, x-webkit-deflate-frame",
            "permessage-deflate\r\nSec-WebSocket-Extensions: permessage-deflate",
            'permessage-deflate; server_max_window_bits="9"',
            "permessage-deflate; server_max_window_bits=99999999999999999999",
            "permessage-deflate; permessage-deflate; ;;",
            '"\\\x80;;=,',
            "",
        ],
    )
    async def test_whatever_is_offered_nothing_is_accepted(self, gate: Gate, offer: str) -> None:
        async with gate.raw() as raw:
            raw[1].write(handshake(f"Sec-WebSocket-Extensions: {offer}\r\n"))
            head = await raw[0].readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"extensions" not in head.lower()
            assert await answers_pings(raw, b"")

    @pytest.mark.parametrize("bits", [0x40, 0x20, 0x10, 0x70])
    @pytest.mark.parametrize("opcode", [0, 1, 2, 8, 9, 10])
    async def test_a_compressed_frame_is_1002(self, gate: Gate, bits: int, opcode: int) -> None:
        frame = bytearray(client_frame(b"\xaaV*\xa9,HU\xb2R", opcode))
        frame[0] |= bits
        async with gate.raw_websocket() as (reader, writer):
            writer.write(frame)
            received = FrameReader().feed(await asyncio.wait_for(reader.read(), 5))
        assert (received[-1].opcode, received[-1].payload[:2]) == (CLOSE, (1002).to_bytes(2))
