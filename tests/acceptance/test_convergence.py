"""What the gateway is for: whatever writers do, every copy on every replica ends equal to the database."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import asyncpg
import pytest

from tests.support.processes import START_S, serving
from tests.support.shop_writers import ADD_STOCK, LOCATIONS, PRODUCTS, fill, write
from tests.support.waiting import eventually
from tests.support.watcher import Watcher, database_copy, watching

pytestmark = pytest.mark.acceptance

SECONDS: Final = 10.0
WRITERS: Final = 4
RATE: Final = 500  # transactions a second, of all writers together
TOPICS: Final = [
    *(f"product:{name}" for name in PRODUCTS[:10]),
    *(f"location:{name}" for name in LOCATIONS),
    "vendor:V1",
]


async def keep_writing(url: str, number: int) -> None:
    """This writer's share of the transactions, at its share of the rate or as fast as the machine can."""
    loop, chance = asyncio.get_running_loop(), random.Random(number)
    connection = await asyncpg.connect(url)
    began = loop.time()
    try:
        for done in range(round(RATE * SECONDS / WRITERS)):
            await asyncio.sleep(max(0.0, began + done * WRITERS / RATE - loop.time()))
            await write(connection, chance)
    finally:
        await connection.close()


async def hold_open(url: str, ended: Callable[[], bool]) -> None:
    """A write transaction is open for 2 s at a time: nobody's changes may wait for it, nor be lost."""
    connection = await asyncpg.connect(url)
    turn = 0
    try:
        while not ended():
            turn += 1
            async with connection.transaction():
                await connection.execute(
                    "UPDATE vendors SET name = $1 WHERE vendor_id = 'V1'", f"Turn {turn}"
                )
                await connection.execute(ADD_STOCK, f"P{turn % 3}", "L3", 7)
                await asyncio.sleep(2)
    finally:
        await connection.close()


@pytest.mark.timeout(180)
async def test_every_copy_equals_the_database(
    pg: asyncpg.Connection, database_url: str, redis_url: str, redis_prefix: str
) -> None:
    await fill(pg)
    servers = {"database_url": database_url, "redis_url": redis_url, "redis_prefix": redis_prefix}
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(serving("serve", anonymous="exact", **servers)) for _ in range(2)
        ]
        for replica in replicas:
            await eventually(replica.is_ready, timeout_s=START_S)
        watchers: list[Watcher] = [
            await stack.enter_async_context(watching(replica.url, TOPICS)) for replica in replicas
        ]
        async with asyncio.TaskGroup() as tasks:
            writers = [tasks.create_task(keep_writing(database_url, number)) for number in range(WRITERS)]
            tasks.create_task(hold_open(database_url, lambda: all(writer.done() for writer in writers)))
            late = await stack.enter_async_context(watching(replicas[1].url, TOPICS))
        watchers.append(late)
        for topic in TOPICS:
            expected = await database_copy(pg, topic)
            for watcher in watchers:
                await eventually(partial(watcher.equals, topic, expected), timeout_s=15)
        assert all(len(watcher.of("delta")) > 100 for watcher in watchers[:2])
