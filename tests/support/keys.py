import redis.asyncio

__all__ = ["delete_keys"]


async def delete_keys(client: redis.asyncio.Redis, prefix: str) -> None:
    """Delete every key that contains the prefix, wherever its hash tag stands."""
    keys = [key async for key in client.scan_iter(match=f"*{prefix}*", count=1000)]
    if keys:
        await client.unlink(*keys)
