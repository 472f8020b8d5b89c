"""A writer of the shop that must never notice the gateway."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from tests.faults.ledger import tally

__all__ = ["SHOP_ROLE", "STALL_S", "Witness", "make_shop_role", "witnessed"]

SHOP_ROLE: Final = "cashier"
"""A role of the shop, without any right on the gateway's schema."""

# No transaction takes longer, on a machine that has two cores for all of this.
STALL_S: Final = 1.0
_PAUSE_S: Final = 0.01
_TIMEOUT_S: Final = 20.0


async def make_shop_role(shop: Any) -> None:
    await shop.execute(
        f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{SHOP_ROLE}') THEN
                CREATE ROLE {SHOP_ROLE};
            END IF;
        END $$;
        GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO {SHOP_ROLE};
        REVOKE ALL ON SCHEMA gateway FROM {SHOP_ROLE}, PUBLIC;
        """
    )


class Witness:
    """Repeats one transaction of the shop's role, about 50 times a second, and keeps what it went through.

    `statements` stand for whatever the shop does; the test may put others in their place.
    """

    def __init__(self, *statements: str) -> None:
        self.statements: tuple[str, ...] = statements
        self.transactions = 0
        self.slowest_s = 0.0
        self.errors: list[str] = []
        self.stopping = False
        self._between = asyncio.Lock()

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """It does not write in the block."""
        async with self._between:
            yield

    async def run(self, url: str) -> None:
        """Until `stopping`; an error is kept, and does not end it."""
        connection = await asyncpg.connect(url, server_settings={"role": SHOP_ROLE}, statement_cache_size=0)
        try:
            while not self.stopping:
                async with self._between:
                    await self._write(connection)
                await asyncio.sleep(_PAUSE_S)
        finally:
            connection.terminate()

    async def _write(self, connection: Any) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT_S), connection.transaction():
                for statement in self.statements:
                    await connection.execute(statement)
        except (asyncpg.PostgresError, TimeoutError) as error:
            self.errors.append(f"{type(error).__name__}: {error}")
        self.transactions += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)


@asynccontextmanager
async def witnessed(url: str, *statements: str, stall_s: float = STALL_S) -> AsyncIterator[Witness]:
    """A witness at work during the block. Nothing failed, and nothing took longer than `stall_s`."""
    witness = Witness(*statements)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(witness.run(url))
        try:
            yield witness
        finally:
            witness.stopping = True
    print(f"\nthe shop: {witness.transactions} transactions, the slowest {witness.slowest_s * 1000:.0f} ms")
    tally("transactions of the shop that were watched", witness.transactions)
    assert not witness.errors, witness.errors[:3]
    assert witness.transactions > 0
    assert witness.slowest_s < stall_s
