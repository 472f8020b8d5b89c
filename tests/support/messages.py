import asyncio
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection

__all__ = ["next_message"]


async def next_message(client: ClientConnection, kind: str, *, timeout_s: float = 10) -> dict[str, Any]:
    """The next message of that type; others are passed over."""
    async with asyncio.timeout(timeout_s):
        while True:
            message: dict[str, Any] = orjson.loads(await client.recv())
            if message["type"] == kind:
                return message
