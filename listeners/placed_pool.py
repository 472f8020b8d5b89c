from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol

import asyncpg

from listeners.errors import NoRelay
from listeners.generation import place_of, read_place
from listeners.topic_store import Reign

__all__ = ["PlacedPool"]


# There is no position to write at, and nothing unlogged to read, during recovery.
_ON_A_STANDBY: Final = (asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.FeatureNotSupportedError)


class Reigning(Protocol):
    """What the pool needs of TopicStore."""

    async def reign(self) -> Reign | None: ...


class PlacedPool:
    """A pool whose connections lead to the database that the reigning relay reads, and not to a past of it.

    The database's name may have come to mean another server: after a failover a connection that was made
    before may still lead to the old primary, which answers as if nothing had happened. What a load read there
    would be wrong for good, since no log tells of it. So each connection is compared with the reign when
    it is handed out: whoever asks has opened the topic before, and a reign that has ended since takes its
    loads with it. Nothing of this is remembered for a connection: behind a pooler it may lead anywhere.
    """

    def __init__(self, pool: Any, store: Reigning) -> None:
        """`pool`: a ProbingPool."""
        self._pool = pool
        self._store = store

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """A connection for the block. Raises ConnectionError if none leads there, NoRelay without a reign."""
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self._compared())
            except ConnectionError:
                await self._pool.expire_connections()  # the others were made when this one was
                connection = await stack.enter_async_context(self._compared())
            yield connection

    async def fetch(self, query: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetch(query, *arguments)

    async def fetchval(self, query: str, *arguments: Any, timeout: float | None = None) -> Any:
        async with self.acquire() as connection:
            return await connection.fetchval(query, *arguments, timeout=timeout)

    @asynccontextmanager
    async def _compared(self) -> AsyncIterator[Any]:
        async with self._pool.acquire() as connection:
            reign = await self._store.reign()
            if reign is None:
                raise NoRelay("no relay has begun yet")
            try:
                place = await read_place(connection)
            except _ON_A_STANDBY as error:
                raise ConnectionError("the database's name leads to a standby") from error
            wanted = place_of(reign.generation)
            if wanted and place != wanted:
                raise ConnectionError("the database's name leads elsewhere than the relay's")
            yield connection
