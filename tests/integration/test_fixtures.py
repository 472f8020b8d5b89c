import asyncio

import asyncpg
import redis.asyncio


async def test_an_empty_database_is_empty(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert await connection.fetchval("SELECT 'a' < 'B' COLLATE \"default\"") is False
    finally:
        await connection.close()


async def test_keys(redis: redis.asyncio.Redis, redis_prefix: str) -> None:
    await redis.set(f"{redis_prefix}:x", "1")
    assert await redis.get(f"{redis_prefix}:x") == b"1"
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
