"""How much is done in one turn of the event loop, by items and not by time: the others of the process wait.

An item costs up to 20 us, so a step of STEP of them is within the 20 ms that nobody may hold the loop for.
The topics are several times as large: whoever works on one as a whole is found out.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from gateway import http_source, outgoing
from gateway.http_source import TopicSnapshots
from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from listeners import comparison, topic_query, topic_store
from listeners.attached_rows import AttachedRows
from listeners.keys import Keys
from listeners.loader import TopicLoader
from listeners.pool import create_pool
from listeners.topic_store import TopicStore
from listeners.verifier import Outcome, Verifier
from protocol import public_view
from protocol.items import Item
from protocol.principal import View
from protocol.public_view import PublicView
from protocol.topics import parse_topic
from tests.budgets.counting import Work
from tests.support.replica import Client, FakeFeed, product, stock
from tests.support.store import GENERATION, TERM, load
from tests.support.waiting import eventually

NAME = "location:L1"
TOPIC = parse_topic(NAME)
PRODUCTS = 6000
# Of a page of the store, and of what is on its way to the next step.
STEP = 2500
# The same of work that is a fraction of a microsecond: two dictionaries side by side.
LIGHT_STEP = 10_000
# What is handed to sockets in one turn: some pages of a large snapshot.
STEP_BYTES = 2 * 1024 * 1024
CROWD = 400


def items() -> list[Item]:
    return [i for n in range(PRODUCTS) for i in (product(f"P{n}", 2 * n + 1), stock(f"P{n}", 2 * n + 2))]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


class TestTheLoader:
    @pytest.fixture
    async def pool(self, pg: asyncpg.Connection, database_url: str) -> AsyncIterator[Any]:
        await pg.execute(
            f"""
            INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');
            INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'One');
            INSERT INTO products (product_id, vendor_id, name)
                SELECT 'P' || n, 'V', 'Product' FROM generate_series(1, {PRODUCTS}) AS n;
            INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
                SELECT 'P' || n, 'L1', 'V', 7 FROM generate_series(1, {PRODUCTS}) AS n;
            """
        )
        pool = await create_pool(database_url, max_size=4)
        yield pool
        await pool.close()

    @pytest.fixture
    async def store(self, redis: Redis, redis_prefix: str) -> TopicStore:
        store = TopicStore(redis, Keys(redis_prefix))
        await store.begin(GENERATION, TERM)
        return store

    async def test_a_large_topic_is_loaded_in_steps(self, pool: Any, store: TopicStore, work: Work) -> None:
        work.counts(topic_query, "build_item")
        async with work.watched():
            opened = await TopicLoader(store, AttachedRows(), pool).ensure(TOPIC)
        assert opened.items == 2 * PRODUCTS
        assert work.total >= 2 * PRODUCTS
        assert work.longest <= STEP / 4  # making an item of a row takes so much longer

    async def test_one_that_is_read_by_queries_side_by_side_as_well(self, pool: Any, work: Work) -> None:
        async with pool.acquire() as connection:
            await connection.execute("DELETE FROM products WHERE product_id > 'P2'")
        work.counts(topic_query, "build_item")
        async with work.watched():
            async for _ in AttachedRows().batches(pool, TOPIC):
                pass
        assert work.total > 2 * topic_query.BATCH_ROWS
        assert work.longest <= STEP / 4

    async def test_a_comparison_is_done_in_steps(self, pool: Any, store: TopicStore, work: Work) -> None:
        await TopicLoader(store, AttachedRows(), pool).ensure(TOPIC)
        verifier = Verifier(
            store, AttachedRows(), pool, verify_s=600, as_of_ms=lambda: 0, active=lambda: True
        )
        work.counts(comparison, "stamp")
        work.counts(comparison, "_is_deleted")
        async with work.watched():
            assert await verifier.verify(TOPIC) is Outcome.VERIFIED
        assert work.total >= 3 * 2 * PRODUCTS
        assert work.longest <= LIGHT_STEP

    async def test_so_is_finding_what_differs_even_if_nothing_does(self, work: Work) -> None:
        class Counted(dict[str, bytes]):
            def get(self, key: str, default: Any = None) -> Any:
                work.add(1)
                return super().get(key, default)

        stamps = Counted((item.key, comparison.stamp(item)) for item in items())
        async with work.watched():
            assert await comparison.differing(TOPIC, stamps, Counted(stamps)) == []
        assert work.total >= 3 * 2 * PRODUCTS
        assert work.longest <= LIGHT_STEP

    async def test_a_page_of_the_store_is_a_step(self, store: TopicStore, work: Work) -> None:
        position = await load(store, NAME, items())
        work.counts(topic_store, "decode_items", len)
        async with work.watched():
            read = [item async for page in store.pages(NAME, position.epoch) for item in page]
        assert len(read) >= 2 * PRODUCTS
        assert 0 < work.longest <= STEP / 2


class TestTheReplica:
    @pytest.fixture
    async def feed(self) -> FakeFeed:
        feed = FakeFeed()
        feed.rows[NAME] = items()
        return feed

    @pytest.fixture
    async def client(self, feed: FakeFeed) -> AsyncIterator[Callable[[], Client]]:
        metrics = GatewayMetrics()
        hub = feed.hub = Hub(feed, metrics, HubSettings(), told=lambda *_: None)
        task = asyncio.create_task(hub.run())
        await asyncio.sleep(0)
        yield lambda: Client(hub, metrics)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    @pytest.mark.parametrize("view", list(View))
    async def test_large_snapshots_are_sent_in_steps_however_many_ask(
        self, client: Callable[[], Client], work: Work, view: View
    ) -> None:
        work.counts(outgoing, "text_frame", len)
        clients = [client() for _ in range(5)]
        async with work.watched():
            for each in clients:
                each.subscribe(NAME, view=view)
            await eventually(lambda: all(each.is_complete(NAME) for each in clients), timeout_s=30)
        whole = sum(len(item.body) for item in items())
        assert work.total > len(clients) * whole / 2
        assert work.longest <= STEP_BYTES / 4

    async def test_the_public_view_is_computed_and_shown_in_steps(
        self, client: Callable[[], Client], work: Work
    ) -> None:
        work.counts(PublicView, "_store")
        work.counts(PublicView, "_availability")
        work.counts(PublicView, "_availability_item")
        work.counts(public_view, "_product_item")
        each = client()
        async with work.watched():
            each.subscribe(NAME, view=View.PUBLIC)
            await eventually(lambda: each.is_complete(NAME), timeout_s=30)
        assert len(each.holds(NAME)) == 2 * PRODUCTS
        assert work.total >= 4 * PRODUCTS
        assert work.longest <= STEP

    async def test_over_http_as_well(self, feed: FakeFeed, work: Work) -> None:
        feed.page_items = 2000
        source = TopicSnapshots(feed, GatewayMetrics(), low_stock=5)
        work.counts(PublicView, "_store")
        work.counts(PublicView, "_availability")
        work.counts(PublicView, "_availability_item")
        work.counts(public_view, "_product_item")
        async with work.watched():
            for view in View:
                assert len((await source.snapshot(TOPIC, view)).items) == 2 * PRODUCTS
        assert work.total >= 4 * PRODUCTS
        assert work.longest <= STEP

    @pytest.mark.parametrize("view", list(View))
    async def test_a_crowd_is_served_in_steps(
        self, feed: FakeFeed, client: Callable[[], Client], work: Work, view: View
    ) -> None:
        """After a topic was void, everybody who follows it waits for the same snapshot."""
        feed.rows[NAME] = items()[:200]
        work.counts(outgoing, "text_frame")
        clients = [client() for _ in range(CROWD)]
        for each in clients:
            each.subscribe(NAME, view=view)
        await eventually(lambda: all(each.is_complete(NAME) for each in clients), timeout_s=30)
        before = {id(each): each.position(NAME).epoch for each in clients}
        async with work.watched():
            feed.void(NAME)
            await eventually(
                lambda: all(
                    each.is_complete(NAME) and each.position(NAME).epoch != before[id(each)]
                    for each in clients
                ),
                timeout_s=30,
            )
        assert work.total >= CROWD
        assert work.longest <= CROWD / 4


def test_what_is_kept_of_large_topics_is_no_work_for_the_garbage_collector() -> None:
    """A full collection looks at everything that may be part of a cycle, and stops the loop meanwhile."""
    gc.disable()  # it forgives what it has looked at
    try:
        view = PublicView(TOPIC, 5)
        view.load(items())
        packed = http_source._Packed()
        packed.update(items())
        stamps = {item.key: comparison.stamp(item) for item in items()}
        for kept in (view._products, view._stock, view._shown, packed._rows, stamps):
            assert len(kept) >= PRODUCTS
            assert not gc.is_tracked(kept)
    finally:
        gc.enable()
