"""Encoded snapshots, shared by everybody who asks at the same position."""

import time
from collections import OrderedDict
from typing import Final, NamedTuple

from gateway.metrics import GatewayMetrics
from gateway.ports import Feed
from gateway.scoping import wire_epoch
from gateway.topic_state import TopicState
from protocol.dialects import Dialect
from protocol.principal import Scope
from protocol.scoped_view import shown

__all__ = ["EncodedSnapshot", "SnapshotCache"]


class EncodedSnapshot(NamedTuple):
    """`tails` are what follows the client's own head in each part (Dialect.snapshot_tails)."""

    epoch: str
    seq: int
    projection: int  # TopicState.projection_number of a public one
    tails: list[bytes]
    size: int  # bytes
    rows: int


class SnapshotCache:
    """The latest snapshot of each topic, least recently used ones dropped beyond `max_bytes`.

    Topics above MAX_ITEMS are never encoded as a whole; they are streamed (gateway.joining).
    """

    MAX_ITEMS: Final = 2000

    def __init__(self, feed: Feed, metrics: GatewayMetrics, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._feed = feed
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._size = 0
        self._held: OrderedDict[tuple[str, str, str], EncodedSnapshot] = OrderedDict()

    async def encoded(
        self, topic: TopicState, dialect: Dialect, scope: Scope | None = None
    ) -> EncodedSnapshot | None:
        """The exact view, or what the scope shows of it, at the topic's position or later, and not behind
        what any client has.

        None: its epoch has ended, or it has outgrown one read. Raises ProtocolError `unavailable`.
        """
        key = (wire_epoch("exact", scope), topic.name, dialect.subprotocol)
        held = self._held.get(key)
        wanted_seq = max(topic.seq, topic.handed_seq)
        if held is not None and held.epoch == topic.epoch and held.seq >= wanted_seq:
            return self._hit(key, held)
        started = time.perf_counter()
        stored = await self._feed.read(topic.name)
        if stored is None or stored.epoch != topic.epoch:
            return None
        items = stored.items if scope is None else shown(scope, stored.items)
        epoch = wire_epoch(stored.epoch, scope)
        tails = dialect.snapshot_tails(topic.name, epoch, stored.seq, items)
        self._metrics.snapshot_load.observe(time.perf_counter() - started)
        return self._miss(key, _encoded((stored.epoch, stored.seq, 0), tails, len(items)))

    def public(self, topic: TopicState, dialect: Dialect) -> EncodedSnapshot:
        """The public view, from the projection in memory; the topic must have one."""
        if topic.projection is None or topic.epoch is None:
            raise LookupError(f"{topic.name} has no public view yet")
        key = ("public", topic.name, dialect.subprotocol)
        held = self._held.get(key)
        # A projection that was made anew may be ahead of its seq, as what it was read from is.
        position = (topic.epoch, topic.seq, topic.projection_number)
        if held is not None and held[:3] == position:
            return self._hit(key, held)
        items = topic.projection.snapshot()
        tails = dialect.snapshot_tails(topic.name, *position[:2], items)
        return self._miss(key, _encoded(position, tails, len(items)))

    def statistics(self) -> dict[str, float]:
        return {"bytes": self._size, "snapshots": len(self._held)}

    def _hit(self, key: tuple[str, str, str], held: EncodedSnapshot) -> EncodedSnapshot:
        self._metrics.snapshot_hits += 1
        self._held.move_to_end(key)
        return held

    def _miss(self, key: tuple[str, str, str], encoded: EncodedSnapshot) -> EncodedSnapshot:
        self._metrics.snapshot_misses += 1
        old = self._held.pop(key, None)
        self._size -= old.size if old is not None else 0
        if encoded.size <= self._max_bytes // 16:
            self._held[key] = encoded
            self._size += encoded.size
        while self._size > self._max_bytes:
            _, dropped = self._held.popitem(last=False)
            self._size -= dropped.size
        return encoded


def _encoded(position: tuple[str, int, int], tails: list[bytes], rows: int) -> EncodedSnapshot:
    return EncodedSnapshot(*position, tails, sum(map(len, tails)), rows)
