import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

from listeners.attach import attach, attached, detach
from listeners.canary import sing
from listeners.embedded import PostgresServer, ValkeyServer
from listeners.errors import Refused
from listeners.generation import renew_nonce
from listeners.keys import BUCKETS, Keys
from listeners.migrations import migrate
from listeners.postgres import connected
from listeners.redis_client import connect_redis
from listeners.relay import Relay, RelaySettings, RelayStatistics
from listeners.topic_store import Applied, LogItem, MustLoad, TopicStore
from protocol.envelope import Beat, Changed, NewGeneration, decode_envelope
from tests.support.databases import with_database
from tests.support.proxy import proxied
from tests.support.waiting import eventually

QUICK = RelaySettings(canary_ms=100, save_ms=50, probe_timeout_ms=500, seen_ms=200, truncate_ms=200)


@pytest.fixture
async def shop(pg: Any) -> Any:
    """Two products of one vendor at two locations: A at both, B at L1."""
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');
        INSERT INTO products (product_id, vendor_id, sku, name, price_minor)
            VALUES ('A', 'V', 'a', 'Apple', 100), ('B', 'V', 'b', 'Bread', 200);
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'One'), ('L2', 'V', 'Two');
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
            VALUES ('A', 'L1', 'V', 9999), ('A', 'L2', 'V', 7), ('B', 'L1', 'V', 7);
        """
    )
    return pg


@dataclass
class Topics:
    """The topic store, as replicas use it."""

    store: TopicStore
    keys: Keys
    client: Any

    async def load(self, *names: str) -> None:
        """As empty ones: what is read from the log shows."""
        for name in names:
            opened = await self.store.open(name)
            assert isinstance(opened, MustLoad)
            await self.store.merge(name, opened.epoch, [])
            await self.store.ready(name, opened.epoch)

    async def items(self, name: str) -> dict[str, int]:
        """Key and version of what is alive."""
        stored = await self.store.read(name)
        assert stored is not None, f"{name} is not loaded"
        return {item.key: item.version for item in stored.items if not item.deleted}

    async def void(self, name: str) -> bool:
        return await self.store.read(name) is None


@pytest.fixture
async def topics(redis_url: str, redis_prefix: str) -> AsyncIterator[Topics]:
    client = connect_redis(redis_url)
    keys = Keys(redis_prefix)
    yield Topics(TopicStore(client, keys), keys, client)
    await client.aclose()


@asynccontextmanager
async def running(relay: Relay, *, reigning: bool = True) -> AsyncIterator[Relay]:
    """The relay in a task of its own; the block begins when the first canary has come through."""
    task = asyncio.create_task(relay.run())
    try:
        if reigning:
            await eventually(lambda: task.done() or relay.statistics().beat > 0, timeout_s=10)
            assert not task.done(), task.exception()
        yield relay
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def make(dsn: str, topics: Topics, settings: RelaySettings = QUICK) -> Relay:
    return Relay(dsn=dsn, store=topics.store, settings=settings)


@pytest.fixture
async def relay(database_url: str, shop: Any, topics: Topics) -> AsyncIterator[Relay]:
    async with running(make(database_url, topics)) as relay:
        yield relay


async def version(pg: Any, product: str, location: str | None = None) -> int:
    if location is None:
        found = await pg.fetchval("SELECT version FROM products WHERE product_id = $1", product)
    else:
        found = await pg.fetchval(
            "SELECT version FROM inventory WHERE product_id = $1 AND location_id = $2", product, location
        )
    assert isinstance(found, int)
    return found


async def sell(pg: Any, product: str = "A", location: str = "L1") -> int:
    """Returns the row's new version."""
    await pg.execute(
        "UPDATE inventory SET on_hand = on_hand - 1 WHERE product_id = $1 AND location_id = $2",
        product,
        location,
    )
    return await version(pg, product, location)


