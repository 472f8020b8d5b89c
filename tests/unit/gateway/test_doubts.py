"""Whom the replica deceives: nobody. Who hears `stale` and `fresh`, and what a comparison costs."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial

import pytest

from gateway.freshness import Transition
from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from gateway.outgoing import Outgoing
from protocol.envelope import Beat, Changed, Position
from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import View
from protocol.topics import Topic
from tests.support.replica import Client, FakeFeed, Opened, product, stock
from tests.support.waiting import eventually

TOPIC, OTHER = "location:L1", "product:A"
SETTINGS = HubSettings(flush_s=0.005, canary_s=0.02, compare_s=60, patience_s=0.5)
NO = ProtocolError(ErrorCode.UNAVAILABLE, "no", retry_after_ms=5)


class CountingFeed(FakeFeed):
    """It counts what it is asked; while `log_is_shut` nobody gets anything of a topic's log."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.log_is_shut = False
        self.opened = asyncio.Event()
        self.opened.set()

    async def ensure(self, topic: Topic) -> Opened:
        opened = await super().ensure(topic)
        await self.opened.wait()  # the answer is late
        return opened

    async def log_since(self, topic: str, position: Position) -> Sequence[Changed] | None:
        self.asked["log"] += 1
        if self.log_is_shut:
            raise NO
        return await super().log_since(topic, position)

    async def positions(self, topics: Collection[str]) -> dict[str, Position]:
        self.asked["positions"] += 1
        return await super().positions(topics)


class Replica:
    """Its canary sings until `silent`."""

    def __init__(self) -> None:
        self.feed = CountingFeed()
        self.metrics = GatewayMetrics()
        self.hub = Hub(self.feed, self.metrics, SETTINGS, told=self._tell)
        self.feed.hub = self.hub
        self.stale: dict[Outgoing, bool] = {}
        self.silent = False

    def _tell(self, transition: Transition, some: Collection[Outgoing] | None) -> None:
        doubts = self.hub.doubts
        for outgoing in [o for o in self.stale if o not in doubts] if some is None else some:
            self.stale[outgoing] = transition is Transition.STALE

    def client(self) -> Client:
        client = Client(self.hub, self.metrics)
        self.stale[client.outgoing] = self.hub.freshness.stale
        return client

    def is_stale(self, client: Client) -> bool:
        return self.stale[client.outgoing]

    async def sing(self) -> None:
        beat = 0
        while True:
            if not self.silent:
                beat += 1
                self.hub.message(Beat("g", beat, beat))
            await asyncio.sleep(SETTINGS.canary_s / 2)

    async def has_sung(self, times: int = 10) -> None:
        as_of = self.hub.freshness.as_of_ms or 0
        await eventually(lambda: (self.hub.freshness.as_of_ms or 0) >= as_of + times)

    def lose(self) -> None:
        self.feed.deaf = True
        self.hub.lost()

    def restore(self) -> None:
        self.feed.deaf = False
        self.hub.restored()


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    replica = Replica()
    tasks = [asyncio.create_task(replica.hub.run()), asyncio.create_task(replica.sing())]
    await replica.has_sung(1)
    yield replica
    for task in tasks:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def follow(client: Client, *topics: str, view: View = View.EXACT) -> None:
    for topic in topics:
        client.subscribe(topic, view=view)
        await eventually(partial(client.is_complete, topic))


