"""Real sockets and the real HTTP server, with a feed in memory behind the hub."""

import asyncio
import base64
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp
from websockets.asyncio.client import connect

from gateway.admission import ConnectionLimits
from gateway.arrivals import Arrivals, EdgeSettings
from gateway.auth.entrance import Entrance
from gateway.config import Address
from gateway.connection import ClientConnection
from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from gateway.realtime import ClientLimits, Realtime
from gateway.server import HttpServer
from gateway.sockets import bind_socket
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.envelope import Beat
from protocol.principal import Principal
from tests.support.replica import FakeFeed

__all__ = ["ANYBODY", "Gate", "Raw", "make_gate"]

Raw = tuple[asyncio.StreamReader, asyncio.StreamWriter]
ANYBODY = Principal.anonymous(exact=True)


class Gate:
    """A replica with an address."""

    def __init__(
        self, realtime: Realtime, arrivals: Arrivals, feed: FakeFeed, port: int, *, scheme: str = "ws"
    ) -> None:
        self.realtime = realtime
        self.arrivals = arrivals
        self.feed = feed
        self.port = port
        self._scheme = scheme

    def connect(self, path: str = "/realtime", **options: Any) -> connect:
        url = f"{self._scheme}://127.0.0.1:{self.port}{path}"
        return connect(url, **{"proxy": None, "max_size": None, "ping_interval": None, **options})

    @asynccontextmanager
    async def raw(self, *, receive_buffer: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Raw]:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        name = None if tls is None else "127.0.0.1"
        reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)

    @asynccontextmanager
    async def raw_websocket(
        self, *, receive_buffer: int = 0, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Raw]:
        """A client that does only what it is told to: it has shaken hands."""
        key = base64.b64encode(os.urandom(16)).decode()
        async with self.raw(receive_buffer=receive_buffer, tls=tls) as (reader, writer):
            writer.write(
                f"GET /realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            yield reader, writer


@asynccontextmanager
async def make_gate(
    *,
    principal: Principal | None = ANYBODY,
    entrance: Entrance | None = None,
    connection_limits: ConnectionLimits | None = None,
    limits: ClientLimits | None = None,
    origins: tuple[str, ...] = (),
    edge: EdgeSettings | None = None,
    app: ASGIApp | None = None,
    tls: ssl.SSLContext | None = None,
    max_loads: int = 0,
    **settings: Any,
) -> AsyncIterator[Gate]:
    feed, metrics, dialect = FakeFeed(), GatewayMetrics(), InventoryV1()
    connection_limits = connection_limits or ConnectionLimits()
    arrivals = Arrivals(edge or EdgeSettings(), connection_limits)
    hub_settings = HubSettings(flush_s=0.01, canary_s=1.0, max_loads=max_loads)
    realtime = Realtime(
        make_hub=lambda told: Hub(feed, metrics, hub_settings, told=told),
        metrics=metrics,
        dialects={dialect.subprotocol: dialect},
        entrance=entrance or Entrance(anonymous=principal),
        limits=limits or ClientLimits(),
        connection_limits=connection_limits,
        origins=origins,
        **settings,
    )
    feed.hub = realtime.hub
    server = HttpServer(
        app or Starlette(),
        websocket=ClientConnection,
        state={"realtime": realtime},
        arrivals=arrivals,
        tls=tls,
    )
    bound = bind_socket(Address("127.0.0.1", 0), setting="test")
    await server.start(bound)
    task = asyncio.create_task(realtime.run())
    await asyncio.sleep(0)
    realtime.hub.message(Beat("g", 1_700_000_000_000, 1))
    try:
        scheme = "ws" if tls is None else "wss"
        yield Gate(realtime, arrivals, feed, bound.getsockname()[1], scheme=scheme)
    finally:
        await server.stop(timeout_s=0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
