"""A WebSocket client that hides nothing: every byte the server has sent it."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from load.frames import Frame, FrameReader, client_frame

__all__ = ["RawClient", "raw_client"]


class RawClient:
    """Made by raw_client(). `frames`: what has come and been read, in order; `size`: its bytes on the wire,
    those of the handshake aside."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.frames: list[Frame] = []
        self.size = 0
        self._passed = 0  # frames that wait_for() has looked at
        self._reader = reader
        self._writer = writer
        self._split = FrameReader()

    def say(self, **message: Any) -> None:
        self._writer.write(client_frame(orjson.dumps(message)))

    async def wait_for(self, kind: str, *, timeout_s: float = 15) -> bytes:
        """The payload of the next message of that type; others are passed over."""
        wanted = b'{"type":"%s"' % kind.encode()
        async with asyncio.timeout(timeout_s):
            while True:
                for frame in self.frames[self._passed :]:
                    self._passed += 1
                    if frame.payload.startswith(wanted):
                        return frame.payload
                await self._read()

    async def snapshot(self, topic: str, **more: Any) -> bytes:
        """The payload of the snapshot that answers; it has to be one part."""
        self.say(type="subscribe", topics=[topic], **more)
        payload = await self.wait_for("snapshot")
        assert b'"last":true' in payload
        return payload

    async def since_fence(self, size: int, count: int) -> tuple[int, list[bytes]]:
        """What has come since `size` bytes and `count` frames, up to the answer to a ping that is sent now:
        the server sends in order, so that nothing from before is still to come."""
        self.say(type="ping", id="fence")
        await self.wait_for("pong")
        return self.size - size, [frame.payload for frame in self.frames[count:]]

    async def _read(self) -> None:
        data = await self._reader.read(65536)
        if not data:
            raise EOFError("the server has closed the connection")
        self.size += len(data)
        self.frames += self._split.feed(data)


@asynccontextmanager
async def raw_client(port: int, headers: Mapping[str, str] | None = None) -> AsyncIterator[RawClient]:
    """Connected, and past `welcome`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [
            "GET /realtime HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        writer.write("\r\n".join((*lines, "", "")).encode())
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        client = RawClient(reader, writer)
        await client.wait_for("welcome")
        yield client
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)
