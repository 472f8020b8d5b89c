import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from listeners.keys import Keys
from listeners.redis_client import connect_redis
from listeners.relay import Relay, RelaySettings
from listeners.topic_store import LogItem, MustLoad, TopicStore
from protocol.envelope import Changed, decode_envelope
from tests.support.waiting import eventually


async def seed(pg: Any) -> None:
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');
        INSERT INTO products (product_id, vendor_id, sku, name, price_minor) VALUES ('A', 'V', 's', 'Apple', 100);
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'Shop');
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('A', 'L1', 'V', 7);
        """
    )


async def test_an_update_becomes_a_message(
    database_url: str, pg: Any, redis_url: str, redis_prefix: str, redis: Any
) -> None:
    await seed(pg)
    client = connect_redis(redis_url)
    keys = Keys(redis_prefix)
    store = TopicStore(client, keys)
    relay = Relay(dsn=database_url, store=store)
    pubsub = redis.pubsub()
    await pubsub.subscribe(keys.channel("product:A"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(relay.run())
        await eventually(lambda: relay.statistics().beat > 0)
        opened = await store.open("product:A")
        assert isinstance(opened, MustLoad)
        await store.merge("product:A", opened.epoch, [])
        await store.ready("product:A", opened.epoch)
        for n in range(5):
            began = time.monotonic()
            await pg.execute("UPDATE inventory SET on_hand = on_hand - 1")
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=1)
                if message and message["data"].startswith(b"D"):
                    break
            print((time.monotonic() - began) * 1000, message)
        print(relay.statistics())
        task.cancel()
    await pubsub.aclose()
    await client.aclose()
