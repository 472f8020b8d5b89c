"""How late the machine was: a promise in seconds is one for a machine that runs what is due.

The tests share two cores with all that they start. How much later than asked for this process was woken, in
sum, is what a deadline is excused.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

__all__ = ["late_since", "measuring"]

_PERIOD_S: Final = 0.05
# A wake-up this late is one in time.
_PUNCTUAL_S: Final = 0.01
_late: list[tuple[float, float]] = []


@asynccontextmanager
async def measuring() -> AsyncIterator[None]:
    """For the time of a test."""
    _late.clear()
    task = asyncio.create_task(_measure())
    try:
        yield
    finally:
        task.cancel()


async def _measure() -> None:
    while True:
        due = time.monotonic() + _PERIOD_S
        await asyncio.sleep(_PERIOD_S)
        now = time.monotonic()
        if now - due > _PUNCTUAL_S:
            _late.append((now, now - due))


def late_since(began: float) -> float:
    """The sum of all delays since this moment of the monotonic clock, in s."""
    return sum(seconds for at, seconds in _late if at >= began)
