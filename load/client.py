import asyncio
import base64
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

import orjson

from load.frames import CLOSE, PING, PONG, TEXT, FrameReader, client_frame

__all__ = ["Client", "ConnectionRefused", "OnText", "connect", "realtime_url"]

CONNECT_TIMEOUT_S: Final = 10.0
# What the contract allows in one message.
TOPICS_A_MESSAGE: Final = 100


class OnText(Protocol):
    """Takes a message and when it came, in s of `time.monotonic`."""

    def __call__(self, payload: bytes, at: float, /) -> None: ...


class ConnectionRefused(ConnectionError):
    """The handshake was answered by something else than 101."""


class Client(asyncio.Protocol):
    """A WebSocket connection without queue or task: `on_text` is called as the bytes arrive."""

    def __init__(
        self, request: bytes, on_text: OnText, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.close_code: int | None = None
        self._request = request
        self._on_text = on_text
        self._clock = clock
        self._frames = FrameReader()
        self._head: bytearray | None = bytearray()
        self._closing = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        at = self._clock()
        if self._head is not None:
            data = self._finish_handshake(data)
        for opcode, payload in self._frames.feed(data):
            if opcode == TEXT:
                self._on_text(payload, at)
            elif opcode == PING:
                self._write(client_frame(payload, PONG))
            elif opcode == CLOSE:
                self.close_code = int.from_bytes(payload[:2])
                self.close(self.close_code or 1000)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.opened.done():
            self.opened.set_exception(ConnectionRefused("closed during the handshake"))
        if not self.closed.done():
            self.closed.set_result(None)

    def subscribe(self, topics: Iterable[str]) -> None:
        names = list(topics)
        for first in range(0, len(names), TOPICS_A_MESSAGE):
            self.send({"type": "subscribe", "topics": names[first : first + TOPICS_A_MESSAGE]})

    def send(self, message: dict[str, Any]) -> None:
        self._write(client_frame(orjson.dumps(message)))

    def close(self, code: int = 1000) -> None:
        """Begins the closing handshake, or answers the server's; the server hangs up then."""
        if not self._closing:
            self._closing = True
            self._write(client_frame(code.to_bytes(2), CLOSE))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _finish_handshake(self, data: bytes) -> bytes:
        """Takes the response's head off; what came after it."""
        assert self._head is not None
        self._head += data
        head, end, rest = bytes(self._head).partition(b"\r\n\r\n")
        if not end:
            return b""
        self._head = None
        if self.opened.done():
            return b""  # given up meanwhile
        if not head.startswith(b"HTTP/1.1 101"):
            self.opened.set_exception(ConnectionRefused(head.partition(b"\r\n")[0].decode("latin-1")))
            self.abort()
            return b""
        self.opened.set_result(None)
        return rest


async def connect(
    url: str, on_text: OnText, *, token: str | None = None, timeout_s: float = CONNECT_TIMEOUT_S
) -> Client:
    """Opens `url` (ws://). Raises ConnectionRefused, OSError or TimeoutError."""
    parts = urlsplit(url)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: inventory.v1",
        *([f"Authorization: Bearer {token}"] if token else []),
    )
    request = "\r\n".join((*lines, "", "")).encode()
    async with asyncio.timeout(timeout_s):
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: Client(request, on_text), parts.hostname or "", parts.port or 80
        )
        try:
            await client.opened
        except BaseException:
            client.abort()
            raise
    return client


def realtime_url(gateway_url: str) -> str:
    """Where WebSocket clients connect, from the gateway's http:// URL."""
    return f"ws://{gateway_url.removeprefix('http://')}/realtime"
