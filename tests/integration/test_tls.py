"""The gateway's own TLS: what is agreed on, what is refused, and what does not differ from a plain socket."""

import asyncio
import base64
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed

from gateway.arrivals import EdgeSettings
from gateway.certificate import ServerCertificate, load_certificate
from gateway.config import Settings
from tests.support.certificates import Authority
from tests.support.gate import Gate, make_gate
from tests.support.messages import next_message
from tests.support.replica import stock
from tests.support.waiting import eventually

TOPIC = "location:L1"
# Beside what the kernel takes: two buffers of the loop, one before and one behind the encryption.
STALLED_BYTES = 320 * 1024


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def certificate(authority: Authority) -> ServerCertificate:
    pair = authority.certify()
    settings = Settings(tls_certificate=str(pair.certificate), tls_key=str(pair.key))
    served = load_certificate(settings, asyncio.Event())
    assert served is not None
    return served


@pytest.fixture
async def gate(certificate: ServerCertificate) -> AsyncIterator[Gate]:
    async with make_gate(tls=certificate.context) as gate:
        yield gate


@pytest.fixture
def trust(authority: Authority) -> ssl.SSLContext:
    return authority.client_context()


def frame(**message: Any) -> bytes:
    """Masked by zeros, as a client must mask."""
    payload = orjson.dumps(message)
    assert len(payload) < 126
    return bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload


async def refused(port: int, context: ssl.SSLContext) -> OSError:
    """uvloop hangs up before OpenSSL's alert is sent, so what is wrong may be left to guess."""
    with pytest.raises((ssl.SSLError, ConnectionResetError)) as caught:
        await asyncio.open_connection("127.0.0.1", port, ssl=context)
    return caught.value


class TestHandshake:
    async def test_what_is_agreed_on(self, gate: Gate, trust: ssl.SSLContext) -> None:
        trust.set_alpn_protocols(["h2", "http/1.1"])
        async with gate.connect(ssl=trust) as client:
            agreed = client.transport.get_extra_info("ssl_object")
            assert agreed.version() == "TLSv1.3"
            assert agreed.selected_alpn_protocol() == "http/1.1"
            assert (await next_message(client, "welcome"))["principal"] == "anonymous"

    async def test_tls_1_2_has_forward_secrecy_and_authenticated_encryption(
        self, gate: Gate, trust: ssl.SSLContext
    ) -> None:
        trust.maximum_version = ssl.TLSVersion.TLSv1_2
        async with gate.connect(ssl=trust) as client:
            name, version, _ = client.transport.get_extra_info("cipher")
        assert version == "TLSv1.2"
        assert name.startswith("ECDHE-")
        assert "GCM" in name or "CHACHA20" in name

    async def test_weaker_ciphers_are_not(self, gate: Gate, trust: ssl.SSLContext) -> None:
        trust.maximum_version = ssl.TLSVersion.TLSv1_2
        trust.set_ciphers("ECDHE+AES+SHA256:ECDHE+AES+SHA384")  # encrypted and authenticated apart (CBC)
        await refused(gate.port, trust)

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
    async def test_older_versions_are_not(self, gate: Gate, trust: ssl.SSLContext) -> None:
        trust.set_ciphers("ALL:@SECLEVEL=0")
        trust.minimum_version = trust.maximum_version = ssl.TLSVersion.TLSv1_1
        await refused(gate.port, trust)

    async def test_a_client_that_trusts_others(self, gate: Gate, tmp_path: Path) -> None:
        error = await refused(gate.port, Authority(tmp_path, "stranger").client_context())
        assert isinstance(error, ssl.SSLCertVerificationError)
        async with gate.raw() as (_, writer):  # and it goes on
            assert not writer.is_closing()

    async def test_plain_words_are_not_answered(self, gate: Gate) -> None:
        async with gate.raw() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(5):
                answer = await reader.read()
        assert b"HTTP" not in answer

    async def test_a_slow_one_is_dropped(self, certificate: ServerCertificate) -> None:
        async with (
            make_gate(tls=certificate.context, edge=EdgeSettings(request_timeout_s=0.2)) as gate,
            gate.raw() as (reader, writer),
        ):
            writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
            async with asyncio.timeout(5):
                assert await reader.read() == b""

    async def test_so_is_a_slow_request_behind_it(
        self, certificate: ServerCertificate, trust: ssl.SSLContext
    ) -> None:
        async with (
            make_gate(tls=certificate.context, edge=EdgeSettings(request_timeout_s=0.2)) as gate,
            gate.raw(tls=trust) as (reader, writer),
        ):
            writer.write(b"GET /realtime HTTP/1.1\r\nHost: x\r\nUpgr")
            async with asyncio.timeout(5):
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)


