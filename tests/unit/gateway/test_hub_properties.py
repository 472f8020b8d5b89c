"""Whatever happens in whatever order, every copy ends up right and no rule of the contract is broken on the
way (tests.support.replica.Client checks them as it goes)."""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from protocol.items import Copy, Item, tombstone
from protocol.principal import View
from protocol.public_view import PublicView
from protocol.topics import parse_topic
from tests.support.replica import Client, FakeFeed, product, stock
from tests.support.waiting import eventually

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
]


class World:
    def __init__(self, page_items: int) -> None:
        self.feed = FakeFeed()
        self.feed.log_entries = 4
        self.feed.page_items = page_items
        self.metrics = GatewayMetrics()
        self.hub = Hub(
            self.feed, self.metrics, HubSettings(flush_s=0.001, compare_s=60), told=lambda *_: None
        )
        self.feed.hub = self.hub
        self.clients = [Client(self.hub, self.metrics) for _ in range(3)]
        self.version = 0

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
        self.feed.deaf = deaf
        if not deaf:
            self.hub.restored()

    async def do_gate(self, is_open: bool) -> None:
        if is_open:
            self.feed.gate.set()
        else:
            self.feed.gate.clear()

    async def do_compare(self) -> None:
        self.hub.restored()

    async def do_wait(self, ms: int) -> None:
        await asyncio.sleep(ms / 1000)

    async def heal(self) -> None:
        self.feed.gate.set()
        self.feed.deaf = False
        for client in self.clients:
            client.drain()
        self.hub.restored()
        for client in self.clients:
            for topic, delivery in list(client.deliveries.items()):
                is_right = partial(self.is_right, client, topic, delivery.subscription.view)
                await eventually(is_right, timeout_s=5)

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
    world = World(chance.choice((50, 2000)))
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
