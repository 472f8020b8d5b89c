"""The listening socket when the system is at its limits. Real sockets."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.accepting import Acceptor
from gateway.admission import ConnectionLimits
from gateway.arrivals import Arrival, Arrivals, Caller, EdgeSettings, Http
from gateway.server import HttpServer
from tests.support.waiting import eventually


class Listening(socket.socket):
    """accept() fails so often first."""

    failures: list[int]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            raise OSError(number := self.failures.pop(0), os.strerror(number))
        return super().accept()


@pytest.fixture
def listening() -> Iterator[Listening]:
    bound = Listening()
    bound.failures = []
    bound.bind(("127.0.0.1", 0))
    yield bound
    bound.close()


async def answer(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def ask(bound: socket.socket, source: str = "127.0.0.1") -> bytes:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*bound.getsockname(), local_addr=(source, 0))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            return await reader.readline()
        finally:
            writer.transport.abort()


@pytest.mark.parametrize("failures", [[errno.EMFILE], [errno.ENFILE] * 2, [errno.ECONNABORTED, errno.EPROTO]])
async def test_what_fails_is_tried_again(listening: Listening, failures: list[int]) -> None:
    server = HttpServer(answer)
    await server.start(listening)
    try:
        listening.failures = list(failures)
        assert b" 204 " in await ask(listening)
        assert listening.failures == []
    finally:
        await server.stop(timeout_s=1)


async def test_whoever_comes_behind_a_flood_is_served(listening: Listening) -> None:
    limits = ConnectionLimits(per_address=1)
    limits.admit("127.0.0.1")
    server = HttpServer(answer, arrivals=Arrivals(EdgeSettings(), limits))
    await server.start(listening)
    flood = [socket.create_connection(listening.getsockname()) for _ in range(300)]
    try:
        assert b" 204 " in await ask(listening, "127.0.0.2")
        # They came before: 20 may still say what they want, to be told why not; the others are gone.
        assert limits.refused["address"] == 300
        assert limits.statistics()["connections"] == 2
    finally:
        for one in flood:
            one.close()
        await server.stop(timeout_s=1)


async def test_stopping_while_nothing_can_be_accepted(listening: Listening) -> None:
    server = HttpServer(answer)
    await server.start(listening)
    listening.failures = [errno.EMFILE] * 1000
    with socket.create_connection(listening.getsockname()):
        await eventually(lambda: len(listening.failures) < 1000, timeout_s=5)
        await server.stop(timeout_s=1)
    assert listening.fileno() < 0


async def test_a_connection_that_can_not_be_taken_over_is_counted_out(listening: Listening) -> None:
    def http(_: Caller) -> Http:
        raise AssertionError("no byte has come")

    limits = ConnectionLimits()
    arrivals = Arrivals(EdgeSettings(), limits)
    acceptor = Acceptor(arrivals, lambda caller: Arrival(arrivals, http, caller), {"ssl": "no context"})
    acceptor.start(listening)
    try:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.transport.abort()
        await eventually(lambda: limits.statistics()["connections"] == 0, timeout_s=5)
        assert len(arrivals.taking) == 0
    finally:
        acceptor.stop()
