import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress

__all__ = ["running"]


@asynccontextmanager
async def running(*works: Awaitable[None]) -> AsyncIterator[None]:
    """What runs until cancelled, for the time of the block. Raises what one of them has raised meanwhile."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
        for task in tasks:
            assert not task.done(), task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
