import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog

from listeners.canary import sing
from listeners.change_log import save_position
from listeners.errors import ListenersError
from listeners.generation import read_identity
from listeners.link_watch import ReaderWatch
from listeners.losses import LossWatch
from listeners.postgres import probe
from listeners.reign import Reign
from listeners.relay_state import Mandate, RelaySettings, RelayStatistics
from listeners.retention import empty_old_leaves
from listeners.topic_store import TopicStore
from listeners.wakeup import notify_allowed, set_asleep

__all__ = ["Keeper", "ReignOver", "relay_seen"]

T = TypeVar("T")

_SAVE_IDLE_S: Final = 5.0
_PROBE_MS: Final = 1000
log = structlog.get_logger(__name__)


class ReignOver(ListenersError):
    """What the reign began with holds no more: it ends, and begins anew with what is true now."""


class Keeper:
    """Everything of a reign that is not on the way of a change, on a connection of its own.

    It sings the canary, saves the position, tells the triggers that a relay is there, looks whether the
    reign's mandate still holds, and empties old leaves of the log. It notices when its own link, or the
    reader's, is half-open: nothing of what it asks for takes long, so it does not wait long.
    """

    def __init__(
        self,
        mandate: Mandate,
        reign: Reign,
        connection: Any,
        store: TopicStore,
        settings: RelaySettings,
        statistics: RelayStatistics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mandate = mandate
        self._reign = reign
        self._connection = connection
        self._store = store
        self._settings = settings
        self._statistics = statistics
        self._clock = clock
        self._probe_timeout_s = settings.probe_timeout_ms / 1000
        self._watch = ReaderWatch(reign.asking, patience_s=self._probe_timeout_s / 2, clock=clock)
        self._losses = LossWatch()
        self._saved = mandate.since
        self._saved_at = clock()
        self._due: dict[str, float] = {}

    async def run(self) -> None:
        """Ends only by an exception: what Postgres and the store raise, StaleTerm, or ReignOver."""
        settings = self._settings
        tick_s = min(settings.save_ms, settings.canary_ms) / 1000
        while True:
            began = self._clock()
            if self._is_due("probe", _PROBE_MS):
                await probe(self._connection, timeout_s=self._probe_timeout_s)
            if self._is_due("look", settings.probe_timeout_ms // 2):
                await self._soon(self._watch.look(self._connection))
            if self._is_due("canary", settings.canary_ms):
                await self._soon(self._check())
                await self._soon(sing(self._connection, acknowledged=self._reign.acknowledged))
                self._reign.wakeup.nudge()
            if self._wants_saving():
                await self.save()
            if self._is_due("seen", settings.seen_ms):
                await self._soon(relay_seen(self._connection, settings.log_retention_s))
            if self._is_due("truncate", settings.truncate_ms):
                await self._empty_old_leaves()
            await asyncio.sleep(max(tick_s - (self._clock() - began), tick_s / 10))

    async def _soon(self, work: Awaitable[T]) -> T:
        """What Postgres may take longer for than for a probe, but not much. Raises TimeoutError."""
        async with asyncio.timeout(1.5 * self._probe_timeout_s):
            return await work

    async def _empty_old_leaves(self) -> None:
        """What takes long is left for the next time, if only the link is well."""
        try:
            async with asyncio.timeout(self._probe_timeout_s):
                self._statistics.leaves_emptied += len(await empty_old_leaves(self._connection))
        except TimeoutError:
            await probe(self._connection, timeout_s=self._probe_timeout_s)
            log.warning("old leaves of the log take long to empty; they have to wait")

    def _is_due(self, name: str, every_ms: int) -> bool:
        now = self._clock()
        due = self._due.get(name, now)
        if now < due:
            return False
        # Kept to a grid, so that the ticks' own length does not add up; after a long pause it starts anew.
        self._due[name] = max(due, now - every_ms / 1000) + every_ms / 1000
        return True

    async def _check(self) -> None:
        """Raises ReignOver when the generation or the notify setting are not what they were."""
        mandate = self._mandate
        await self._losses.look(self._connection)
        if await read_identity(self._connection, mandate.identity.redis) != mandate.identity:
            raise ReignOver("a resync, other sources, or lost changes ask for a new generation")
        if await notify_allowed(self._connection) != mandate.notify:
            raise ReignOver("the notify setting was changed")
        given = await self._connection.fetchval("SELECT last_value FROM gateway.change_log_id_seq")
        self._statistics.backlog_rows = max(0, given - self._reign.last_id) if self._reign.last_id else 0

    def _wants_saving(self) -> bool:
        """At once after changes; else rarely, for saving is itself a transaction that moves the snapshot."""
        if self._reign.done == self._saved:
            return False
        return self._reign.moved or self._clock() - self._saved_at > _SAVE_IDLE_S

    async def save(self) -> None:
        """Save how far Redis has acknowledged, and let Redis remember the counter.

        Raises StaleTerm and ReignOver.
        """
        done, self._reign.moved = self._reign.done, False
        counter = await self._soon(save_position(self._connection, done, term=self._mandate.term))
        self._saved, self._saved_at = done, self._clock()
        if await self._store.remember_position(counter) > counter:
            raise ReignOver("the position has gone back: the database was restored while it was read")

    async def farewell(self) -> None:
        """Leave things so that the next relay can go on from here."""
        if self._reign.done != self._saved:
            await self.save()
        await set_asleep(self._connection, False, term=self._mandate.term)


async def relay_seen(connection: Any, log_retention_s: int) -> None:
    """Tell the triggers that their log is read, and how long to go on without."""
    await connection.execute(
        "UPDATE gateway.control"
        " SET relay_seen_at = clock_timestamp(), log_retention = make_interval(secs => $1)",
        log_retention_s,
    )
