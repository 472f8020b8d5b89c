"""What looks like a half-open link and is none."""

import asyncio
from contextlib import suppress
from typing import Any

from listeners.keys import Keys
from listeners.redis_client import connect_redis
from listeners.relay import Relay, RelaySettings
from listeners.topic_store import Applied, MustLoad, TopicStore
from tests.support.waiting import eventually

SETTINGS = RelaySettings(canary_ms=100, save_ms=50, probe_timeout_ms=500, page_rows=5)
PAGES = 4
# Longer than the watch's patience and two of its looks.
SLOW_S = 1.2


class SlowStore(TopicStore):
    """Takes its time, so that the reader's backend waits for the next question."""

    applied = 0

    async def apply(self, *arguments: Any, **options: Any) -> Applied:
        await asyncio.sleep(SLOW_S)
        self.applied += 1
        return await super().apply(*arguments, **options)


async def test_a_large_backlog_that_redis_takes_slowly_is_no_fault(
    database_url: str, pg: Any, redis_url: str, redis_prefix: str
) -> None:
    await pg.execute(
        "INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');"
        "INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'One');"
        "INSERT INTO products (product_id, vendor_id, sku, name, price_minor)"
        " SELECT n, 'V', n, n, 1 FROM generate_series(1, 20) n"
    )
    client = connect_redis(redis_url)
    store = SlowStore(client, Keys(redis_prefix))
    relay = Relay(dsn=database_url, store=store, settings=SETTINGS)
    running = asyncio.create_task(relay.run())
    try:
        await eventually(lambda: relay.statistics().beat > 0, timeout_s=10)
        opened = await store.open("location:L1")
        assert isinstance(opened, MustLoad)
        await store.ready("location:L1", opened.epoch)
        await pg.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id)"
            " SELECT n, 'L1', 'V' FROM generate_series(1, 20) n"
        )
        beat = relay.statistics().beat
        await eventually(lambda: store.applied >= PAGES, timeout_s=20)
        await eventually(lambda: relay.statistics().beat > beat, timeout_s=10)
        assert (relay.statistics().reigns, relay.statistics().failures) == (1, 0)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await client.aclose()
