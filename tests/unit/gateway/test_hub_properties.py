"""Whatever happens in whatever order, every copy ends up right and no rule of the contract is broken on the
way (tests.support.replica.Client checks them as it goes)."""

import asyncio
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.freshness import Transition
from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from gateway.outgoing import Outgoing
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.envelope import Beat, Envelope, NewGeneration, Position
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Copy, Item, tombstone
from protocol.principal import View
from protocol.public_view import PublicView
from protocol.subscription import SubscriptionState
from protocol.topics import parse_topic
from tests.support.replica import Client, FakeFeed, product, stock
from tests.support.waiting import eventually

DIALECT = InventoryV1()
SETTINGS = HubSettings(flush_s=0.001, canary_s=0.01, compare_s=60)
TOPICS = ("location:L1", "product:A")
PRODUCTS = ("A", "B", "C")

# What is drawn, and how: hypothesis alone draws timid sequences, a generator of its own seed does not.
Draw = Callable[[random.Random], tuple[Any, ...]]
OPERATIONS: list[tuple[float, str, Draw]] = [
    (4, "change", lambda r: (r.choice(TOPICS), r.choice(PRODUCTS), r.randint(-1, 8))),
    (1, "status", lambda r: (r.choice(TOPICS), r.choice(PRODUCTS), r.random() < 0.5)),
    (1, "bulk", lambda r: (r.choice(TOPICS), r.randint(1, 300))),
    (3, "subscribe", lambda r: (r.randrange(3), r.choice(TOPICS), r.choice(list(View)), r.random() < 0.7)),
    (1, "leave", lambda r: (r.randrange(3), r.choice(TOPICS))),
    (1, "congest", lambda r: (r.randrange(3), r.randint(0, 3))),
    (2, "drain", lambda r: (r.randrange(3), r.randint(1, 5))),
    (0.3, "void", lambda r: (r.choice(TOPICS),)),
    (1, "deaf", lambda r: (r.random() < 0.3,)),
    (1, "gate", lambda r: (r.random() < 0.8,)),
    (1, "compare", lambda _: ()),
    (3, "wait", lambda r: (r.choice((0, 0, 1, 3)),)),
    (2, "beat", lambda _: ()),
    (0.7, "lose", lambda r: (r.random() < 0.5,)),
    (1, "travel", lambda r: (r.randrange(3), r.choice(TOPICS), r.choice(list(View)), r.randrange(7))),
    (0.3, "straddle", lambda r: (r.choice(TOPICS), r.randint(0, 3))),
    (0.5, "lie", lambda r: (r.randrange(3), r.choice(TOPICS), r.choice(list(View)))),
    (0.2, "rewind", lambda r: (r.random() < 0.5,)),
    (0.15, "outage", lambda r: (r.choice(TOPICS), r.random() < 0.5)),
]
# The bus loses nothing without saying so; the sixth of the runs has no such luck, and no say in `fresh`.
SILENT_LOSS = 1 / 6


class Customer(Client):
    """It also judges what it is told: each word once, and no `fresh` while a copy of its is not kept."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.hub, world.metrics)
        self.world = world
        self.stale = True
        self.elsewhere: set[str] = set()  # topics whose copies came by another connection

    def hear(self, transition: Transition) -> None:
        stale = transition is Transition.STALE
        assert self.stale is not stale, f"{transition} twice"
        self.stale = stale
        if stale or self.world.may_lose_silently:
            return
        for topic, delivery in self.deliveries.items():
            if delivery.holds_copy:
                assert delivery.subscription.state is SubscriptionState.LIVE, f"fresh without {topic}"
                assert self.world.keeps(topic), f"fresh with a {topic} that is behind"

    def receive(self, message: dict[str, Any]) -> None:
        if message["type"] == "snapshot" and message["part"] == 1 and self.copies.get(message["topic"]):
            held, new = self.position(message["topic"]).epoch, message["epoch"]
            assert int(held[1:]) <= int(new[1:]), f"from epoch {held} back to {new}"
        self.elsewhere.discard(message.get("topic", ""))
        super().receive(message)


class Late:
    """In the hub's place."""

    def __init__(self) -> None:
        self.messages: list[Envelope] = []

    def message(self, envelope: Envelope) -> None:
        self.messages.append(envelope)


