"""What comes before a request: whose connection it is, and whether it may stay. Real sockets."""

import asyncio
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.addresses import Networks
from gateway.admission import ConnectionLimits
from gateway.arrivals import EdgeSettings
from tests.support.gate import Gate, Raw, make_gate
from tests.support.messages import next_message
from tests.support.waiting import eventually

LOCALHOST = Networks([ip_network("127.0.0.0/8")])
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
UPGRADE = (
    b"GET /realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


async def whoami(request: Request) -> Response:
    assert request.client is not None
    return PlainTextResponse(f"<{request.client.host}>")


APP = Starlette(routes=[Route("/", whoami, methods=["GET", "POST"])])


def proxy_header(source: str | None) -> bytes:
    body = IPv4Address(source or 0).packed + bytes(8)
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", 0x21 if source else 0x20, 0x11, len(body)) + body


async def said(raw: Raw, until: bytes = b"") -> bytes:
    """What the server says up to there, or to the end."""
    async with asyncio.timeout(10):
        try:
            return await (raw[0].readuntil(until) if until else raw[0].read())
        except ConnectionResetError:
            return b""


async def asked(raw: Raw, *fields: bytes) -> bytes:
    raw[1].write(GET + b"".join(field + b"\r\n" for field in fields) + b"\r\n")
    return await said(raw, b">")


async def told(client: Any) -> tuple[int, int]:
    """When to come back, and the close code."""
    error = await next_message(client, "error")
    assert error["code"] == "rate_limited"
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd is not None
    return error["retry_after_ms"], closed.value.rcvd.code


async def nobody_is_left(gate: Gate, limits: ConnectionLimits) -> bool:
    await eventually(lambda: limits.statistics()["connections"] == 0, timeout_s=5)
    counts = gate.arrivals.statistics
    await eventually(lambda: counts()["gateway_half_open_connections"] == 0, timeout_s=5)
    await eventually(lambda: counts()["gateway_idle_http_connections"] == 0, timeout_s=5)
    return limits.statistics()["addresses"] == 0


class TestBehindAProxy:
    @pytest.fixture
    async def gate(self) -> AsyncIterator[Gate]:
        limits = ConnectionLimits(per_address=1)
        async with make_gate(app=APP, connection_limits=limits, edge=EdgeSettings(proxies=LOCALHOST)) as gate:
            yield gate
            assert await nobody_is_left(gate, limits)

    async def test_each_request_has_a_client_of_its_own(self, gate: Gate) -> None:
        async with gate.raw() as raw:
            assert b"<198.51.100.1>" in await asked(raw, b"X-Forwarded-For: 198.51.100.1")
            assert b"<2001:db8::7>" in await asked(raw, b'Forwarded: for="[2001:db8::7]:1234"')
            assert b"<127.0.0.1>" in await asked(raw)

    async def test_what_can_not_be_read_is_the_proxy_itself(self, gate: Gate) -> None:
        async with gate.raw() as raw:
            assert b"<127.0.0.1>" in await asked(raw, b"X-Forwarded-For: <script>")
            assert b"<127.0.0.1>" in await asked(
                raw, b"X-Forwarded-For: 198.51.100.1", b"Forwarded: for=6.6.6.6"
            )
        assert gate.arrivals.statistics()["gateway_forwarded_ignored"] == 2

    async def test_websockets_are_counted_by_client(self, gate: Gate) -> None:
        first = {"X-Forwarded-For": "198.51.100.1"}
        async with gate.connect(additional_headers=first) as client:
            await next_message(client, "welcome")
            async with gate.connect(additional_headers=first) as refused:
                assert await told(refused) == (5000, 4429)
            async with gate.connect(additional_headers={"X-Forwarded-For": "198.51.100.2"}) as other:
                await next_message(other, "welcome")

    async def test_a_flood_is_refused_after_the_head(self, gate: Gate) -> None:
        first = {"X-Forwarded-For": "198.51.100.1"}
        async with gate.connect(additional_headers=first):
            for _ in range(20):  # who are told in words
                async with gate.raw() as raw:
                    raw[1].write(UPGRADE + b"X-Forwarded-For: 198.51.100.1\r\n\r\n")
                    assert b" 101 " in await said(raw, b"\r\n")
            with pytest.raises(InvalidStatus) as refused:
                await gate.connect(additional_headers=first)
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["Retry-After"] == "5"


class TestWithoutAProxy:
    async def test_anybody_may_write_a_header(self) -> None:
        edge = EdgeSettings(proxies=Networks([ip_network("10.0.0.0/8")]))
        async with make_gate(app=APP, edge=edge) as gate, gate.raw() as raw:
            fields = (b"X-Forwarded-For: 198.51.100.1", b"Forwarded: for=198.51.100.1")
            assert b"<127.0.0.1>" in await asked(raw, *fields)


class TestProxyProtocol:
    @pytest.fixture
    async def gate(self) -> AsyncIterator[Gate]:
        limits = ConnectionLimits(per_address=1)
        edge = EdgeSettings(proxies=LOCALHOST, proxy_protocol=True, request_timeout_s=0.5)
        async with make_gate(app=APP, connection_limits=limits, edge=edge) as gate:
            yield gate
            assert await nobody_is_left(gate, limits)

    async def test_header_and_request_in_one(self, gate: Gate) -> None:
        async with gate.raw() as raw:
            raw[1].write(proxy_header("198.51.100.1") + GET + b"\r\n")
            assert b"<198.51.100.1>" in await said(raw, b">")
            assert gate.arrivals.limits.statistics()["connections"] == 1

    async def test_byte_by_byte(self, gate: Gate) -> None:
        async with gate.raw() as raw:
            for byte in proxy_header("198.51.100.1"):
                raw[1].write(bytes([byte]))
                await asyncio.sleep(0.001)
            assert b"<198.51.100.1>" in await asked(raw, b"X-Forwarded-For: 6.6.6.6")

    async def test_a_source_that_is_a_proxy_itself(self, gate: Gate) -> None:
        async with gate.raw() as raw:
            raw[1].write(proxy_header("127.9.9.9"))
            assert b"<198.51.100.1>" in await asked(raw, b"X-Forwarded-For: 198.51.100.1")

    async def test_a_health_check_is_the_proxy_itself(self, gate: Gate) -> None:
        async with gate.raw() as raw:
            raw[1].write(proxy_header(None))
            assert b"<127.0.0.1>" in await asked(raw)

    async def test_websockets(self, gate: Gate) -> None:
        async with gate.raw() as raw:
            raw[1].write(proxy_header("198.51.100.1") + UPGRADE + b"\r\n")
            assert b" 101 " in await said(raw, b"\r\n\r\n")
            assert gate.arrivals.limits.statistics()["connections"] == 1

    async def test_a_client_with_enough_is_refused_before_its_request(self, gate: Gate) -> None:
        async with gate.raw() as first:
            first[1].write(proxy_header("198.51.100.1") + GET + b"\r\n")
            await said(first, b">")
            for _ in range(20):
                async with gate.raw() as raw:
                    raw[1].write(proxy_header("198.51.100.1") + GET + b"\r\n")
                    assert b" 429 " in await said(raw)
            async with gate.raw() as raw:
                raw[1].write(proxy_header("198.51.100.1"))
                assert b"\r\nRetry-After: 5\r\n" in await said(raw)

    @pytest.mark.parametrize(
        "beginning", [b"PROXY TCP4 198.51.100.1 127.0.0.1 1 2\r\n" + GET + b"\r\n", UPGRADE + b"\r\n"]
    )
    async def test_anything_else_is_dropped(self, gate: Gate, beginning: bytes) -> None:
        async with gate.raw() as raw:
            raw[1].write(beginning)
            assert await said(raw) == b""
        assert gate.arrivals.statistics()["gateway_proxy_headers_refused"] == 1

    async def test_a_header_has_the_time_of_a_request(self, gate: Gate) -> None:
        async with gate.raw() as raw:
            raw[1].write(proxy_header("198.51.100.1")[:20])
            assert await said(raw) == b""

    async def test_a_proxy_that_goes_away_before_it_ends(self, gate: Gate) -> None:
        async with gate.raw() as raw:
            raw[1].write(proxy_header("198.51.100.1")[:20])
            await eventually(lambda: len(gate.arrivals.proxy_headers.waiting) == 1, timeout_s=5)
        await eventually(lambda: len(gate.arrivals.proxy_headers.waiting) == 0, timeout_s=0.4)

    async def test_whoever_is_no_proxy_speaks_http(self) -> None:
        edge = EdgeSettings(proxies=Networks([ip_network("10.0.0.0/8")]), proxy_protocol=True)
        async with make_gate(app=APP, edge=edge) as gate, gate.raw() as raw:
            assert b"<127.0.0.1>" in await asked(raw)


class TestRefusedAtAccept:
    @pytest.fixture
    async def gate(self) -> AsyncIterator[Gate]:
        limits = ConnectionLimits(per_address=1)
        async with make_gate(app=APP, connection_limits=limits) as gate:
            yield gate
            assert await nobody_is_left(gate, limits)

    async def test_the_first_hear_why(self, gate: Gate) -> None:
        async with gate.connect() as client:
            await next_message(client, "welcome")
            async with gate.connect() as refused:
                assert (await next_message(refused, "welcome"))["type"] == "welcome"
                assert await told(refused) == (5000, 4429)
            async with gate.raw() as raw:
                raw[1].write(GET + b"\r\n")
                answer = await said(raw)
                assert answer.startswith(b"HTTP/1.1 429 ")
                assert b"\r\nRetry-After: 5\r\n" in answer

    async def test_the_others_without_having_said_a_byte(self, gate: Gate) -> None:
        async with gate.connect():
            for _ in range(20):
                async with gate.raw() as raw:
                    raw[1].write(GET + b"\r\n")
                    await said(raw)
            async with gate.raw() as raw:
                answer = await said(raw)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nRetry-After: 5\r\n" in answer
        assert gate.arrivals.limits.refused["address"] == 21

    async def test_a_place_that_becomes_free_is_given_away(self, gate: Gate) -> None:
        for _ in range(3):
            async with gate.connect() as client:
                await next_message(client, "welcome")
            await eventually(lambda: gate.arrivals.limits.statistics()["connections"] == 0, timeout_s=5)

    async def test_what_comes_of_a_connection_it_is_counted_out(self, gate: Gate) -> None:
        for beginning in (b"", b"GET", b"\x00\r\n\r\n", GET + b"\r\n", UPGRADE + b"Origin: http://e\r\n\r\n"):
            async with gate.raw() as raw:
                await eventually(lambda: gate.arrivals.limits.statistics()["connections"] == 1, timeout_s=5)
                raw[1].write(beginning)
                await asyncio.sleep(0.01)
            await eventually(lambda: gate.arrivals.limits.statistics()["connections"] == 0, timeout_s=5)


class TestHeads:
    async def test_more_fields_than_anybody_needs(self) -> None:
        async with make_gate(app=APP) as gate:
            for count, status in ((99, b" 200 "), (100, b" 431 ")):
                async with gate.raw() as raw:
                    raw[1].write(GET + b"".join(b"X-%d: 1\r\n" % n for n in range(count)) + b"\r\n")
                    assert status in await said(raw, b"\r\n")

    @pytest.mark.parametrize(
        "line", [b"GET http://[ HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET", b"\x16\x03\x01"]
    )
    async def test_garbage_is_400_and_no_line_in_the_log(
        self, line: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with make_gate(app=APP) as gate, gate.raw() as raw:
            raw[1].write(line + b"\r\nHost: x\r\n\r\n")
            assert (await said(raw)).startswith(b"HTTP/1.1 400 ")
        assert not caplog.records

    async def test_a_slow_one_has_no_more_time_for_every_byte(self) -> None:
        limits = ConnectionLimits()
        edge = EdgeSettings(request_timeout_s=0.3)
        loop = asyncio.get_running_loop()
        async with make_gate(app=APP, connection_limits=limits, edge=edge) as gate, gate.raw() as raw:
            began = loop.time()
            raw[1].write(GET + b"X: ")
            while not raw[0].at_eof() and raw[0].exception() is None and loop.time() - began < 5:
                raw[1].write(b"x")
                await asyncio.sleep(0.02)
            assert 0.25 < loop.time() - began < 3
            assert gate.arrivals.heads.timed_out == 1
            assert await nobody_is_left(gate, limits)

    async def test_a_body_that_trickles(self) -> None:
        limits = ConnectionLimits()
        edge = EdgeSettings(body_timeout_s=0.3)
        async with make_gate(app=APP, connection_limits=limits, edge=edge) as gate, gate.raw() as raw:
            raw[1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            assert b"<127.0.0.1>" in await said(raw, b">")  # the answer does not wait for it
            while not raw[0].at_eof() and raw[0].exception() is None:
                raw[1].write(b"x")
                await asyncio.sleep(0.02)
            assert (gate.arrivals.bodies.timed_out, gate.arrivals.heads.timed_out) == (1, 0)
            assert await nobody_is_left(gate, limits)

    async def test_silent_ones_push_each_other_out(self) -> None:
        async with make_gate(app=APP, edge=EdgeSettings(max_half_open=2)) as gate:
            async with gate.raw() as first, gate.raw() as second:
                await eventually(lambda: len(gate.arrivals.heads) == 2, timeout_s=5)
                second[1].write(b"GET")
                async with gate.raw() as third:
                    assert await said(first) == b""
                    assert b"<127.0.0.1>" in await asked(third)
                    second[1].write(GET[3:] + b"\r\n")
                    assert b"<127.0.0.1>" in await said(second, b">")
            assert gate.arrivals.heads.crowded_out == 1

    async def test_idle_ones_too(self) -> None:
        async with make_gate(app=APP, edge=EdgeSettings(max_idle=1)) as gate:
            async with gate.raw() as first, gate.raw() as second:
                for _ in range(3):  # one that is used is not idle
                    assert b"<127.0.0.1>" in await asked(first)
                assert b"<127.0.0.1>" in await asked(second)
                assert await said(first) == b""
                assert b"<127.0.0.1>" in await asked(second)
            assert gate.arrivals.idle.crowded_out == 1

    async def test_empty_lines_between_requests_keep_nothing_open(self) -> None:
        async with make_gate(app=APP, edge=EdgeSettings(request_timeout_s=0.3)) as gate, gate.raw() as raw:
            assert b"<127.0.0.1>" in await asked(raw)
            while not raw[0].at_eof() and raw[0].exception() is None:
                raw[1].write(b"\r\n")
                await asyncio.sleep(0.02)
            assert gate.arrivals.heads.timed_out == 1

    async def test_a_server_that_stops_waits_for_none(self) -> None:
        async with make_gate(app=APP) as gate, gate.raw() as raw:
            await eventually(lambda: len(gate.arrivals.heads) == 1, timeout_s=5)
            gate.arrivals.heads.drop_all()
            assert await said(raw) == b""
