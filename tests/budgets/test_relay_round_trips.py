"""What a batch of changes costs the relay in conversations with Postgres and Redis, counted and not timed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import asyncpg
import pytest
from redis.asyncio.connection import AbstractConnection

from listeners.change_log import PAGE_ROWS, ChangeLog
from listeners.keys import Keys
from listeners.mandate import begin_reign
from listeners.postgres import both_connected
from listeners.publisher import Publisher
from listeners.redis_client import connect_redis
from listeners.reign import Reign
from listeners.relay import Relay, RelaySettings
from listeners.relay_state import Mandate, RelayStatistics
from listeners.topic_store import TopicStore
from tests.support.store import load
from tests.support.waiting import eventually

# A page of the log and one more, which is read as a backlog.
ROWS = PAGE_ROWS + 1
SETTINGS = RelaySettings()
PRODUCTS_WATCHED = 300  # beside their location and their vendor


class Writes:
    """What connections to Redis have sent; each waits for the replies before it sends again."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counted(self) -> Iterator["Writes"]:
        counted = Writes()
        before = self.count
        yield counted
        counted.count = self.count - before


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    writes = Writes()
    send = AbstractConnection.send_packed_command

    async def counting(connection: Any, *args: Any, **kwargs: Any) -> None:
        writes.count += 1
        await send(connection, *args, **kwargs)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counting)
    return writes


@pytest.fixture
async def store(redis_url: str, redis_prefix: str) -> AsyncIterator[TopicStore]:
    client = connect_redis(redis_url)
    yield TopicStore(client, Keys(redis_prefix))
    await client.aclose()


@pytest.fixture
async def shop(pg: asyncpg.Connection) -> asyncpg.Connection:
    """As many products at one location as make a page of the log and one more."""
    await pg.execute(
        f"""
        INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L', 'V', 'One');
        INSERT INTO products (product_id, vendor_id, name) SELECT 'P' || lpad(n::text, 5, '0'), 'V', 'n'
            FROM generate_series(1, {ROWS}) n;
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
            SELECT product_id, 'L', 'V', 9999 FROM products;
        """
    )
    return pg


@asynccontextmanager
async def reigning(database_url: str, store: TopicStore) -> AsyncIterator[tuple[Mandate, Any, list[str]]]:
    """The mandate, the reader's connection, and the statements that it is given."""
    ends = (database_url, "reader"), (database_url, "keeper")
    async with both_connected(*ends, timeout_s=5) as (reader, keeping):
        mandate = await begin_reign(reader, keeping, store, SETTINGS)
        statements: list[str] = []
        reader.add_query_logger(lambda logged: statements.append(logged.query))
        yield mandate, reader, statements


async def sell(shop: Any, rows: int) -> None:
    await shop.execute(
        "UPDATE inventory SET on_hand = on_hand - 1 WHERE product_id IN"
        " (SELECT product_id FROM inventory ORDER BY product_id LIMIT $1)",
        rows,
    )


async def load_everything(store: TopicStore, rows: int) -> None:
    gate = asyncio.Semaphore(8)

    async def one(topic: str) -> None:
        async with gate:
            await load(store, topic)

    names = ["location:L", "vendor:V", *(f"product:P{n:05d}" for n in range(1, rows + 1))]
    async with asyncio.TaskGroup() as tasks:
        for name in names:
            tasks.create_task(one(name))