class World:
    def __init__(self, page_items: int, *, may_lose_silently: bool) -> None:
        self.feed = FakeFeed()
        self.feed.log_entries = 4
        self.feed.page_items = page_items
        self.may_lose_silently = may_lose_silently
        self.metrics = GatewayMetrics()
        self.hub = Hub(self.feed, self.metrics, SETTINGS, told=self.tell)
        self.feed.hub = self.hub
        self.clients = [Customer(self) for _ in range(3)]
        self.version = 0
        self.beats = 0
        self.generation = "g1"
        self.rewound = False  # and nobody could know
        self.behind = False  # the bus is slow

    def tell(self, transition: Transition, some: Collection[Outgoing] | None) -> None:
        for client in self.clients:
            told = client.outgoing not in self.hub.doubts if some is None else client.outgoing in some
            if told:
                client.hear(transition)

    def keeps(self, name: str) -> bool:
        """Whether the replica stands where the store does. The bus is there, and as quick as a call."""
        held, stored = self.hub.topic(name), self.feed.topics.get(name)
        if self.rewound or self.behind:
            return True
        return held is not None and stored is not None and (held.epoch, held.seq) == stored.position

    def next_version(self) -> int:
        self.version += 1
        return self.version

    async def do(self, name: str, *arguments: Any) -> None:
        await getattr(self, f"do_{name}")(*arguments)

    async def do_change(self, topic: str, product_id: str, on_hand: int) -> None:
        version = self.next_version()
        item = self.stock(topic, product_id, version, max(on_hand, 0))
        self.write(topic, tombstone(item.key, version) if on_hand < 0 else item)

    async def do_status(self, topic: str, product_id: str, published: bool) -> None:
        status = "published" if published else "draft"
        subject = "A" if topic == "product:A" else product_id
        self.write(topic, product(subject, self.next_version(), status=status))

    async def do_bulk(self, topic: str, count: int) -> None:
        self.write(topic, *(self.stock(topic, f"X{n}", self.next_version(), n) for n in range(count)))

    def stock(self, topic: str, name: str, version: int, on_hand: int) -> Item:
        """A row of the topic: of a product at L1, or of A at a location of that name."""
        if topic == "product:A":
            return stock("A", version, on_hand=on_hand, location_id=name)
        return stock(name, version, on_hand=on_hand)

    def write(self, topic: str, *items: Item) -> None:
        """A commit: the table has it from here on, and the relay brings it to the topic if it is loaded."""
        rows = {item.key: item for item in self.feed.rows.get(topic, [])}
        rows.update((item.key, item) for item in items)
        self.feed.rows[topic] = list(rows.values())
        self.feed.change(topic, *items)

    async def do_subscribe(self, client: int, topic: str, view: View, resume: bool) -> None:
        one = self.clients[client]
        complete = one.is_complete(topic) and one.views[topic] is view is View.EXACT
        if topic in one.elsewhere and not (resume and complete):
            one.left(topic)  # this connection has sent nothing yet, and is not told of the copy
        one.subscribe(topic, view=view, resume=one.position(topic) if resume and complete else None)

    async def do_leave(self, client: int, topic: str) -> None:
        self.clients[client].leave(topic)

    async def do_congest(self, client: int, room: int) -> None:
        self.clients[client].room = room
        if room == 0:
            self.clients[client].outgoing.pause()

    async def do_drain(self, client: int, frames: int) -> None:
        self.clients[client].drain(frames)

    async def do_void(self, topic: str) -> None:
        self.feed.void(topic)

    async def do_deaf(self, deaf: bool) -> None:
        if self.may_lose_silently:
            self.feed.deaf = deaf

    async def do_lose(self, back: bool) -> None:
        """The link is lost; or it is back."""
        if not back and not self.feed.deaf:
            self.feed.deaf = True
            self.feed.linked.clear()
            self.hub.lost()
        elif back:
            self.restore()

    def restore(self) -> None:
        self.feed.deaf = False
        self.feed.linked.set()
        self.hub.restored()

    async def do_beat(self) -> None:
        if not self.feed.deaf:
            self.beats += 1
            self.rewound = False
            self.hub.message(Beat(self.generation, self.beats, self.beats))

    async def do_travel(self, client: int, topic: str, view: View, ahead: int) -> None:
        """It was served by another replica meanwhile, up to what the store holds now; our bus lags behind by
        so many messages, or by an epoch."""
        one = self.clients[client]
        one.leave(topic)
        with self.lagging():
            if ahead == 6 and topic in self.feed.topics:
                self.feed.void(topic)
                self.feed.topics[topic] = self.feed.loaded(topic)
            else:
                for number in range(ahead):
                    await self.do_change(topic, "A", number)
            stored = self.feed.topics.get(topic)
            if stored is None:
                return
            one.held[topic] = view
            items = list(stored.items.values())
            one.receive(orjson.loads(self.snapshot(topic, stored.position, items, view)))
            one.elsewhere.add(topic)
            one.leave(topic)
            one.held.pop(topic, None)
            if (
                view is View.PUBLIC
            ):  # its versions say when the other replica saw a change: only the seq counts
                one.copies[topic] = Copy()
            one.subscribe(topic, view=view, resume=one.position(topic))
            await asyncio.sleep(0.001)

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """What the bus brings arrives after the block."""
        hub, late = self.feed.hub, Late()
        assert hub is not None
        self.feed.hub, self.behind = late, True
        try:
            yield
        finally:
            self.feed.hub, self.behind = hub, False
            for message in late.messages:
                hub.message(message)

    async def do_straddle(self, topic: str, changes: int) -> None:
        """The link is lost, and back, while the topic is being opened."""
        if self.feed.deaf:
            return
        self.feed.void(topic)
        await asyncio.sleep(0.0005)
        self.feed.gate.clear()
        await self.do_lose(False)
        for number in range(changes):
            await self.do_change(topic, "A", number)
        self.restore()
        await asyncio.sleep(0.0005)
        self.feed.gate.set()

    def snapshot(self, topic: str, position: Position, items: list[Item], view: View) -> bytes:
        if view is View.PUBLIC:
            public = PublicView(parse_topic(topic), 5)
            public.load(items)
            items = public.snapshot()
        alive = [item for item in items if not item.deleted]
        return DIALECT.snapshot_head(None) + DIALECT.snapshot_tail(topic, *position, 1, True, alive)

    async def do_lie(self, client: int, topic: str, view: View) -> None:
        stored = self.feed.topics.get(topic)
        position = Position(stored.epoch if stored is not None else "e0", 10**9)
        self.clients[client].subscribe(topic, view=view, resume=position)

    async def do_rewind(self, heard: bool) -> None:
        """A new generation; the next beat tells of it at the latest."""
        self.generation += "1"
        self.feed.topics.clear()
        self.rewound = True
        if heard and not self.feed.deaf:
            self.rewound = False
            self.hub.message(NewGeneration(self.generation))

    async def do_outage(self, topic: str, loads: bool) -> None:
        """Loads, or all reads, fail until everybody who holds a copy that is not kept has heard of it."""
        failure = ProtocolError(ErrorCode.UNAVAILABLE, "no", retry_after_ms=5)
        if loads:
            self.feed.load_failure = failure
        else:
            self.feed.failure = failure
        self.feed.void(topic)
        try:
            await eventually(self.nobody_is_deceived, timeout_s=2)
        finally:
            self.feed.failure = self.feed.load_failure = None

    async def nobody_is_deceived(self) -> bool:
        await self.do_beat()
        waiting = [
            client
            for client in self.clients
            for delivery in client.deliveries.values()
            if delivery.holds_copy and delivery.subscription.state is SubscriptionState.WAITING
        ]
        return all(client.stale for client in waiting)

    async def do_gate(self, is_open: bool) -> None:
        if is_open:
            self.feed.gate.set()
        else:
            self.feed.gate.clear()

    async def do_compare(self) -> None:
        if not self.feed.deaf or self.may_lose_silently:
            self.hub.restored()

    async def do_wait(self, ms: int) -> None:
        await asyncio.sleep(ms / 1000)

    async def heal(self) -> None:
        self.feed.gate.set()
        for client in self.clients:
            client.drain()
        self.restore()
        await eventually(self.everybody_is_fresh, timeout_s=5)
        for client in self.clients:
            for topic, delivery in list(client.deliveries.items()):
                is_right = partial(self.is_right, client, topic, delivery.subscription.view)
                await eventually(is_right, timeout_s=5)

    async def everybody_is_fresh(self) -> bool:
        await self.do_beat()
        return not any(client.stale for client in self.clients)

    def is_right(self, client: Client, topic: str, view: View) -> bool:
        if not client.is_complete(topic):
            return False
        items = self.feed.rows.get(topic, [])
        if view is View.PUBLIC:
            public = PublicView(parse_topic(topic), 5)
            public.load(items)
            return shown(client.copies[topic]) == {i.key: without_version(i) for i in public.snapshot()}
        return client.holds(topic) == {item.key: item.version for item in items if not item.deleted}


def without_version(item: Item) -> dict[str, Any]:
    copy = Copy()
    copy.apply([orjson.loads(item.body)])
    return {key: value for key, value in copy.items[item.key].items() if key != "version"}


def shown(copy: Copy) -> dict[str, dict[str, Any]]:
    return {k: {f: v for f, v in item.items() if f != "version"} for k, item in copy.items.items()}


@given(seed=st.integers(0, 2**32))
@settings(max_examples=120, deadline=None)
def test_every_copy_converges_and_never_goes_back(seed: int) -> None:
    uvloop.run(live(random.Random(seed)))


async def live(chance: random.Random) -> None:
    world = World(chance.choice((50, 2000)), may_lose_silently=chance.random() < SILENT_LOSS)
    task = asyncio.create_task(world.hub.run())
    await asyncio.sleep(0)
    weights = [weight for weight, _, _ in OPERATIONS]
    for _, name, draw in chance.choices(OPERATIONS, weights, k=chance.randint(10, 100)):
        await world.do(name, *draw(chance))
        assert not task.done()
    await world.heal()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
