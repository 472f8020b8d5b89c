"""The bare loop: it answers handshakes, and sends or fails, nothing in between."""

import asyncio
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from load.limit import Loop, NativeLoop, PythonLoop, compile_loop
from load.upgrade import upgrade_response

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


class TestTheHandshake:
    # The example of RFC 6455, 1.3.
    REQUEST = (
        b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    )

    def test_is_accepted_by_the_key(self) -> None:
        head, *lines = upgrade_response(self.REQUEST + b"\r\n").split(b"\r\n")
        assert head == b"HTTP/1.1 101 Switching Protocols"
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
        assert not any(line.lower().startswith(b"sec-websocket-protocol") for line in lines)
        assert lines[-2:] == [b"", b""]

    def test_takes_the_first_subprotocol(self) -> None:
        asked = self.REQUEST + b"Sec-WebSocket-Protocol: inventory.v1, other\r\n\r\n"
        assert b"Sec-WebSocket-Protocol: inventory.v1" in upgrade_response(asked).split(b"\r\n")

    def test_has_to_be_one(self) -> None:
        with pytest.raises(ValueError, match="Sec-WebSocket-Key"):
            upgrade_response(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    pairs = [socket.socketpair() for _ in range(3)]
    for ours, theirs in pairs:
        ours.setblocking(False)
        theirs.settimeout(5)
    yield pairs
    for pair in pairs:
        for end in pair:
            end.close()


@pytest.fixture(params=["python", pytest.param("c", marks=needs_compiler)])
def loop(request: pytest.FixtureRequest, tmp_path: Path) -> Loop:
    if request.param == "python":
        return PythonLoop()
    library = tmp_path / "limit.so"
    asyncio.run(compile_loop(library))
    return NativeLoop(str(library))


def test_every_socket_gets_the_bytes(loop: Loop, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    for ours, _ in pairs:
        loop.add(ours)
    loop.send(b"one")
    loop.send(b"\0two")
    assert [theirs.recv(100) for _, theirs in pairs] == [b"one\0two"] * 3


def test_a_full_socket_is_an_error(loop: Loop, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    ours, theirs = pairs[0]
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with suppress(BlockingIOError):
        while ours.send(b"x"):
            pass
    loop.add(ours)
    with pytest.raises(BlockingIOError):
        loop.send(b"y")


def test_a_client_that_has_left_is_an_error(
    loop: Loop, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    loop.add(pairs[0][0])
    pairs[0][1].close()
    with pytest.raises(BrokenPipeError):
        loop.send(b"x")
