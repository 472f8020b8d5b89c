"""The server that the gateway runs in, by its own WebSocket path: an ASGI message for every delivery."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import uvicorn

from load.peers.peer import Serving
from load.peers.python_side import payloads, python_server, run_server

__all__ = ["Uvicorn"]

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Implementation = Literal["websockets", "websockets-sansio", "wsproto"]


class Uvicorn:
    """`implementation`: one of those that uvicorn's `ws` names."""

    def __init__(self, implementation: Implementation) -> None:
        self._implementation = implementation
        self._package = implementation.partition("-")[0]

    @property
    def name(self) -> str:
        return f"uvicorn, {self._implementation}"

    @property
    def how(self) -> str:
        return f"pip install uvicorn uvloop httptools {self._package}"

    @property
    def remark(self) -> str:
        return f"an ASGI application that awaits send() for each client, ws={self._implementation!r}"

    def installed(self) -> bool:
        return find_spec(self._package) is not None

    def start(self, directory: Path) -> AbstractAsyncContextManager[Serving]:
        name = f"uvicorn-{self._implementation}"
        return python_server(__name__, directory, name, self._implementation)


class _Application:
    def __init__(self) -> None:
        self._sends: set[Send] = set()

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        await send({"type": "websocket.accept"})
        self._sends.add(send)
        try:
            while (await receive())["type"] != "websocket.disconnect":
                pass
        finally:
            self._sends.discard(send)

    async def broadcast(self, text: str) -> None:
        message = {"type": "websocket.send", "text": text}
        for send in tuple(self._sends):
            await send(message)


async def _serve(port: int, implementation: str) -> None:
    application = _Application()
    config = uvicorn.Config(
        cast("Any", application),
        host="127.0.0.1",
        port=port,
        ws=cast("Implementation", implementation),
        http="httptools",
        lifespan="off",
        log_level="error",
        access_log=False,
        backlog=4096,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        ws_ping_timeout=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)

    async def publish() -> None:
        async for payload in payloads():
            await application.broadcast(payload.decode())
        server.should_exit = True

    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(publish())
        await server.serve()
        publishing.cancel()


if __name__ == "__main__":
    run_server(_serve)
