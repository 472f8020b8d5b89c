"""Snapshots for HTTP, from the same topics that WebSocket clients follow."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.http.ports import CachedSnapshot
from gateway.metrics import GatewayMetrics
from gateway.ports import Feed
from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item
from protocol.principal import View
from protocol.public_view import PublicView
from protocol.topics import Topic

__all__ = ["TopicSnapshots"]

# A topic that is loaded anew again and again while it is read is given up after so many reads.
ATTEMPTS: Final = 3


class _Held(NamedTuple):
    epoch: str
    seq: int
    items: Sequence[Item]


class TopicSnapshots:
    """Implements gateway.http.ports.SnapshotSource.

    What is held is served only while the store says that the topic has not moved since: one round trip,
    against reading the topic. Bounded by items, least recently used topics dropped first.
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
                return CachedSnapshot(held.items, hit=True)
            self._metrics.snapshot_misses += 1
            read = await self._read(key[0], opened.epoch, opened.seq)
            if read is not None:
                return CachedSnapshot(self._hold(key, topic, read).items, hit=False)
        raise ProtocolError(ErrorCode.UNAVAILABLE, "the topic keeps changing; try again", retry_after_ms=1000)

    async def _read(self, name: str, epoch: str, seq: int) -> _Held | None:
        """None: the epoch has ended. The items of a large topic may be newer than `seq`, never older."""
        stored = await self._feed.read(name)
        if stored is not None:
            return _Held(stored.epoch, stored.seq, stored.items) if stored.epoch == epoch else None
        newest: dict[str, Item] = {}
        async for page in self._feed.pages(name, epoch):
            newest.update((item.key, item) for item in page)
        position = (await self._feed.positions([name])).get(name)
        return _Held(epoch, seq, list(newest.values())) if position is not None else None

    def _hold(self, key: tuple[str, View], topic: Topic, read: _Held) -> _Held:
        if key[1] is View.PUBLIC:
            view = PublicView(topic, self._low_stock)
            view.load(read.items)
            read = read._replace(items=view.snapshot())
        old = self._held.pop(key, None)
        self._size += len(read.items) - (len(old.items) if old is not None else 0)
        self._held[key] = read
        while self._size > self._max_items:
            _, dropped = self._held.popitem(last=False)
            self._size -= len(dropped.items)
        return read
