"""Loaded topics against the tables behind them, with the relay at work."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import httpx
import pytest

from listeners.attached_rows import AttachedRows
from listeners.keys import Keys
from listeners.loader import TopicLoader
from listeners.pool import create_pool
from listeners.redis_client import connect_redis
from listeners.relay import Relay, RelaySettings
from listeners.topic_store import TopicStore
from listeners.verifier import Outcome, Verifier
from protocol.topics import parse_topic
from tests.support.gateway import running_gateway
from tests.support.ports import free_port
from tests.support.processes import START_S, serving
from tests.support.waiting import eventually
from tests.support.watcher import database_copy, watching

QUICK = RelaySettings(canary_ms=50, save_ms=50, seen_ms=500)
TOPICS = ("location:L1", "product:P1", "vendor:V1")


@pytest.fixture
async def shop(pg: asyncpg.Connection) -> asyncpg.Connection:
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V1', 'Vendor');
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V1', 'One'), ('L2', 'V1', 'Two');
        INSERT INTO products (product_id, vendor_id, sku, name, price_minor)
            SELECT 'P' || n, 'V1', 'S' || n, 'Product ' || n, 100 * n FROM generate_series(1, 5) n;
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
            SELECT 'P' || n, 'L' || l, 'V1', 1000 FROM generate_series(1, 5) n, generate_series(1, 2) l;
        """
    )
    return pg


class Setup:
    """A relay that reigns, a replica's loader, and the verifier."""

    def __init__(self, dsn: str, store: TopicStore, keys: Keys, redis: Any, pool: Any) -> None:
        self.store, self.keys, self.redis = store, keys, redis
        self.loader = TopicLoader(store, AttachedRows(), pool)
        self.relay = Relay(dsn=dsn, store=store, settings=QUICK)
        self.verifier = Verifier(
            store,
            AttachedRows(),
            pool,
            verify_s=1.0,
            as_of_ms=lambda: self.relay.statistics().beat_as_of_ms,
            active=lambda: self.relay.statistics().active,
        )

    async def load(self, name: str) -> str:
        """Returns the epoch."""
        return (await self.loader.ensure(parse_topic(name))).epoch

    async def verify(self, name: str) -> Outcome:
        return await self.verifier.verify(parse_topic(name))

    async def bodies(self, name: str) -> dict[str, bytes]:
        stored = await self.store.read(name)
        assert stored is not None
        return {item.key: item.body for item in stored.items if not item.deleted}

    async def caught_up(self) -> None:
        """A canary sung after this call has come."""
        beat = self.relay.statistics().beat
        await eventually(lambda: self.relay.statistics().beat > beat + 1)


@pytest.fixture
async def setup(
    shop: asyncpg.Connection, database_url: str, redis_url: str, redis_prefix: str
) -> AsyncIterator[Setup]:
    pool, client, keys = await create_pool(database_url), connect_redis(redis_url), Keys(redis_prefix)
    made = Setup(database_url, TopicStore(client, keys), keys, client, pool)
    relaying = asyncio.create_task(made.relay.run())
    try:
        await eventually(lambda: made.relay.statistics().beat > 0, timeout_s=15)
        yield made
    finally:
        relaying.cancel()
        with suppress(asyncio.CancelledError):
            await relaying
        pool.terminate()
        await client.aclose()


