"""Loading topics into a real store; Postgres is played by a fake that can stall and fail."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from listeners.attach import attached
from listeners.embedded import ValkeyServer
from listeners.errors import ListenersError, LoadLost, NoRelay, TopicTooLarge, Unavailable
from listeners.keys import Keys
from listeners.loader import TopicLoader
from listeners.redis_client import connect_redis
from listeners.topic_query import TopicQuery
from listeners.topic_store import Loading, MustLoad, Opened, TopicStore
from protocol.items import Item
from protocol.topics import Topic, TopicKind
from tests.support.store import GENERATION, TERM, item
from tests.support.waiting import eventually

TOPIC = Topic(TopicKind.LOCATION, "L1")
NAME = str(TOPIC)
OTHER = Topic(TopicKind.LOCATION, "L2")


@dataclass
class Rows:
    """What is in Postgres. A read stalls while `gate` is closed, and fails with `error`."""

    items: list[Item] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None
    reads: list[str] = field(default_factory=list)
    open_cursors: int = 0

    async def batches(self, pool: Any, topic: Topic, *, size: int = 2000) -> AsyncIterator[list[Item]]:
        self.reads.append(str(topic))
        self.open_cursors += 1
        try:
            for first in range(0, len(self.items), size):
                yield self.items[first : first + size]
            await self.gate.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.open_cursors -= 1


class CountingStore(TopicStore):
    merged = lost = 0

    async def merge(self, topic: str, epoch: str, items: Sequence[Item]) -> None:
        self.merged += 1
        try:
            await super().merge(topic, epoch, items)
        except LoadLost:
            self.lost += 1
            raise


@pytest.fixture
async def store(redis: Redis, redis_prefix: str) -> TopicStore:
    store = TopicStore(redis, Keys(redis_prefix))
    await store.begin(GENERATION, TERM)
    return store


@pytest.fixture
def rows() -> Rows:
    rows = Rows([item("A", 1), item("B", 2)])
    rows.gate.set()
    return rows


@pytest.fixture
def make(store: TopicStore, rows: Rows) -> Callable[..., TopicLoader]:
    def made(**options: Any) -> TopicLoader:
        return TopicLoader(store, rows, None, **options)

    return made


async def failure(loader: TopicLoader, topic: Topic = TOPIC) -> ListenersError:
    with pytest.raises(ListenersError) as caught:
        await loader.ensure(topic)
    return caught.value


class TestEnsure:
    async def test_a_topic_nobody_has_loaded_is_read_from_postgres(
        self, make: Callable[..., TopicLoader], store: TopicStore
    ) -> None:
        loader = make()
        opened = await loader.ensure(TOPIC)
        assert opened == Opened(opened.epoch, 1, 2)
        stored = await store.read(NAME)
        assert stored is not None
        assert sorted(stored.items) == [item("A", 1), item("B", 2)]
        statistics = loader.statistics()
        assert (statistics.loads, statistics.rows, statistics.failures) == (1, 2, 0)
        assert statistics.seconds > 0

    async def test_a_loaded_one_is_not(self, make: Callable[..., TopicLoader], rows: Rows) -> None:
        first = await make().ensure(TOPIC)
        assert await make().ensure(TOPIC) == first
        assert rows.reads == [NAME]

    async def test_a_topic_without_rows(self, make: Callable[..., TopicLoader], rows: Rows) -> None:
        rows.items.clear()
        opened = await make().ensure(TOPIC)
        assert opened.items == 0

    async def test_more_rows_than_one_batch(self, make: Callable[..., TopicLoader], rows: Rows) -> None:
        rows.items = [item(f"P{n}", n + 1) for n in range(4500)]
        assert (await make().ensure(TOPIC)).items == 4500

    async def test_without_a_relay(
        self, make: Callable[..., TopicLoader], redis: Redis, redis_prefix: str
    ) -> None:
        loader = TopicLoader(TopicStore(redis, Keys(f"{redis_prefix}x")), Rows(), None)
        assert isinstance(await failure(loader), NoRelay)


class TestSingleFlight:
    async def test_all_who_ask_share_one_load(self, make: Callable[..., TopicLoader], rows: Rows) -> None:
        loader = make()
        rows.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(loader.ensure(TOPIC)) for _ in range(20)]
            await eventually(lambda: rows.reads)
            rows.gate.set()
        assert len({task.result() for task in asking}) == 1
        assert rows.reads == [NAME]

    async def test_one_who_leaves_does_not_take_the_load_along(
        self, make: Callable[..., TopicLoader], rows: Rows
    ) -> None:
        loader = make()
        rows.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            first, second, third = (tasks.create_task(loader.ensure(TOPIC)) for _ in range(3))
            await eventually(lambda: rows.reads)
            first.cancel()
            second.cancel()
            await asyncio.wait([first, second])
            rows.gate.set()
        assert (await third).items == 2
        assert rows.reads == [NAME]

    async def test_when_the_last_one_leaves_the_load_is_given_up(
        self, make: Callable[..., TopicLoader], rows: Rows, store: TopicStore
    ) -> None:
        loader = make()
        rows.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(loader.ensure(TOPIC)) for _ in range(2)]
            await eventually(lambda: rows.reads)
            for task in asking:
                task.cancel()
        assert rows.open_cursors == 0
        assert await store.peek(NAME) is None
        assert (loader.statistics().running, loader.statistics().failures) == (0, 1)
        rows.gate.set()
        assert (await loader.ensure(TOPIC)).items == 2

    async def test_a_failure_is_everybodys(self, make: Callable[..., TopicLoader], rows: Rows) -> None:
        loader = make()
        rows.gate.clear()
        rows.error = asyncpg.PostgresError("gone")
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(failure(loader)) for _ in range(3)]
            await eventually(lambda: rows.reads)
            rows.gate.set()
        assert {type(task.result()) for task in asking} == {Unavailable}
        assert rows.reads == [NAME]


class TestTurns:
    async def test_so_many_read_postgres_at_a_time(
        self, make: Callable[..., TopicLoader], rows: Rows
    ) -> None:
        loader = make(concurrency=2)
        rows.gate.clear()
        topics = [Topic(TopicKind.PRODUCT, f"P{n}") for n in range(5)]
        async with asyncio.TaskGroup() as tasks:
            for topic in topics:
                tasks.create_task(loader.ensure(topic))
            await eventually(lambda: loader.statistics().waiting == 3 and rows.open_cursors == 2)
            assert loader.statistics().running == 2
            rows.gate.set()
        assert loader.statistics().loads == 5

    async def test_a_loaded_topic_needs_no_turn(self, make: Callable[..., TopicLoader], rows: Rows) -> None:
        loader = make(concurrency=1)
        await loader.ensure(OTHER)
        rows.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(loader.ensure(TOPIC))
            await eventually(lambda: rows.open_cursors)
            assert (await loader.ensure(OTHER)).items == 2
            rows.gate.set()

    async def test_no_turn_in_time(
        self, make: Callable[..., TopicLoader], rows: Rows, store: TopicStore
    ) -> None:
        loader = make(concurrency=1, wait_timeout_s=0.05)
        rows.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(loader.ensure(TOPIC))
            await eventually(lambda: rows.open_cursors)
            error = await failure(loader, OTHER)
            rows.gate.set()
        assert isinstance(error, Unavailable)
        assert error.retry_after_ms > 0
        assert loader.statistics().waiting == 0
        # It has not taken the lease while it waited.
        assert await store.peek(str(OTHER)) is None


class TestOthersWhoLoad:
    async def test_another_process_is_waited_for(
        self, make: Callable[..., TopicLoader], store: TopicStore, rows: Rows
    ) -> None:
        opened = await store.open(NAME)
        assert isinstance(opened, MustLoad)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(make().ensure(TOPIC))
            await store.merge(NAME, opened.epoch, [item("C", 1)])
            await store.ready(NAME, opened.epoch)
        assert waiting.result() == Opened(opened.epoch, 1, 1)
        assert rows.reads == []

    async def test_but_not_for_ever(self, make: Callable[..., TopicLoader], store: TopicStore) -> None:
        await store.open(NAME)
        error = await failure(make(wait_timeout_s=0.05))
        assert isinstance(error, Unavailable)
        assert "still being loaded" in str(error)

    async def test_one_that_died_is_replaced(self, redis: Redis, redis_prefix: str, rows: Rows) -> None:
        store = TopicStore(redis, Keys(redis_prefix), lease_ms=100)
        await store.begin(GENERATION, TERM)
        await store.open(NAME)
        assert (await TopicLoader(store, rows, None).ensure(TOPIC)).items == 2

    async def test_one_that_died_is_replaced_while_copies_may_yet_converge_in_time(
        self, make: Callable[..., TopicLoader], store: TopicStore
    ) -> None:
        """10 s are promised after a fault, and the load itself takes some of them."""
        await store.open(NAME)
        began = time.monotonic()
        assert (await make().ensure(TOPIC)).items == 2
        assert time.monotonic() - began < 5

    async def test_one_that_waits_for_postgres_is_not_replaced(
        self, redis: Redis, redis_prefix: str, rows: Rows
    ) -> None:
        one, other = (CountingStore(redis, Keys(redis_prefix), lease_ms=500) for _ in range(2))
        await one.begin(GENERATION, TERM)
        rows.gate.clear()
        rows.items.clear()
        loader = TopicLoader(one, rows, None)
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(loader.ensure(TOPIC))
            await eventually(lambda: one.merged >= 6)  # a lease that nobody renews ends meanwhile
            assert isinstance(await other.peek(NAME), Loading)
            rows.gate.set()
        assert loading.result().items == 0
        assert rows.reads == [NAME]
        assert loader.statistics().lost == 0

    async def test_one_whose_lease_can_not_be_renewed_has_lost_the_load(
        self, redis: Redis, redis_prefix: str, rows: Rows
    ) -> None:
        store = CountingStore(redis, Keys(redis_prefix), lease_ms=60)
        await store.begin(GENERATION, TERM)
        rows.gate.clear()
        rows.items.clear()
        loader = TopicLoader(store, rows, None)
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(loader.ensure(TOPIC))
            await eventually(lambda: rows.reads)
            await store.void([NAME], generation=GENERATION, term=TERM)
            await eventually(lambda: store.lost)
            rows.gate.set()
        assert loading.result().items == 0
        assert loader.statistics().lost == 1

    async def test_a_load_that_is_lost_starts_over(
        self, make: Callable[..., TopicLoader], rows: Rows, store: TopicStore
    ) -> None:
        loader = make()
        rows.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(loader.ensure(TOPIC))
            await eventually(lambda: len(rows.reads) == 1)
            await store.void([NAME], generation=GENERATION, term=TERM)
            rows.gate.set()
        assert loading.result().items == 2
        assert len(rows.reads) == 2
        assert (loader.statistics().lost, loader.statistics().loads) == (1, 1)

    async def test_not_for_ever_either(
        self, make: Callable[..., TopicLoader], rows: Rows, store: TopicStore
    ) -> None:
        loader = make(wait_timeout_s=0.2)
        batches = rows.batches

        async def voided(*args: Any, **options: Any) -> AsyncIterator[list[Item]]:
            await store.void([NAME], generation=GENERATION, term=TERM)
            async for batch in batches(*args, **options):
                yield batch

        rows.batches = voided  # type: ignore[method-assign]  # a fake's fake
        assert isinstance(await failure(loader), Unavailable)
        assert loader.statistics().lost >= 1


class TestFailing:
    @pytest.mark.parametrize(
        "error",
        [
            asyncpg.PostgresError("the server is going away"),
            asyncpg.InterfaceError("connection is closed"),
            ConnectionRefusedError("no"),
            TimeoutError(),
        ],
    )
    async def test_postgres(
        self, make: Callable[..., TopicLoader], rows: Rows, store: TopicStore, error: Exception
    ) -> None:
        rows.error = error
        loader = make()
        raised = await failure(loader)
        assert type(raised) is Unavailable
        assert str(raised) == "Postgres can not be read"
        assert raised.retry_after_ms > 0
        assert await store.peek(NAME) is None
        assert loader.statistics().failures == 1
        rows.error = None
        assert (await loader.ensure(TOPIC)).items == 2

    async def test_a_read_that_does_not_end(
        self, make: Callable[..., TopicLoader], rows: Rows, store: TopicStore
    ) -> None:
        rows.gate.clear()
        assert isinstance(await failure(make(load_timeout_s=0.05)), Unavailable)
        assert rows.open_cursors == 0
        assert await store.peek(NAME) is None

    async def test_too_many_items(
        self, make: Callable[..., TopicLoader], rows: Rows, store: TopicStore
    ) -> None:
        rows.items = [item(f"P{n}", 1) for n in range(11)]
        error = await failure(make(max_topic_items=10))
        assert isinstance(error, TopicTooLarge)
        assert (error.topic, error.limit) == (NAME, 10)
        assert await store.peek(NAME) is None
        assert rows.open_cursors == 0

    async def test_as_many_items_as_allowed(self, make: Callable[..., TopicLoader], rows: Rows) -> None:
        rows.items = [item(f"P{n}", 1) for n in range(10)]
        assert (await make(max_topic_items=10).ensure(TOPIC)).items == 10

    async def test_a_mistake_of_ours_is_not_hidden(
        self, make: Callable[..., TopicLoader], rows: Rows, store: TopicStore
    ) -> None:
        rows.error = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            await make().ensure(TOPIC)
        assert await store.peek(NAME) is None

    async def test_redis_goes_away_meanwhile(self, private_valkey: ValkeyServer, rows: Rows) -> None:
        client = connect_redis(private_valkey.url, timeout_s=0.5)
        store = TopicStore(client, Keys())
        await store.begin(GENERATION, TERM)
        loader = TopicLoader(store, rows, None)
        rows.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(failure(loader))
            await eventually(lambda: rows.reads)
            await private_valkey.kill()
            rows.gate.set()
        assert isinstance(loading.result(), Unavailable)
        assert loader.statistics().failures == 1
        await client.aclose()


async def test_pauses_are_spread(store: TopicStore, rows: Rows) -> None:
    """Those who wait for the same load must not ask all at once."""
    opened = await store.open(NAME)
    assert isinstance(opened, MustLoad)
    assert isinstance(await store.peek(NAME), Loading)
    asked: list[float] = []

    def random() -> float:
        asked.append(0.0)
        return 0.0

    loader = TopicLoader(store, rows, None, random=random)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(loader.ensure(TOPIC))
        await eventually(lambda: asked)
        await store.ready(NAME, opened.epoch)


async def test_from_a_real_postgres(store: TopicStore, pg: asyncpg.Connection, database_url: str) -> None:
    await pg.execute("INSERT INTO vendors (vendor_id, name) VALUES ('V', 'V')")
    await pg.execute("INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V', 'L1')")
    await pg.execute(
        "INSERT INTO products (product_id, vendor_id, sku, name)"
        " SELECT p, 'V', p, p FROM unnest($1::text[]) p",
        ["A", "B", "C"],
    )
    await pg.execute(
        "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)"
        " SELECT p, 'L1', 'V', 3 FROM unnest($1::text[]) p",
        ["A", "B"],
    )
    async with asyncpg.create_pool(database_url, min_size=0, max_size=4) as pool:
        loader = TopicLoader(store, TopicQuery(await attached(pg)), pool)
        assert (await loader.ensure(TOPIC)).items == 4
        assert (await loader.ensure(OTHER)).items == 0
    stored = await store.read(NAME)
    assert stored is not None
    assert sorted(part.key for part in stored.items) == ["product:A", "product:B", "stock:A:L1", "stock:B:L1"]
