import asyncio
import random as _random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from listeners.backoff import Backoff
from listeners.errors import ListenersError, LoadLost, TopicTooLarge, Unavailable
from listeners.postgres import TRANSIENT_ERRORS
from listeners.topic_store import Loading, MustLoad, Opened, Stored, TopicStore
from protocol.items import Item
from protocol.topics import Topic

__all__ = ["LoaderStatistics", "TopicLoader", "TopicRows"]

log = structlog.get_logger(__name__)

_RETRY_AFTER_MS: Final = 2000


class TopicRows(Protocol):
    """What the loader needs of TopicQuery."""

    def batches(self, pool: Any, topic: Topic) -> AsyncIterator[list[Item]]:
        """The topic's rows as of now or later, read on the primary."""


@dataclass(frozen=True, slots=True)
class LoaderStatistics:
    loads: int  # completed
    failures: int
    lost: int  # loads that had to start over, voided or taken over
    rows: int
    seconds: float  # spent on completed loads, reading and merging
    running: int
    waiting: int  # for their turn


class _Flight:
    """One topic's load and those who wait for it. Its task ends before the last of them does."""

    __slots__ = ("task", "waiters")

    def __init__(self, task: asyncio.Task[Opened]) -> None:
        self.task = task
        self.waiters = 0


class TopicLoader:
    """Brings topics from Postgres into the store, each once, however many ask for it.

    `concurrency`: loads of this process that read Postgres at a time. `wait_timeout_s`: how long a caller
    waits for its turn, and for another process that loads the topic. `load_timeout_s`: how long a load takes
    at most.
    """

    def __init__(
        self,
        store: TopicStore,
        query: TopicRows,
        pool: Any,
        *,
        concurrency: int = 4,
        max_topic_items: int = 200_000,
        wait_timeout_s: float = 15.0,
        load_timeout_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._store = store
        self._query = query
        self._pool = pool
        self._max_items = max_topic_items
        self._wait_timeout_s = wait_timeout_s
        self._load_timeout_s = load_timeout_s
        self._clock = clock
        self._random = random
        self._turns = asyncio.Semaphore(concurrency)
        self._flights: dict[str, _Flight] = {}
        self._loads = self._failures = self._lost = self._rows = self._running = self._waiting = 0
        self._seconds = 0.0

    async def ensure(self, topic: Topic) -> Opened:
        """The topic, loaded if it was not.

        Raises TopicTooLarge, Refused, and Unavailable: no relay, no server, or too much to do.
        """
        return await self._fly(topic, missing=False)

    async def _fly(self, topic: Topic, *, missing: bool) -> Opened:
        """`missing`: the store has just said that nobody has loaded it."""
        name = str(topic)
        flight = self._flights.get(name)
        if flight is None:
            # A task, so that the first who asks may leave without the others losing the load.
            task = asyncio.create_task(self._open(topic, missing=missing), name=f"load {name}")
            flight = self._flights[name] = _Flight(task)
            task.add_done_callback(lambda _: self._forget(name, flight))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not flight.task.done():
                self._forget(name, flight)
                flight.task.cancel()
                await asyncio.wait([flight.task])

    async def enter(self, topic: Topic) -> tuple[Opened, Stored | None]:
        """As `ensure`; of a topic that was loaded and is small enough, all it holds as well, in one call."""
        found, stored = await self._store.enter(str(topic))
        if isinstance(found, Opened):
            return found, stored
        return await self._fly(topic, missing=found is None), None

    def _forget(self, name: str, flight: _Flight) -> None:
        if self._flights.get(name) is flight:
            del self._flights[name]

    def statistics(self) -> LoaderStatistics:
        return LoaderStatistics(
            loads=self._loads,
            failures=self._failures,
            lost=self._lost,
            rows=self._rows,
            seconds=self._seconds,
            running=self._running,
            waiting=self._waiting,
        )

    async def _open(self, topic: Topic, *, missing: bool) -> Opened:
        name = str(topic)
        deadline = self._clock() + self._wait_timeout_s
        backoff = Backoff(0.05, 1.0, random=self._random)
        while True:
            found: Opened | Loading | MustLoad | None = None
            if not missing:
                found = await self._store.peek(name)
            if found is None:
                missing = False
                async with self._turn(deadline):
                    # Only now is the lease taken: it must not run out while the loader waits for its turn.
                    found = await self._store.open(name)
                    if isinstance(found, MustLoad):
                        try:
                            return await self._load(topic, found.epoch)
                        except LoadLost:
                            self._lost += 1
                            found = Loading(round(backoff.next() * 1000))
            if isinstance(found, Opened):
                return found
            if isinstance(found, Loading):
                await self._pause(name, found.retry_ms, deadline)

    async def _pause(self, name: str, retry_ms: int, deadline: float) -> None:
        if self._clock() >= deadline:
            raise Unavailable(f"{name} is still being loaded", retry_after_ms=_RETRY_AFTER_MS)
        await asyncio.sleep(retry_ms / 1000 * (0.5 + self._random() / 2))

    @asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncIterator[None]:
        self._waiting += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable("too many topics are being loaded", retry_after_ms=_RETRY_AFTER_MS) from None
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._turns.release()

    async def _load(self, topic: Topic, epoch: str) -> Opened:
        """The topic as it was read. Raises LoadLost; after any other error it is as if nobody had begun."""
        name = str(topic)
        begun = self._clock()
        try:
            async with asyncio.timeout(self._load_timeout_s), self._leased(name, epoch):
                rows = await self._fill(topic, epoch)
            position = await self._store.ready(name, epoch)
        except LoadLost:
            raise
        except Unavailable:
            self._failures += 1
            raise  # Redis is gone, and the lease ends by itself
        except BaseException as error:
            self._failures += 1
            await self._store.abandon(name, epoch)
            if isinstance(error, TRANSIENT_ERRORS):
                log.warning("load failed", topic=name, why=f"{type(error).__name__}: {error}")
                raise Unavailable("Postgres can not be read", retry_after_ms=_RETRY_AFTER_MS) from error
            raise
        seconds = self._clock() - begun
        self._loads += 1
        self._rows += rows
        self._seconds += seconds
        log.debug("topic loaded", topic=name, rows=rows, seconds=round(seconds, 4))
        return Opened(*position, rows)

    @asynccontextmanager
    async def _leased(self, name: str, epoch: str) -> AsyncIterator[None]:
        """The lease is short, for others wait for it when a loader dies, and Postgres may take its time."""
        renewing = asyncio.create_task(self._renew(name, epoch), name=f"lease of {name}")
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def _renew(self, name: str, epoch: str) -> None:
        try:
            while True:
                await asyncio.sleep(self._store.lease_s / 3)
                await self._store.merge(name, epoch, ())
        except ListenersError as error:  # as the load itself will find out by its next step
            log.debug("lease not renewed", topic=name, reason=str(error))

    async def _fill(self, topic: Topic, epoch: str) -> int:
        """How many rows there were."""
        name = str(topic)
        rows = 0
        batches = self._query.batches(self._pool, topic)
        try:
            async for batch in batches:
                rows += len(batch)
                if rows > self._max_items:
                    raise TopicTooLarge(name, self._max_items)
                await self._store.merge(name, epoch, batch)
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()  # now, and not when it is collected: it holds a connection
        return rows
