"""The shop's side of a mixed load: single-row sales at random moments, each with its moments noted."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import orjson

from load.pacing import arrivals, paced
from load.percentiles import Summary, summarize

__all__ = ["Arrivals", "Sales", "sell"]

WRITERS: Final = 6
_MS: Final = 1000.0
_UPDATE: Final = (
    "UPDATE inventory SET on_hand = on_hand + 1 WHERE product_id = $1 AND location_id = "
    "(SELECT min(location_id) FROM inventory WHERE product_id = $1) RETURNING version"
)


@dataclass
class Sales:
    """By version, in s of `time.monotonic`: when it was due, and when its COMMIT was known."""

    due: dict[int, float] = field(default_factory=dict)
    committed: dict[int, float] = field(default_factory=dict)


class Arrivals:
    """When each version first came to one of several clients, out of their deltas."""

    def __init__(self) -> None:
        self.first: dict[int, float] = {}

    def on_text(self, payload: bytes, at: float, /) -> None:
        message = orjson.loads(payload)
        if message["type"] == "delta":
            for item in message["items"]:
                self.first.setdefault(item["version"], at)

    def summary(self, sales: Sales) -> Summary:
        """Of those that came, from when they were due, in ms. Raises ValueError if none did."""
        due = sales.due
        return summarize((at - due[version]) * _MS for version, at in self.first.items() if version in due)


async def sell(
    url: str, choose: Callable[[], str], sales: Sales, *, rate_per_s: float, seconds: float
) -> float:
    """Products as `choose` says, a transaction each, open loop; how many a second there were."""
    began = time.monotonic()

    async def writer(number: int) -> None:
        connection: Any = await asyncpg.connect(url)
        try:
            update = await connection.prepare(_UPDATE)
            started = time.monotonic()
            moments = arrivals(rate_per_s / WRITERS, seconds, rng=random.Random(number))
            async for moment in paced(moments):
                version = await update.fetchval(choose())
                if version is not None:
                    sales.committed[version] = time.monotonic()
                    sales.due[version] = started + moment
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as tasks:
        for number in range(WRITERS):
            tasks.create_task(writer(number))
    return len(sales.committed) / (time.monotonic() - began)
