import asyncio
from collections.abc import AsyncIterator, Collection

import pytest

from gateway.freshness import Transition
from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from gateway.outgoing import Outgoing
from protocol.envelope import Beat, Changed, Position
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item, tombstone
from protocol.principal import View
from tests.support.replica import Client, FakeFeed, product, stock
from tests.support.waiting import eventually

TOPIC = "location:L1"
SETTINGS = HubSettings(flush_s=0.01, canary_s=0.1, compare_s=30, patience_s=0.05)


class Replica:
    def __init__(self) -> None:
        self.feed = FakeFeed()
        self.metrics = GatewayMetrics()
        self.told: list[Transition] = []
        self.told_some: list[tuple[Transition, list[Outgoing]]] = []
        self.hub = Hub(self.feed, self.metrics, SETTINGS, told=self._hear)
        self.feed.hub = self.hub

    def _hear(self, transition: Transition, some: Collection[Outgoing] | None) -> None:
        if some is None:
            self.told.append(transition)
        else:
            self.told_some.append((transition, list(some)))

    def client(self) -> Client:
        return Client(self.hub, self.metrics)

    def rows(self, *items: Item, topic: str = TOPIC) -> None:
        self.feed.rows[topic] = list(items)


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica()
    task = asyncio.create_task(replica.hub.run())
    await asyncio.sleep(0)
    yield replica
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def follow(replica: Replica, client: Client, topic: str = TOPIC, **how: object) -> None:
    client.subscribe(topic, **how)  # type: ignore[arg-type] # passed on as they are
    await eventually(lambda: client.is_complete(topic))


