"""Two readings of one topic side by side: what the store holds, and what Postgres does."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from listeners.errors import TopicTooLarge
from protocol.items import Item
from protocol.topics import Topic, TopicKind

__all__ = ["Stamp", "Stamps", "differing", "read_stamps", "stamp", "witnesses"]


class Stamp(NamedTuple):
    """An item in few bytes. The body counts too: a write that bypassed the triggers moved no version."""

    version: int
    deleted: bool
    body_hash: int  # of this process alone


Stamps = Mapping[str, Stamp]


def stamp(item: Item) -> Stamp:
    return Stamp(item.version, item.deleted, hash(item.body))


async def read_stamps(name: str, batches: AsyncIterator[Sequence[Item]], *, limit: int) -> dict[str, Stamp]:
    """By key; the newest of a key that comes again. Raises TopicTooLarge above `limit` keys."""
    stamps: dict[str, Stamp] = {}
    try:
        async for batch in batches:
            for item in batch:
                held = stamps.get(item.key)
                if held is None or held.version < item.version:
                    stamps[item.key] = stamp(item)
            if len(stamps) > limit:
                raise TopicTooLarge(name, limit)
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()  # now, and not when it is collected: it may hold a connection
    return stamps


def differing(topic: Topic, stored: Stamps, rows: Stamps) -> list[str]:
    """The keys under which the two do not agree about what is alive, in order.

    A product without stock at a location stays in the location's topic until the epoch ends, and clients
    ignore it (protocol/PROTOCOL.md), so it does not count, on whichever side it is.
    """
    keys = []
    for key in stored.keys() | rows.keys():
        held = stored.get(key)
        alive = None if held is None or held.deleted else held
        if alive != rows.get(key) and all(other in rows for other in _stock_here(topic, key)):
            keys.append(key)
    return sorted(keys)


def witnesses(topic: Topic, key: str) -> tuple[str, ...]:
    """The keys that must not have changed for a difference under `key` to mean something.

    Whether a product belongs to a location is said by its stock there, and the two are read by queries of
    their own.
    """
    return key, *_stock_here(topic, key)


def _stock_here(topic: Topic, key: str) -> tuple[str, ...]:
    kind, _, product_id = key.partition(":")
    if topic.kind is not TopicKind.LOCATION or kind != "product":
        return ()
    return (f"stock:{product_id}:{topic.id}",)
