"""The gateway's WebSocket, with an echo where the conversation would be: what conformance is tested against.

Handshake, framing, closing, flow control and the options of the sockets are those of `serve`; nothing in the
gateway knows of this. `python -m tests.conformance.echo` prints its port and serves until its input ends.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import uvloop
from starlette.applications import Starlette

from gateway.arrivals import Arrivals, EdgeSettings
from gateway.auth.entrance import Entrance
from gateway.connection import ClientConnection
from gateway.handshake import Handshake
from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from gateway.outgoing import Outgoing
from gateway.realtime import ClientLimits, Realtime
from gateway.server import HttpServer
from gateway.setting_types import Address
from gateway.sockets import bind_socket, bound_address, direct_fd
from load.frames import BINARY, server_frame
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.errors import ProtocolError
from protocol.messages import SessionLimits
from protocol.principal import Principal
from protocol.session import Event, Send, Session
from tests.support.replica import FakeFeed

__all__ = ["MAX_MESSAGE_BYTES", "EchoConnection", "echo_server"]

# The largest message of the cases (9.1.6, 9.2.6) has 16 MiB.
MAX_MESSAGE_BYTES: Final = 17 * 1024 * 1024


class EchoSession(Session):
    """Says nothing of its own, and every text once more."""

    __slots__ = ()

    def receive(self, data: bytes, *, now: datetime) -> list[Event]:
        return [Send(data, "pong")]  # the type is for the metrics alone


class EchoConnection(ClientConnection):
    """Binary messages are echoed too, which the gateway refuses (4400): that is its conversation's rule."""

    __slots__ = ()

    def _identified(self, handshake: Handshake, identity: Principal | ProtocolError | None) -> None:
        metrics = self._realtime.metrics
        self._outgoing = Outgoing(
            self.transport, handshake.dialect, metrics, owner=self, fd=direct_fd(self.transport)
        )
        limits = SessionLimits(max_message_bytes=MAX_MESSAGE_BYTES, max_topics=1)
        self._session = EchoSession(handshake.dialect, limits=limits, principal=None)
        self._go_on()

    def _message_received(self, data: bytes, binary: bool) -> None:
        if binary:
            self.outgoing.write(server_frame(data, BINARY))
        else:
            super()._message_received(data, binary)


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """Its port."""
    metrics, dialect = GatewayMetrics(), InventoryV1()
    arrivals = Arrivals(EdgeSettings())
    realtime = Realtime(
        make_hub=lambda told: Hub(FakeFeed(), metrics, HubSettings(), told=told),
        metrics=metrics,
        dialects={dialect.subprotocol: dialect},
        entrance=Entrance(anonymous=Principal.anonymous(exact=True)),
        limits=ClientLimits(max_message_bytes=MAX_MESSAGE_BYTES),
        connection_limits=arrivals.limits,
    )
    server = HttpServer(
        Starlette(), websocket=EchoConnection, state={"realtime": realtime}, arrivals=arrivals
    )
    bound: socket.socket = bind_socket(Address("127.0.0.1", 0), setting="port", user_timeout_ms=40_000)
    await server.start(bound)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(realtime.run())
        try:
            yield bound_address(bound).port
        finally:
            await server.stop(timeout_s=0.5)
            running.cancel()


async def serve() -> None:
    async with echo_server() as port:
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve())