class TestSnapshots:
    async def test_a_subscriber_gets_a_snapshot_and_then_every_change(self, replica: Replica) -> None:
        replica.rows(stock("A", 1), product("A", 2))
        client = replica.client()
        await follow(replica, client)
        assert client.holds(TOPIC) == {"stock:A:L1": 1, "product:A": 2}
        replica.feed.change(TOPIC, stock("A", 3))
        assert client.holds(TOPIC)["stock:A:L1"] == 3
        assert client.of("delta")[0]["seq"] == 2

    async def test_a_topic_nobody_has_rows_for_is_empty_and_hears_what_comes(self, replica: Replica) -> None:
        client = replica.client()
        await follow(replica, client, "product:new")
        assert client.of("snapshot")[0]["items"] == []
        replica.feed.change("product:new", product("new", 5))
        assert client.holds("product:new") == {"product:new": 5}

    async def test_tombstones_are_not_sent_in_a_snapshot(self, replica: Replica) -> None:
        first, second = replica.client(), replica.client()
        replica.rows(stock("A", 1))
        await follow(replica, first)
        replica.feed.change(TOPIC, tombstone("stock:A:L1", 4))
        await follow(replica, second)
        assert second.of("snapshot")[0]["items"] == []

    async def test_those_who_ask_at_one_position_share_one_read(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        clients = [replica.client() for _ in range(5)]
        for client in clients:
            client.subscribe(TOPIC)
        await eventually(lambda: all(client.is_complete(TOPIC) for client in clients))
        late = replica.client()
        await follow(replica, late)
        assert replica.feed.reads == 1
        assert (replica.metrics.snapshot_misses, replica.metrics.snapshot_hits) == (1, 5)

    async def test_a_change_while_the_snapshot_is_read_is_not_lost(self, replica: Replica) -> None:
        replica.rows(stock("A", 1), stock("B", 2))
        first = replica.client()
        await follow(replica, first)
        replica.feed.change(TOPIC, stock("A", 3))
        late = replica.client()
        replica.feed.gate.clear()
        late.subscribe(TOPIC)
        await eventually(lambda: replica.feed.reads == 1)
        replica.feed.change(TOPIC, stock("B", 9))
        replica.feed.gate.set()
        await eventually(lambda: late.copies.get(TOPIC) and late.holds(TOPIC) == first.holds(TOPIC))
        await eventually(lambda: first.holds(TOPIC)["stock:B:L1"] == 9)

    async def test_a_large_topic_is_sent_in_parts_with_a_last_one(self, replica: Replica) -> None:
        replica.rows(*(stock(f"P{n}", n + 1) for n in range(2500)))
        client = replica.client()
        await follow(replica, client)
        parts = client.of("snapshot")
        assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
        assert [part["last"] for part in parts] == [False] * (len(parts) - 1) + [True]
        assert len(client.holds(TOPIC)) == 2500
        replica.feed.change(TOPIC, stock("P7", 9000))
        await eventually(lambda: client.holds(TOPIC)["stock:P7:L1"] == 9000)

    async def test_a_large_snapshot_waits_for_its_reader(self, replica: Replica) -> None:
        replica.rows(*(stock(f"P{n}", n + 1) for n in range(2500)))
        client = replica.client()
        client.room = 2
        client.subscribe(TOPIC)
        await eventually(lambda: len(client.of("snapshot")) == 2)
        replica.feed.change(TOPIC, stock("P7", 9000))
        client.drain()
        await eventually(lambda: client.is_complete(TOPIC) and client.holds(TOPIC)["stock:P7:L1"] == 9000)

    async def test_a_topic_that_outgrows_one_read_is_streamed(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        first, second = replica.client(), replica.client()
        await follow(replica, first)
        replica.feed.change(TOPIC, *(stock(f"P{n}", n + 10) for n in range(2100)))
        await follow(replica, second)
        assert len(second.holds(TOPIC)) == 2101


class TestDeltas:
    async def test_the_first_change_goes_at_once_and_a_burst_together(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        for version in range(10, 20):
            replica.feed.change(TOPIC, stock("A", version))
        assert [d["items"][0]["version"] for d in client.of("delta")] == [10]
        await eventually(lambda: len(client.of("delta")) == 2)
        assert [d["items"][0]["version"] for d in client.of("delta")] == [10, 19]
        assert client.position(TOPIC).seq == 11

    async def test_a_congested_client_gets_the_latest_of_each_item(self, replica: Replica) -> None:
        replica.rows(stock("A", 1), stock("B", 2))
        slow, quick = replica.client(), replica.client()
        await follow(replica, slow)
        await follow(replica, quick)
        slow.outgoing.pause()
        for version in range(10, 40):
            replica.feed.change(TOPIC, stock("A" if version % 2 else "B", version))
            await asyncio.sleep(0.001)
        await eventually(lambda: quick.position(TOPIC).seq == 31)
        assert slow.of("delta") == []
        slow.drain()
        assert slow.holds(TOPIC) == quick.holds(TOPIC) == {"stock:A:L1": 39, "stock:B:L1": 38}
        assert len(slow.of("delta")) == 1
        assert slow.position(TOPIC).seq == 31

    async def test_a_bulk_change_is_split_and_only_the_last_part_moves_the_seq(
        self, replica: Replica
    ) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        replica.feed.change(TOPIC, *(stock(f"P{n}", n + 10) for n in range(1000)))
        await eventually(lambda: len(client.holds(TOPIC)) == 1001)
        seqs = [delta["seq"] for delta in client.of("delta")]
        assert len(seqs) > 1
        assert seqs == [1] * (len(seqs) - 1) + [2]

    async def test_nothing_comes_after_leaving(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        replica.feed.change(TOPIC, stock("A", 5))
        replica.feed.change(TOPIC, stock("A", 6))
        client.leave(TOPIC)
        await asyncio.sleep(0.03)
        assert len(client.of("delta")) == 1
        assert replica.feed.subscribed == set()

    async def test_subscribing_again_is_answered_like_the_first_time(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        replica.feed.change(TOPIC, stock("A", 5))
        client.subscribe(TOPIC)
        await eventually(lambda: len(client.of("snapshot")) == 2)
        assert client.of("snapshot")[1]["seq"] == 2


class TestResume:
    async def test_what_was_missed_follows_resumed(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        keeper, client = replica.client(), replica.client()
        await follow(replica, keeper)
        await follow(replica, client)
        position = client.position(TOPIC)
        client.leave(TOPIC)
        replica.feed.change(TOPIC, stock("A", 5))
        replica.feed.change(TOPIC, stock("B", 6))
        client.subscribe(TOPIC, resume=position)
        await eventually(lambda: client.holds(TOPIC) == {"stock:A:L1": 5, "stock:B:L1": 6})
        assert [m["type"] for m in client.messages] == ["snapshot", "resumed", "delta"]
        assert client.position(TOPIC).seq == 3

    async def test_beyond_the_log_it_is_a_snapshot(self, replica: Replica) -> None:
        replica.feed.log_entries = 1
        replica.rows(stock("A", 1))
        keeper, client = replica.client(), replica.client()
        await follow(replica, keeper)
        await follow(replica, client)
        position = client.position(TOPIC)
        client.leave(TOPIC)
        for version in range(5, 8):
            replica.feed.change(TOPIC, stock("A", version))
        client.subscribe(TOPIC, resume=position)
        await eventually(lambda: len(client.of("snapshot")) == 2)
        assert client.of("resumed") == []

    @pytest.mark.parametrize("position", [Position("other", 1), Position("e1", 99)])
    async def test_a_position_nobody_had_is_a_snapshot(self, replica: Replica, position: Position) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client, resume=position)
        assert client.of("resumed") == []


class TestLossAndRepair:
    async def test_a_hole_is_filled_from_the_log(self, replica: Replica) -> None:
        replica.rows(stock("A", 1), stock("B", 2))
        client = replica.client()
        await follow(replica, client)
        replica.feed.deaf = True
        replica.feed.change(TOPIC, stock("A", 5))
        replica.feed.deaf = False
        replica.feed.change(TOPIC, stock("B", 6))
        await eventually(lambda: client.holds(TOPIC) == {"stock:A:L1": 5, "stock:B:L1": 6})
        assert (replica.metrics.gaps, replica.metrics.log_repairs) == (1, 1)
        assert len(client.of("snapshot")) == 1

    async def test_a_hole_beyond_the_log_is_a_new_snapshot(self, replica: Replica) -> None:
        replica.feed.log_entries = 1
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        replica.feed.deaf = True
        for version in range(5, 9):
            replica.feed.change(TOPIC, stock("A", version))
        replica.feed.deaf = False
        replica.feed.change(TOPIC, stock("B", 20))
        await eventually(lambda: len(client.of("snapshot")) == 2)
        assert client.holds(TOPIC) == {"stock:A:L1": 8, "stock:B:L1": 20}
        assert replica.metrics.snapshot_repairs == 1

    async def test_a_lost_last_message_is_found_by_comparing(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        replica.hub.lost()
        replica.feed.deaf = True
        replica.feed.change(TOPIC, stock("A", 5))
        replica.feed.deaf = False
        replica.hub.restored()
        await eventually(lambda: client.holds(TOPIC) == {"stock:A:L1": 5})

    async def test_a_voided_topic_is_entered_anew_through_a_snapshot(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        replica.rows(stock("A", 3))
        replica.feed.void(TOPIC)
        await eventually(lambda: len(client.of("snapshot")) == 2)
        assert [s["epoch"] for s in client.of("snapshot")] == ["e1", "e2"]
        assert client.holds(TOPIC) == {"stock:A:L1": 3}

    async def test_a_topic_that_vanished_unheard_is_found_by_comparing(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        replica.feed.topics.clear()
        replica.hub.restored()
        await eventually(lambda: len(client.of("snapshot")) == 2)

    async def test_a_message_of_another_epoch_starts_the_topic_over(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        replica.feed.topics.clear()
        replica.hub.message(Changed(TOPIC, "foreign", 9, 0, (stock("A", 4),)))
        await eventually(lambda: len(client.of("snapshot")) == 2)
        assert client.of("delta") == []


class TestFailure:
    async def test_who_asks_for_the_first_time_is_told_and_may_come_back(self, replica: Replica) -> None:
        replica.feed.failure = ProtocolError(ErrorCode.UNAVAILABLE, "no", retry_after_ms=5)
        client = replica.client()
        client.subscribe(TOPIC)
        await eventually(lambda: client.refusals)
        assert client.refusals[0].code is ErrorCode.UNAVAILABLE
        replica.feed.failure = None
        await follow(replica, client)

    async def test_who_was_served_before_waits_and_gets_its_snapshot(self, replica: Replica) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        replica.feed.failure = ProtocolError(ErrorCode.UNAVAILABLE, "no", retry_after_ms=5)
        replica.feed.void(TOPIC)
        await asyncio.sleep(0.02)
        assert client.refusals == []
        replica.feed.failure = None
        await eventually(lambda: len(client.of("snapshot")) == 2)

    async def test_a_topic_above_the_limit_is_refused(self, replica: Replica) -> None:
        replica.feed.failure = ProtocolError(ErrorCode.TOPIC_TOO_LARGE, "too many items")
        client = replica.client()
        client.subscribe(TOPIC)
        await eventually(lambda: client.refusals)
        assert client.refusals[0].code is ErrorCode.TOPIC_TOO_LARGE


class TestPublicView:
    async def test_it_hears_only_what_it_can_see(self, replica: Replica) -> None:
        replica.rows(product("A", 1), stock("A", 2, on_hand=50))
        client = replica.client()
        await follow(replica, client, view=View.PUBLIC)
        assert {i["kind"] for i in client.of("snapshot")[0]["items"]} == {"product", "availability"}
        replica.feed.change(TOPIC, stock("A", 3, on_hand=49))
        replica.feed.change(TOPIC, stock("A", 4, on_hand=2))
        await eventually(lambda: client.of("delta"))
        (item,) = client.of("delta")[0]["items"]
        assert (item["status"], item["only_left"], item["location_id"]) == ("low_stock", 2, "L1")

    async def test_a_change_while_it_is_computed_is_not_lost(self, replica: Replica) -> None:
        replica.rows(product("A", 1), stock("A", 2, on_hand=50))
        exact, public = replica.client(), replica.client()
        await follow(replica, exact)
        replica.feed.gate.clear()
        public.subscribe(TOPIC, view=View.PUBLIC)
        reads = replica.feed.reads
        replica.feed.gate.set()
        await eventually(lambda: replica.feed.reads > reads)
        replica.feed.change(TOPIC, stock("A", 9, on_hand=0))
        await eventually(
            lambda: (
                public.is_complete(TOPIC)
                and public.copies[TOPIC].items["availability:A:L1"]["status"] == "out_of_stock"
            )
        )

    async def test_its_snapshots_are_shared_and_follow_the_changes(self, replica: Replica) -> None:
        replica.rows(product("A", 1), stock("A", 2, on_hand=50))
        first, second, third = (replica.client() for _ in range(3))
        await follow(replica, first, view=View.PUBLIC)
        await follow(replica, second, view=View.PUBLIC)
        replica.feed.change(TOPIC, stock("A", 3, on_hand=0))
        await follow(replica, third, view=View.PUBLIC)
        assert replica.feed.reads == 1
        assert third.copies[TOPIC].items == first.copies[TOPIC].items
        first.leave(TOPIC)


class TestFreshness:
    async def test_it_is_fresh_with_the_canary_and_stale_without(self, replica: Replica) -> None:
        replica.hub.message(Beat("g", 1000, 1))
        assert replica.told == [Transition.FRESH]
        await eventually(lambda: replica.told == [Transition.FRESH, Transition.STALE])
        assert replica.hub.freshness.stale_since_ms == 1000

    async def test_after_a_lost_link_only_once_the_topics_have_been_compared(self, replica: Replica) -> None:
        replica.hub.message(Beat("g", 1000, 1))
        replica.hub.lost()
        await eventually(lambda: replica.hub.freshness.stale)
        replica.hub.message(Beat("g", 2000, 2))
        assert replica.hub.freshness.stale
        replica.hub.restored()
        await eventually(lambda: not replica.hub.freshness.stale)

    async def test_the_first_generation_heard_may_be_younger_than_what_was_read(
        self, replica: Replica
    ) -> None:
        replica.rows(stock("A", 1))
        client = replica.client()
        await follow(replica, client)
        replica.feed.deaf = True
        replica.rows(stock("A", 5))
        replica.feed.void(TOPIC)
        replica.feed.deaf = False
        replica.hub.message(Beat("g", 1000, 1))
        await eventually(lambda: client.is_complete(TOPIC) and client.holds(TOPIC) == {"stock:A:L1": 5})
