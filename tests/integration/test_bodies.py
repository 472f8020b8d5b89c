"""Content of requests: it costs what the application reads of it, and little more."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gateway.server import HttpServer
from tests.support.waiting import eventually

MIB: Final = 1024 * 1024


class Shop:
    """Answers once it is told to, and has read nothing by then."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.server = HttpServer(Starlette(routes=[Route("/wait", self._wait, methods=["POST"])]))
        self.port = 0

    async def _wait(self, _: Request) -> PlainTextResponse:
        await self.may_answer.wait()
        return PlainTextResponse("done")

    def held_bytes(self) -> int:
        """Of all requests that are under way."""
        connections: set[Any] = self.server._state.connections
        return sum(len(connection.cycle.body) for connection in connections if connection.cycle)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    bound = socket.create_server(("127.0.0.1", 0))
    bound.setblocking(False)
    shop.port = bound.getsockname()[1]
    await shop.server.start(bound)
    yield shop
    await shop.server.stop(timeout_s=0.5)


@pytest.mark.parametrize("chunked", [False, True])
async def test_what_nobody_reads_stays_with_its_sender(shop: Shop, chunked: bool) -> None:
    """A hundred such requests are a hundred times some 64 KiB, whatever they say that they will send."""
    size = 64 * MIB
    reader, writer = await asyncio.open_connection("127.0.0.1", shop.port)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    writer.write(f"POST /wait HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
    writer.write(b"%x\r\n" % size if chunked else b"")
    writer.write(bytes(size))
    await eventually(lambda: shop.held_bytes() > 64 * 1024, timeout_s=5)
    for _ in range(20):
        await asyncio.sleep(0.01)  # whatever would still be read is read by now
    assert shop.held_bytes() <= MIB
    assert writer.transport.get_write_buffer_size() >= size // 2
    shop.may_answer.set()
    assert await asyncio.wait_for(reader.readuntil(b"done"), 5)
    writer.transport.abort()
