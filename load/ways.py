"""The same sockets written to in several ways, in turns, by one process: what each adds to a delivery.

Run by the scenario `delivery`, not by people. Each payload that comes is sent in the next way; what that took
is a line of the log.
"""

import os
import socket
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Final

import orjson

from load.limit import Loop, NativeLoop, PythonLoop, serve

__all__ = ["IN_C", "WAYS"]

IN_C: Final = "send() in C"
WAYS: Final = (
    IN_C,
    "os.write() in Python, descriptors side by side",
    "the same, found in two objects of each connection",
    "socket.send() in Python, an object and its method each",
)


class _SideBySide(Loop):
    """As the gateway does where nothing has to be looked at first (gateway/direct.py)."""

    def __init__(self) -> None:
        self._descriptors = array("i")

    def add(self, connected: socket.socket) -> None:
        self._descriptors.append(connected.fileno())

    def send(self, frame: bytes) -> None:
        write, size = os.write, len(frame)
        for descriptor in self._descriptors:
            if write(descriptor, frame) != size:
                raise BlockingIOError("a socket is full")


class _SendingHalf:
    """As large as one of the gateway is, and asked for as much."""

    __slots__ = ("_descriptor", "congested", "direct", *(f"other_{number}" for number in range(10)))

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.congested = False
        self.direct = True

    def write(self, frame: bytes) -> None:
        if not self.direct or os.write(self._descriptor, frame) != len(frame):
            raise BlockingIOError("a socket is full")


class _Delivery:
    __slots__ = ("outgoing", *(f"other_{number}" for number in range(10)))

    def __init__(self, outgoing: _SendingHalf) -> None:
        self.outgoing = outgoing


class _Objects(Loop):
    """As the gateway does where a connection has to be asked first: one that was congested, or has TLS."""

    def __init__(self) -> None:
        self._deliveries: dict[_Delivery, None] = {}

    def add(self, connected: socket.socket) -> None:
        self._deliveries[_Delivery(_SendingHalf(connected.fileno()))] = None

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
        # Each round begins with another: what one way leaves in the caches falls to all of them in turn.
        rounds = self._sends // len(self._loops)
        name, loop = self._loops[(self._sends + rounds) % len(self._loops)]
        self._sends += 1
        began = time.thread_time()
        loop.send(frame)
        took = time.thread_time() - began
        print(orjson.dumps([name, took / self._clients * 1e6]).decode(), flush=True)


def main(arguments: Sequence[str]) -> int:
    port, *libraries = arguments
    loops = (_SideBySide(), _Objects(), PythonLoop())
    named = list(zip(WAYS[1:], loops, strict=True))
    serve(int(port), _InTurns([*((IN_C, NativeLoop(library)) for library in libraries), *named]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
