"""What a process measures of itself while it serves: how late its loop is, how far its servers are."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import Histogram

from protocol.errors import ProtocolError

__all__ = ["watch_loop", "watch_round_trip"]

LOOP_PERIOD_S: Final = 0.25
ROUND_TRIP_PERIOD_S: Final = 5.0


async def watch_loop(lag: Histogram, tick: Callable[[], None]) -> None:
    """Observes how much later than asked for the loop wakes; calls `tick` about once a second."""
    loop = asyncio.get_running_loop()
    turns = 0
    while True:
        asked = loop.time() + LOOP_PERIOD_S
        await asyncio.sleep(LOOP_PERIOD_S)
        lag.observe(max(0.0, loop.time() - asked))
        turns += 1
        if turns % 4 == 0:
            tick()


async def watch_round_trip(probe: Callable[[], Awaitable[None]], round_trip: Histogram) -> None:
    """`probe` raises ProtocolError when the server does not answer; nothing is observed then, and whoever
    needs the server says so."""
    while True:
        started = time.perf_counter()
        try:
            await probe()
        except ProtocolError:
            pass
        else:
            round_trip.observe(time.perf_counter() - started)
        await asyncio.sleep(ROUND_TRIP_PERIOD_S)
