"""No server: an event loop's transport.write() of the same bytes, what it costs above a bare send()."""

import asyncio
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from load.frames import server_frame
from load.peers.peer import Serving
from load.peers.python_side import payloads, python_server, run_server
from load.upgrade import upgrade_response

__all__ = ["Transports"]

_BACKLOG: Final = 4096


class Transports:
    """`of`: uvloop, or aiofastnet, whose transports work with any loop; here with uvloop."""

    def __init__(self, of: str) -> None:
        self._of = of

    @property
    def name(self) -> str:
        return f"transport.write() of {self._of}"

    @property
    def how(self) -> str:
        return f"pip install uvloop {self._of}"

    @property
    def remark(self) -> str:
        return "no server: a prebuilt frame to each transport, nothing else"

    def installed(self) -> bool:
        return find_spec(self._of) is not None

    def start(self, directory: Path) -> AbstractAsyncContextManager[Serving]:
        return python_server(__name__, directory, f"transport-{self._of}", self._of)


class _Connection(asyncio.Protocol):
    def __init__(self, transports: set[Any]) -> None:
        self._transports = transports
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._request += data
        if self._request.endswith(b"\r\n\r\n"):
            self._transport.write(upgrade_response(self._request))
            self._transports.add(self._transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._transports.discard(self._transport)


async def _serve(port: int, of: str) -> None:
    transports: set[Any] = set()
    loop: Any = asyncio.get_running_loop()

    def connection() -> _Connection:
        return _Connection(transports)

    if of == "aiofastnet":
        from aiofastnet import create_server

        server = await create_server(loop, connection, "127.0.0.1", port, backlog=_BACKLOG)
    else:
        server = await loop.create_server(connection, "127.0.0.1", port, backlog=_BACKLOG)
    async with server:
        async for payload in payloads():
            frame = server_frame(payload)
            for transport in transports:
                transport.write(frame)


if __name__ == "__main__":
    run_server(_serve)
