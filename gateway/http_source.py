"""Snapshots for HTTP, from the same topics that WebSocket clients follow."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple, overload

from gateway.http.ports import CachedSnapshot
from gateway.metrics import GatewayMetrics
from gateway.ports import Feed
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item, says_the_same
from protocol.principal import View
from protocol.public_view import PublicView
from protocol.topics import Topic

__all__ = ["TopicSnapshots"]

# A topic that is loaded anew again and again while it is read is given up after so many reads.
ATTEMPTS: Final = 3


# Version, and whether it is deleted; the body follows.
_HEAD: Final = Struct("<q?")


class _Packed(Sequence[Item]):
    """Many items, held as bytes: a dictionary of nothing but text and bytes is none of the garbage
    collector's business, which took 50 ms for 100,000 items."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}

    def update(self, items: Iterable[Item]) -> None:
        """Those of keys that are here already replace them."""
        self._rows.update((item.key, _HEAD.pack(item.version, item.deleted) + item.body) for item in items)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Item]:
        for key, row in self._rows.items():
            yield _unpacked(key, row)

    def get(self, key: str) -> Item | None:
        row = self._rows.get(key)
        return None if row is None else _unpacked(key, row)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        return list(self)[index]


def _unpacked(key: str, row: bytes) -> Item:
    version, deleted = _HEAD.unpack_from(row)
    return Item(key, version, deleted, row[_HEAD.size :])


class _Held(NamedTuple):
    epoch: str
    seq: int
    items: Sequence[Item]


class TopicSnapshots:
    """Implements gateway.http.ports.SnapshotSource.

    What is held is served only while the store says that the topic has not moved since: one round trip,
    against reading the topic. Bounded by items, least recently used topics dropped first.

    Within an epoch an item of the public view stays the one it was, version included, until it says
    something else: a tag made of it changes only with what can be seen.
    """

    def __init__(
        self, feed: Feed, metrics: GatewayMetrics, *, low_stock: int, max_items: int = 200_000
    ) -> None:
        self._feed = feed
        self._metrics = metrics
        self._low_stock = low_stock
        self._max_items = max_items
        self._size = 0
        self._held: OrderedDict[tuple[str, View], _Held] = OrderedDict()

    async def snapshot(self, topic: Topic, view: View) -> CachedSnapshot:
        key = (str(topic), view)
        for _ in range(ATTEMPTS):
            opened = await self._feed.ensure(topic)
            held = self._held.get(key)
            if held is not None and (held.epoch, held.seq) == (opened.epoch, opened.seq):
                self._held.move_to_end(key)
                self._metrics.snapshot_hits += 1
                return CachedSnapshot(held.items, hit=True, held=True)
            self._metrics.snapshot_misses += 1
            before = held if held is not None and held.epoch == opened.epoch else None
            told = () if before is None else before.items
            read = await self._read(topic, view, opened.epoch, opened.seq, told)
            if read is not None:
                return CachedSnapshot(self._hold(key, read).items, hit=False, held=before is not None)
        raise ProtocolError(ErrorCode.UNAVAILABLE, "the topic keeps changing; try again", retry_after_ms=1000)

    async def _read(
        self, topic: Topic, view: View, epoch: str, seq: int, told: Sequence[Item]
    ) -> _Held | None:
        """None: the epoch has ended. The items of a large topic may be newer than `seq`, never older.

        `told`: what was served before in this epoch.
        """
        name = str(topic)
        public = PublicView(topic, self._low_stock) if view is View.PUBLIC else None
        stored = await self._feed.read(name)
        if stored is not None:
            if stored.epoch != epoch:
                return None
            if public is None:
                return _Held(epoch, stored.seq, stored.items)
            public.load(stored.items)
            return _Held(epoch, stored.seq, _news(told, public.snapshot()))
        items = _Packed()
        async for page in self._feed.pages(name, epoch):
            if public is None:
                items.update(page)
            else:
                public.add(page)
        if (await self._feed.positions([name])).get(name) is None:
            return None
        if public is not None:
            for _ in public.conclude():
                await asyncio.sleep(0)
            for shown in public.pages():
                items.update(_news(told, shown))
                await asyncio.sleep(0)
        return _Held(epoch, seq, items)

    def _hold(self, key: tuple[str, View], read: _Held) -> _Held:
        old = self._held.pop(key, None)
        self._size += len(read.items) - (len(old.items) if old is not None else 0)
        self._held[key] = read
        while self._size > self._max_items:
            _, dropped = self._held.popitem(last=False)
            self._size -= len(dropped.items)
        return read


def _news(told: Sequence[Item], items: list[Item]) -> list[Item]:
    """The items, but those that were told before if they say nothing else."""
    known = told.get if isinstance(told, _Packed) else {item.key: item for item in told}.get
    return [
        before if (before := known(item.key)) is not None and says_the_same(before, item) else item
        for item in items
    ]
