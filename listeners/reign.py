import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from listeners.change_log import Batch, ChangeLog
from listeners.folding import CanaryMark
from listeners.link_watch import Asking
from listeners.postgres import probe
from listeners.publisher import Publisher
from listeners.relay_state import Mandate, RelaySettings, RelayStatistics
from listeners.topic_store import TopicStore
from listeners.wakeup import WakePolicy, Wakeup

__all__ = ["Reign"]

_PROBE_EVERY_S = 1.0


class Reign:
    """Reads the log and publishes it, until something goes wrong: `run` only ever ends by an exception.

    `done` is the snapshot up to which Redis has acknowledged everything; the keeper saves it now and then.
    """

    def __init__(
        self,
        mandate: Mandate,
        connection: Any,
        store: TopicStore,
        settings: RelaySettings,
        statistics: RelayStatistics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = mandate.since
        self.settled = False  # the log was read to its end at least once
        self.moved = False  # changes were published since the keeper last looked
        self.last_id = 0
        self.acknowledged: int | None = None  # the last beat that Redis has taken and published
        self.current_at = clock()  # when everything had been read and published
        self.asking = Asking(clock)  # answers of the reader's link that may take long
        self._connection = connection
        self._read_timeout_s = settings.read_timeout_ms / 1000
        self._probe_timeout_s = settings.probe_timeout_ms / 1000
        self._statistics = statistics
        self._clock = clock
        self._probed_at = clock()
        self._log = ChangeLog(mandate.plan.read, limit=settings.page_rows)
        self._publisher = Publisher(mandate, store, statistics, ask_above=settings.ask_above, clock=clock)
        policy = WakePolicy(
            poll_s=settings.poll_ms / 1000, safety_s=settings.safety_poll_ms / 1000, notify=mandate.notify
        )
        self.wakeup = Wakeup(policy, term=mandate.term)

    async def run(self) -> None:
        """Raises what Postgres and the store raise, TableTruncated and RedisChanged."""
        self.asking.backend = await self._connection.fetchval("SELECT pg_backend_pid()")
        await self.wakeup.listen(self._connection)
        while True:
            await self.wakeup.wait()
            await self._probe()
            began = self._clock()
            with self.asking.now():
                batch = await self._log.read(self._connection, self.done, timeout_s=self._read_timeout_s)
            self._statistics.reads += 1
            self._statistics.read.add(self._clock() - began)
            await (self._catch_up() if batch.more else self._publish(batch))
            self.current_at = began
            self.settled = True

    async def _probe(self) -> None:
        """A frozen backend raises nothing, and a read may take long for good reasons: so ask it first."""
        began = self._clock()
        if began - self._probed_at >= _PROBE_EVERY_S:
            await probe(self._connection, timeout_s=self._probe_timeout_s)
            self._probed_at = self._clock()
            self._statistics.probe.add(self._probed_at - began)

    async def _publish(self, batch: Batch) -> None:
        mark = None
        if batch.rows:
            mark = await self._publisher.publish(batch.rows)
        await self._settle(batch.snapshot, mark, found=self._note(batch))

    async def _catch_up(self) -> None:
        """Page by page within one snapshot; `done` moves only after the last one.

        Postgres prepares a page while the one before is published.
        """
        pages: asyncio.Queue[Batch | None] = asyncio.Queue(maxsize=1)
        mark = None
        snapshot = self.done
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_pages(pages))
            while page := await pages.get():
                mark = await self._publisher.publish(page.rows) or mark
                snapshot = page.snapshot
                self._note(page)
        await self._settle(snapshot, mark, found=True)

    async def _read_pages(self, queue: asyncio.Queue[Batch | None]) -> None:
        reading = self._log.pages(self._connection, self.done, timeout_s=self._read_timeout_s)
        async with aclosing(reading) as pages:
            while True:
                with self.asking.now():
                    page = await anext(pages, None)
                if page is None:
                    break
                await queue.put(page)
        await queue.put(None)

    def _note(self, batch: Batch) -> bool:
        """Whether the batch brought changes, and not only a canary."""
        if not batch.rows:
            return False
        self.last_id = max(self.last_id, batch.rows[-1].id)
        return any(row.op != "C" for row in batch.rows)

    async def _settle(self, snapshot: str, mark: CanaryMark | None, *, found: bool) -> None:
        # What it asks Redis in between is short: it ends well before the watch gets suspicious.
        with self.asking.now():
            await self._publisher.void_locations(self._connection)
        self.done = snapshot
        self.moved |= found
        if mark is not None:
            await self._publisher.beat(mark)
            self.acknowledged = mark.number
        with self.asking.now():
            await self.wakeup.settle(self._connection, found=found, snapshot=snapshot)
