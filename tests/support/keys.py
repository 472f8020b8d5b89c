from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis, RedisCluster

__all__ = ["delete_keys", "server_client"]


@asynccontextmanager
async def server_client(url: str) -> AsyncIterator[Any]:
    """redis-py's own client of a server or a cluster, for what tests look at behind our back."""
    if "+cluster://" in url:
        client: Any = RedisCluster.from_url(url.replace("+cluster://", "://"), protocol=2)
    else:
        client = Redis.from_url(url, protocol=2)
    try:
        yield client
    finally:
        await client.aclose()


async def delete_keys(client: Any, prefix: str) -> None:
    """Delete every key that contains the prefix, wherever its hash tag stands."""
    keys = [key async for key in client.scan_iter(match=f"*{prefix}*", count=1000)]
    if keys:
        await client.unlink(*keys)
