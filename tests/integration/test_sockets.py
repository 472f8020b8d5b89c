import asyncio
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import cast

import pytest
import uvloop

from gateway.config import Address
from gateway.errors import CommandFailed
from gateway.sockets import NOTSENT_LOWAT, bind_socket, bound_address, direct_fd

pytestmark = pytest.mark.integration


def test_port_0_is_a_free_one() -> None:
    with bind_socket(Address("127.0.0.1", 0), setting="GATEWAY_LISTEN") as bound:
        assert bound_address(bound).port > 0
        assert bound_address(bound).host == "127.0.0.1"


def test_it_does_not_listen_yet() -> None:
    with (
        bind_socket(Address("127.0.0.1", 0), setting="GATEWAY_LISTEN") as bound,
        pytest.raises(ConnectionRefusedError),
    ):
        socket.create_connection(bound_address(bound), timeout=1)


@pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")
def test_connections_inherit_what_costs_nothing_then() -> None:
    with bind_socket(Address("127.0.0.1", 0), setting="GATEWAY_LISTEN", user_timeout_ms=40_000) as bound:
        bound.setblocking(True)
        bound.listen()
        with socket.create_connection(bound_address(bound)), bound.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == NOTSENT_LOWAT
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 40_000
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


class TestRefusals:
    def test_a_taken_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(CommandFailed) as caught:
                bind_socket(Address("127.0.0.1", port), setting="GATEWAY_LISTEN")
        assert str(caught.value) == (
            f"GATEWAY_LISTEN=127.0.0.1:{port}: "
            "the port is taken; stop what listens there or choose another one"
        )

    def test_an_address_of_another_machine(self) -> None:
        with pytest.raises(CommandFailed, match=r"^GATEWAY_LISTEN=192\.0\.2\.1:0: cannot assign"):
            bind_socket(Address("192.0.2.1", 0), setting="GATEWAY_LISTEN")

    def test_a_name_that_is_none(self) -> None:
        with pytest.raises(CommandFailed, match=r"^GATEWAY_LISTEN=no\.such\.invalid:80: "):
            bind_socket(Address("no.such.invalid", 80), setting="GATEWAY_LISTEN")

    def test_a_port_for_the_administrator(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def forbidden(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("gateway.sockets._set_options", forbidden)
        with pytest.raises(CommandFailed, match="choose a port from 1024 on"):
            bind_socket(Address("127.0.0.1", 80), setting="GATEWAY_LISTEN")


class Watched(asyncio.Protocol):
    """Whose descriptor it is when the connection is lost."""

    def __init__(self) -> None:
        self.made, self.lost = asyncio.Event(), asyncio.Event()
        self.transport: asyncio.Transport
        self.fd, self.socket = -1, (0, 0)
        self.socket_then: tuple[int, int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.fd = direct_fd(transport)
        self.socket = identity(self.fd)
        self.made.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.socket_then = identity(self.fd)
        self.lost.set()


def identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def peer_closes(peer: socket.socket, _: asyncio.Transport) -> None:
    peer.close()


def peer_resets(peer: socket.socket, _: asyncio.Transport) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def peer_resets_and_more_is_written(peer: socket.socket, transport: asyncio.Transport) -> None:
    transport.pause_reading()
    peer_resets(peer, transport)
    for _ in range(3):
        transport.write(b"x" * 100_000)


def we_close(_: socket.socket, transport: asyncio.Transport) -> None:
    transport.close()


def we_abort(_: socket.socket, transport: asyncio.Transport) -> None:
    transport.write(b"x" * 10_000_000)
    transport.abort()


ENDINGS = (peer_closes, peer_resets, peer_resets_and_more_is_written, we_close, we_abort)


@pytest.mark.parametrize(
    "loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"]
)
@pytest.mark.parametrize("end", ENDINGS)
def test_a_transport_closes_its_descriptor_only_after_connection_lost(
    end: Callable[[socket.socket, asyncio.Transport], None],
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """gateway.outgoing relies on it: until then no other connection can have the same one."""

    async def run() -> None:
        protocol = Watched()
        server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
        try:
            with socket.create_connection(server.sockets[0].getsockname()[:2]) as peer:
                async with asyncio.timeout(10):
                    await protocol.made.wait()
                    end(peer, protocol.transport)
                    await protocol.lost.wait()
        finally:
            server.close()
        assert protocol.socket_then == protocol.socket

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())
