"""Links that die in silence: nothing errors, nothing is closed, and nothing arrives any more.

The parts of one relay have proxies of their own here, so that each flow can be lost alone. Another relay,
whose links are well, takes over. All timers have their defaults.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest

from listeners import generation
from listeners.attached_rows import AttachedRows
from listeners.election import Election
from listeners.errors import Unavailable
from listeners.keys import Keys
from listeners.loader import TopicLoader
from listeners.pool import create_pool
from listeners.postgres import TRANSIENT_ERRORS, connect, connected
from listeners.redis_bus import RedisBus
from listeners.redis_client import connect_redis
from listeners.relay import Relay
from listeners.retention import clear_leaf
from listeners.topic_store import MustLoad, TopicStore
from protocol.topics import parse_topic
from tests.faults.ledger import Fault, injected
from tests.support.link_counter import LinkCounter
from tests.support.proxy import TcpProxy, proxied
from tests.support.running import running
from tests.support.waiting import eventually

# Noticed, and another relay active.
PROMISED_S: Final = 5.0
TOPIC: Final = "product:A"
ITEM: Final = "stock:A:L1"
ANOTHER_LEAF: Final = "SELECT (extract(epoch FROM clock_timestamp())::bigint / 3600 + 4) % 8"


@pytest.fixture
async def shop(pg: Any) -> Any:
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');
        INSERT INTO products (product_id, vendor_id, sku, name, price_minor)
            VALUES ('A', 'V', 'a', 'Apple', 1);
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'One');
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand) VALUES ('A', 'L1', 'V', 1);
        """
    )
    return pg


class Stand:
    """A relay behind proxies, another that is well, a writer, and a copy that is checked."""

    def __init__(self, database_url: str, redis_url: str, prefix: str) -> None:
        self.links: dict[str, TcpProxy] = {}
        self.database_url = database_url
        self._redis_url = redis_url
        self._keys = Keys(prefix)
        self._held = 0

    @asynccontextmanager
    async def put_up(self) -> AsyncIterator["Stand"]:
        async with AsyncExitStack() as put:
            urls = {}
            for name in ("lock", "reader", "keeper", "redis"):
                url = self._redis_url if name == "redis" else self.database_url
                self.links[name], urls[name] = await put.enter_async_context(proxied(url))
            self.store = await self._store(put, self._redis_url)
            self.relay = Relay(
                dsn=urls["keeper"],
                listener_dsn=urls["reader"],
                store=await self._store(put, urls["redis"]),
            )
            self.relay._election = Election(urls["lock"])
            self.other = Relay(dsn=self.database_url, store=self.store)
            await put.enter_async_context(running(self.relay.run()))
            await eventually(lambda: self.relay.statistics().beat > 1, timeout_s=10)
            self.term = self.relay.statistics().term
            await put.enter_async_context(running(self.other.run()))
            await put.enter_async_context(connected(self.database_url, purpose="shop"))
            await self._load()
            await put.enter_async_context(running(self._sample()))
            yield self

    async def _store(self, put: AsyncExitStack, url: str) -> TopicStore:
        client = connect_redis(url)
        put.push_async_callback(client.aclose)
        return TopicStore(client, self._keys)

    async def _load(self) -> None:
        opened = await self.store.open(TOPIC)
        if isinstance(opened, MustLoad):
            await self.store.merge(TOPIC, opened.epoch, [])
            await self.store.ready(TOPIC, opened.epoch)

    async def version(self) -> int:
        """Of the item in Redis; 0 while there is none. It never goes back."""
        stored = await self.store.read(TOPIC)
        versions = [item.version for item in stored.items if item.key == ITEM] if stored else []
        found = max(versions, default=0)
        assert found >= self._held, f"version {self._held} went back to {found}"
        self._held = found
        return found

    async def _sample(self) -> None:
        while True:
            await self.version()
            await asyncio.sleep(0.05)

    async def taken_over(self, fault: Fault, *, since: float | None = None) -> None:
        """In time, counted from `since` or else from the beginning; by either of them: new links are well."""
        await eventually(self._reigns_anew, timeout_s=40)
        fault.noticed()
        took_s = time.monotonic() - (since or fault.began)
        await self._load()  # a new generation has made it void
        async with connected(self.database_url, purpose="shop") as shop:
            await shop.execute("UPDATE inventory SET on_hand = on_hand + 1")
            sold = await shop.fetchval("SELECT version FROM inventory")
        await eventually(lambda: self._holds(sold), timeout_s=10)
        fault.recovered()
        assert took_s <= PROMISED_S + fault.late_s, f"{fault.kind}: taken over after {took_s:.1f} s"

    def _reigns_anew(self) -> bool:
        return any(
            relay.statistics().active and relay.statistics().term > self.term
            for relay in (self.relay, self.other)
        )

    async def _holds(self, version: int) -> bool:
        return await self.version() == version


