import asyncio
import random as _random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from listeners.errors import ListenersError
from listeners.postgres import LOCK_RELAY, TRANSIENT_ERRORS, classified, classify, connected

__all__ = ["Election", "LockLost", "Tenure"]

_IDLE_SESSION_TIMEOUT: Final = "2500ms"  # five pings
_RELEASE_S: Final = 1.0
_PING: Final = "SELECT pg_backend_pid()"
_UNLOCK: Final = "SELECT pg_advisory_unlock($1)"
log = structlog.get_logger(__name__)


class LockLost(ListenersError):
    """The session that held the relay's lock is gone, or does not answer: somebody else may reign now."""


async def _always_fit() -> None: ...


class Tenure:
    """The relay's lock, held by one session from the election to the session's end."""

    def __init__(self, connection: Any, backend: int, *, key: int, ping_s: float, timeout_s: float) -> None:
        self._connection = connection
        self._backend = backend
        self._key = key
        self._ping_s = ping_s
        self._timeout_s = timeout_s
        self._ended = asyncio.Event()
        self._in_use = asyncio.Lock()
        self._released = False
        connection.add_termination_listener(lambda _: self._ended.set())

    @property
    def lost(self) -> bool:
        return self._ended.is_set()

    async def watch(self) -> None:
        """Runs as long as the lock is held; raises LockLost then.

        A frozen process would keep its lock whatever the keepalives say, so the session times out unless it
        is pinged. The pid is compared because behind a transaction-pooling PgBouncer the next statement may
        run in another session, where the lock is not ours.
        """
        while not self._ended.is_set():
            try:
                async with self._in_use:
                    backend = await self._connection.fetchval(_PING, timeout=self._timeout_s)
            except TRANSIENT_ERRORS as error:
                self._ended.set()
                raise LockLost(f"the relay's lock is lost: {classify(error)}") from error
            if backend != self._backend:
                self._ended.set()
                raise LockLost(
                    "the relay's lock needs a session of its own: the listener's database URL must not go "
                    "through a transaction-pooling PgBouncer"
                )
            try:
                async with asyncio.timeout(self._ping_s):
                    await self._ended.wait()
            except TimeoutError:
                continue
        raise LockLost("the relay's lock is lost: its connection was closed")

    async def release(self) -> None:
        """Let the next one go on at once; if that fails, the session's end does it. Once is enough."""
        async with self._in_use:
            if self._released:
                return
            self._released = True
            try:
                if not self.lost:
                    await self._connection.fetchval(_UNLOCK, self._key, timeout=_RELEASE_S)
                    return
            except TRANSIENT_ERRORS as error:
                log.debug("relay lock not released", reason=str(classify(error)))
            self._connection.terminate()  # nobody answers there, so a farewell is not waited for


class Election:
    """One relay per database: a session advisory lock on a connection that does nothing else.

    Candidates try again and again; a waiting `pg_advisory_lock` would hold a snapshot, and with it vacuum.
    """

    def __init__(
        self,
        dsn: str,
        *,
        key: int = LOCK_RELAY,
        retry_s: float = 0.3,
        ping_s: float = 0.5,
        timeout_s: float = 2.0,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._dsn = dsn
        self._key = key
        self._retry_s = retry_s
        self._ping_s = ping_s
        self._timeout_s = timeout_s
        self._random = random

    @asynccontextmanager
    async def elected(self, fit: Callable[[], Awaitable[object]] = _always_fit) -> AsyncIterator[Tenure]:
        """Waits until the lock is ours; gives it back at the end. Raises Unavailable or Refused.

        `fit` is awaited before each try and raises for a candidate that could not reign: it must not hold up
        the others by taking the lock first and finding out then.
        """
        async with connected(self._dsn, purpose="relay lock", timeout_s=self._timeout_s) as connection:
            backend = await self._wait_elected(connection, fit)
            tenure = Tenure(
                connection, backend, key=self._key, ping_s=self._ping_s, timeout_s=self._timeout_s
            )
            try:
                yield tenure
            finally:
                await tenure.release()

    async def _wait_elected(self, connection: Any, fit: Callable[[], Awaitable[object]]) -> int:
        with classified(self._dsn):
            await connection.execute(f"SET idle_session_timeout = '{_IDLE_SESSION_TIMEOUT}'")
            while True:
                await fit()
                backend: int | None = await connection.fetchval(
                    "SELECT pg_backend_pid() WHERE pg_try_advisory_lock($1)",
                    self._key,
                    timeout=self._timeout_s,
                )
                if backend is not None:
                    return backend
                await asyncio.sleep(self._retry_s * (0.5 + self._random()))
