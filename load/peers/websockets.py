"""The library that the gateway takes its framing from, by its own server and its own broadcast()."""

from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from websockets.asyncio.server import ServerConnection, broadcast, serve

from load.peers.peer import Serving
from load.peers.python_side import payloads, python_server, run_server

__all__ = ["Websockets"]


class Websockets:
    name: Final = "websockets broadcast()"
    how: Final = "pip install websockets uvloop"
    remark: Final = "websockets.asyncio.server on uvloop, pings and compression off"

    def installed(self) -> bool:
        return find_spec("websockets") is not None

    def start(self, directory: Path) -> AbstractAsyncContextManager[Serving]:
        return python_server(__name__, directory, "websockets")


async def _serve(port: int) -> None:
    connections: set[ServerConnection] = set()

    async def handle(connection: ServerConnection) -> None:
        connections.add(connection)
        try:
            await connection.wait_closed()
        finally:
            connections.discard(connection)

    async with serve(handle, "127.0.0.1", port, compression=None, ping_interval=None, backlog=4096):
        async for payload in payloads():
            broadcast(connections, payload, text=True)


if __name__ == "__main__":
    run_server(_serve)
