"""What is read or encoded for one client and shared by everybody who asks at the same position."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from gateway.metrics import GatewayMetrics
from gateway.ports import Feed, StoredTopic
from gateway.scoping import wire_epoch
from gateway.topic_state import TopicState
from protocol.dialects import Dialect
from protocol.envelope import Changed
from protocol.principal import Scope
from protocol.scoped_view import shown

__all__ = ["EncodedSnapshot", "LogCache", "SnapshotCache"]

# Topics that are read at the same time: each answer is up to 5 ms of work for the loop, and all of them may
# come in one turn.
READERS: Final = 2

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Recent(Generic[K, V]):
    """The values used last, within `max_bytes`; one above a sixteenth of that is not kept at all."""

    def __init__(self, max_bytes: int) -> None:
        self.size = 0
        self._max_bytes = max_bytes
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: K) -> V | None:
        found = self._held.get(key)
        if found is None:
            return None
        self._held.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        old = self._held.pop(key, None)
        self.size -= old[1] if old is not None else 0
        if size <= self._max_bytes // 16:
            self._held[key] = value, size
            self.size += size
        while self.size > self._max_bytes:
            _, (_, dropped) = self._held.popitem(last=False)
            self.size -= dropped


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

    Topics above MAX_ITEMS are never encoded as a whole; they are streamed (gateway.streaming).
    """

    MAX_ITEMS: Final = 2000

    def __init__(self, feed: Feed, metrics: GatewayMetrics, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._feed = feed
        self._metrics = metrics
        self._held = _Recent[tuple[str, str, str], EncodedSnapshot](max_bytes)
        self._reading = asyncio.Semaphore(READERS)

    def current(
        self, topic: TopicState, dialect: Dialect, scope: Scope | None = None
    ) -> EncodedSnapshot | None:
        """The exact view, or what the scope shows of it, if it is here and not behind the topic: nobody has
        to be asked."""
        held = self._held.get((wire_epoch("exact", scope), topic.name, dialect.subprotocol))
        # Of the store's seq and not ours: a snapshot may be ahead of what the bus has brought.
        if held is None or held.epoch != topic.epoch or held.seq < max(topic.seq, topic.handed_seq):
            return None
        self._metrics.snapshot_hits += 1
        return held

    async def encoded(
        self,
        topic: TopicState,
        dialect: Dialect,
        stored: StoredTopic | None = None,
        scope: Scope | None = None,
    ) -> EncodedSnapshot | None:
        """The same at the topic's position or beyond. None: not loaded any more, or too large.

        `stored`: what has just been read, to be used if it is not behind the topic by now.
        """
        held = self.current(topic, dialect, scope)
        if held is not None:
            return held
        started = time.perf_counter()
        if stored is None or stored.epoch != topic.epoch or stored.seq < max(topic.seq, topic.handed_seq):
            async with self._reading:
                stored = await self._feed.read(topic.name)
        if stored is None or stored.epoch != topic.epoch:
            return None
        items = stored.items if scope is None else shown(scope, stored.items)
        tails = dialect.snapshot_tails(topic.name, wire_epoch(stored.epoch, scope), stored.seq, items)
        self._metrics.snapshot_load.observe(time.perf_counter() - started)
        key = (wire_epoch("exact", scope), topic.name, dialect.subprotocol)
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
            self._metrics.snapshot_hits += 1
            return held
        items = topic.projection.snapshot()
        tails = dialect.snapshot_tails(topic.name, *position[:2], items)
        return self._miss(key, _encoded(position, tails, len(items)))

    def statistics(self) -> dict[str, float]:
        return {"bytes": self._held.size, "snapshots": len(self._held)}

    def _miss(self, key: tuple[str, str, str], encoded: EncodedSnapshot) -> EncodedSnapshot:
        self._metrics.snapshot_misses += 1
        self._held.put(key, encoded, encoded.size)
        return encoded


def _encoded(position: tuple[str, int, int], tails: list[bytes], rows: int) -> EncodedSnapshot:
    return EncodedSnapshot(*position, tails, sum(map(len, tails)), rows)


class _Log(NamedTuple):
    epoch: str
    since: int  # the changes are those of since + 1, since + 2, ...
    changes: Sequence[Changed]


class LogCache:
    """The end of topics' logs as last read: clients that come back in a crowd have missed the same."""

    def __init__(self, *, max_bytes: int = 16 * 1024 * 1024) -> None:
        self._held = _Recent[str, _Log](max_bytes)

    def put(self, topic: TopicState, epoch: str, since: int, changes: Sequence[Changed]) -> None:
        size = sum(len(item.body) + len(item.key) for change in changes for item in change.items)
        self._held.put(topic.name, _Log(epoch, since, changes), size + 200 * (1 + len(changes)))

    def since(self, topic: TopicState, seq: int) -> Sequence[Changed] | None:
        """What came after `seq`, up to where the topic is or further; None: not here."""
        held = self._held.get(topic.name)
        if (
            held is None
            or held.epoch != topic.epoch
            or not held.since <= seq <= held.since + len(held.changes)
        ):
            return None
        if held.since + len(held.changes) < topic.seq:
            return None
        return held.changes[seq - held.since :]
