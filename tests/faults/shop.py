"""The shop of the fault tests: writers that go on whatever happens, and a pulse that tells a copy's age."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import asyncpg

from listeners.postgres import TRANSIENT_ERRORS
from protocol.principal import View
from tests.support import shop_writers
from tests.support.watcher import database_copy, public_copy

__all__ = ["PULSE_KEY", "PULSE_TOPICS", "Pulse", "Shop"]

PULSE_KEY: Final = "stock:PULSE:L1"
PULSE_TOPICS: Final = ("product:PULSE", "location:L1", "vendor:V1")
_PULSE_S: Final = 0.1
_RETRY_S: Final = 0.05


class Pulse(NamedTuple):
    """A change that was committed at this moment of the monotonic clock or before."""

    number: int
    committed_at: float


class Shop:
    """Writers at `rate` transactions a second together, straight to the database that `url` returns.

    They reconnect as shops do. `pulses` are those that were acknowledged, in order.
    """

    def __init__(self, url: Callable[[], str], *, rate: float = 60, writers: int = 2, seed: int = 0) -> None:
        self.pulses: list[Pulse] = []
        self.written = 0  # transactions
        self._url = url
        self._rate = rate
        self._writers = writers
        self._seed = seed
        self._running = asyncio.Event()
        self._running.set()
        self._idle = asyncio.Condition()
        self._busy = 0
        self._number = 0

    async def fill(self) -> None:
        async with self.connected() as shop:
            await shop_writers.fill(shop)
            await shop.execute(
                "INSERT INTO products (product_id, vendor_id, sku, name, price_minor, status)"
                " VALUES ('PULSE', 'V1', 'PULSE', 'Pulse', 1, 'published')"
            )
            await shop.execute(
                "INSERT INTO inventory (product_id, location_id, vendor_id) VALUES ('PULSE', 'L1', 'V1')"
            )

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep(self._pulse))
            for number in range(self._writers):
                chance = random.Random(f"{self._seed} {number}")
                tasks.create_task(self._keep(partial(self._write, chance)))

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        shop = await asyncpg.connect(self._url(), timeout=2, command_timeout=5)
        try:
            yield shop
        finally:
            shop.terminate()

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Nobody writes in the block; what was begun has ended."""
        self._running.clear()
        try:
            async with self._idle:
                await self._idle.wait_for(lambda: self._busy == 0)
            yield
        finally:
            self._running.set()

    async def copies(
        self, topics: Iterable[tuple[str, View]]
    ) -> dict[tuple[str, View], dict[str, dict[str, Any]]]:
        """What complete copies hold, by topic and view. Raises what asyncpg raises."""
        async with self.connected() as shop, shop.transaction(isolation="repeatable_read"):
            return {
                (topic, view): await (database_copy if view is View.EXACT else public_copy)(shop, topic)
                for topic, view in topics
            }

    def forget_pulses(self) -> None:
        """The database has gone back: what was acknowledged may be gone."""
        self.pulses.clear()

    async def _keep(self, work: Callable[[Any], Awaitable[None]]) -> None:
        while True:
            try:
                async with self.connected() as shop:
                    while True:
                        while not self._running.is_set():  # it may be quiet again before this task has run
                            await self._running.wait()
                        await self._counted(work(shop))
            except TRANSIENT_ERRORS:
                await asyncio.sleep(_RETRY_S)

    async def _counted(self, work: Awaitable[None]) -> None:
        self._busy += 1
        try:
            await work
        finally:
            self._busy -= 1
            async with self._idle:
                self._idle.notify_all()

    async def _pulse(self, shop: Any) -> None:
        self._number += 1
        number = self._number
        await shop.execute(
            "UPDATE inventory SET on_hand = $1 WHERE product_id = 'PULSE' AND location_id = 'L1'", number
        )
        self.pulses.append(Pulse(number, time.monotonic()))
        await asyncio.sleep(_PULSE_S)

    async def _write(self, chance: random.Random, shop: Any) -> None:
        await shop_writers.write(shop, chance)
        self.written += 1
        await asyncio.sleep(self._writers / self._rate * 2 * chance.random())
