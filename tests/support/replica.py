"""A replica without network: a feed in memory, clients whose sockets are lists."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import orjson

from gateway.hub import Hub
from gateway.metrics import GatewayMetrics
from gateway.outgoing import Delivery, Outgoing
from protocol.dialects.inventory_v1 import InventoryV1
from protocol.envelope import Changed, Envelope, Position, Ready, Voided
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item, build_item
from protocol.principal import Scope, View
from protocol.subscription import Signal, Subscription
from protocol.topics import Topic
from tests.support.checker import CheckedCopies

__all__ = ["Client", "FakeFeed", "Opened", "Stored", "product", "stock"]

DIALECT = InventoryV1()


def stock(product_id: str, version: int, *, on_hand: int = 5, location_id: str = "L1", **more: Any) -> Item:
    row = {
        "product_id": product_id,
        "location_id": location_id,
        "vendor_id": "V",
        "available": on_hand,
        "on_hand": on_hand,
        "reserved": 0,
        "damaged": 0,
        "safety_stock": 0,
        "incoming": 0,
        "low_stock_at": None,
        "updated_at": None,
    }
    return build_item("stock", row | more, version)


def product(product_id: str, version: int, *, status: str = "published", vendor_id: str = "V") -> Item:
    row = {"product_id": product_id, "vendor_id": vendor_id, "price_minor": 100, "status": status}
    return build_item("product", row, version)


class Hearer(Protocol):
    """A hub, as far as the bus is concerned."""

    def message(self, envelope: Envelope) -> None: ...


class Opened(NamedTuple):
    epoch: str
    seq: int
    items: int


class Stored(NamedTuple):
    epoch: str
    seq: int
    items: Sequence[Item]


@dataclass
class _Topic:
    epoch: str
    seq: int = 1
    items: dict[str, Item] = field(default_factory=dict)
    log: list[Changed] = field(default_factory=list)

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq)


class FakeFeed:
    """Redis and Postgres as a replica sees them. `rows` are what a load finds; `change` is the relay.

    Messages go to `hub` unless `deaf`; `gate` holds every read back until it is set. While `linked` is not,
    no subscription is confirmed, as on a bus whose link is down (listeners.bus.Subscriptions).
    """

    def __init__(self) -> None:
        self.hub: Hearer | None = None
        self.rows: dict[str, list[Item]] = {}
        self.topics: dict[str, _Topic] = {}
        self.subscribed: set[str] = set()
        self.deaf = False
        self.failure: ProtocolError | None = None
        self.load_failure: ProtocolError | None = None  # of a topic that nobody has loaded
        self.gate = asyncio.Event()
        self.gate.set()
        self.linked = asyncio.Event()
        self.linked.set()
        self.page_items = 2000
        self.log_entries = 100
        self.reads = 0
        self._epochs = 0

    # --- the relay's side

    def change(self, name: str, *items: Item) -> None:
        topic = self.topics.get(name)
        if topic is None:
            return
        newer = [i for i in items if i.key not in topic.items or topic.items[i.key].version < i.version]
        if not newer:
            return
        topic.items.update((item.key, item) for item in newer)
        topic.seq += 1
        message = Changed(name, topic.epoch, topic.seq, 0, tuple(newer))
        topic.log = [*topic.log, message][-self.log_entries :]
        if self.hub is not None and not self.deaf and name in self.subscribed:
            self.hub.message(message)

    def void(self, name: str) -> None:
        self.topics.pop(name, None)
        if self.hub is not None and not self.deaf:
            self.hub.message(Voided(name))

    def loaded(self, name: str) -> _Topic:
        """A new epoch of the topic, from what the tables say."""
        self._epochs += 1
        return _Topic(f"e{self._epochs}", items={i.key: i for i in self.rows.get(name, ())})

    # --- gateway.ports.Feed

    def subscribe_nowait(self, topic: str) -> None:
        self.subscribed.add(topic)

    def unsubscribe_nowait(self, topic: str) -> None:
        self.subscribed.discard(topic)

    def is_subscribed(self, topic: str) -> bool:
        linked = self.linked.is_set() and topic in self.subscribed
        return linked and self.gate.is_set() and self.failure is None

    async def wait_subscribed(self, topic: str) -> None:
        await self.linked.wait()
        await self._answer()

    async def enter(self, topic: Topic) -> tuple[Opened, Stored | None]:
        opened = await self.ensure(topic)
        return opened, await self.read(str(topic))

    async def ensure(self, topic: Topic) -> Opened:
        await self._answer()
        name = str(topic)
        held = self.topics.get(name)
        if held is None:
            if self.load_failure is not None:
                raise self.load_failure
            held = self.topics[name] = self.loaded(name)
            if self.hub is not None:
                self.hub.message(Ready(name, held.epoch, held.seq))
        opened = Opened(held.epoch, held.seq, len(held.items))
        await self._answer()
        return opened

    async def read(self, topic: str) -> Stored | None:
        self.reads += 1
        held = self.topics.get(topic)
        stored = None
        if held is not None and len(held.items) <= self.page_items:
            stored = Stored(held.epoch, held.seq, list(held.items.values()))
        await self._answer()
        return stored

    async def pages(self, topic: str, epoch: str) -> AsyncIterator[Sequence[Item]]:
        held = self.topics.get(topic)
        keys = list(held.items) if held is not None else []
        for start in range(0, len(keys), 100):
            await self._answer()
            yield [held.items[key] for key in keys[start : start + 100] if held is not None]
        if held is None or held.epoch != epoch or self.topics.get(topic) is not held:
            raise ProtocolError(ErrorCode.UNAVAILABLE, "again", retry_after_ms=1)

    async def log_since(self, topic: str, position: Position) -> Sequence[Changed] | None:
        held = self.topics.get(topic)
        result = None
        if held is not None and held.epoch == position.epoch and position.seq <= held.seq:
            changes = [change for change in held.log if change.seq > position.seq]
            result = changes if len(changes) == held.seq - position.seq else None
        await self._answer()
        return result

    async def positions(self, topics: Collection[str]) -> dict[str, Position]:
        found = {n: Position(self.topics[n].epoch, self.topics[n].seq) for n in topics if n in self.topics}
        await self._answer()
        return found

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


class Client(CheckedCopies):
    """One connection whose socket is a method: everything that is written is checked at once.

    `room` is how many frames its socket takes before it is congested; None: all of them.
    """

    def __init__(self, hub: Hub, metrics: GatewayMetrics | None = None) -> None:
        super().__init__()
        self.hub = hub
        self.room: int | None = None
        self.deliveries: dict[str, Delivery] = {}
        self.outgoing = Outgoing(self, DIALECT, metrics or GatewayMetrics(), owner=self)
        self.refusals: list[ProtocolError] = []
        self.holder = "address 127.0.0.1"
        self.rows = 0
        self.error: ProtocolError | None = None  # why it gets no snapshot

    # --- what a user does

    def subscribe(
        self,
        topic: str,
        *,
        view: View = View.EXACT,
        resume: Position | None = None,
        scope: Scope | None = None,
    ) -> Delivery:
        self.leave(topic)
        delivery = Delivery(Subscription(topic, None, view, scope), self.outgoing, resume=resume)
        self.deliveries[topic] = delivery
        self.held[topic] = view
        self.hub.subscribe(delivery)
        return delivery

    def leave(self, topic: str) -> None:
        delivery = self.deliveries.pop(topic, None)
        self.held.pop(topic, None)
        if delivery is not None:
            delivery.subscription.signal(Signal.LEFT)
            self.hub.leave(delivery)

    def drain(self, frames: int | None = None) -> None:
        """Its socket takes so many frames again; None: all there will ever be."""
        self.room = frames
        if self.outgoing.congested and frames != 0:
            self.outgoing.resume()

    # --- asyncio's transport

    def write(self, data: bytes) -> None:
        payload = data[2:] if data[1] < 126 else data[4:] if data[1] == 126 else data[10:]
        assert len(payload) <= 65536
        self.receive(orjson.loads(payload))
        if self.room is not None:
            self.room -= 1
            if self.room <= 0:
                self.outgoing.pause()

    def get_write_buffer_size(self) -> int:
        return 0

    def refuse(self, subscription: Subscription, error: ProtocolError) -> None:
        subscription.signal(Signal.REFUSED)
        self.deliveries.pop(subscription.topic)
        self.held.pop(subscription.topic)
        self.refusals.append(error)

    def charge_rows(self, rows: int) -> None:
        self.rows += rows

    def rows_error(self) -> ProtocolError | None:
        return self.error
