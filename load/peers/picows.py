"""A WebSocket library for asyncio in Cython."""

from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from load.peers.peer import Serving
from load.peers.python_side import payloads, python_server, run_server

__all__ = ["Picows"]


class Picows:
    """`transport`: uvloop's or, as picows does by itself where it is installed, aiofastnet's."""

    how: Final = "pip install picows uvloop"

    def __init__(self, transport: str) -> None:
        self._transport = transport

    @property
    def name(self) -> str:
        return f"picows, {self._transport}"

    @property
    def remark(self) -> str:
        return f"a loop of send() over transports of {self._transport}; pings off; it has no compression"

    def installed(self) -> bool:
        return all(find_spec(package) is not None for package in ("picows", self._transport))

    def start(self, directory: Path) -> AbstractAsyncContextManager[Serving]:
        return python_server(__name__, directory, f"picows-{self._transport}", self._transport)


async def _serve(port: int, transport: str) -> None:
    from picows import WSListener, WSMsgType, ws_create_server

    transports: set[Any] = set()

    class Listener(WSListener):  # type: ignore[misc, unused-ignore]
        def on_ws_connected(self, transport: Any) -> None:
            transports.add(transport)

        def on_ws_disconnected(self, transport: Any) -> None:
            transports.discard(transport)

    fast = transport == "aiofastnet"
    server = await ws_create_server(
        lambda _: Listener(), "127.0.0.1", port, use_aiofastnet=fast, backlog=4096
    )
    text = WSMsgType.TEXT
    async with server:
        async for payload in payloads():
            for each in transports:
                each.send(text, payload)


if __name__ == "__main__":
    run_server(_serve)