class TestReload:
    async def test_new_handshakes_are_shown_the_new_one_and_open_connections_notice_nothing(
        self, gate: Gate, authority: Authority, certificate: ServerCertificate, trust: ssl.SSLContext
    ) -> None:
        gate.feed.rows[TOPIC] = [stock("A", 1)]

        def shown(client: Any) -> str:
            return str(client.transport.get_extra_info("ssl_object").getpeercert()["serialNumber"])

        async with gate.connect(f"/realtime?topics={TOPIC}", ssl=trust) as before:
            await next_message(before, "snapshot")
            authority.certify()
            assert certificate.reload()
            async with gate.connect(ssl=trust) as after:
                assert shown(after) != shown(before)
            gate.feed.change(TOPIC, stock("A", 2))
            assert (await next_message(before, "delta"))["items"][0]["version"] == 2

    async def test_a_broken_one_changes_nothing(
        self, gate: Gate, authority: Authority, certificate: ServerCertificate, trust: ssl.SSLContext
    ) -> None:
        authority.certify().key.write_text("nonsense")
        assert not certificate.reload()
        async with gate.connect(ssl=trust) as client:
            await next_message(client, "welcome")


class TestClosing:
    async def test_a_mistake_is_told_and_the_connection_ends_at_once(
        self, gate: Gate, trust: ssl.SSLContext
    ) -> None:
        """Not when the peer's patience ends: it waits for the server to close first (RFC 6455 7.1.1)."""
        loop = asyncio.get_running_loop()
        async with gate.connect(ssl=trust, close_timeout=60) as client:
            began = loop.time()
            await client.send(b"\x00")
            await next_message(client, "error")
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 4400
        assert loop.time() - began < 3
        await eventually(lambda: gate.realtime.statistics()["gateway_connections"] == 0)

    async def test_a_client_may_close(self, gate: Gate, trust: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        async with gate.connect(ssl=trust, close_timeout=60) as client:
            await next_message(client, "welcome")
            began = loop.time()
        assert client.close_code == 1000
        assert loop.time() - began < 3

    async def test_one_that_does_not_stop_sending_is_dropped(self, gate: Gate, trust: ssl.SSLContext) -> None:
        async with gate.raw_websocket(tls=trust) as (_, writer):
            writer.write(bytes([0x82, 0x80]) + bytes(4))  # a binary frame
            ping = bytes([0x89, 0x80]) + bytes(4)

            def gone() -> bool:
                if not writer.is_closing():
                    writer.write(ping * 1000)
                return gate.realtime.statistics()["gateway_connections"] == 0

            await eventually(gone, timeout_s=10)

    async def test_one_that_vanishes_is_forgotten(self, gate: Gate, trust: ssl.SSLContext) -> None:
        async with gate.raw_websocket(tls=trust):
            await eventually(lambda: gate.realtime.statistics()["gateway_connections"] == 1)
        await eventually(lambda: gate.realtime.statistics()["gateway_connections"] == 0)


class Trickle:
    """A client of TLS that takes as many encrypted bytes as it is told to, and never decrypts them."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sock.setblocking(False)
        self._port = port
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._sock, ("127.0.0.1", self._port))
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send()
                self._incoming.write(await loop.sock_recv(self._sock, 4096))
            else:
                break
        key = base64.b64encode(os.urandom(16)).decode()
        self._tls.write(
            f"GET /realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await self._send()
        await self.take(4096)  # that it may go on
        self._tls.write(frame(type="subscribe", topics=[TOPIC]))
        await self._send()

    async def take(self, count: int) -> int:
        return len(await asyncio.get_running_loop().sock_recv(self._sock, count))

    def close(self) -> None:
        self._sock.close()

    async def _send(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, self._outgoing.read())


@asynccontextmanager
async def trickling(gate: Gate, trust: ssl.SSLContext) -> AsyncIterator[Trickle]:
    client = Trickle(gate.port, trust)
    try:
        await client.connect()
        yield client
    finally:
        client.close()


class TestSlowClients:
    def change(self, gate: Gate, version: int) -> None:
        gate.feed.change(TOPIC, *(stock(f"P{n}", version * 1000 + n) for n in range(300)))

    async def test_one_that_takes_nothing_costs_little_and_is_closed(
        self, certificate: ServerCertificate, trust: ssl.SSLContext
    ) -> None:
        async with (
            make_gate(tls=certificate.context, slow_client_s=0.5) as gate,
            trickling(gate, trust),
        ):
            metrics = gate.realtime.metrics
            version = 1
            async with asyncio.timeout(30):
                while not metrics.slow_disconnects:
                    version += 1
                    self.change(gate, version)
                    await asyncio.sleep(0.01)
            assert metrics.conflated > 0
            assert sum(metrics.bytes_sent.values()) < STALLED_BYTES
            await eventually(lambda: gate.realtime.statistics()["gateway_connections"] == 0, timeout_s=10)

    async def test_one_that_takes_little_is_not(
        self, certificate: ServerCertificate, trust: ssl.SSLContext
    ) -> None:
        """A buffer of the loop that nobody can look into empties meanwhile, which takes it seconds."""
        async with (
            make_gate(tls=certificate.context, slow_client_s=2) as gate,
            trickling(gate, trust) as client,
        ):
            loop = asyncio.get_running_loop()
            version, end = 1, loop.time() + 6
            while loop.time() < end:
                version += 1
                if version % 10 == 0 or not gate.realtime.stalled:
                    self.change(gate, version)
                assert await client.take(300) > 0
                await asyncio.sleep(0.02)
            assert gate.realtime.metrics.conflated > 0
            assert gate.realtime.metrics.slow_disconnects == 0
            assert gate.realtime.statistics()["gateway_connections"] == 1
