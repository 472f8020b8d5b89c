"""The gateway's side of one connection after the other, its socket being a list, and what must hold of each
whatever was sent."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import orjson
import structlog
from starlette.applications import Starlette

from gateway.arrivals import Arrivals, EdgeSettings
from gateway.auth.authority import Authority
from gateway.auth.entrance import Entrance
from gateway.auth.keys import KeyRing, secret_key
from gateway.auth.tokens import TokenRules, TokenVerifier
from gateway.connection import ClientConnection
from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from gateway.realtime import ClientLimits, Realtime
from gateway.server import HttpServer
from load.frames import CLOSE, PONG, TEXT, FrameReader
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.principal import Principal
from tests.fuzz.messages import KNOWN_TOPICS
from tests.support.replica import FakeFeed, stock
from tests.support.tokens import SECRET

__all__ = ["Broken", "Harness", "QuickLoop", "harness", "hear_errors"]

# How often the loop may turn before an input must be dealt with.
TURNS: Final = 2000
# Every so many inputs time passes until nothing is waited for: what peers are given to say goodbye in.
PATIENCE: Final = 64
PATIENCE_S: Final = 12.0

_SWITCHED: Final = re.compile(rb"HTTP/1\.1 101 [^\r]*\r\n(?:[\x21-\x7e][^\r\n]*\r\n)*\r\n")
_ANSWER: Final = re.compile(
    rb"HTTP/1\.1 ([2-5]\d\d) [^\r]*\r\n(?:[\x21-\x7e][^\r\n]*\r\n)*?"
    rb"(?i:content-length): (\d+)\r\n(?:[\x21-\x7e][^\r\n]*\r\n)*\r\n"
)
_TYPES: Final = frozenset(
    {"welcome", "authenticated", "snapshot", "resumed", "delta", "unsubscribed", "pong", "heartbeat"}
    | {"stale", "fresh", "auth_expiring", "reconnect", "error"}
)
# What the gateway says of its own; a client's code is answered by the same.
_OWN_CODES: Final = frozenset({1002, 1007, 1009, 1012, 1013, 4400, 4401, 4403, 4408, 4429})
_CLIENT_CODES: Final = frozenset({1000, 1001, 1003, 1010, 1011, *range(3000, 5000), 1014})


class Broken(AssertionError):
    """Something that must hold does not."""


class QuickLoop(asyncio.SelectorEventLoop):
    """Where time passes only while there is nothing to do, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = 0.0
        selector: Any = cast("Any", self)._selector
        select = selector.select

        def skip(timeout: float | None) -> Any:
            if timeout is not None and timeout > 0:
                self._passed += timeout
                return select(0)
            return select(timeout)

        selector.select = skip

    def time(self) -> float:
        return self._passed


class FakeSocket(asyncio.Transport):
    """Takes everything, and delivers what it is given while it is read."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = bytearray()
        self.closed = False
        self.half_closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.closed:
            return
        if self.half_closed:
            raise Broken("something is written behind the end of the stream")
        self.written += data

    def write_eof(self) -> None:
        self.half_closed = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading and not self.closed

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast("asyncio.Protocol", protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It never fills."""


