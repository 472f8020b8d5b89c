"""Two readings of one topic side by side: what the store holds, and what Postgres does."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from itertools import chain
from struct import Struct
from typing import Final

from listeners.errors import TopicTooLarge
from protocol.items import Item
from protocol.topics import Topic, TopicKind

__all__ = ["Stamps", "differing", "forget", "read_stamps", "stamp", "version_of", "witnesses"]


# An item in few bytes: version, whether it is deleted, and the hash of its body, of this process alone. The
# body counts too: a write that bypassed the triggers moved no version. Bytes, because what holds nothing but
# text and bytes is none of the garbage collector's business: 200,000 tuples cost it 100 ms each time.
Stamps = Mapping[str, bytes]

_STAMP: Final = Struct("<q?q")
_VERSION_BYTES: Final = 8

# Keys that are compared in one turn of the loop.
COMPARED_AT_ONCE: Final = 5000


def stamp(item: Item) -> bytes:
    return _STAMP.pack(item.version, item.deleted, hash(item.body))


def version_of(stamped: bytes) -> int:
    version: int = _STAMP.unpack(stamped)[0]
    return version


def _is_deleted(stamped: bytes) -> bool:
    return bool(stamped[_VERSION_BYTES])


async def read_stamps(name: str, batches: AsyncIterator[Sequence[Item]], *, limit: int) -> dict[str, bytes]:
    """By key; the newest of a key that comes again. Raises TopicTooLarge above `limit` keys."""
    stamps: dict[str, bytes] = {}
    try:
        async for batch in batches:
            for item in batch:
                held = stamps.get(item.key)
                if held is None or version_of(held) < item.version:
                    stamps[item.key] = stamp(item)
            if len(stamps) > limit:
                raise TopicTooLarge(name, limit)
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()  # now, and not when it is collected: it may hold a connection
    return stamps


async def differing(topic: Topic, stored: Stamps, rows: Stamps) -> list[str]:
    """The keys under which the two do not agree about what is alive, in order.

    A product without stock at a location stays in the location's topic until the epoch ends, and clients
    ignore it (protocol/PROTOCOL.md), so it does not count, on whichever side it is.
    """
    keys = []
    for number, key in enumerate(chain(stored, rows), 1):
        if number % COMPARED_AT_ONCE == 0:
            await asyncio.sleep(0)
        held = stored.get(key)
        if held is not None and number > len(stored):
            continue  # it has had its turn
        alive = None if held is None or _is_deleted(held) else held
        if alive != rows.get(key) and all(other in rows for other in _stock_here(topic, key)):
            keys.append(key)
    return sorted(keys)


async def forget(*read: dict[str, bytes]) -> None:
    """Empties what read_stamps() has returned, a little at a time: 200,000 at once take 20 ms."""
    for stamps in read:
        while stamps:
            for _ in range(min(len(stamps), COMPARED_AT_ONCE)):
                stamps.popitem()
            await asyncio.sleep(0)


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
