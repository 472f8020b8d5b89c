"""What a subscribe may cost, by what the replica and Redis have already: see the budgets of the project."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from listeners.attached_rows import AttachedRows
from listeners.feed import TopicFeed
from listeners.keys import Keys
from listeners.loader import TopicLoader
from listeners.pool import create_pool
from listeners.redis_bus import RedisBus
from listeners.redis_client import connect_redis
from listeners.topic_store import LogItem, TopicStore
from protocol.principal import View
from tests.budgets.counting import CountingPool, count_round_trips
from tests.support.replica import Client, stock
from tests.support.store import GENERATION, TERM
from tests.support.waiting import eventually

TOPICS = [f"product:P{number}" for number in range(40)]
CROWD = 5  # clients of each topic
# Of a load: the sources, the rows of both tables.
STATEMENTS_A_LOAD = 3
CLIENT = "inventory-gateway"
CONNECTIONS = 16
# What is counted here are costs, not times.
SLOW_S = 30.0


@dataclass
class Replica:
    """A hub over real servers, whose costs are counted; the relay is played by the test."""

    hub: Hub
    store: TopicStore
    pool: CountingPool
    trips: Counter[str]
    spawned: int = 0

    def client(self) -> Client:
        return Client(self.hub)

    def forget_costs(self) -> None:
        self.pool.statements = self.spawned = 0
        self.trips.clear()

    async def change(self, topic: str, version: int) -> None:
        item = stock(topic.partition(":")[2], version)
        changes = {topic: [LogItem(item, version)]}
        await self.store.apply(changes, generation=GENERATION, term=TERM, changed_at_ms=0)


MakeReplica = Callable[[], Any]


@pytest.fixture
async def make_replica(
    pg: asyncpg.Connection,
    database_url: str,
    redis_url: str,
    redis_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[MakeReplica]:
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'One');
        INSERT INTO products (product_id, vendor_id, name)
            SELECT 'P' || n, 'V', 'Product' FROM generate_series(0, 39) AS n;
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
            SELECT 'P' || n, 'L1', 'V', 7 FROM generate_series(0, 39) AS n;
        """
    )
    trips = count_round_trips(monkeypatch)
    async with AsyncExitStack() as stack:

        async def make() -> Replica:
            return await stack.enter_async_context(_replica(database_url, redis_url, redis_prefix, trips))

        yield make


@asynccontextmanager
async def _replica(
    database_url: str, redis_url: str, prefix: str, trips: Counter[str]
) -> AsyncIterator[Replica]:
    async with AsyncExitStack() as stack:
        keys = Keys(prefix)
        redis: Any = connect_redis(redis_url, name=CLIENT)
        stack.push_async_callback(redis.aclose)
        store = TopicStore(redis, keys)
        await store.begin(GENERATION, TERM)
        real_pool = await create_pool(database_url, max_size=8)
        stack.push_async_callback(real_pool.close)
        pool = CountingPool(real_pool)
        bus = RedisBus(redis_url, keys)
        loader = TopicLoader(store, AttachedRows(), pool, wait_timeout_s=SLOW_S)
        feed = TopicFeed(bus, store, loader)
        # Nothing periodic is to be counted, and nobody refused on a machine that is busy with other things.
        settings = HubSettings(flush_s=0, canary_s=60, compare_s=60, patience_s=SLOW_S)
        hub = Hub(feed, GatewayMetrics(), settings, told=lambda *_: None)
        replica = Replica(hub, store, pool, trips)
        spawn = hub.spawn

        def counted(work: Any) -> None:
            replica.spawned += 1
            spawn(work)

        hub.spawn = counted  # type: ignore[method-assign]
        tasks = [asyncio.create_task(bus.run(hub)), asyncio.create_task(hub.run())]
        stack.push_async_callback(_cancel, tasks)
        await eventually(lambda: bus.statistics().connected)
        # Neither is what a new connection says of itself, and what a server needs to learn of a script.
        await store.log_since("product:none", "e", 1)
        await asyncio.gather(*(store.reign() for _ in range(CONNECTIONS)))
        yield replica


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def follow(replica: Replica, *topics: str, view: View = View.EXACT) -> Client:
    client = replica.client()
    for topic in topics:
        client.subscribe(topic, view=view)
    await eventually(lambda: all(client.is_complete(topic) for topic in topics), timeout_s=SLOW_S)
    return client


async def reached(client: Client, seq: int) -> None:
    """All topics by this client."""
    await eventually(lambda: all(client.position(topic).seq == seq for topic in TOPICS), timeout_s=SLOW_S)