class TestATopicWithoutService:
    async def test_that_can_not_be_loaded_is_told_to_those_who_hold_it(self, replica: Replica) -> None:
        holder, other = replica.client(), replica.client()
        await follow(holder, TOPIC, OTHER)
        await follow(other, OTHER)
        replica.feed.load_failure = NO
        replica.feed.void(TOPIC)
        await eventually(lambda: replica.is_stale(holder))
        await replica.has_sung()
        assert (replica.is_stale(holder), replica.is_stale(other)) == (True, False)
        assert len(replica.hub.doubts) == 1
        replica.feed.load_failure = None
        await eventually(lambda: not replica.is_stale(holder))
        assert holder.is_complete(TOPIC)
        assert len(replica.hub.doubts) == 0

    async def test_that_is_loaded_in_time_is_told_to_nobody(self, replica: Replica) -> None:
        holder = replica.client()
        await follow(holder, TOPIC)
        replica.feed.void(TOPIC)
        await eventually(lambda: len(holder.of("snapshot")) == 2)
        assert not replica.is_stale(holder)

    async def test_whose_hole_can_not_be_filled_is_told(self, replica: Replica) -> None:
        holder, other = replica.client(), replica.client()
        await follow(holder, TOPIC)
        await follow(other, OTHER)
        replica.feed.deaf = True
        replica.feed.change(TOPIC, stock("A", 1))
        replica.feed.deaf = False
        replica.feed.log_is_shut = True
        replica.feed.change(TOPIC, stock("A", 2))
        await eventually(lambda: replica.is_stale(holder))
        assert not replica.is_stale(other)
        replica.feed.log_is_shut = False
        await eventually(lambda: not replica.is_stale(holder))
        assert holder.holds(TOPIC) == {"stock:A:L1": 2}

    async def test_that_is_left_is_no_reason_any_more(self, replica: Replica) -> None:
        holder = replica.client()
        await follow(holder, TOPIC, OTHER)
        replica.feed.load_failure = NO
        replica.feed.void(TOPIC)
        await eventually(lambda: replica.is_stale(holder))
        holder.leave(TOPIC)
        await eventually(lambda: not replica.is_stale(holder))

    async def test_concerns_who_resumes_and_not_who_has_nothing_yet(self, replica: Replica) -> None:
        resuming, new = replica.client(), replica.client()
        await follow(resuming, TOPIC)
        position = resuming.position(TOPIC)
        resuming.leave(TOPIC)
        replica.feed.void(TOPIC)
        replica.feed.load_failure = NO
        resuming.subscribe(TOPIC, resume=position)
        new.subscribe(TOPIC)
        await eventually(lambda: replica.is_stale(resuming))
        assert not replica.is_stale(new)
        # Who asks for the first time on a connection is told after a while, and nothing is held then.
        await eventually(lambda: resuming.refusals and new.refusals)
        await eventually(lambda: not replica.is_stale(resuming))

    async def test_fresh_waits_for_all_topics_of_a_connection(self, replica: Replica) -> None:
        holder = replica.client()
        await follow(holder, TOPIC, OTHER)
        replica.feed.load_failure = NO
        replica.feed.void(TOPIC)
        await eventually(lambda: replica.is_stale(holder))
        replica.feed.void(OTHER)
        replica.feed.topics[TOPIC] = replica.feed.loaded(TOPIC)  # by another replica
        await eventually(lambda: holder.is_complete(TOPIC))
        await replica.has_sung()
        assert replica.is_stale(holder)
        replica.feed.load_failure = None
        await eventually(lambda: not replica.is_stale(holder))

    async def test_the_replicas_own_staleness_is_told_once(self, replica: Replica) -> None:
        holder, other = replica.client(), replica.client()
        await follow(holder, TOPIC)
        replica.feed.load_failure = NO
        replica.feed.void(TOPIC)
        await eventually(lambda: replica.is_stale(holder))
        replica.silent = True
        await eventually(lambda: replica.is_stale(other))
        replica.silent = False
        await eventually(lambda: not replica.is_stale(other))
        assert replica.is_stale(holder)
        replica.feed.load_failure = None
        await eventually(lambda: not replica.is_stale(holder))


class TestFreshAfterALostLink:
    async def test_comes_to_those_whose_topics_have_moved_only_when_they_are_repaired(
        self, replica: Replica
    ) -> None:
        moved, kept = replica.client(), replica.client()
        await follow(moved, TOPIC)
        await follow(kept, OTHER)
        replica.silent = True
        replica.lose()
        replica.feed.change(TOPIC, stock("A", 1))
        await eventually(lambda: replica.is_stale(moved) and replica.is_stale(kept))
        replica.feed.log_is_shut = True
        replica.silent = False
        replica.restore()
        await eventually(lambda: not replica.is_stale(kept))
        assert replica.is_stale(moved), "not even for a moment"
        await replica.has_sung()
        assert replica.is_stale(moved)
        replica.feed.log_is_shut = False
        await eventually(lambda: not replica.is_stale(moved))
        assert moved.holds(TOPIC) == {"stock:A:L1": 1}

    async def test_compares_all_topics_in_few_calls_and_repairs_those_that_moved(
        self, replica: Replica
    ) -> None:
        """600 of them: two calls. Three have moved: three logs are read, nothing else, and no table."""
        topics = [f"product:P{number}" for number in range(600)]
        client = replica.client()
        for topic in topics:
            client.subscribe(topic)
        # They are many for a busy machine.
        await eventually(lambda: all(client.is_complete(topic) for topic in topics), timeout_s=30)
        replica.lose()
        for number in (7, 70, 570):
            replica.feed.change(f"product:P{number}", product(f"P{number}", 1))
        epochs = dict(replica.feed.topics)
        replica.feed.asked.clear()
        reads, heard = replica.feed.reads, len(client.messages)
        replica.restore()
        await eventually(lambda: len(client.messages) == heard + 3)
        await eventually(lambda: not replica.hub.freshness.in_doubt)
        assert [message["type"] for message in client.messages[heard:]] == ["delta"] * 3
        assert replica.feed.asked == {"positions": 2, "log": 3}
        assert replica.feed.reads == reads
        assert replica.feed.topics == epochs
        assert (replica.metrics.log_repairs, replica.metrics.snapshot_repairs) == (3, 0)

    async def test_a_topic_that_was_being_opened_is_opened_again(self, replica: Replica) -> None:
        """What was read of it may be older than what was lost, and no comparison knows of it yet."""
        first, late = replica.client(), replica.client()
        await follow(first, TOPIC)
        replica.feed.opened.clear()
        replica.feed.void(TOPIC)
        await eventually(lambda: TOPIC in replica.feed.topics)
        replica.lose()
        replica.feed.change(TOPIC, stock("A", 1))
        replica.restore()
        replica.feed.opened.set()
        await eventually(lambda: len(first.of("snapshot")) == 2)
        await follow(late, TOPIC)
        assert late.holds(TOPIC) == first.holds(TOPIC) == {"stock:A:L1": 1}
        topic = replica.hub.topic(TOPIC)
        assert topic is not None
        assert topic.seq == 2


