"""Listening sockets served by uvicorn's HTTP protocol, without its server.

uvicorn speaks HTTP/1.1 and hands WebSocket upgrades over; accepting, draining and signals are ours.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.http11 import Request

from gateway.request_head import BadRequest, check_head

__all__ = ["HttpServer", "WebSocketProtocol"]

# A connection that has not sent a whole request head by then is closed, in s.
REQUEST_TIMEOUT_S: Final = 10.0
# A longer head of a request is refused: the parser itself (llhttp) has no limit.
MAX_HEAD_BYTES: Final = 64 * 1024
KEEP_ALIVE_S: Final = 75
# How long a peer may take to answer our farewell of TLS (close_notify), in s.
TLS_SHUTDOWN_S: Final = 5.0
BACKLOG: Final = 4096


_HEAD_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class WebSocketProtocol(asyncio.Protocol):
    """What a class of WebSocket connections is (gateway.connection.ClientConnection)."""

    __slots__ = ()

    def shake_hands(self, request: Request) -> None:
        raise NotImplementedError


class _HttpConnection(HttpToolsProtocol):
    """uvicorn's, with limits for the request's head: a half-open handshake holds little, and not for long."""

    request_timeout_s = REQUEST_TIMEOUT_S
    _deadline: asyncio.TimerHandle | None = None  # while a head is under way
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._deadline is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.write(_HEAD_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        if self._deadline is None:  # not the first request of the connection
            self._arm()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._disarm()
        websocket = self.parser.should_upgrade() and self._should_upgrade()
        # What is raised here is answered by 400, and the connection closed.
        parser = self.parser
        check_head(
            parser.get_method(), self.url, parser.get_http_version(), self.headers, websocket=websocket
        )
        if websocket and not getattr(self.cycle, "response_complete", True):  # None before the first request
            raise BadRequest("an upgrade behind a request that is not answered: its answer would be a frame")
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        """uvicorn's writes the request down again, for a protocol that parses it a second time."""
        headers = Headers()
        for name, value in self.headers:
            headers[name.decode("latin-1")] = value.decode("latin-1")
        version = f"HTTP/{self.parser.get_http_version()}"
        request = Request(self.url.decode("latin-1"), headers, self.scope["method"], version)
        self.connections.discard(self)
        make = cast("Callable[..., WebSocketProtocol]", self.ws_protocol_class)
        connection = make(config=self.config, server_state=self.server_state, app_state=self.app_state)
        connection.connection_made(self.transport)
        connection.shake_hands(request)
        self.transport.set_protocol(connection)

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.request_timeout_s, self.transport.abort)

    def _disarm(self) -> None:
        self._head_bytes = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class HttpServer:
    """One listening socket. `websocket` is the class of its WebSocket connections (gateway.connection)."""

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        websocket: type[WebSocketProtocol] | None = None,
        state: dict[str, Any] | None = None,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`state` is what every connection is given as `app_state`. `tls`: clients have to speak it, and have
        `request_timeout_s` for their handshake."""
        self._config = Config(
            app,
            http=_HttpConnection,
            ws=websocket or "none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._config.load()
        self._state = ServerState()
        self._app_state = state or {}
        self._request_timeout_s = request_timeout_s
        self._tls = tls
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Accepts connections on a bound socket, which is closed with the server."""
        self.tick()
        loop = asyncio.get_running_loop()
        secured: dict[str, Any] = {}
        if self._tls is not None:
            secured = {
                "ssl": self._tls,
                "ssl_handshake_timeout": self._request_timeout_s,
                "ssl_shutdown_timeout": TLS_SHUTDOWN_S,
            }
        self._server = await loop.create_server(self._make_connection, sock=sock, backlog=BACKLOG, **secured)

    def tick(self) -> None:
        """Call it about once a second: the Date header of answers (RFC 9110 6.6.1)."""
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

    def stop_accepting(self) -> None:
        """Connections that are open stay."""
        if self._server is not None:
            self._server.close()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Closes what is open; requests that are being answered have `timeout_s`."""
        self.stop_accepting()
        for connection in list(self._state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._state.connections and loop.time() < deadline:  # noqa: ASYNC110 - a plain set of uvicorn's
            await asyncio.sleep(0.01)
        for connection in list(self._state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    def _make_connection(self) -> asyncio.Protocol:
        connection = _HttpConnection(config=self._config, server_state=self._state, app_state=self._app_state)
        connection.request_timeout_s = self._request_timeout_s
        return connection