@pytest.fixture
async def stand(database_url: str, redis_url: str, redis_prefix: str, shop: Any) -> AsyncIterator[Stand]:
    async with Stand(database_url, redis_url, redis_prefix).put_up() as stand:
        yield stand


@pytest.mark.parametrize("lost", [["lock"], ["reader"], ["keeper"], ["redis"], ["lock", "reader", "keeper"]])
async def test_a_flow_of_the_relay(stand: Stand, lost: list[str]) -> None:
    with injected(f"relay's {', '.join(lost)}: black hole", promised_s=PROMISED_S) as fault:
        for name in lost:
            stand.links[name].black_hole()
        await stand.taken_over(fault)


@pytest.mark.parametrize("break_link", ["black_hole", "freeze"])
async def test_the_bus_of_a_replica(redis_url: str, redis_prefix: str, break_link: str) -> None:
    heard = LinkCounter()
    async with proxied(redis_url) as (proxy, url), running(RedisBus(url, Keys(redis_prefix)).run(heard)):
        await eventually(lambda: heard.restorations == 1)
        kind = break_link.replace("_", " ")
        with injected(f"replica's bus: {kind}", promised_s=PROMISED_S) as fault:
            getattr(proxy, break_link)()
            await eventually(lambda: heard.losses == 1, timeout_s=PROMISED_S)
            fault.noticed()
            proxy.heal()
            fault.ended()
            await eventually(lambda: heard.restorations == 2, timeout_s=PROMISED_S)
            fault.recovered()


