"""A topic store of the test's own, with the relay's and the replica's usual steps."""

from collections.abc import Sequence

import orjson

from listeners.topic_store import Applied, LogItem, MustLoad, TopicStore
from protocol.envelope import Position
from protocol.items import Item

__all__ = ["CHANGED_AT_MS", "GENERATION", "TERM", "change", "gone", "item", "load", "relay_applies"]

GENERATION = "g1"
TERM = 3
CHANGED_AT_MS = 1_700_000_000_000


def item(product: str, version: int, **fields: object) -> Item:
    """A stock item at L1."""
    body = {"kind": "stock", "product_id": product, "location_id": "L1", "version": version, **fields}
    return Item(f"stock:{product}:L1", version, False, orjson.dumps(body))


def change(product: str, version: int, log_id: int | None = None, **fields: object) -> LogItem:
    return LogItem(item(product, version, **fields), version if log_id is None else log_id)


def gone(product: str, version: int, log_id: int | None = None) -> LogItem:
    body = orjson.dumps({"product_id": product, "version": version, "deleted": True})
    return LogItem(Item(f"stock:{product}:L1", version, True, body), version if log_id is None else log_id)


async def load(store: TopicStore, topic: str, items: Sequence[Item] = ()) -> Position:
    """Open the topic as its first reader and load these items."""
    opened = await store.open(topic)
    assert isinstance(opened, MustLoad), opened
    if items:
        await store.merge(topic, opened.epoch, items)
    return await store.ready(topic, opened.epoch)


async def relay_applies(store: TopicStore, topic: str, *changes: LogItem) -> Applied:
    return await store.apply({topic: changes}, generation=GENERATION, term=TERM, changed_at_ms=CHANGED_AT_MS)
