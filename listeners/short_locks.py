import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg

from listeners.backoff import Backoff

__all__ = ["ATTEMPTS", "LOCK_TIMEOUT_MS", "NeverFree", "with_short_locks"]

T = TypeVar("T")

LOCK_TIMEOUT_MS: Final = 200
"""Whoever comes behind us waits as long as we do, so this is what a writer may notice. It has to be below
deadlock_timeout (1 s) as well: where we and a writer wait for each other, it is we who give up."""
ATTEMPTS: Final = 100
_BACKOFF: Final = (0.1, 1.0)  # s


class NeverFree(Exception):
    """All attempts at the locks failed: long transactions hold them."""


async def with_short_locks(
    conn: Any,
    work: Callable[[], Awaitable[T]],
    *,
    lock_timeout_ms: int = LOCK_TIMEOUT_MS,
    attempts: int = ATTEMPTS,
    backoff: Backoff | None = None,
) -> T:
    """Do what locks tables of the shop, or those that its triggers read, in a transaction of its own.

    A lock that waits makes everybody behind it wait, however short it would be held; so it is given up after
    `lock_timeout_ms`, and those behind are let through before the next attempt. Raises NeverFree.
    """
    delays = backoff or Backoff(*_BACKOFF)
    for attempt in range(1, attempts + 1):
        try:
            async with conn.transaction():
                await conn.execute(f"SET LOCAL lock_timeout = {int(lock_timeout_ms)}")
                return await work()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if attempt == attempts:
                raise NeverFree(f"never free for {lock_timeout_ms} ms in {attempts} attempts") from error
            await asyncio.sleep(delays.next())
    raise AssertionError("there is at least one attempt")
