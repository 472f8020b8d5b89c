"""Two ways in which Python 3.11 loses a cancellation, and what to do about each."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["apart", "cancellable"]

T = TypeVar("T")


@contextmanager
def cancellable() -> Iterator[None]:
    """Around what sends with redis-py: if the task was cancelled inside, it is cancelled.

    redis-py sends with asyncio.wait_for, which before Python 3.12 returns as if nothing had happened when it
    is cancelled in the moment its work ends (bpo-37658). A loop around that would go on for ever.
    Not for a TaskGroup, which cancels the task that it is in.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except Exception:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError from None
        raise
    if task and task.cancelling() > before:
        raise asyncio.CancelledError


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """Await the work in a task of its own, which ends before this does.

    For a TaskGroup in a loop that tries again after errors: when a task of the group fails while the group is
    cancelled, the group raises the error, and the loop would go on.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task])
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen, also where the cancellation comes first
    return task.result()