class TestALongRead:
    """Another session holds a leaf of the log, which nobody writes to: the reader waits, and rightly so."""

    async def test_is_waited_for_and_noticed_when_its_answer_is_lost(self, stand: Stand) -> None:
        async with connected(stand.database_url, purpose="holder") as holder:
            leaf = await holder.fetchval(ANOTHER_LEAF)
            with injected("relay's reader: black hole in a long read", promised_s=PROMISED_S) as fault:
                async with holder.transaction():
                    await holder.execute(f"LOCK TABLE gateway.change_log_{leaf} IN ACCESS EXCLUSIVE MODE")
                    reads = stand.relay.statistics().reads
                    await asyncio.sleep(PROMISED_S + 1)
                    assert stand.relay.statistics().active, "a slow read is no fault"
                    assert stand.relay.statistics().reads <= reads + 1
                    stand.links["reader"].black_hole()
                freed = time.monotonic()
                fault.ended()
                await stand.taken_over(fault, since=freed)

    async def test_that_ends_well_is_no_fault(self, stand: Stand) -> None:
        async with connected(stand.database_url, purpose="holder") as holder:
            leaf = await holder.fetchval(ANOTHER_LEAF)
            async with holder.transaction():
                await holder.execute(f"LOCK TABLE gateway.change_log_{leaf} IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(PROMISED_S)
            beat = stand.relay.statistics().beat
            await eventually(lambda: stand.relay.statistics().beat > beat)
            assert (stand.relay.statistics().reigns, stand.relay.statistics().failures) == (1, 0)


class TestTheRestOfATransaction:
    """A relay that freezes in the middle of one holds what the next one needs."""

    async def test_of_adopting_a_database_is_ended_by_the_server(
        self, stand: Stand, shop: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        adopting = asyncio.Event()

        async def freeze(connection: Any, **_: Any) -> None:
            # As if the process had frozen here, all its links with it.
            adopting.set()
            for name in ("lock", "reader", "keeper"):
                stand.links[name].black_hole()
            await connection.fetchval("SELECT 1")

        with injected("relay: vanishes while it adopts the database") as fault:
            monkeypatch.setattr(generation, "skip_to_now", freeze)
            await shop.execute("DELETE FROM gateway.alive")
            await asyncio.wait_for(adopting.wait(), 10)
            monkeypatch.undo()
            vanished = time.monotonic()
            fault.ended()
            await stand.taken_over(fault, since=vanished)

    async def test_of_emptying_a_leaf_is_ended_by_the_server(self, database_url: str, shop: Any) -> None:
        class Frozen:
            """A connection whose link dies once the leaf is locked."""

            def __init__(self, connection: Any, proxy: TcpProxy) -> None:
                self._connection = connection
                self._proxy = proxy
                self.transaction = connection.transaction
                self.execute = connection.execute
                self.terminate = connection.terminate

            async def fetchval(self, *arguments: Any) -> Any:
                self._proxy.black_hole()
                return await self._connection.fetchval(*arguments, timeout=0.1)

        leaf = f"change_log_{await shop.fetchval(ANOTHER_LEAF)}"
        snapshot = await shop.fetchval("SELECT pg_current_snapshot()::text")
        async with proxied(database_url) as (proxy, url):
            keeping = await connect(url, purpose="keeper")
            with injected(
                "relay: vanishes while it empties a leaf of the log", promised_s=PROMISED_S
            ) as fault:
                clearing = asyncio.create_task(clear_leaf(Frozen(keeping, proxy), leaf, snapshot))
                await eventually(lambda: _is_locked(shop, leaf))
                fault.noticed()
                await shop.execute(f"SET lock_timeout = '10s'; SELECT FROM gateway.{leaf} LIMIT 0")
                fault.recovered()
            keeping.terminate()
            await asyncio.wait([clearing])
            assert isinstance(clearing.exception(), TRANSIENT_ERRORS)


async def _is_locked(shop: Any, leaf: str) -> bool:
    try:
        await shop.execute(f"SET lock_timeout = '10ms'; SELECT FROM gateway.{leaf} LIMIT 0")
    except asyncpg.LockNotAvailableError:
        return True
    return False


class Loading:
    def __init__(self, database_url: str, proxy: TcpProxy, loader: TopicLoader) -> None:
        self.database_url = database_url
        self.proxy = proxy
        self._loader = loader

    async def loads(self, topic: str) -> None:
        await self._loader.ensure(parse_topic(topic))


@pytest.fixture
async def warm(database_url: str, redis_url: str, redis_prefix: str, shop: Any) -> AsyncIterator[Loading]:
    """A loader whose pool is full of connections that lie idle, some of them for longer than a second."""
    async with AsyncExitStack() as put:
        proxy, url = await put.enter_async_context(proxied(database_url))
        client = connect_redis(redis_url)
        put.push_async_callback(client.aclose)
        store = TopicStore(client, Keys(redis_prefix))
        relay = Relay(dsn=database_url, store=store)
        await put.enter_async_context(running(relay.run()))
        pool = await create_pool(url, purpose="loader", timeout_s=2.0)
        put.callback(pool.terminate)
        await put.enter_async_context(running(pool.watch()))
        await asyncio.gather(*(pool.execute("SELECT pg_sleep(0.1)") for _ in range(8)))
        await asyncio.sleep(1.1)
        await eventually(lambda: relay.statistics().beat > 0, timeout_s=10)
        yield Loading(database_url, proxy, TopicLoader(store, AttachedRows(), pool))


class TestALoad:
    """Of a topic, through the pool that everybody shares."""

    async def test_goes_on_when_idle_connections_died(self, warm: Loading) -> None:
        with injected("loader's idle connections: black hole", promised_s=PROMISED_S) as fault:
            warm.proxy.black_hole()
            await warm.loads("product:A")
            fault.noticed()
            fault.recovered()

    async def test_is_given_up_in_time_in_the_middle(self, warm: Loading) -> None:
        """Its statement waits for a lock, and its link dies meanwhile; somebody asks for the topic again."""
        with injected("loader's link: black hole in the middle of a load", promised_s=PROMISED_S) as fault:
            async with connected(warm.database_url, purpose="shop") as holder, holder.transaction():
                await holder.execute("LOCK TABLE inventory IN ACCESS EXCLUSIVE MODE")
                loading = asyncio.create_task(warm.loads("product:A"))
                await eventually(lambda: _somebody_waits(warm.database_url))
                warm.proxy.black_hole()
            with pytest.raises(Unavailable):
                await loading
            fault.noticed()
            await warm.loads("product:A")
            fault.recovered()

    async def test_is_given_up_in_time_when_the_server_freezes(self, warm: Loading) -> None:
        with injected("loader's link: freeze before a load") as fault:
            warm.proxy.freeze()
            with pytest.raises(Unavailable) as told:
                await warm.loads("product:A")
            assert told.value.retry_after_ms > 0
            fault.noticed()
            assert fault.detection_s is not None
            assert fault.detection_s <= PROMISED_S + fault.late_s
            warm.proxy.thaw()
            fault.ended()
            await warm.loads("product:A")
            fault.recovered()


async def _somebody_waits(database_url: str) -> bool:
    async with connected(database_url, purpose="shop") as shop:
        return bool(await shop.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0)
