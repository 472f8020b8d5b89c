"""The trace that the relay leaves in Postgres: it moves only with what Redis has taken."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from listeners.canary import read_acknowledged, sing
from listeners.keys import Keys
from listeners.redis_client import connect_redis
from listeners.relay import Relay, RelaySettings
from listeners.topic_store import TopicStore
from tests.support.proxy import proxied
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

QUICK = RelaySettings(canary_ms=50, save_ms=50, probe_timeout_ms=300)


async def test_a_beat_that_acknowledges_nothing_leaves_the_trace_as_it_is(pg: Any) -> None:
    await sing(pg, acknowledged=7)
    beat = await sing(pg)
    assert await read_acknowledged(pg, timeout_s=5) == 7
    assert await sing(pg) == beat + 1


async def test_it_moves_while_redis_takes_the_beats_and_stands_while_it_does_not(
    database_url: str, pg: Any, redis_url: str, redis_prefix: str
) -> None:
    async with proxied(redis_url) as (proxy, url):
        client = connect_redis(url, timeout_s=0.3)
        relay = Relay(dsn=database_url, store=TopicStore(client, Keys(redis_prefix)), settings=QUICK)
        task = asyncio.create_task(relay.run())

        async def has_passed(number: int) -> bool:
            return await read_acknowledged(pg, timeout_s=5) > number

        try:
            await eventually(lambda: has_passed(3), timeout_s=10)
            proxy.freeze()
            await eventually(lambda: not relay.statistics().active, timeout_s=10)
            stands = await read_acknowledged(pg, timeout_s=5)
            assert stands <= relay.statistics().beat
            proxy.thaw()
            await eventually(lambda: has_passed(stands), timeout_s=10)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await client.aclose()
