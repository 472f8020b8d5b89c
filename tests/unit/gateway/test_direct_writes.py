"""Bytes that go past the transport keep their order, whatever the socket takes."""

import socket
from collections.abc import Iterator

import pytest

from gateway.metrics import GatewayMetrics
from gateway.outgoing import Outgoing
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.errors import ProtocolError
from protocol.subscription import Subscription

FRAME = bytes(range(256)) * 64


class Transport:
    """Keeps what it is given until it is told to pass it on."""

    def __init__(self, own: socket.socket) -> None:
        self.kept = bytearray()
        self._own = own

    def write(self, data: bytes) -> None:
        self.kept += data

    def get_write_buffer_size(self) -> int:
        return len(self.kept)

    def pass_on(self) -> None:
        del self.kept[: self._own.send(self.kept)]

    def refuse(self, subscription: Subscription, error: ProtocolError) -> None:
        raise AssertionError(error)

    holder = "address 127.0.0.1"

    def charge_rows(self, rows: int) -> None:
        raise AssertionError(rows)

    def rows_error(self) -> ProtocolError | None:
        raise AssertionError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def make_outgoing(own: socket.socket) -> tuple[Outgoing, Transport]:
    transport = Transport(own)
    metrics = GatewayMetrics()
    return Outgoing(transport, InventoryV1(), metrics, owner=transport, fd=own.fileno()), transport


def test_what_the_socket_takes_never_sees_the_transport(pair: tuple[socket.socket, socket.socket]) -> None:
    outgoing, transport = make_outgoing(pair[0])
    outgoing.write(b"abc")
    assert pair[1].recv(100) == b"abc"
    assert not transport.kept


def test_the_rest_follows_in_order_and_nothing_overtakes_it(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    outgoing, transport = make_outgoing(ours)
    frames = [bytes([number]) + FRAME for number in range(8)]
    for frame in frames:
        outgoing.write(frame)
    assert transport.kept
    received = bytearray()
    while transport.kept:
        received += theirs.recv(1_000_000)
        transport.pass_on()
    outgoing.write(b"the end")
    received += theirs.recv(1_000_000)
    assert bytes(received) == b"".join(frames) + b"the end"


def test_a_broken_socket_is_the_transports_to_find(pair: tuple[socket.socket, socket.socket]) -> None:
    outgoing, transport = make_outgoing(pair[0])
    pair[1].close()
    outgoing.write(b"abc")
    assert transport.kept == b"abc"


def test_after_the_end_the_descriptor_is_not_touched(pair: tuple[socket.socket, socket.socket]) -> None:
    outgoing, transport = make_outgoing(pair[0])
    outgoing.write(b"abc")
    outgoing.close()
    outgoing.write(b"the close frame")
    assert pair[1].recv(100) == b"abc"
    assert transport.kept == b"the close frame"
