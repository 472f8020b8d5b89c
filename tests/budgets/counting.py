"""Counts of what does not depend on the machine: round trips, statements, and work between two turns."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

__all__ = ["CountingPool", "Work", "count_round_trips"]


class CountingPool:
    """A pool that counts the statements its connections are given."""

    def __init__(self, pool: Any) -> None:
        self.statements = 0
        self._pool = pool

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        async with self._pool.acquire() as connection:
            connection.add_query_logger(self._count)
            try:
                yield connection
            finally:
                connection.remove_query_logger(self._count)

    async def fetch(self, query: str, *arguments: Any) -> Any:
        async with self.acquire() as connection:
            return await connection.fetch(query, *arguments)

    def _count(self, _: Any) -> None:
        self.statements += 1


def count_round_trips(patch: pytest.MonkeyPatch) -> Counter[str]:
    """Of every client of Redis from here on, by its name: what is sent at once is one."""
    trips: Counter[str] = Counter()
    send = AbstractConnection.send_packed_command

    @wraps(send)
    async def counted(self: AbstractConnection, *arguments: Any, **options: Any) -> None:
        trips[str(self.client_name)] += 1
        await send(self, *arguments, **options)

    patch.setattr(AbstractConnection, "send_packed_command", counted)
    return trips


class Work:
    """How much is done between two turns of the event loop: nobody else is heard meanwhile.

    `units` are counted by whatever is wrapped, the most of one turn is `longest`.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.longest = 0
        self.total = 0
        self._patch = patch
        self._units = 0

    def counts(self, owner: Any, name: str, units: Callable[..., int] = lambda *_: 1) -> None:
        """Each call of the function counts for so many units, given its arguments."""
        function = getattr(owner, name)

        @wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            self.add(units(*arguments))
            return function(*arguments, **options)

        self._patch.setattr(owner, name, counted)

    def add(self, units: int) -> None:
        self._units += units

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """The turns of the block are looked at, each by itself."""
        self.longest = self.total = self._units = 0
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        while True:
            self.total += self._units
            self.longest = max(self.longest, self._units)
            self._units = 0
            await asyncio.sleep(0)
