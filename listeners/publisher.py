import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from listeners.change_log import PAGE_ROWS, LogRow
from listeners.errors import ListenersError
from listeners.folding import CanaryMark, Folded, folding
from listeners.postgres import transaction
from listeners.relay_state import Mandate, RelayStatistics
from listeners.topic_store import TopicStore
from protocol.envelope import Beat
from protocol.topics import is_key

__all__ = ["Publisher", "RedisChanged", "TableTruncated"]


class TableTruncated(ListenersError):
    """A table of the shop was truncated: only a new generation tells everybody."""


class RedisChanged(ListenersError):
    """Redis is another one, or has restarted or failed over: what it held may be lost or older."""


class Publisher:
    """Brings log rows into the topic store, in the name of one reign.

    All methods raise what the store raises.
    """

    def __init__(
        self,
        mandate: Mandate,
        store: TopicStore,
        statistics: RelayStatistics,
        *,
        ask_above: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mandate = mandate
        self._generation = mandate.generation  # a digest
        self._store = store
        self._statistics = statistics
        self._ask_above = ask_above
        self._clock = clock
        self._locations: set[str] = set()  # changed ones, not yet void

    async def publish(self, rows: Sequence[LogRow]) -> CanaryMark | None:
        """Publish a batch; returns its canary, for `beat` once everything before it is published.

        What changed locations make void is left for `void_locations`. Raises TableTruncated.
        """
        folded = Folded(self._mandate.plan.feeds)
        for _ in folding(rows, folded):
            await asyncio.sleep(0)
        if folded.truncated:
            raise TableTruncated("a table was truncated: every topic is void")
        if folded.topics:
            await self._apply(folded)
        self._locations |= folded.locations
        statistics = self._statistics
        statistics.batches += 1
        statistics.rows_read += folded.rows
        statistics.rows_skipped += folded.skipped
        return folded.beat

    async def _apply(self, folded: Folded) -> None:
        began = self._clock()
        only = None
        if len(folded.topics) > self._ask_above:
            # All of this is committed: a load that is marked after the question reads it from Postgres.
            only = await self._store.loaded(folded.topics)
        changes = folded.changes(only)
        if not changes:
            return
        applied = await self._store.apply(
            changes,
            generation=self._generation,
            term=self._mandate.term,
            changed_at_ms=folded.changed_at_ms or 0,
        )
        self._statistics.apply.add(self._clock() - began)
        self._statistics.topics_applied += len(changes)
        self._statistics.published += applied.published
        self._statistics.voided += applied.voided

    async def void_locations(self, connection: Any) -> None:
        """Void what the changed locations feed. `connection` must see what the published rows' snapshot saw.

        What came to or left a location after it is on its way as a change of its own.
        """
        for location in self._locations:
            await self._void_location(location, connection)
        self._locations.clear()

    async def _void_location(self, location: str, connection: Any) -> None:
        """Stock items say whether their location is active, so whatever holds some from there is void."""
        await self._void({f"location:{location}"})
        for query in self._mandate.plan.stock_at:
            async with transaction(connection, readonly=True):
                cursor = await connection.cursor(query, location)
                while records := await cursor.fetch(PAGE_ROWS):
                    products = {f"product:{record['product_id']}" for record in records}
                    vendors = {f"vendor:{record['vendor_id']}" for record in records}
                    await self._void(products | vendors)

    async def _void(self, topics: set[str]) -> None:
        names = await self._store.loaded({topic for topic in topics if is_key(topic.partition(":")[2])})
        if names:
            mandate = self._mandate
            await self._store.void(names, generation=self._generation, term=mandate.term)
            self._statistics.voided += len(names)

    async def beat(self, mark: CanaryMark) -> None:
        """Everything before the canary has been acknowledged. Raises RedisChanged.

        The server's identity is looked at first: after a failover that redis-py has silently followed, what
        was acknowledged may be gone, and the beat would vouch for it.
        """
        if await self._store.server_identity() != self._mandate.identity.redis:
            raise RedisChanged("Redis has restarted or failed over")
        beat = Beat(self._generation, mark.as_of_ms, mark.number)
        await self._store.beat(beat, term=self._mandate.term)
        self._statistics.beat, self._statistics.beat_as_of_ms = mark.number, mark.as_of_ms
