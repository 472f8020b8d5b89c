import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

__all__ = ["HttpServer"]


class HttpServer(uvicorn.Server):
    """uvicorn as one task among ours: signals are the business of the process's owner, logs go our way."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        """`options` are uvicorn's, over ours."""
        ours: dict[str, Any] = {
            "http": "httptools",
            "ws": "none",
            "lifespan": "off",
            "log_config": None,
            "access_log": False,
            "server_header": False,
            "timeout_graceful_shutdown": 5,
        }
        super().__init__(uvicorn.Config(app, **{**ours, **options}))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve_until(self, stop: asyncio.Event, *sockets: socket.socket) -> None:
        """Serves until the event is set, then lets answers that are under way go out."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self.serve(list(sockets)))
            waiting = group.create_task(stop.wait())
            await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
            self.should_exit = True
            waiting.cancel()
