import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from listeners.errors import ListenersError
from listeners.postgres import APPLICATION_NAME, TRANSIENT_ERRORS, Connection, classified, probe

__all__ = ["ProbingPool", "create_pool"]

_FRESH_S: Final = 1.0


class ProbingPool(asyncpg.Pool):  # type: ignore[misc]  # asyncpg has no types
    """A pool that hands out no connection that has died in silence.

    One that has lain idle for `fresh_s` is asked first. If it does not answer in `probe_timeout_s`, then all
    that lie idle are dropped, since they took the same way, and the caller gets a new one.
    """

    def __init__(
        self,
        *args: Any,
        probe_timeout_s: float,
        fresh_s: float = _FRESH_S,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._probe_timeout_s = probe_timeout_s
        self._fresh_s = fresh_s
        self._clock = clock
        self._idle: weakref.WeakKeyDictionary[Connection, float] = weakref.WeakKeyDictionary()

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator[Any]:
        """A connection for the block. One that did not answer inside is not used again."""
        connection = await self._take(timeout)
        itself = connection.itself()
        try:
            yield connection
        except (OSError, TimeoutError, asyncpg.InterfaceError):
            itself.terminate()
            raise
        finally:
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

    def _drop_idle(self) -> None:
        for connection in list(self._idle):
            connection.terminate()
        self._idle.clear()

    async def _give_back(self, connection: Any, itself: Connection) -> None:
        """What can not be given back in time is closed."""
        try:
            await self.release(connection, timeout=self._probe_timeout_s)
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
        server_settings={"application_name": f"{APPLICATION_NAME} {purpose}"},
    )
    with classified(dsn):
        await pool
    return pool