async def crowd(replica: Replica, view: View = View.EXACT) -> list[Client]:
    """All of them in one turn of the loop."""
    clients = [replica.client() for _ in range(CROWD)]
    for topic in TOPICS:
        for client in clients:
            client.subscribe(topic, view=view)
    await eventually(
        lambda: all(client.is_complete(topic) for client in clients for topic in TOPICS), timeout_s=SLOW_S
    )
    return clients


class TestWarm:
    """The replica follows the topic: whoever comes costs nobody but the replica anything."""

    @pytest.mark.parametrize("view", list(View))
    async def test_it_costs_no_statement_no_round_trip_and_no_task(
        self, make_replica: MakeReplica, view: View
    ) -> None:
        replica = await make_replica()
        await follow(replica, *TOPICS, view=view)
        replica.forget_costs()
        client = replica.client()
        for topic in TOPICS:
            client.subscribe(topic, view=view)
            assert client.is_complete(topic)
        assert (replica.pool.statements, replica.trips[CLIENT], replica.spawned) == (0, 0, 0)

    async def test_after_a_change_one_round_trip_a_topic_serves_everybody(
        self, make_replica: MakeReplica
    ) -> None:
        replica = await make_replica()
        keeper = await follow(replica, *TOPICS)
        for version, topic in enumerate(TOPICS, 10_000):
            await replica.change(topic, version)
        await reached(keeper, 2)
        replica.forget_costs()
        await crowd(replica)
        assert replica.pool.statements == 0
        assert 0 < replica.trips[CLIENT] <= len(TOPICS)

    async def test_who_resumes_where_the_topic_stands_costs_nothing(self, make_replica: MakeReplica) -> None:
        replica = await make_replica()
        await follow(replica, *TOPICS)
        client = await follow(replica, *TOPICS)
        replica.forget_costs()
        for topic in TOPICS:
            client.subscribe(topic, resume=client.position(topic))
        assert len(client.of("resumed")) == len(TOPICS)
        assert (replica.pool.statements, replica.trips[CLIENT], replica.spawned) == (0, 0, 0)


class TestLoadedElsewhere:
    """The replica knows nothing of the topics, Redis holds them: everybody comes at once."""

    @pytest.mark.parametrize("view", list(View))
    async def test_few_round_trips_and_no_statement(self, make_replica: MakeReplica, view: View) -> None:
        home, replica = await make_replica(), await make_replica()
        await follow(home, *TOPICS)
        replica.forget_costs()
        home.forget_costs()
        await crowd(replica, view)
        assert replica.pool.statements == 0
        assert 0 < replica.trips[CLIENT] <= len(TOPICS) / 4  # in company

    async def test_who_resumes_from_wherever_shares_one_reading_of_the_log(
        self, make_replica: MakeReplica
    ) -> None:
        home, replica = await make_replica(), await make_replica()
        keeper = await follow(home, *TOPICS)
        clients = []
        for number in range(CROWD):
            clients.append(await follow(home, *TOPICS))
            for topic in TOPICS:
                clients[-1].leave(topic)
                await home.change(topic, 10_000 + number)
            await reached(keeper, 2 + number)
        replica.forget_costs()
        for client in clients:
            client.hub = replica.hub
            for topic in TOPICS:
                client.subscribe(topic, resume=client.position(topic))
        for client in clients:
            await reached(client, 1 + CROWD)
        assert all(len(client.of("resumed")) == len(TOPICS) for client in clients)
        assert all(client.holds(topic) == keeper.holds(topic) for client in clients for topic in TOPICS)
        assert replica.pool.statements == 0
        assert 0 < replica.trips[CLIENT] <= len(TOPICS) / 2


class TestCold:
    async def test_each_topic_is_loaded_once_however_many_ask(self, make_replica: MakeReplica) -> None:
        replica = await make_replica()
        replica.forget_costs()
        await crowd(replica)
        assert 0 < replica.pool.statements <= STATEMENTS_A_LOAD * len(TOPICS)

    async def test_neither_do_several_replicas_load_it_twice(self, make_replica: MakeReplica) -> None:
        replicas = [await make_replica(), await make_replica()]
        for replica in replicas:
            replica.forget_costs()
        await asyncio.gather(*(crowd(replica) for replica in replicas))
        statements = sum(replica.pool.statements for replica in replicas)
        assert 0 < statements <= STATEMENTS_A_LOAD * len(TOPICS)