class TestTheWayOfAChange:
    async def test_an_update_becomes_a_message(
        self, relay: Relay, shop: Any, topics: Topics, redis: Any
    ) -> None:
        await topics.load("location:L1")
        async with redis.pubsub() as channel:
            await channel.subscribe(topics.keys.channel("location:L1"))
            sold = await sell(shop)
            message: Any = None
            while message is None:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=5)
        change = decode_envelope(message["data"])
        assert isinstance(change, Changed)
        assert [(item.key, item.version) for item in change.items] == [("stock:A:L1", sold)]
        assert b'"on_hand":9998' in change.items[0].body
        at = await shop.fetchval("SELECT extract(epoch FROM clock_timestamp()) * 1000")
        assert 0 <= at - change.changed_at_ms < 5000

    async def test_every_topic_of_a_row_hears_of_it(self, relay: Relay, shop: Any, topics: Topics) -> None:
        names = ("product:A", "location:L1", "location:L2", "vendor:V")
        await topics.load(*names)
        await shop.execute("UPDATE products SET price_minor = 101 WHERE product_id = 'A'")
        price = await version(shop, "A")
        for name in names:
            await eventually(partial(_holds, topics, name, {"product:A": price}))

    async def test_new_stock_brings_its_product_and_deleted_stock_goes(
        self, relay: Relay, shop: Any, topics: Topics
    ) -> None:
        await topics.load("location:L2")
        await shop.execute(
            "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('B', 'L2', 'V', 1)"
        )
        both = {"stock:B:L2": await version(shop, "B", "L2"), "product:B": await version(shop, "B")}
        await eventually(lambda: _holds(topics, "location:L2", both))
        await shop.execute("DELETE FROM inventory WHERE product_id = 'B' AND location_id = 'L2'")
        await eventually(lambda: _holds(topics, "location:L2", {"product:B": both["product:B"]}))

    async def test_a_changed_location_voids_what_it_feeds(
        self, relay: Relay, shop: Any, topics: Topics
    ) -> None:
        fed = ("location:L2", "product:A", "vendor:V")
        await topics.load(*fed, "product:B", "location:L1")
        await shop.execute("UPDATE locations SET active = false WHERE location_id = 'L2'")
        for name in fed:
            await eventually(partial(topics.void, name))
        assert not await topics.void("product:B")
        assert not await topics.void("location:L1")
        assert relay.statistics().voided == 3

    async def test_a_large_backlog_is_read_in_pages(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        async with running(make(database_url, topics, replace(QUICK, page_rows=50))) as relay:
            await topics.load("location:L1")
            await shop.execute(
                """
                INSERT INTO products (product_id, vendor_id, name) SELECT 'P' || n, 'V', 'n'
                FROM generate_series(1, 500) n;
                INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
                SELECT 'P' || n, 'L1', 'V', n FROM generate_series(1, 500) n;
                """
            )
            stock = await shop.fetch("SELECT product_id, version FROM inventory WHERE product_id LIKE 'P%'")
            products = await shop.fetch("SELECT product_id, version FROM products WHERE product_id LIKE 'P%'")
            expected = {f"stock:{name}:L1": number for name, number in stock}
            expected |= {f"product:{name}": number for name, number in products}
            await eventually(lambda: _holds(topics, "location:L1", expected), timeout_s=20)
            await eventually(lambda: relay.statistics().rows_read == 1000)
            assert relay.statistics().batches > 20


class NotingStore(TopicStore):
    """Notes which items had been applied when the first beat went out."""

    before_the_beat: frozenset[str] = frozenset()
    beaten = False

    async def apply(
        self, changes: Mapping[str, Sequence[LogItem]], *, generation: str, term: int, changed_at_ms: int
    ) -> Applied:
        applied = await super().apply(changes, generation=generation, term=term, changed_at_ms=changed_at_ms)
        if not self.beaten:
            self.before_the_beat |= {item.key for items in changes.values() for item, _ in items}
        return applied

    async def beat(self, beat: Beat, *, term: int) -> None:
        self.beaten = True
        await super().beat(beat, term=term)


class TestTheBeat:
    async def test_of_a_backlog_waits_for_the_pages_behind_its_row(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        """They hold what was committed before it: ids do not follow the order of commits."""
        async with running(make(database_url, topics)):
            pass
        stock = (
            "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)"
            " SELECT product_id, 'L1', 'V', 1 FROM products WHERE product_id LIKE $1"
        )
        async with shop.transaction():
            await shop.execute(
                "INSERT INTO products (product_id, vendor_id, name)"
                " SELECT half || n, 'V', 'n' FROM generate_series(1, 40) n, unnest('{C,D}'::text[]) half"
            )
            await shop.execute(stock, "C%")
            await sing(shop)
            await shop.execute(stock, "D%")
        store = NotingStore(topics.client, topics.keys)
        settings = replace(QUICK, page_rows=20)
        async with running(Relay(dsn=database_url, store=store, settings=settings)):
            assert {f"stock:D{n}:L1" for n in range(1, 41)} <= store.before_the_beat


async def _holds(topics: Topics, name: str, expected: dict[str, int]) -> bool:
    return await topics.items(name) == expected


class TestWakingUp:
    async def test_it_sleeps_and_is_notified(self, relay: Relay, shop: Any, topics: Topics) -> None:
        await eventually(lambda: relay.statistics().state == "asleep")
        assert await shop.fetchval("SELECT relay_asleep FROM gateway.control")
        await topics.load("product:A")
        before = relay.statistics().notifications
        sold = await sell(shop)
        await eventually(lambda: _holds(topics, "product:A", {"stock:A:L1": sold}))
        assert relay.statistics().notifications == before + 1

    async def test_many_changes_make_it_poll_and_the_writers_silent(
        self, relay: Relay, shop: Any, topics: Topics
    ) -> None:
        await topics.load("product:A")

        async def sell_until(condition: Callable[[], bool]) -> None:
            while not condition():
                await sell(shop)

        async with asyncio.timeout(20):
            await sell_until(lambda: relay.statistics().state == "busy")
        await eventually(lambda: _is(shop, "SELECT relay_asleep FROM gateway.control", False))
        notified = relay.statistics().notifications
        sold = await sell(shop)
        await eventually(lambda: _holds(topics, "product:A", {"stock:A:L1": sold}))
        assert relay.statistics().notifications == notified
        await eventually(lambda: relay.statistics().state == "asleep", timeout_s=10)
        assert await shop.fetchval("SELECT relay_asleep FROM gateway.control")

    async def test_a_writer_that_may_not_have_heard_keeps_it_polling(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        async with AsyncExitStack() as stack:
            async with shop.transaction():
                await shop.execute("UPDATE vendors SET name = 'open' WHERE vendor_id = 'V'")
                relay = await stack.enter_async_context(running(make(database_url, topics)))
                await eventually(lambda: relay.statistics().reads > 20)
                assert relay.statistics().state == "drowsy"
            await eventually(lambda: relay.statistics().state == "asleep")

    async def test_without_notifications_it_only_polls(self, relay: Relay, shop: Any, topics: Topics) -> None:
        await shop.execute("UPDATE gateway.control SET notify = 'off'")
        await eventually(lambda: relay.statistics().state == "polling")
        await eventually(lambda: _is(shop, "SELECT relay_asleep FROM gateway.control", False))
        await topics.load("product:A")
        sold = await sell(shop)
        await eventually(lambda: _holds(topics, "product:A", {"stock:A:L1": sold}))
        assert relay.statistics().reigns == 2


async def _is(connection: Any, query: str, value: object) -> bool:
    return bool(await connection.fetchval(query) == value)


def generation(statistics: RelayStatistics, other_than: str) -> bool:
    return statistics.active and statistics.generation != other_than and statistics.reigns > 1


class TestANewGeneration:
    @pytest.mark.parametrize(
        "event",
        [
            "UPDATE gateway.control SET nonce = 'resync'",
            "DELETE FROM gateway.alive",
            "SELECT nextval('gateway.loss_seq')",
            "TRUNCATE inventory",
        ],
        ids=["resync", "crash", "loss", "truncate"],
    )
    async def test_begins_and_voids_every_topic(
        self, relay: Relay, shop: Any, topics: Topics, redis: Any, event: str
    ) -> None:
        first = relay.statistics().generation
        await topics.load("product:A")
        async with redis.pubsub() as channel:
            await channel.subscribe(topics.keys.beacon(0))
            await shop.execute(event)
            await eventually(lambda: generation(relay.statistics(), first))
            second = relay.statistics().generation
            told: list[str] = []
            while second not in told:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=5)
                envelope = decode_envelope(message["data"]) if message else None
                if isinstance(envelope, NewGeneration):
                    told.append(envelope.generation)
        assert await topics.void("product:A")
        await topics.load("product:B")
        await shop.execute("UPDATE products SET price_minor = 5 WHERE product_id = 'B'")
        await eventually(lambda: _holds_key(topics, "product:B", "product:B"))

    async def test_begins_when_a_backup_was_restored(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        async with running(make(database_url, topics)) as relay:
            first = relay.statistics().generation
            await topics.load("product:A")
            await sell(shop)
            await eventually(lambda: _moved(shop, 2))
        await shop.execute("UPDATE gateway.position SET counter = 0")
        async with running(make(database_url, topics)) as relay:
            assert relay.statistics().generation != first
            assert await topics.void("product:A")
            second = relay.statistics().generation
        async with running(make(database_url, topics)) as relay:
            assert relay.statistics().generation == second, "it is recognised once"

    async def test_begins_when_files_were_put_back_though_no_position_was_saved_since(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        never = replace(QUICK, save_ms=600_000)
        async with running(make(database_url, topics)):
            pass
        copied = await shop.fetchrow("SELECT snapshot, counter, term FROM gateway.position")
        async with running(make(database_url, topics, never)) as relay:
            first = relay.statistics().generation
        await shop.execute("UPDATE gateway.position SET snapshot = $1, counter = $2, term = $3", *copied)
        async with running(make(database_url, topics)) as relay:
            assert relay.statistics().generation != first

    async def test_begins_when_the_position_goes_back_during_a_reign(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        async with running(make(database_url, topics)) as relay:
            first = relay.statistics().generation
            await shop.execute("UPDATE gateway.position SET counter = 0")
            await sell(shop)
            await eventually(lambda: relay.statistics().generation != first, timeout_s=10)

    @pytest.mark.parametrize("crash", [True, False], ids=["crash", "restart"])
    async def test_begins_after_a_crash_of_postgres_and_not_after_a_restart(
        self, private_postgres: PostgresServer, topics: Topics, crash: bool
    ) -> None:
        await migrate(private_postgres.url)
        async with running(make(private_postgres.url, topics)) as relay:
            first = relay.statistics().generation
            if crash:
                await private_postgres.kill()
            await private_postgres.restart()
            await eventually(lambda: relay.statistics().reigns > 1, timeout_s=20)
            assert (relay.statistics().generation != first) is crash

    async def test_begins_with_sources_that_come_or_go(self, relay: Relay, shop: Any, topics: Topics) -> None:
        inventory = next(source for source in await attached(shop) if source.name == "inventory")
        await topics.load("product:A")
        first = relay.statistics().generation
        await detach(shop, "inventory")
        await eventually(lambda: generation(relay.statistics(), first))
        assert await topics.void("product:A")
        second = relay.statistics().generation
        await attach(shop, inventory)
        await eventually(lambda: generation(relay.statistics(), second))
        await topics.load("product:A")
        sold = await sell(shop)
        await eventually(lambda: _holds(topics, "product:A", {"stock:A:L1": sold}))

    async def test_begins_with_another_redis(
        self, database_url: str, shop: Any, private_valkey: ValkeyServer
    ) -> None:
        client = connect_redis(private_valkey.url, timeout_s=0.5)
        topics = Topics(TopicStore(client, Keys("test")), Keys("test"), client)
        async with running(make(database_url, topics)) as relay:
            first = relay.statistics().generation
            await private_valkey.restart()
            await eventually(lambda: generation(relay.statistics(), first), timeout_s=15)
            await topics.load("product:A")
            sold = await sell(shop)
            await eventually(lambda: _holds(topics, "product:A", {"stock:A:L1": sold}))
        await client.aclose()

    async def test_does_not_begin_when_only_the_keys_were_lost_but_topics_are_void(
        self, relay: Relay, shop: Any, topics: Topics, redis: Any
    ) -> None:
        first = relay.statistics().generation
        await topics.load("product:A")
        await redis.unlink(*(topics.keys.relay(bucket) for bucket in range(BUCKETS)))
        await eventually(lambda: relay.statistics().reigns == 2 and relay.statistics().active)
        assert relay.statistics().generation == first
        await eventually(lambda: topics.void("product:A"))


async def _holds_key(topics: Topics, name: str, key: str) -> bool:
    return key in await topics.items(name)


async def _moved(pg: Any, counter: int) -> bool:
    return bool(await pg.fetchval("SELECT counter >= $1 FROM gateway.position", counter))


class TestGoingOn:
    async def test_the_next_relay_reads_what_was_changed_meanwhile(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        async with running(make(database_url, topics)) as relay:
            await topics.load("product:A")
            await sell(shop)
            await eventually(lambda: relay.statistics().rows_read == 1)
        sold = await sell(shop)
        async with running(make(database_url, topics)) as relay:
            await eventually(lambda: _holds(topics, "product:A", {"stock:A:L1": sold}))
            assert relay.statistics().rows_read == 1, "the first change was acknowledged and saved"

    async def test_one_that_returns_skips_nothing_of_a_generation_begun_without_it(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        returning, between = make(database_url, topics), make(database_url, topics)
        async with running(returning):
            await renew_nonce(shop)
        async with running(between):
            await topics.load("product:A")
        sold = await sell(shop)
        async with running(returning):
            await eventually(lambda: _holds(topics, "product:A", {"stock:A:L1": sold}))

    async def test_a_relay_that_leaves_lets_the_next_one_in_at_once(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        candidate = make(database_url, topics)
        async with running(candidate, reigning=False):
            async with running(make(database_url, topics), reigning=False) as relay:
                await eventually(lambda: relay.statistics().beat + candidate.statistics().beat > 0)
                first, second = sorted(
                    (relay, candidate), key=lambda relay: relay.statistics().active, reverse=True
                )
                assert first.statistics().active
                assert not second.statistics().active
                assert second.statistics().state == "candidate"
            await eventually(lambda: candidate.statistics().active)

    async def test_a_terminated_backend_hands_over(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        one, two = make(database_url, topics), make(database_url, topics)
        async with running(one), running(two, reigning=False):
            await topics.load("product:A")
            await shop.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE '%relay%'"
                " AND pid <> pg_backend_pid()"
            )
            sold = await sell(shop)
            await eventually(lambda: one.statistics().active != two.statistics().active, timeout_s=10)
            await eventually(lambda: _holds(topics, "product:A", {"stock:A:L1": sold}), timeout_s=10)
            assert max(one.statistics().term, two.statistics().term) > 1

    @pytest.mark.parametrize("fault", ["cut", "freeze"])
    async def test_a_lost_link_to_postgres_is_made_again(
        self, database_url: str, shop: Any, topics: Topics, fault: str
    ) -> None:
        async with proxied(database_url) as (proxy, url), running(make(url, topics)) as relay:
            await topics.load("product:A")
            sold = await sell(shop)
            await eventually(lambda: _holds(topics, "product:A", {"stock:A:L1": sold}))
            if fault == "cut":
                proxy.cut()
            else:
                proxy.freeze()
                await eventually(lambda: not relay.statistics().active, timeout_s=10)
            sold = await sell(shop)
            proxy.thaw()
            await eventually(lambda: _holds(topics, "product:A", {"stock:A:L1": sold}), timeout_s=15)
            assert relay.statistics().reigns >= 2
            assert relay.statistics().failures >= 1

    async def test_a_later_term_ends_a_reign(self, relay: Relay, shop: Any, topics: Topics) -> None:
        await topics.load("product:A")
        await shop.execute("UPDATE gateway.position SET term = term + 1")
        await sell(shop)
        await eventually(lambda: relay.statistics().term == 3 and relay.statistics().active)

    async def test_the_triggers_are_told_that_a_relay_is_there(self, relay: Relay, shop: Any) -> None:
        await shop.execute("UPDATE gateway.control SET relay_seen_at = '2020-01-01', log_retention = '1 s'")
        recent = (
            "SELECT relay_seen_at > now() - interval '10 s' AND log_retention = '1 day' FROM gateway.control"
        )
        await eventually(lambda: _is(shop, recent, True))

    async def test_old_leaves_of_the_log_are_emptied(self, relay: Relay, shop: Any) -> None:
        slot = "((extract(epoch FROM clock_timestamp())::bigint / 3600 + 4) % 8)::smallint"
        await shop.execute(
            f"INSERT INTO gateway.change_log (slot, source, op) VALUES ({slot}, 'detached', 'U')"
        )
        await sell(shop)
        await eventually(lambda: relay.statistics().leaves_emptied == 1)
        assert await shop.fetchval("SELECT count(*) FROM gateway.change_log WHERE source = 'detached'") == 0
        assert relay.statistics().rows_skipped == 1


class BrokenStore(TopicStore):
    """Has a bug the first time."""

    failed = False

    async def remember_position(self, counter: int) -> int:
        if not self.failed:
            self.failed = True
            raise RuntimeError("a bug")
        return await super().remember_position(counter)


class TestWhatNobodyExpected:
    async def test_ends_a_reign_and_not_the_relay(self, database_url: str, shop: Any, topics: Topics) -> None:
        store = BrokenStore(topics.client, topics.keys)
        async with running(Relay(dsn=database_url, store=store, settings=QUICK)) as relay:
            assert (relay.statistics().failures, relay.statistics().reigns) == (1, 1)

    async def test_a_frozen_postgres_does_not_hold_up_the_leave(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        async with proxied(database_url) as (proxy, url):
            settings = replace(QUICK, probe_timeout_ms=5000)
            async with running(make(url, topics, settings)) as relay:
                await sell(shop)
                await eventually(lambda: relay.statistics().rows_read == 1)
                proxy.freeze()
            assert not relay.statistics().active


class TestServersThatAreNotThere:
    async def test_are_waited_for(self, database_url: str, shop: Any, topics: Topics) -> None:
        async with proxied(database_url) as (proxy, url):
            proxy.refuse()
            async with running(make(url, topics), reigning=False) as relay:
                await eventually(lambda: relay.statistics().failures >= 2)
                proxy.accept()
                await eventually(lambda: relay.statistics().beat > 0, timeout_s=10)

    async def test_that_refuse_end_the_start(self, database_url: str, topics: Topics) -> None:
        with pytest.raises(Refused, match="does not exist"):
            await make(with_database(database_url, "nowhere"), topics).run()

    async def test_that_refuse_a_candidate_who_has_waited_do_not_end_it(
        self, database_url: str, shop: Any, topics: Topics
    ) -> None:
        """Else the restore of a database would end every process that serves clients, but the relay's."""
        async with (
            running(make(database_url, topics)),
            running(make(database_url, topics), reigning=False) as candidate,
        ):
            await eventually(
                lambda: shop.fetchval(
                    "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name LIKE '%relay lock' AND query LIKE '%pg_try_advisory_lock%'"
                )
            )
            database = urlsplit(database_url).path.lstrip("/")
            async with connected(with_database(database_url, "postgres"), purpose="test") as elsewhere:
                await shop.close()
                await elsewhere.execute(f"DROP DATABASE {database} WITH (FORCE)")
                await eventually(lambda: candidate.statistics().failures >= 3)

    async def test_without_the_schema_end_the_start(self, empty_database_url: str, topics: Topics) -> None:
        with pytest.raises(Refused, match="run `migrate`"):
            await make(empty_database_url, topics).run()

    async def test_that_are_two_databases_end_the_start(
        self, database_url: str, empty_database_url: str, topics: Topics
    ) -> None:
        relay = Relay(
            dsn=database_url, listener_dsn=with_database(database_url, "postgres"), store=topics.store
        )
        with pytest.raises(Refused, match="different databases"):
            await relay.run()
