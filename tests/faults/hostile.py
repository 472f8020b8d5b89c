"""Clients that mean harm, each with a process of its own, so that what they do costs only the server.

`python -m tests.faults.hostile KIND PORT SECONDS` does one thing as fast as it can for so long, anew whenever
it is closed, and prints what came of it as a line of JSON.
"""

import asyncio
import base64
import os
import random
import socket
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import orjson

from load.frames import CLOSE, PING, client_frame

__all__ = ["Listener", "Outcome", "attack", "open_websocket"]

Outcome = dict[str, Any]
_BATCH: Final = 500  # frames handed to the kernel at a time
_END_S: Final = 10.0


def _handshake(path: str = "/realtime") -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def open_websocket(port: int, *, receive_buffer: int = 0, path: str = "/realtime") -> socket.socket:
    """A blocking socket that has shaken hands. `receive_buffer` in bytes; 0: the system's."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(_END_S)
    sock.connect(("127.0.0.1", port))
    sock.sendall(_handshake(path))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise ConnectionError("closed during the handshake")
        head += byte
    return sock


def _pings() -> Iterator[bytes]:
    while True:
        yield client_frame(b"", PING) * _BATCH


def _requests() -> Iterator[bytes]:
    """Valid messages, each answered."""
    while True:
        yield client_frame(orjson.dumps({"type": "ping", "id": "x" * 64})) * _BATCH


def _fragments() -> Iterator[bytes]:
    """A message that never ends, in empty pieces."""
    yield b"\x01\x80" + bytes(4)
    while True:
        yield (b"\x00\x80" + bytes(4)) * _BATCH


def _visits() -> Iterator[bytes]:
    """Subscribes to a hundred topics and leaves them: the shop's, and those that nobody has rows for."""
    while True:
        topics = [f"product:P{number}" for number in range(40)]
        topics += [f"product:X{random.randrange(10**9)}" for _ in range(60)]
        yield b"".join(
            client_frame(orjson.dumps({"type": kind, "topics": topics}))
            for kind in ("subscribe", "unsubscribe")
        )


def _headers() -> Iterator[bytes]:
    """A request whose head never ends."""
    yield b"GET /realtime HTTP/1.1\r\nHost: x\r\n"
    while True:
        yield b"".join(b"X-%08d: %s\r\n" % (random.randrange(10**8), b"x" * 200) for _ in range(_BATCH))


_FLOODS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "pings": _pings,
    "requests": _requests,
    "fragments": _fragments,
    "visits": _visits,
    "headers": _headers,
}


class Listener(threading.Thread):
    """Reads what comes, so that the flood is never held up by its answers, and finds the close code.

    For a refused handshake that is the HTTP status.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self.close_code: int | None = None
        self._sock = sock

    def run(self) -> None:
        rest = b""
        try:
            if self._sock.recv(9, socket.MSG_PEEK) == b"HTTP/1.1 ":
                self.close_code = int(self._sock.recv(12)[9:])
                return
            while self.close_code is None and (data := self._sock.recv(65536)):
                rest = self._parse(rest + data)
        except (OSError, ValueError):
            return

    def _parse(self, data: bytes) -> bytes:
        at = 0
        while len(data) - at >= 2:
            size, head = data[at + 1] & 0x7F, 2
            if size >= 126:
                head = 4 if size == 126 else 10
                size = int.from_bytes(data[at + 2 : at + head])
            if len(data) < at + head + size:
                break
            if data[at] & 0x0F == CLOSE:
                self.close_code = int.from_bytes(data[at + head : at + head + 2])
            at += head + size
        return data[at:]


def flood(kind: str, port: int, seconds: float) -> Outcome:
    end = time.monotonic() + seconds
    codes: Counter[str] = Counter()
    sent = 0
    while time.monotonic() < end:
        if kind == "headers":
            sock = socket.create_connection(("127.0.0.1", port), timeout=_END_S)
        else:
            sock = open_websocket(port)
        listener = Listener(sock)
        listener.start()
        try:
            for data in _FLOODS[kind]():
                sock.sendall(data)
                sent += len(data)
                if time.monotonic() > end or listener.close_code is not None:
                    break
        except OSError:
            codes["reset"] += 1
        listener.join(_END_S if listener.close_code is None and time.monotonic() < end else 0.1)
        codes[str(listener.close_code)] += 1
        sock.close()
    return {"sent_bytes": sent, "codes": dict(codes)}


async def attack(kind: str, port: int, seconds: float) -> Outcome:
    """Runs a flood in a process of its own; what came of it: bytes sent, and how often it was closed how."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.hostile", kind, str(port), str(seconds)), stdout=PIPE
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), seconds + 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return cast("Outcome", orjson.loads(out))


if __name__ == "__main__":
    print(orjson.dumps(flood(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))).decode())
