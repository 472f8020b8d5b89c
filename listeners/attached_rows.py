import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from listeners.attach import attached
from listeners.sources import Source
from listeners.topic_query import BATCH_ROWS, TopicQuery
from protocol.items import Item
from protocol.topics import Topic

__all__ = ["AttachedRows"]


class AttachedRows:
    """The rows of a topic as of the sources that are attached when it is loaded.

    They are asked for at every load: a relay that announces a new generation has read them before, so a
    topic of that generation is never loaded from tables that the relay does not follow.
    """

    def __init__(self) -> None:
        self._sources: tuple[Source, ...] = ()
        self._query = TopicQuery(())

    async def batches(self, pool: Any, topic: Topic, *, size: int = BATCH_ROWS) -> AsyncIterator[list[Item]]:
        """Implements listeners.loader.TopicRows."""
        async with pool.acquire() as connection:
            sources = await attached(connection)
            if sources != self._sources:
                self._sources, self._query = sources, TopicQuery(sources)
            async for batch in self._query.batches(_Lent(connection), topic, size=size):
                yield batch


class _Lent:
    """One connection as a pool: handing one out costs more statements than most topics take."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        async with self._turn:
            yield self._connection

    async def fetch(self, query: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetch(query, *arguments)