class _Complaints(logging.Handler):
    """What is logged as a warning or worse, but that a request is none: that is uvicorn's."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in ("Invalid HTTP request received.", "Unsupported upgrade request."):
            self.said.append(f"{record.name}: {text}")


def hear_errors() -> None:
    """What the gateway logs as an error is one more thing that must not be. For processes of the fuzzer."""
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    logging.basicConfig(handlers=[logging.NullHandler()])


class Harness:
    """See harness()."""

    def __init__(self, server: HttpServer, realtime: Realtime, complaints: list[str]) -> None:
        self._server = server
        self._realtime = realtime
        self._complaints = complaints
        self._fed = 0

    async def feed(self, chunks: Iterable[bytes]) -> str:
        """What came of a connection that has sent this, and is gone then. Raises Broken, and whatever is not
        caught where it should be."""
        connection = self._server._make_arrival(self._server._arrivals.call("127.0.0.1"))
        sock = FakeSocket(connection)
        connection.connection_made(sock)
        self._fed += 1
        try:
            for chunk in chunks:
                await self._readable(sock)
                if sock.closed:
                    break
                sock.protocol.data_received(chunk)
            await self._settled(sock)
            if self._fed % PATIENCE == 0:
                await asyncio.sleep(PATIENCE_S)
        finally:
            sock.closed = True
            sock.protocol.connection_lost(None)
        self._check_forgotten()
        return outcome_of(bytes(sock.written))

    async def _readable(self, sock: FakeSocket) -> None:
        for _ in range(TURNS):
            if sock.reading or sock.closed:
                return
            await asyncio.sleep(0.001)
        if not (sock.half_closed or _is_hung_up(sock)):
            raise Broken("the connection is not read any more")

    async def _settled(self, sock: FakeSocket) -> None:
        """All that was sent has been dealt with, and the hub has had its turns."""
        for _ in range(4):
            await asyncio.sleep(0)
        await self._readable(sock)

    def _check_forgotten(self) -> None:
        found = self._realtime.statistics()
        arrivals = self._server._arrivals
        left = (
            found["gateway_connections"],
            found["gateway_subscriptions"],
            len(self._server._state.connections),
            arrivals.limits.statistics()["connections"],
            *(len(waiting) for waiting in (arrivals.heads, arrivals.bodies, arrivals.idle)),
        )
        if any(left):
            raise Broken(f"a connection that is gone is remembered: {left}")
        if self._complaints:
            said, self._complaints[:] = "; ".join(self._complaints), []
            raise Broken(said)


def _is_hung_up(sock: FakeSocket) -> bool:
    incoming = getattr(sock.protocol, "_incoming", None)
    return incoming is not None and incoming.hung_up


def outcome_of(written: bytes) -> str:
    """Its kind. Raises Broken where no client could read what was written."""
    status = ""
    while (answer := _ANSWER.match(written)) is not None:
        status = answer[1].decode()
        written = written[answer.end() + int(answer[2]) :]
    switched = _SWITCHED.match(written)
    if switched is None:
        if written:
            raise Broken(f"no answer of HTTP: {written[:200]!r}")
        return f"HTTP {status}" if status else "no answer yet"
    try:
        frames = FrameReader().feed(written[switched.end() :])
    except ValueError as error:
        raise Broken(str(error)) from None
    kinds, closed, size = set(), None, switched.end()
    for frame in frames:
        size += len(frame.payload) + (
            2 if len(frame.payload) < 126 else 4 if len(frame.payload) < 65536 else 10
        )
        if closed is not None:
            raise Broken(f"something follows the close frame: {frame!r}")
        if frame.opcode == TEXT:
            kinds.add(_type_of(frame.payload))
        elif frame.opcode == CLOSE:
            closed = _code_of(frame.payload)
        elif frame.opcode != PONG or len(frame.payload) > 125:
            raise Broken(f"no frame of ours: {frame!r}")
    if size != len(written):
        raise Broken("half a frame was written")
    if closed is not None:
        return f"closed {closed}"
    return "an error, open" if "error" in kinds else "answered, open" if len(kinds) > 2 else "open"


def _type_of(payload: bytes) -> str:
    message = orjson.loads(payload)
    if not isinstance(message, dict) or message.get("type") not in _TYPES:
        raise Broken(f"no message of ours: {payload[:200]!r}")
    return str(message["type"])


def _code_of(payload: bytes) -> str:
    if not payload:
        return "as asked"
    code = int.from_bytes(payload[:2])
    if code in _OWN_CODES:
        return str(code)
    if code not in _CLIENT_CODES:
        raise Broken(f"no close code: {code}")
    return "as asked"


@asynccontextmanager
async def harness() -> AsyncIterator[Harness]:
    """A replica with an HTTP server that listens nowhere. On a QuickLoop."""
    feed, metrics, dialect = FakeFeed(), GatewayMetrics(), InventoryV1()
    for number, topic in enumerate(KNOWN_TOPICS):
        feed.rows[topic] = [stock(f"P{number}", 1), stock(f"P{number}", 2, location_id="L2")]
    verifier = TokenVerifier(TokenRules(), KeyRing(secret_key(SECRET)))
    arrivals = Arrivals(EdgeSettings())
    realtime = Realtime(
        make_hub=lambda told: Hub(feed, metrics, HubSettings(), told=told),
        metrics=metrics,
        dialects={dialect.subprotocol: dialect},
        entrance=Entrance(anonymous=Principal.anonymous(exact=True), authority=Authority(verifier)),
        limits=ClientLimits(),
        connection_limits=arrivals.limits,
    )
    feed.hub = realtime.hub
    server = HttpServer(
        Starlette(), websocket=ClientConnection, state={"realtime": realtime}, arrivals=arrivals
    )
    server.tick()
    complaints = _Complaints()
    logging.getLogger().addHandler(complaints)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.said.append(str(context)))
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(realtime.run())
            await asyncio.sleep(0)
            try:
                yield Harness(server, realtime, complaints.said)
            finally:
                running.cancel()
    finally:
        logging.getLogger().removeHandler(complaints)
