import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import structlog

from listeners.errors import ListenersError
from listeners.postgres import (
    APPLICATION_NAME,
    TRANSIENT_ERRORS,
    Connection,
    classified,
    connected,
    probe,
)

__all__ = ["ProbingPool", "create_pool"]

_FRESH_S: Final = 1.0
_WATCHER: Final = "pool watch"
# A pooler in between tells us pids that are none, or somebody else's: then this does not find who asks.
_BACKENDS: Final = """
    SELECT pid, wait_event = 'ClientRead' AS waits, state_change::text AS since
    FROM pg_catalog.pg_stat_activity
    WHERE pid = ANY ($1::int[]) AND application_name = $2 OR pid = pg_catalog.pg_backend_pid()
"""
_GONE: Final = "gone"
log = structlog.get_logger(__name__)


class ProbingPool(asyncpg.Pool):  # type: ignore[misc]  # asyncpg has no types
    """A pool that hands out no connection that has died in silence.

    One that has lain idle for `fresh_s` is asked first. If it does not answer in `probe_timeout_s`, then all
    that lie idle are dropped, since they took the same way, and the caller gets a new one. `watch` finds
    those that die while an answer is awaited, which may rightly take as long as a command may.
    """

    def __init__(
        self,
        dsn: str,
        *,
        purpose: str,
        probe_timeout_s: float,
        fresh_s: float = _FRESH_S,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        name = f"{APPLICATION_NAME} {purpose}"
        super().__init__(dsn, server_settings={"application_name": name}, **kwargs)
        self._dsn = dsn
        self._name = name
        self._probe_timeout_s = probe_timeout_s
        self._fresh_s = fresh_s
        self._clock = clock
        self._idle: weakref.WeakKeyDictionary[Connection, float] = weakref.WeakKeyDictionary()
        self._lent: dict[Connection, float] = {}  # since when
        self._suspects: dict[Connection, str] = {}  # since when their backends wait for us, or _GONE

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator[Any]:
        """A connection for the block. One that did not answer inside is not used again."""
        connection = await self._take(timeout)
        itself = connection.itself()
        self._lent[itself] = self._clock()
        try:
            yield connection
        except (OSError, TimeoutError, asyncpg.InterfaceError):
            itself.terminate()
            raise
        finally:
            del self._lent[itself]
            await self._give_back(connection, itself)

    async def _take(self, timeout: float | None) -> Any:
        connection = await super().acquire(timeout=timeout)
        itself = connection.itself()
        idle_since = self._idle.pop(itself, None)
        if idle_since is None or self._clock() - idle_since < self._fresh_s:
            return connection
        try:
            await probe(connection, timeout_s=self._probe_timeout_s)
        except ListenersError:
            itself.terminate()
        except BaseException:
            itself.terminate()
            raise
        else:
            return connection
        self._drop_idle()
        return await super().acquire(timeout=timeout)

    async def expire_connections(self) -> None:
        """What lies idle ends now: asyncpg would leave that to a task without an owner."""
        await super().expire_connections()
        self._drop_idle()

    async def watch(self) -> None:
        """Ends what waits for an answer that will not come, and only that; until cancelled."""
        while True:
            await asyncio.sleep(self._probe_timeout_s / 2)
            began = self._clock()
            slow = [c for c, since in self._lent.items() if began - since >= self._probe_timeout_s / 2]
            if slow:
                await self._look(slow)
            else:
                self._suspects.clear()

    async def _look(self, slow: Sequence[Connection]) -> None:
        """Over a new link: what is slow takes its time, unless its backend waits as we do, twice in a row."""
        timeout_s = self._probe_timeout_s
        pids = {connection.get_server_pid(): connection for connection in slow}
        try:
            async with connected(self._dsn, purpose=_WATCHER, timeout_s=timeout_s) as watcher:
                with classified():
                    rows = await watcher.fetch(_BACKENDS, list(pids), self._name, timeout=timeout_s)
                    itself = watcher.get_server_pid()
        except ListenersError as error:
            if isinstance(error.__cause__, TimeoutError):  # else it answers, if only to refuse one more
                self._end(slow, str(error))
            return
        found = {row["pid"] for row in rows}
        suspects = {pids[row["pid"]]: row["since"] for row in rows if row["waits"] and row["pid"] in pids}
        if itself in found:  # the pids that we are told are those of the backends
            suspects |= {c: _GONE for pid, c in pids.items() if pid not in found}
        dead = [c for c, since in suspects.items() if self._suspects.get(c) == since and c in self._lent]
        self._end(dead, "the link is half-open: its backend is gone, or waits for us as we do for it")
        self._suspects = suspects

    def _end(self, dead: Sequence[Connection], reason: str) -> None:
        for connection in dead:
            if connection in self._lent:
                log.warning("connection of the pool given up", reason=reason)
                connection.terminate()
                self._drop_idle()

    def _drop_idle(self) -> None:
        for connection in list(self._idle):
            connection.terminate()
        self._idle.clear()

    async def _give_back(self, connection: Any, itself: Connection) -> None:
        """What can not be given back in time is closed."""
        try:
            await self.release(connection, timeout=self._probe_timeout_s / 4)
        except TRANSIENT_ERRORS:
            itself.terminate()
        if not itself.is_closed():
            self._idle[itself] = self._clock()


async def create_pool(
    dsn: str,
    *,
    purpose: str = "queries",
    min_size: int = 0,
    max_size: int = 8,
    timeout_s: float = 5.0,
    command_timeout_s: float = 30.0,
) -> ProbingPool:
    """A pool for reads of the shop's tables; nothing of a session (locks, LISTEN, settings) survives in it.

    It keeps no prepared statements: those break when the shop alters a table inside somebody's transaction
    ("cached plan must not change result type"), and behind a transaction-pooling PgBouncer. `timeout_s` is
    for making a connection, and for the probe of one that lay idle.
    Raises Unavailable or Refused when `min_size` connections can not be made.
    """
    pool = ProbingPool(
        dsn,
        purpose=purpose,
        connection_class=Connection,
        record_class=asyncpg.Record,
        min_size=min_size,
        max_size=max_size,
        max_queries=50_000,  # asyncpg's own, as are the next two
        max_inactive_connection_lifetime=300.0,
        loop=None,
        probe_timeout_s=timeout_s,
        timeout=timeout_s,
        command_timeout=command_timeout_s,
        statement_cache_size=0,
    )
    with classified(dsn):
        await pool
    return pool
