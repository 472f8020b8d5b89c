"""A serving process inside the test's own loop, on free ports."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import connect

from gateway.app import serve
from gateway.config import Settings
from tests.support.waiting import eventually

__all__ = ["RunningGateway", "running_gateway"]


class RunningGateway:
    def __init__(self, clients: socket.socket, ops: socket.socket, stop: asyncio.Event) -> None:
        self.port: int = clients.getsockname()[1]
        self.ops_port: int = ops.getsockname()[1]
        self.stop = stop

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/realtime"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ops_url(self) -> str:
        return f"http://127.0.0.1:{self.ops_port}"

    async def is_ready(self) -> bool:
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(f"{self.ops_url}/readyz")).status_code == 200

    def connect(self, query: str = "", **options: Any) -> connect:
        return connect(self.url + query, **{"proxy": None, "max_size": None, **options})


@asynccontextmanager
async def running_gateway(
    database_url: str, redis_url: str, prefix: str, **settings: Any
) -> AsyncIterator[RunningGateway]:
    """Serves until the end of the block, and drains then. Settings are those of gateway.config."""
    clients, ops = _bound(), _bound()
    stop, started = asyncio.Event(), asyncio.Event()
    given: dict[str, Any] = {
        "database_url": database_url,
        "redis_url": redis_url,
        "redis_prefix": prefix,
        "anonymous": "exact",
        "drain_s": 0,
    }
    running = RunningGateway(clients, ops, stop)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(
            serve(Settings(**given | settings), clients=clients, ops=ops, stop=stop, started=started.set)
        )
        await eventually(lambda: started.is_set() or task.done(), timeout_s=20)
        try:
            yield running
        finally:
            stop.set()


def _bound() -> socket.socket:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    bound.setblocking(False)
    return bound
