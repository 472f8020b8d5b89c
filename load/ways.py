"""The same sockets written to in several ways, in turns, by one process: what each adds to a delivery.

Run by the scenario `delivery`, not by people. Each payload that comes is sent in the next way; what that took
is a line of the log. The gateway's own ways are those of its classes, with its transports left out, which no
delivery touches.
"""

import asyncio
import os
import socket
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Final

import orjson

from gateway.fanout import Fanout
from gateway.metrics import GatewayMetrics
from gateway.outgoing import Delivery, Outgoing
from load.limit import Loop, NativeLoop, PythonLoop, serve
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.errors import ProtocolError
from protocol.items import Item
from protocol.principal import View
from protocol.subscription import Subscription

__all__ = ["BROADCAST", "IN_C", "WAYS", "payload"]

IN_C: Final = "send() in C"
BROADCAST: Final = "the gateway's broadcast"
WAYS: Final = (
    IN_C,
    "os.write() in Python, descriptors side by side",
    "socket.send() in Python, an object each",
    BROADCAST,
    "the same, through each sending half",
)

_DIALECT: Final = InventoryV1()
_TOPIC: Final = "product:P"
_BODY: Final = b'{"kind":"stock","pad":"%b"}' % (b"x" * 200)


def _item(version: int) -> Item:
    return Item("stock:P:L", version, False, _BODY)


def payload() -> bytes:
    """As long as a delta of the gateway's broadcast, whose `seq` may have more digits."""
    return _DIALECT.deltas(_TOPIC, "e", 1, 1, [_item(1)])[0]


class _Descriptors(Loop):
    def __init__(self) -> None:
        self._descriptors = array("i")

    def add(self, connected: socket.socket) -> None:
        self._descriptors.append(connected.fileno())

    def send(self, frame: bytes) -> None:
        write = os.write
        for descriptor in self._descriptors:
            write(descriptor, frame)


class _Client:
    """Transport and owner of a sending half, which never needs either."""

    def __init__(self, connected: socket.socket) -> None:
        self.outgoing = Outgoing(self, _DIALECT, GatewayMetrics(), owner=self, fd=connected.fileno())

    def write(self, data: bytes) -> None:
        raise BlockingIOError(f"a socket is full: {len(data)} bytes are left")

    def get_write_buffer_size(self) -> int:
        return 0

    def refuse(self, subscription: Subscription, error: ProtocolError) -> None:
        raise error


class _Broadcast(Loop):
    """Makes frames of its own, of nearly the same length."""

    def __init__(self) -> None:
        self._fanout = Fanout(_TOPIC, _DIALECT, GatewayMetrics(), flush_s=0)
        self._fanout.start("e", 1)
        self._seq = 1

    def add(self, connected: socket.socket) -> None:
        delivery = Delivery(Subscription(_TOPIC, None, View.EXACT), _Client(connected).outgoing)
        self._fanout.join(delivery)
        self._fanout.complete(delivery, self._seq)

    def send(self, _: bytes) -> None:
        self._seq += 1
        self._fanout.change([_item(self._seq)], self._seq, 0)
        self._fanout.stop()  # or the next change would wait for the flush's timer


class _EachByItself(Loop):
    """As a fan-out does where descriptors must not be written to directly."""

    def __init__(self) -> None:
        self._deliveries: dict[Delivery, None] = {}

    def add(self, connected: socket.socket) -> None:
        delivery = Delivery(Subscription(_TOPIC, None, View.EXACT), _Client(connected).outgoing)
        self._deliveries[delivery] = None

    def send(self, frame: bytes) -> None:
        for delivery in self._deliveries:
            outgoing = delivery.outgoing
            if not outgoing.congested:
                outgoing.write(frame)


class _InTurns(Loop):
    def __init__(self, loops: Sequence[tuple[str, Loop]]) -> None:
        self._loops = loops
        self._sends = self._clients = 0

    def add(self, connected: socket.socket) -> None:
        self._clients += 1
        for _, loop in self._loops:
            loop.add(connected)

    def send(self, frame: bytes) -> None:
        name, loop = self._loops[self._sends % len(self._loops)]
        self._sends += 1
        began = time.thread_time()
        loop.send(frame)
        took = time.thread_time() - began
        print(orjson.dumps([name, took / self._clients * 1e6]).decode(), flush=True)


async def _run(port: int, library: Sequence[str]) -> None:
    """Deliveries are made on a loop, which has nothing else to do."""
    loops = (_Descriptors(), PythonLoop(), _Broadcast(), _EachByItself())
    named = list(zip(WAYS[1:], loops, strict=True))
    serve(port, _InTurns([*((IN_C, NativeLoop(path)) for path in library), *named]))


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), sys.argv[2:]))
