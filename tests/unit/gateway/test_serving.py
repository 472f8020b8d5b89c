"""Who is served from what is here already, and large snapshots on their way while the topic moves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from gateway.snapshots import SnapshotCache
from protocol.envelope import Position
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import View
from protocol.topics import Topic
from tests.support.replica import Client, FakeFeed, Opened, Stored, product, stock
from tests.support.waiting import eventually

TOPIC = "location:L1"


class Replica:
    def __init__(self, feed: FakeFeed, hub: Hub) -> None:
        self.feed = feed
        self.hub = hub

    async def follow(self, view: View = View.EXACT) -> Client:
        client = Client(self.hub)
        client.subscribe(TOPIC, view=view)
        await eventually(lambda: client.is_complete(TOPIC))
        return client


@asynccontextmanager
async def running(feed: FakeFeed, settings: HubSettings | None = None) -> AsyncIterator[Replica]:
    settings = settings or HubSettings(flush_s=0.01)
    hub = feed.hub = Hub(feed, GatewayMetrics(), settings, told=lambda *_: None)
    task = asyncio.create_task(hub.run())
    await asyncio.sleep(0)
    yield Replica(feed, hub)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    feed = FakeFeed()
    feed.rows[TOPIC] = [product("A", 1), stock("A", 2)]
    async with running(feed) as replica:
        yield replica


class TestAtOnce:
    @pytest.mark.parametrize("view", list(View))
    async def test_who_asks_for_what_is_here_is_answered_before_anything_else_happens(
        self, replica: Replica, view: View
    ) -> None:
        await replica.follow(view)
        client = Client(replica.hub)
        client.subscribe(TOPIC, view=view)
        assert client.is_complete(TOPIC)
        replica.feed.change(TOPIC, stock("A", 9, on_hand=0))
        await eventually(lambda: client.position(TOPIC).seq == 2)
        assert replica.feed.reads == 1

    @pytest.mark.parametrize("view", list(View))
    async def test_nobody_is_while_the_bus_has_not_confirmed(self, replica: Replica, view: View) -> None:
        await replica.follow(view)
        replica.feed.gate.clear()  # the link is lost: what is published does not arrive
        client = Client(replica.hub)
        client.subscribe(TOPIC, view=view)
        assert not client.is_complete(TOPIC)
        replica.feed.gate.set()
        await eventually(lambda: client.is_complete(TOPIC))

    async def test_what_is_here_is_not_served_once_the_topic_has_moved(self, replica: Replica) -> None:
        keeper = await replica.follow()
        replica.feed.change(TOPIC, stock("A", 9))
        await eventually(lambda: keeper.position(TOPIC).seq == 2)
        client = await replica.follow()
        assert client.of("snapshot")[0]["seq"] == 2
        assert client.holds(TOPIC)["stock:A:L1"] == 9

    async def test_a_large_topic_is_never_served_as_a_whole(self, replica: Replica) -> None:
        replica.feed.rows[TOPIC] = [product(f"P{n}", n + 1) for n in range(SnapshotCache.MAX_ITEMS + 1)]
        await replica.follow()
        client = Client(replica.hub)
        client.subscribe(TOPIC)
        assert not client.of("snapshot")
        await eventually(lambda: client.is_complete(TOPIC))


class TestEntering:
    @pytest.mark.parametrize("view", list(View))
    async def test_what_changes_before_the_topic_is_entered_is_not_missed(self, view: View) -> None:
        class Moving(FakeFeed):
            async def enter(self, topic: Topic) -> tuple[Opened, Stored | None]:
                found = await super().enter(topic)
                self.change(TOPIC, stock("A", 9, on_hand=0))
                return found

        feed = Moving()
        feed.rows[TOPIC] = [product("A", 1), stock("A", 2)]
        async with running(feed) as replica:
            client = await replica.follow(view)
            key = "stock:A:L1" if view is View.EXACT else "availability:A:L1"
            await eventually(lambda: client.holds(TOPIC)[key] == 9)


class TestResuming:
    async def leave(self, replica: Replica) -> tuple[Client, Position]:
        client = await replica.follow()
        position = client.position(TOPIC)
        client.leave(TOPIC)
        return client, position

    async def test_who_comes_later_from_the_same_position_gets_what_came_since_as_well(
        self, replica: Replica
    ) -> None:
        keeper = await replica.follow()
        (first, position), (second, _) = await self.leave(replica), await self.leave(replica)
        replica.feed.change(TOPIC, stock("A", 10))
        first.subscribe(TOPIC, resume=position)
        await eventually(lambda: first.position(TOPIC).seq == 2)
        replica.feed.change(TOPIC, stock("A", 11))
        await eventually(lambda: keeper.position(TOPIC).seq == 3)
        second.subscribe(TOPIC, resume=position)
        await eventually(lambda: second.position(TOPIC).seq == 3)
        assert second.holds(TOPIC) == keeper.holds(TOPIC) == first.holds(TOPIC)
        assert len(second.of("snapshot")) == 1  # that of before

    async def test_the_same_log_serves_those_who_have_missed_more_and_less(self, replica: Replica) -> None:
        keeper = await replica.follow()
        clients = []
        for version in range(10, 14):
            clients.append(await self.leave(replica))
            replica.feed.change(TOPIC, stock("A", version))
            await eventually(lambda: keeper.position(TOPIC).seq == len(clients) + 1)
        for client, position in reversed(clients):
            client.subscribe(TOPIC, resume=position)
        await eventually(lambda: all(client.position(TOPIC).seq == 5 for client, _ in clients))
        assert all(client.holds(TOPIC) == keeper.holds(TOPIC) for client, _ in clients)

    async def test_who_is_beyond_the_logs_reach_gets_a_snapshot_and_the_others_do_not(
        self, replica: Replica
    ) -> None:
        replica.feed.log_entries = 2
        keeper = await replica.follow()
        clients = []
        for version in range(10, 15):
            clients.append(await self.leave(replica))
            replica.feed.change(TOPIC, stock("A", version))
            await eventually(lambda: keeper.position(TOPIC).seq == len(clients) + 1)
        for client, position in clients:
            client.subscribe(TOPIC, resume=position)
        await eventually(lambda: all(client.position(TOPIC).seq == 6 for client, _ in clients))
        assert all(client.holds(TOPIC) == keeper.holds(TOPIC) for client, _ in clients)
        assert [len(client.of("resumed")) for client, _ in clients] == [0, 0, 0, 1, 1]


class TestLargePublicSnapshots:
    PRODUCTS = SnapshotCache.MAX_ITEMS

    @pytest.fixture(autouse=True)
    def rows(self, replica: Replica) -> None:
        replica.feed.rows[TOPIC] = [
            item for n in range(self.PRODUCTS) for item in (product(f"P{n}", 1), stock(f"P{n}", 2))
        ]

    async def test_what_changes_on_the_way_is_there_at_the_end(self, replica: Replica) -> None:
        client = Client(replica.hub)
        client.room = 1
        client.subscribe(TOPIC, view=View.PUBLIC)
        await eventually(lambda: client.of("snapshot"), timeout_s=20)
        replica.feed.change(TOPIC, stock("P0", 10, on_hand=0), product("P1", 11, status="archived"))
        replica.feed.change(TOPIC, product("NEW", 12), stock("NEW", 13, on_hand=0))
        while not client.is_complete(TOPIC):
            client.drain(1)
            await eventually(lambda: client.outgoing.congested or client.is_complete(TOPIC), timeout_s=20)
        replica.feed.change(TOPIC, stock("P2", 20, on_hand=0))
        client.drain()
        keeper = await self.late(replica)
        await eventually(lambda: client.holds(TOPIC) == keeper.holds(TOPIC), timeout_s=20)
        assert {"availability:P0:L1", "product:NEW", "availability:NEW:L1"} <= client.holds(TOPIC).keys()
        assert not {"product:P1", "availability:P1:L1"} & client.holds(TOPIC).keys()

    async def late(self, replica: Replica) -> Client:
        keeper = Client(replica.hub)
        keeper.subscribe(TOPIC, view=View.PUBLIC)
        await eventually(lambda: keeper.is_complete(TOPIC), timeout_s=20)
        return keeper

    async def test_an_epoch_that_ends_on_the_way_begins_it_anew(self, replica: Replica) -> None:
        client = Client(replica.hub)
        client.room = 1
        client.subscribe(TOPIC, view=View.PUBLIC)
        await eventually(lambda: client.of("snapshot"), timeout_s=20)
        first = client.of("snapshot")[0]["epoch"]
        replica.feed.void(TOPIC)
        client.drain()
        await eventually(lambda: client.is_complete(TOPIC), timeout_s=20)
        assert client.position(TOPIC).epoch != first
        assert len(client.holds(TOPIC)) == 2 * self.PRODUCTS


class TestRows:
    """What a snapshot costs is charged to who has asked for it, when it is sent."""

    @pytest.mark.parametrize("view", list(View))
    @pytest.mark.parametrize("products", [10, SnapshotCache.MAX_ITEMS + 1])
    async def test_each_once(self, replica: Replica, view: View, products: int) -> None:
        replica.feed.rows[TOPIC] = [product(f"P{n}", n + 1) for n in range(products)]
        for _ in range(2):
            assert (await replica.follow(view)).rows == products

    async def test_what_is_begun_anew_is_free(self, replica: Replica) -> None:
        client = await replica.follow()
        replica.feed.rows[TOPIC].append(product("B", 3))
        replica.feed.void(TOPIC)
        await eventually(lambda: len(client.holds(TOPIC)) == 3)
        assert client.rows == 2

    async def test_what_is_missed_is_free_and_for_everybody(self, replica: Replica) -> None:
        await replica.follow()
        client = await replica.follow()
        client.error = ProtocolError(ErrorCode.RATE_LIMITED, "later", retry_after_ms=5)
        replica.feed.change(TOPIC, stock("A", 3))
        client.subscribe(TOPIC, resume=client.position(TOPIC))
        await eventually(lambda: len(client.of("resumed")) == 1)
        assert (client.rows, client.refusals) == (2, [])

    async def test_a_position_that_nobody_knows_costs_a_snapshot(self, replica: Replica) -> None:
        await replica.follow()
        client = Client(replica.hub)
        client.subscribe(TOPIC, resume=Position("never", 1))
        await eventually(lambda: client.is_complete(TOPIC))
        assert client.rows == 2
        client.error = ProtocolError(ErrorCode.RATE_LIMITED, "later", retry_after_ms=5)
        client.subscribe(TOPIC, resume=Position("never", 1))
        await eventually(lambda: client.refusals == [client.error])
        assert TOPIC not in client.deliveries


class TestLoadsAtATime:
    async def test_so_many_for_each_and_whoever_comes_along_is_not_counted(self) -> None:
        feed = FakeFeed()
        async with running(feed, HubSettings(flush_s=0.01, max_loads=2)) as replica:
            feed.gate.clear()
            one, another = Client(replica.hub), Client(replica.hub)
            another.holder = "subject another"
            for topic in ("product:A", "product:B", "product:C"):
                one.subscribe(topic)
                another.subscribe(topic)
            assert [(error.code, error.topic) for error in one.refusals] == [
                (ErrorCode.RATE_LIMITED, "product:C")
            ]
            assert one.refusals[0].retry_after_ms == 1000
            assert another.refusals == []
            feed.gate.set()
            await eventually(lambda: another.is_complete("product:C"))
            for topic in ("product:C", "product:D", "product:E"):
                one.subscribe(topic)
                await eventually(partial(one.is_complete, topic))

    async def test_what_is_left_before_it_is_loaded_is_over(self) -> None:
        feed = FakeFeed()
        async with running(feed, HubSettings(max_loads=1)) as replica:
            feed.gate.clear()
            client = Client(replica.hub)
            client.subscribe("product:A")
            client.leave("product:A")
            feed.gate.set()
            await eventually(lambda: replica.hub.statistics()["topics"] == 0)
            client.subscribe("product:B")
            await eventually(lambda: client.is_complete("product:B"))