@asynccontextmanager
async def no_triggers(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """As a logical replication worker writes."""
    await connection.execute("SET session_replication_role = replica")
    try:
        yield
    finally:
        await connection.execute("RESET session_replication_role")


class TestEqualTopics:
    async def test_are_verified_and_stay(self, setup: Setup) -> None:
        epochs = {name: await setup.load(name) for name in TOPICS}
        assert [await setup.verify(name) for name in TOPICS] == [Outcome.VERIFIED] * 3
        assert {name: await setup.load(name) for name in TOPICS} == epochs

    async def test_also_what_the_relay_has_changed_since(
        self, setup: Setup, shop: asyncpg.Connection
    ) -> None:
        """The bodies made from the log are those made from the tables."""
        for name in TOPICS:
            await setup.load(name)
        await shop.execute("UPDATE inventory SET on_hand = on_hand - 1, low_stock_at = 7")
        await shop.execute("UPDATE products SET price_minor = price_minor + 1, name = 'Käse \"x\"'")
        await shop.execute("DELETE FROM inventory WHERE product_id = 'P2'")
        await shop.execute(
            "INSERT INTO products (product_id, vendor_id, sku, name) VALUES ('N', 'V1', 'n', 'New')"
        )
        await shop.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('N', 'L1', 'V1', 1)"
        )
        await setup.caught_up()
        assert [await setup.verify(name) for name in TOPICS] == [Outcome.VERIFIED] * 3

    async def test_one_with_a_product_left_over(self, setup: Setup, shop: asyncpg.Connection) -> None:
        await setup.load("location:L1")
        await shop.execute("DELETE FROM inventory WHERE product_id = 'P1' AND location_id = 'L1'")
        await setup.caught_up()
        assert "product:P1" in await setup.bodies("location:L1")
        assert await setup.verify("location:L1") is Outcome.VERIFIED

    async def test_are_never_taken_for_wrong_while_everything_changes(
        self, setup: Setup, database_url: str
    ) -> None:
        rolls = random.Random(7)
        for name in TOPICS:
            await setup.load(name)

        async def write() -> None:
            connection = await asyncpg.connect(database_url)
            try:
                while True:
                    for statement in rolls.sample(_WRITES, 3):
                        await connection.execute(statement.format(n=rolls.randint(1, 5)))
            finally:
                await connection.close()

        async with asyncio.TaskGroup() as group:
            writers = [group.create_task(write()) for _ in range(2)]
            for _ in range(8):
                for name in TOPICS:
                    await setup.load(name)
                    await setup.verify(name)
            for writer in writers:
                writer.cancel()
        statistics = setup.verifier.statistics()
        assert (statistics.mismatches, statistics.failures) == (0, 0)
        assert statistics.moved > 0, "nothing was under way, so this has shown nothing"
        await setup.caught_up()
        for name in TOPICS:
            await setup.load(name)
            assert await setup.verify(name) is Outcome.VERIFIED


_WRITES = (
    "UPDATE inventory SET on_hand = on_hand - 1 WHERE product_id = 'P{n}'",
    "UPDATE inventory SET reserved = reserved + 1 WHERE product_id = 'P{n}' AND location_id = 'L1'",
    "UPDATE products SET price_minor = price_minor + 1 WHERE product_id = 'P{n}'",
    "DELETE FROM inventory WHERE product_id = 'P{n}' AND location_id = 'L1'",
    (
        "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)"
        " VALUES ('P{n}', 'L1', 'V1', 1000)"
        " ON CONFLICT (product_id, location_id) DO UPDATE SET on_hand = 1000"
    ),
    "UPDATE locations SET active = NOT active WHERE location_id = 'L2' AND {n} = 1",
)


class TestWritesPastTheTriggers:
    @pytest.mark.parametrize(
        "write",
        [
            "UPDATE inventory SET on_hand = 77 WHERE product_id = 'P1' AND location_id = 'L1'",
            "DELETE FROM inventory WHERE product_id = 'P1' AND location_id = 'L1'",
            "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('N', 'L1', 'V1', 5)",
            "UPDATE products SET price_minor = 1 WHERE product_id = 'P1'",
        ],
        ids=["update", "delete", "insert", "product"],
    )
    async def test_end_the_epoch_and_are_in_the_next(
        self, setup: Setup, shop: asyncpg.Connection, write: str
    ) -> None:
        await shop.execute(
            "INSERT INTO products (product_id, vendor_id, sku, name) VALUES ('N', 'V1', 'n', 'New')"
        )
        await setup.caught_up()
        epoch = await setup.load("location:L1")
        before = await setup.bodies("location:L1")
        async with no_triggers(shop):
            await shop.execute(write)
        await setup.caught_up()
        assert await setup.bodies("location:L1") == before
        assert await setup.verify("location:L1") is Outcome.MISMATCH
        assert await setup.store.peek("location:L1") is None
        assert await setup.load("location:L1") != epoch
        assert await setup.bodies("location:L1") != before
        assert await setup.verify("location:L1") is Outcome.VERIFIED

    async def test_are_found_in_a_topic_that_never_rests(
        self, setup: Setup, shop: asyncpg.Connection, database_url: str
    ) -> None:
        await setup.load("vendor:V1")
        async with no_triggers(shop):
            await shop.execute("UPDATE inventory SET on_hand = 77 WHERE product_id = 'P1'")

        async def sell() -> None:
            connection = await asyncpg.connect(database_url)
            try:
                while True:
                    await connection.execute(
                        "UPDATE inventory SET on_hand = on_hand - 1 WHERE product_id = 'P2'"
                    )
            finally:
                await connection.close()

        async with asyncio.TaskGroup() as group:
            selling = group.create_task(sell())
            await eventually(lambda: setup.relay.statistics().published > 3)
            assert await setup.verify("vendor:V1") is Outcome.MISMATCH
            selling.cancel()


