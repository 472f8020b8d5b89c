"""Two relays that are active at once, on purpose: correctness never depends on the election."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

import asyncpg
import orjson
import pytest

from listeners.attached_rows import AttachedRows
from listeners.change_log import load_position
from listeners.election import Election
from listeners.keys import Keys
from listeners.loader import TopicLoader
from listeners.mandate import begin_reign, prepare_reader
from listeners.pool import create_pool
from listeners.postgres import LOCK_RELAY, connect, connected
from listeners.redis_client import connect_redis
from listeners.reign import Reign
from listeners.relay import Relay
from listeners.relay_state import RelaySettings, RelayStatistics
from listeners.topic_store import TopicStore
from protocol.topics import parse_topic
from tests.faults.ledger import injected, tally
from tests.support.running import running
from tests.support.shop_writers import fill, write
from tests.support.waiting import eventually
from tests.support.watcher import database_copy

TOPICS: Final = ("product:P1", "product:P2", "location:L1", "vendor:V1")
LASTS_S: Final = 4.0
SETTINGS: Final = RelaySettings(canary_ms=100, save_ms=50, probe_timeout_ms=1000)


class Shop:
    """Writers, and the topics in Redis that are compared with what they have written."""

    def __init__(self, database_url: str, pg: Any, store: TopicStore, loader: TopicLoader) -> None:
        self.database_url = database_url
        self.store = store
        self._pg = pg
        self._loader = loader
        self._held: dict[tuple[str, str], dict[str, int]] = {}

    async def write(self, seed: int) -> None:
        chance = random.Random(seed)
        async with connected(self.database_url, purpose="shop") as shop:
            while True:
                await write(shop, chance)
                await asyncio.sleep(0.01)

    async def watch(self) -> None:
        """No item goes back within an epoch; what is void is loaded again, as replicas do."""
        while True:
            for topic in TOPICS:
                await self._look(topic)
            await asyncio.sleep(0.02)

    async def _look(self, topic: str) -> dict[str, dict[str, Any]]:
        with suppress(asyncpg.PostgresError):
            await self._loader.ensure(parse_topic(topic))
        stored = await self.store.read(topic)
        if stored is None:
            return {}
        held = self._held.setdefault((topic, stored.epoch), {})
        for item in stored.items:
            before = held.get(item.key, 0)
            assert item.version >= before, f"{topic}: {item.key} went back from {before} to {item.version}"
            held[item.key] = item.version
        tally("items checked", len(stored.items))
        return {item.key: orjson.loads(item.body) for item in stored.items if not item.deleted}

    async def equal(self) -> bool:
        for topic in TOPICS:
            expected = await database_copy(self._pg, topic)
            items = await self._look(topic)
            if topic.startswith("location:"):
                sold = {item["product_id"] for item in items.values() if item["kind"] == "stock"}
                items = {k: i for k, i in items.items() if i["kind"] == "stock" or i["product_id"] in sold}
            shown = {k: {name: item[name] for name in expected.get(k, {})} for k, item in items.items()}
            if shown != expected:
                return False
        return True


@pytest.fixture
async def shop(
    pg: asyncpg.Connection, database_url: str, redis_url: str, redis_prefix: str
) -> AsyncIterator[Shop]:
    await fill(pg)
    async with AsyncExitStack() as put:
        client = connect_redis(redis_url)
        put.push_async_callback(client.aclose)
        pool = await create_pool(database_url)
        put.callback(pool.terminate)
        store = TopicStore(client, Keys(redis_prefix))
        yield Shop(database_url, pg, store, TopicLoader(store, AttachedRows(), pool))


async def test_with_terms_of_their_own_take_turns(shop: Shop, database_url: str) -> None:
    """Each begins a later term and so ends the other's; neither ever learns that it should wait."""
    relays = [Relay(dsn=database_url, store=shop.store, settings=SETTINGS) for _ in range(2)]
    for number, relay in enumerate(relays):
        relay._election = Election(database_url, key=LOCK_RELAY + 1000 + number)
    async with running(*(relay.run() for relay in relays)):
        await eventually(lambda: all(relay.statistics().reigns > 0 for relay in relays), timeout_s=10)
        with injected("relay: two with terms of their own") as fault:
            async with running(shop.watch(), shop.write(1), shop.write(2)):
                await asyncio.sleep(LASTS_S)
            fault.noticed()
            turns = [relay.statistics().reigns for relay in relays]
            assert min(turns) > 1, turns
            fault.ended()  # of the writes: the two go on
            await eventually(shop.equal, timeout_s=10)
            fault.recovered()


async def test_with_the_same_term_do_the_same_work_twice(shop: Shop, database_url: str, pg: Any) -> None:
    """Redis can not tell them apart: both apply everything, one behind the other."""
    async with AsyncExitStack() as put:
        readers = []
        for number in range(2):
            readers.append(await connect(database_url, purpose=f"relay reader {number}"))
            put.push_async_callback(readers[-1].close)
        keeping = await put.enter_async_context(connected(database_url, purpose="relay keeper"))
        mandate = await begin_reign(readers[0], keeping, shop.store, SETTINGS)
        await prepare_reader(readers[1])
        statistics = [RelayStatistics() for _ in readers]
        stores: list[Any] = [shop.store, _SlowStore(shop.store)]
        reigns = [
            Reign(mandate, reader, store, SETTINGS, counted)
            for reader, store, counted in zip(readers, stores, statistics, strict=True)
        ]
        async with running(*(reign.run() for reign in reigns)):
            await eventually(lambda: all(reign.settled for reign in reigns))
            with injected("relay: two with the same term") as fault:
                async with running(shop.watch(), shop.write(3), shop.write(4)):
                    await asyncio.sleep(LASTS_S)
                fault.noticed()
                fault.ended()
                await eventually(shop.equal, timeout_s=10)
                fault.recovered()
            rows = [counted.rows_read for counted in statistics]
            assert min(rows) > 100, rows
        assert (await load_position(pg)).term == mandate.term


class _SlowStore:
    """Of the one that lags behind: what it applies is older than what is there."""

    def __init__(self, store: TopicStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def apply(self, *arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0.2)
        return await self._store.apply(*arguments, **options)
