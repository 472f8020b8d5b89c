"""Listening sockets served by uvicorn's HTTP protocol, without its server.

uvicorn speaks HTTP/1.1 and hands WebSocket upgrades over; accepting, draining and signals are ours.
"""

import asyncio
import math
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final, cast

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.http11 import Request

from gateway.accepting import Acceptor
from gateway.arrivals import Arrival, Arrivals, Caller, EdgeSettings, Http, too_many_requests
from gateway.request_head import BadRequest, check_head

__all__ = ["HttpServer", "WebSocketProtocol"]

# A longer head of a request is refused, and one of more fields: the parser itself (llhttp) has no limit.
MAX_HEAD_BYTES: Final = 64 * 1024
# How long a peer may take to answer our farewell of TLS (close_notify), in s.
TLS_SHUTDOWN_S: Final = 5.0
MAX_HEADERS: Final = 100


_HEAD_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class WebSocketProtocol(asyncio.Protocol):
    """What a class of WebSocket connections is (gateway.connection.ClientConnection)."""

    __slots__ = ()

    def shake_hands(self, request: Request, caller: Caller) -> None:
        """`caller.address` is the client's here, also of one that comes through a proxy."""
        raise NotImplementedError


class _Refused(Exception):
    """Raised while a head is parsed: the rest is not looked at."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer


class _HttpConnection(HttpToolsProtocol):
    """uvicorn's, with limits for the request's head: a half-open handshake holds little, and not for long."""

    arrivals: Arrivals
    caller: Caller
    _in_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's own
        super().connection_made(transport)
        if self.client is None or self.client[0] != self.caller.address:
            self.client = (self.caller.address, 0)

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in (self.arrivals.heads, self.arrivals.bodies, self.arrivals.idle):
            waiting.discard(self.transport)
        if self.caller.admitted:
            self.arrivals.limits.leave(self.caller.address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """uvicorn's logs a line for each stranger that sends garbage, and has no answer but 400."""
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self.arrivals.idle.discard(self.transport):
            self.arrivals.heads.add(self.transport)  # also if it is an empty line, which begins no request
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade(data[upgrade.args[0] :])
                return
            self._unsupported_upgrade_warning()
        except HttpParserError as error:
            if isinstance(error.__context__, _Refused):
                self._end(error.__context__.answer)
            else:  # of the parser's, or of what it has called: a URL that is none, say
                self.send_400_response("Invalid HTTP request received.")
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._end(_HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        self._in_head = True
        self.arrivals.heads.add(self.transport)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            raise _Refused(_HEAD_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self.arrivals.heads.discard(self.transport)
        websocket = self.parser.should_upgrade() and self._should_upgrade()
        # What is raised here is answered by 400, and the connection closed.
        parser = self.parser
        check_head(
            parser.get_method(), self.url, parser.get_http_version(), self.headers, websocket=websocket
        )
        if websocket:
            if not getattr(self.cycle, "response_complete", True):  # None before the first request
                raise BadRequest("an upgrade behind a request not answered yet: its answer would be a frame")
        elif self.caller.refusal is not None:
            raise _Refused(too_many_requests(self.caller.refusal.retry_after_s))
        elif self.caller.through_proxy:
            self.scope["client"] = (self._client_address(), 0)
        self.arrivals.bodies.add(self.transport)  # of none the parser says so at once
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.arrivals.bodies.discard(self.transport)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:
            self.arrivals.idle.add(self.transport)

    def handle_websocket_upgrade(self, behind: bytes = b"") -> None:
        """uvicorn's writes the request down again, for a protocol that parses it a second time.

        `behind`: what a client has sent that does not wait for the answer; uvicorn's forgets it.
        """
        headers = Headers()
        for name, value in self.headers:
            headers[name.decode("latin-1")] = value.decode("latin-1")
        version = f"HTTP/{self.parser.get_http_version()}"
        request = Request(self.url.decode("latin-1"), headers, self.scope["method"], version)
        self.connections.discard(self)
        make = cast("Callable[..., WebSocketProtocol]", self.ws_protocol_class)
        connection = make(config=self.config, server_state=self.server_state, app_state=self.app_state)
        connection.connection_made(self.transport)
        connection.shake_hands(request, self.caller._replace(address=self._client_address()))
        self.transport.set_protocol(connection)
        if behind:
            connection.data_received(behind)

    def _client_address(self) -> str:
        if not self.caller.through_proxy:
            return self.caller.address
        return self.arrivals.client(self.caller.address, self.headers)

    def _end(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()


class HttpServer:
    """One listening socket. `websocket` is the class of its WebSocket connections (gateway.connection)."""

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        websocket: type[WebSocketProtocol] | None = None,
        state: dict[str, Any] | None = None,
        arrivals: Arrivals | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`state` is what every connection is given as `app_state`. Without `arrivals` nothing is limited.

        `tls`: clients have to speak it, and have a request's time for their handshake.
        """
        self._arrivals = arrivals or Arrivals(EdgeSettings())
        self._config = Config(
            app,
            http=_HttpConnection,
            ws=websocket or "none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=math.ceil(self._arrivals.settings.keep_alive_s),
        )
        self._config.load()
        self._state = ServerState()
        self._app_state = state or {}
        secured: dict[str, Any] = {}
        if tls is not None:
            secured = {
                "ssl": tls,
                "ssl_handshake_timeout": self._arrivals.settings.request_timeout_s,
                "ssl_shutdown_timeout": TLS_SHUTDOWN_S,
            }
        self._acceptor = Acceptor(self._arrivals, self._make_arrival, secured)

    async def start(self, sock: socket.socket) -> None:
        """Accepts connections on a bound socket, which is closed with the server."""
        self.tick()
        self._acceptor.start(sock)

    def tick(self) -> None:
        """Call it about once a second: the Date header of answers (RFC 9110 6.6.1)."""
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

    def stop_accepting(self) -> None:
        """Connections that are open stay."""
        self._acceptor.stop()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Closes what is open; requests that are being answered have `timeout_s`."""
        self.stop_accepting()
        self._arrivals.drop_all()
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

    def _make_arrival(self, caller: Caller) -> Arrival:
        return Arrival(self._arrivals, self._make_connection, caller)

    def _make_connection(self, caller: Caller) -> Http:
        connection = _HttpConnection(config=self._config, server_state=self._state, app_state=self._app_state)
        connection.arrivals = self._arrivals
        connection.caller = caller
        return connection