class TestTheStore:
    async def test_a_value_that_somebody_changed_there_is_found(self, setup: Setup) -> None:
        await setup.load("product:P1")
        key = setup.keys.topic("product:P1")
        value = await setup.redis.hget(key, "stock:P1:L1")
        await setup.redis.hset(key, "stock:P1:L1", value.replace(b'"on_hand":1000', b'"on_hand":1001'))
        assert await setup.verify("product:P1") is Outcome.MISMATCH
        await setup.load("product:P1")
        assert await setup.verify("product:P1") is Outcome.VERIFIED

    async def test_an_item_that_was_lost_there_is_found(self, setup: Setup) -> None:
        await setup.load("product:P1")
        await setup.redis.hdel(setup.keys.topic("product:P1"), "stock:P1:L2")
        assert await setup.verify("product:P1") is Outcome.MISMATCH

    async def test_a_topic_that_nobody_watches_does_not_live_on(self, setup: Setup) -> None:
        await setup.load("product:P1")
        await setup.redis.expire(setup.keys.topic("product:P1"), 5)
        assert await setup.verify("product:P1") is Outcome.VERIFIED
        assert await setup.redis.ttl(setup.keys.topic("product:P1")) <= 5


async def test_clients_get_what_was_written_past_the_triggers(
    shop: asyncpg.Connection, database_url: str, redis_url: str, redis_prefix: str
) -> None:
    settings = {"verify_s": 2, "canary_ms": 100}
    async with running_gateway(database_url, redis_url, redis_prefix, **settings) as gateway:
        await eventually(gateway.is_ready, timeout_s=15)
        async with watching(gateway.url, ["location:L1"]) as client:
            await eventually(lambda: client.is_complete("location:L1"))
            async with no_triggers(shop):
                await shop.execute("UPDATE inventory SET on_hand = 77 WHERE product_id = 'P1'")
            expected = await database_copy(shop, "location:L1")
            await eventually(lambda: client.equals("location:L1", expected), timeout_s=20)
        async with httpx.AsyncClient(base_url=gateway.ops_url, trust_env=False) as http:
            assert "gateway_mismatches_total 1.0" in (await http.get("/metrics")).text.splitlines()


async def test_the_relay_command_verifies_as_well(
    shop: asyncpg.Connection, database_url: str, redis_url: str, redis_prefix: str
) -> None:
    settings = {"database_url": database_url, "redis_url": redis_url, "redis_prefix": redis_prefix}
    ops = f"127.0.0.1:{free_port()}"
    client = connect_redis(redis_url)
    pool = await create_pool(database_url)
    try:
        async with serving("relay", "--ops-listen", ops, **settings, verify_s=1) as served:
            served.ops_url = f"http://{ops}"
            await eventually(lambda: served.metric("gateway_relay_active 1.0"), timeout_s=START_S)
            loader = TopicLoader(TopicStore(client, Keys(redis_prefix)), AttachedRows(), pool)
            await loader.ensure(parse_topic("vendor:V1"))

            async def verified() -> bool:
                answer = await served.ops("/metrics")
                values = re.findall(
                    r"^gateway_verified_total (\S+)$", answer.text if answer else "", re.MULTILINE
                )
                return [float(value) > 0 for value in values] == [True]

            await eventually(verified, timeout_s=START_S)
            assert await served.stop() == 0
    finally:
        pool.terminate()
        await client.aclose()
    assert not served.events("verifying failed")
