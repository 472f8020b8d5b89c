import asyncio
import random as _random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol, TypeVar

import structlog

from listeners.backoff import Backoff
from listeners.cancelling import apart
from listeners.comparison import Stamps, differing, forget, read_stamps, stamp, witnesses
from listeners.errors import EpochChanged, ListenersError, TopicTooLarge
from listeners.keys import BUCKETS
from listeners.loader import TopicRows
from listeners.postgres import classified
from protocol.envelope import Position
from protocol.items import Item
from protocol.topics import Topic, parse_topic

__all__ = ["Outcome", "Topics", "Verifier", "VerifierStatistics"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

# So many differing keys are looked at again; one that stays is enough.
_SUSPECTS: Final = 100
_LOGGED_KEYS: Final = 3
_LOOK_AGAIN_S: Final = 0.1
# The canary's time is rounded down, so this one is rounded up.
_NOW_MS: Final = "SELECT ceil(extract(epoch FROM clock_timestamp()) * 1000)::bigint"


class Topics(Protocol):
    """What the verifier needs of TopicStore."""

    def names(self, bucket: int) -> AsyncIterator[list[str]]: ...
    def pages(self, topic: str, epoch: str) -> AsyncIterator[list[Item]]: ...
    async def some(self, topic: str, epoch: str, keys: Sequence[str]) -> Mapping[str, Item]: ...
    async def abandon(self, topic: str, epoch: str) -> None: ...
    async def positions(
        self, topics: Collection[str], *, keep_alive: bool = True
    ) -> Mapping[str, Position]: ...


class Outcome(Enum):
    VERIFIED = "verified"
    MISMATCH = "mismatch"
    MOVED = "moved"  # it changed, or left its epoch, while it was looked at
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class VerifierStatistics:
    verified: int
    mismatches: int
    moved: int
    too_large: int
    failures: int  # topics, or lists of them, that a server did not let it read
    seconds: float  # spent on looking, waiting for the canary included


class Verifier:
    """Compares every loaded topic with Postgres, about once in `verify_s`, and ends the epoch of a wrong one.

    It finds what can not be told by the log: writes that bypassed the triggers, and mistakes of ours. The
    topics are looked at one by one, evenly over the time with jitter, and for never more than half of it.

    Nobody is stopped meanwhile, so a difference alone means nothing: the relay may not have come so far. It
    counts if it is still there, untouched, when everything that was committed before the rows were read has
    been applied in the same epoch. What had changed the item in between would have raised its version.
    Comparing only topics that did not move at all would never look at a busy one.

    `as_of_ms`: of the last canary that went the whole way (RelayStatistics.beat_as_of_ms). `active`: whether
    the relay of this process is the active one; nothing is verified while it is not. `proof_timeout_s`: how
    long to wait for the canary. `read_timeout_s`: how long the rows of one topic may take.
    """

    def __init__(
        self,
        store: Topics,
        rows: TopicRows,
        pool: Any,
        *,
        verify_s: float,
        as_of_ms: Callable[[], int],
        active: Callable[[], bool],
        max_topic_items: int = 200_000,
        proof_timeout_s: float = 10.0,
        read_timeout_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._rows = rows
        self._pool = pool
        self._part_s = verify_s / BUCKETS
        self._as_of_ms = as_of_ms
        self._active = active
        self._max_items = max_topic_items
        self._proof_timeout_s = proof_timeout_s
        self._read_timeout_s = read_timeout_s
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._backoff = Backoff(1.0, 60.0, random=random)
        self._counts = dict.fromkeys(Outcome, 0)
        self._failures = 0
        self._seconds = 0.0

    def statistics(self) -> VerifierStatistics:
        return VerifierStatistics(
            verified=self._counts[Outcome.VERIFIED],
            mismatches=self._counts[Outcome.MISMATCH],
            moved=self._counts[Outcome.MOVED],
            too_large=self._counts[Outcome.TOO_LARGE],
            failures=self._failures,
            seconds=self._seconds,
        )

    async def run(self) -> None:
        """Until cancelled. Errors only make it wait."""
        # Anywhere: a relay that changes often would else always begin with the same topics.
        bucket = int(self._random() * BUCKETS)
        while True:
            ends = self._clock() + self._part_s
            if self._active():
                await self._sweep(bucket)
            await self._sleep(max(0.0, ends - self._clock()))
            bucket = (bucket + 1) % BUCKETS

    async def _sweep(self, bucket: int) -> None:
        """The topics of a bucket, each at some moment of its share of the bucket's time."""
        begun = self._clock()
        names = await self._tried(self._names(bucket)) or []
        took_s = 0.0
        for n, name in enumerate(names):
            due = begun + (n + self._random()) / len(names) * self._part_s
            await self._sleep(max(took_s, due - self._clock()))
            if not self._active():
                return
            looked = self._clock()
            await self._tried(self.verify(parse_topic(name)))
            took_s = self._clock() - looked

    async def _names(self, bucket: int) -> list[str]:
        return sorted({name async for page in self._store.names(bucket) for name in page})

    async def _tried(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work returns; None after an error, and after a pause that grows with their number."""
        try:
            with classified():
                result = await apart(work)
        except Exception as error:  # a surprise as well: it must not take the others of the process along
            self._failures += 1
            delay_s = self._backoff.next()
            fields = {"reason": str(error), "retry_ms": round(delay_s * 1000)}
            if isinstance(error, ListenersError):
                log.warning("verifying interrupted", **fields)
            else:
                log.exception("verifying failed", **fields)
            await self._sleep(delay_s)
            return None
        self._backoff.reset()
        return result

    async def verify(self, topic: Topic) -> Outcome:
        """Look at one topic now. Raises what Postgres and the store raise."""
        begun = self._clock()
        try:
            outcome = await self._compare(topic)
        except EpochChanged:
            outcome = Outcome.MOVED
        except TopicTooLarge:
            outcome = Outcome.TOO_LARGE
        finally:
            self._seconds += self._clock() - begun
        self._counts[outcome] += 1
        return outcome

    async def _compare(self, topic: Topic) -> Outcome:
        name = str(topic)
        position = (await self._store.positions([name], keep_alive=False)).get(name)
        if position is None:
            return Outcome.MOVED
        # A topic holds tombstones for up to half as many keys as are alive, or a thousand.
        limit = 2 * self._max_items + 1000
        stored = await read_stamps(name, self._store.pages(name, position.epoch), limit=limit)
        # Only now: what the store knew above, the rows below know as well.
        async with asyncio.timeout(self._read_timeout_s):
            batches = self._rows.batches(self._pool, topic)
            rows = await read_stamps(name, batches, limit=self._max_items)
        keys = await differing(topic, stored, rows)
        if not keys:
            await forget(stored, rows)
            return Outcome.VERIFIED
        proven = await self._still_differing(topic, position.epoch, stored, keys)
        if not proven:
            return Outcome.MOVED
        log.warning(
            "topic differs from Postgres, everybody gets it anew",
            topic=name,
            keys=proven[:_LOGGED_KEYS],
            differing=len(keys),
        )
        await self._store.abandon(name, position.epoch)
        return Outcome.MISMATCH

    async def _still_differing(
        self, topic: Topic, epoch: str, stored: Stamps, keys: Sequence[str]
    ) -> list[str]:
        """Those of the keys that nothing has touched since `stored` though everything has come that had to.

        None of them also if the canary does not come in time. Raises EpochChanged.
        """
        read_at_ms = await self._pool.fetchval(_NOW_MS, timeout=self._read_timeout_s)
        deadline = self._clock() + self._proof_timeout_s
        suspects = {key: witnesses(topic, key) for key in keys[:_SUSPECTS]}
        while True:
            complete = self._as_of_ms() > read_at_ms  # asked before the store is
            asked = sorted({other for others in suspects.values() for other in others})
            now = await self._store.some(str(topic), epoch, asked)
            stamps = {key: stamp(item) for key, item in now.items()}
            suspects = {
                key: others
                for key, others in suspects.items()
                if all(stamps.get(other) == stored.get(other) for other in others)
            }
            if complete or not suspects:
                return list(suspects)
            if self._clock() >= deadline:
                return []
            await self._sleep(_LOOK_AGAIN_S)
