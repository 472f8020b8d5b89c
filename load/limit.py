"""What no server can beat that makes one system call for a delivery: a bare loop of send() of the same bytes.

The process answers every handshake with 101, forgets about reading, and then does nothing but send. Run by
the benchmark, not by people: payloads come as lines on standard input.
"""

import asyncio
import ctypes
import os
import selectors
import shutil
import socket
import sys
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from load.children import StackFailed
from load.frames import server_frame
from load.peers.peer import Serving
from load.peers.python_side import python_server
from load.upgrade import upgrade_response

__all__ = [
    "LimitInC",
    "LimitInPython",
    "Loop",
    "NativeLoop",
    "PythonLoop",
    "compile_loop",
    "serve",
]

_SOURCE: Final = Path(__file__).with_name("limit.c")
_COMPILE_S: Final = 60.0
_READ_BYTES: Final = 65536


class LimitInPython:
    name: Final = "limit: send() in Python"
    how: Final = "comes with Python"
    remark: Final = "prebound socket.send; no event loop, no check of anything"

    def installed(self) -> bool:
        return True

    @asynccontextmanager
    async def start(self, directory: Path) -> AsyncIterator[Serving]:
        async with python_server(__name__, directory, "limit-python") as serving:
            yield serving


class LimitInC:
    name: Final = "limit: send() in C"
    how: Final = "apt-get install gcc libc6-dev"
    remark: Final = "the same loop, compiled for the run"

    def installed(self) -> bool:
        return shutil.which("cc") is not None

    @asynccontextmanager
    async def start(self, directory: Path) -> AsyncIterator[Serving]:
        library = directory / "limit.so"
        await compile_loop(library)
        async with python_server(__name__, directory, "limit-c", str(library)) as serving:
            yield serving


async def compile_loop(library: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("cc", "-O2", "-shared", "-fPIC", "-o", library, _SOURCE),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_COMPILE_S):
            said, _ = await process.communicate()
    except BaseException:
        process.kill()
        raise
    if process.returncode:
        raise StackFailed(f"{_SOURCE.name} does not compile: {said.decode(errors='replace')}")


class Loop:
    """Sends to sockets that do not block; OSError is raised if one is full or gone."""

    def add(self, connected: socket.socket) -> None:
        raise NotImplementedError

    def send(self, frame: bytes) -> None:
        raise NotImplementedError


class PythonLoop(Loop):
    def __init__(self) -> None:
        self._sends: list[Callable[[bytes], int]] = []

    def add(self, connected: socket.socket) -> None:
        self._sends.append(connected.send)

    def send(self, frame: bytes) -> None:
        for send in self._sends:
            send(frame)


class NativeLoop(Loop):
    def __init__(self, library: str) -> None:
        # With use_errno, ctypes keeps what send() left behind.
        self._fan_out = ctypes.CDLL(library, use_errno=True).fan_out
        self._fan_out.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
        self._sockets = array("i")

    def add(self, connected: socket.socket) -> None:
        self._sockets.append(connected.fileno())

    def send(self, frame: bytes) -> None:
        address, count = self._sockets.buffer_info()
        if self._fan_out(address, count, frame, len(frame)) != count:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


class _Server:
    def __init__(self, port: int, loop: Loop) -> None:
        self._loop = loop
        self._listening = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._selector = selectors.DefaultSelector()
        self._connected: list[socket.socket] = []
        self._unread = b""
        self._ended = False

    def run(self) -> None:
        """Until standard input ends."""
        os.set_blocking(sys.stdin.fileno(), False)
        self._listening.setblocking(False)
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._read_payloads)
        while not self._ended:
            for key, _ in self._selector.select():
                key.data()

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = bytearray()
        self._selector.register(
            connection, selectors.EVENT_READ, lambda: self._shake_hands(connection, request)
        )

    def _shake_hands(self, connection: socket.socket, request: bytearray) -> None:
        data = connection.recv(_READ_BYTES)
        request += data
        if data and not request.endswith(b"\r\n\r\n"):
            return
        self._selector.unregister(connection)
        if not data:  # a look whether somebody listens
            connection.close()
            return
        connection.sendall(upgrade_response(bytes(request)))
        self._connected.append(connection)
        self._loop.add(connection)

    def _read_payloads(self) -> None:
        data = os.read(sys.stdin.fileno(), _READ_BYTES)
        self._ended = not data
        *payloads, self._unread = (self._unread + data).split(b"\n")
        for payload in payloads:
            self._loop.send(server_frame(payload))


def serve(port: int, loop: Loop) -> None:
    """Sends every payload that comes as a line on standard input to everybody, until that ends."""
    _Server(port, loop).run()


def main(arguments: Sequence[str]) -> int:
    port, *library = arguments
    serve(int(port), NativeLoop(*library) if library else PythonLoop())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