class TestWhoWasFurtherElsewhere:
    """A client that another replica has served, while this one's bus lags behind."""

    @pytest.mark.parametrize("view", list(View))
    async def test_does_not_go_back_where_the_log_does_not_reach(self, replica: Replica, view: View) -> None:
        replica.feed.log_entries = 1
        keeper, client = replica.client(), replica.client()
        await follow(keeper, TOPIC, view=view)
        await follow(client, TOPIC, view=view)
        replica.feed.deaf = True
        for version in range(1, 5):
            replica.feed.change(TOPIC, stock("A", version))
        replica.feed.deaf = False
        client.leave(TOPIC)
        client.subscribe(TOPIC, view=view, resume=Position("e1", 3))
        await eventually(lambda: len(client.of("snapshot")) == 2)
        assert client.of("snapshot")[1]["seq"] >= 3

    async def test_does_not_go_back_to_an_epoch_that_has_ended(self, replica: Replica) -> None:
        keeper, client = replica.client(), replica.client()
        await follow(keeper, TOPIC)
        replica.feed.deaf = True
        replica.feed.void(TOPIC)
        replica.feed.topics[TOPIC] = replica.feed.loaded(TOPIC)
        replica.feed.deaf = False
        client.subscribe(TOPIC, resume=Position("e2", 1))
        await eventually(lambda: client.messages)
        assert client.messages[0]["epoch"] == "e2"

    async def test_a_snapshot_after_a_resumption_is_not_behind_it(self, replica: Replica) -> None:
        keeper, client = replica.client(), replica.client()
        await follow(keeper, TOPIC)
        await follow(client, TOPIC)
        position = client.position(TOPIC)
        client.leave(TOPIC)
        replica.feed.change(TOPIC, stock("A", 1))
        await follow(replica.client(), TOPIC)  # whose snapshot is kept, and is what the bus has brought
        replica.feed.deaf = True
        replica.feed.change(TOPIC, stock("A", 2))
        client.subscribe(TOPIC, resume=position)
        await eventually(lambda: client.of("resumed"))
        client.leave(TOPIC)
        client.subscribe(TOPIC)
        await eventually(lambda: len(client.of("snapshot")) == 2)
        assert client.of("snapshot")[1]["seq"] == 3

    @pytest.mark.parametrize("view", list(View))
    @pytest.mark.parametrize("position", [Position("e1", 10**9), Position("never", 5)])
    async def test_who_lies_is_served_and_costs_one_question(
        self, replica: Replica, view: View, position: Position
    ) -> None:
        keeper, liar = replica.client(), replica.client()
        await follow(keeper, TOPIC)
        replica.feed.asked.clear()
        liar.subscribe(TOPIC, view=view, resume=position)
        await eventually(lambda: liar.is_complete(TOPIC))
        await replica.has_sung()
        assert replica.feed.asked["positions"] == 1
        assert replica.feed.asked["log"] <= 1
        replica.feed.change(TOPIC, product("A", 1))
        await eventually(lambda: liar.holds(TOPIC).get("product:A") == 1)
