import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["until", "until_answered"]

T = TypeVar("T")


async def until(condition: Callable[[], T | None], *, timeout_s: float, interval_s: float = 0.02) -> T:
    """The condition's first true value. Raises TimeoutError, and whatever the condition raises."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s")
        await asyncio.sleep(interval_s)
    return value


async def until_answered(
    ask: Callable[[], Awaitable[T | None]], *, timeout_s: float, interval_s: float = 0.02
) -> T:
    """The same for a condition that has to be waited for itself."""
    deadline = time.monotonic() + timeout_s
    while not (value := await ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s")
        await asyncio.sleep(interval_s)
    return value