class TestABatch:
    @pytest.mark.parametrize("rows", [1, 40, 1000, PAGE_ROWS])
    async def test_is_read_by_one_statement(
        self, rows: int, database_url: str, shop: Any, store: TopicStore
    ) -> None:
        async with reigning(database_url, store) as (mandate, reader, statements):
            await sell(shop, rows)
            statements.clear()
            batch = await ChangeLog(mandate.plan.read).read(reader, mandate.since)
        assert len([row for row in batch.rows if row.op == "U"]) == rows
        assert not batch.more
        assert len(statements) == 1

    async def test_of_products_whose_locations_are_looked_up_as_well(
        self, database_url: str, shop: Any, store: TopicStore
    ) -> None:
        async with reigning(database_url, store) as (mandate, reader, statements):
            await shop.execute("UPDATE products SET price_minor = 5 WHERE product_id <= 'P00200'")
            statements.clear()
            batch = await ChangeLog(mandate.plan.read).read(reader, mandate.since)
        changed = [row for row in batch.rows if row.kind == "product"]
        assert len(changed) == 200
        assert all(row.locations == ["L"] for row in changed)
        assert len(statements) == 1

    async def test_a_page_of_a_backlog_takes_one_statement_and_one_for_what_it_needs(
        self, database_url: str, shop: Any, store: TopicStore
    ) -> None:
        async with reigning(database_url, store) as (mandate, reader, statements):
            await sell(shop, ROWS)
            statements.clear()
            costs = []
            async for page in ChangeLog(mandate.plan.read, limit=500).pages(reader, mandate.since):
                costs.append((len(page.rows), len(statements)))
                statements.clear()
        assert sum(rows for rows, _ in costs) >= ROWS
        first, *others = costs
        # To declare it, to learn its snapshot and, once a connection, the types of its columns.
        assert first[1] <= 2 + 3
        assert max(cost for _, cost in others) == 2

    @pytest.mark.parametrize(("rows", "round_trips"), [(1, 1), (40, 1), (300, 2), (PAGE_ROWS, 2)])
    async def test_takes_at_most_two_round_trips_to_redis(
        self, rows: int, round_trips: int, database_url: str, shop: Any, store: TopicStore, writes: Writes
    ) -> None:
        async with reigning(database_url, store) as (mandate, reader, _):
            watched = min(rows, PRODUCTS_WATCHED)
            await load_everything(store, watched)
            await sell(shop, rows)
            batch = await ChangeLog(mandate.plan.read).read(reader, mandate.since)
            statistics = RelayStatistics()
            publisher = Publisher(mandate, store, statistics, ask_above=SETTINGS.ask_above)
            await publisher.publish(batch.rows)  # the connection is made, and the scripts are known
            applied = statistics.topics_applied
            with writes.counted() as counted:
                await publisher.publish(batch.rows)
        assert statistics.topics_applied - applied == watched + 2  # nothing was skipped
        assert counted.count == round_trips

    async def test_of_few_changes_is_one_script_call_however_many_topics_it_concerns(
        self, database_url: str, shop: Any, store: TopicStore, redis: Any
    ) -> None:
        """A call costs the server and the relay more than a change does."""
        async with reigning(database_url, store) as (mandate, reader, _):
            await load_everything(store, 40)
            await sell(shop, 40)
            batch = await ChangeLog(mandate.plan.read).read(reader, mandate.since)
            publisher = Publisher(mandate, store, RelayStatistics(), ask_above=SETTINGS.ask_above)
            await publisher.publish(batch.rows)
            before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            await publisher.publish(batch.rows)
            after = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
        assert after - before == 1

    async def test_that_nobody_watches_is_only_asked_about(
        self, database_url: str, shop: Any, store: TopicStore, writes: Writes
    ) -> None:
        async with reigning(database_url, store) as (mandate, reader, _):
            await sell(shop, 1000)
            batch = await ChangeLog(mandate.plan.read).read(reader, mandate.since)
            publisher = Publisher(mandate, store, RelayStatistics(), ask_above=SETTINGS.ask_above)
            await publisher.publish(batch.rows)
            with writes.counted() as counted:
                await publisher.publish(batch.rows)
        assert counted.count == 1


class TestAReign:
    async def test_asks_once_a_read_and_saves_four_times_a_second_at_most(
        self,
        database_url: str,
        shop: Any,
        store: TopicStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Under a steady load: reads are the only statements of the reader but for probes and wake-ups."""
        statements: list[str] = []
        run = Reign.run

        async def logged(reign: Reign) -> None:
            reign._connection.add_query_logger(lambda query: statements.append(query.query))
            await run(reign)

        monkeypatch.setattr(Reign, "run", logged)
        relay = Relay(dsn=database_url, store=store)
        clock = asyncio.get_running_loop().time
        task = asyncio.create_task(relay.run())
        try:
            await eventually(lambda: relay.statistics().beat > 0, timeout_s=10)
            await load(store, "location:L")
            reads, asked, began = relay.statistics().reads, len(statements), clock()
            saves = await shop.fetchval("SELECT counter FROM gateway.position")
            for _ in range(150):
                await sell(shop, 3)
                await asyncio.sleep(0.01)
            took_s = clock() - began
            saves = await shop.fetchval("SELECT counter FROM gateway.position") - saves
            reads, asked = relay.statistics().reads - reads, len(statements) - asked
            rows = relay.statistics().rows_read
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert rows > 100
        assert 1 < saves <= took_s / 0.25 + 1
        # A probe a second, and two statements each time the writers are told to notify or not to.
        assert reads - 1 <= asked <= reads + took_s + 1 + 4
