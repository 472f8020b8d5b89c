import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from listeners.canary import read_acknowledged
from listeners.errors import Refused, Unavailable
from listeners.postgres import Connection, classified, close, connect

__all__ = ["Lookout"]

log = structlog.get_logger(__name__)

# Postgres is asked no more often than this, however fast the canary sings.
_SHORTEST_PERIOD_S: Final = 0.2


class Lookout:
    """Reads the trace of the canary (`read_acknowledged`) all the time, on a connection of its own.

    Not through the pool: when loads take all of it Postgres is slow, and that is no broken link.
    """

    def __init__(self, dsn: str, *, period_s: float, timeout_s: float) -> None:
        self._dsn = dsn
        self._period_s = max(period_s, _SHORTEST_PERIOD_S)
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self._refused = False

    async def run(self, seen: Callable[[bool, int | None], None]) -> None:
        """Until cancelled. `seen`: whether Postgres has answered, and the number if it has given it."""
        try:
            while True:
                await self._look(seen)
                await asyncio.sleep(self._period_s)
        finally:
            await self._leave()

    async def _look(self, seen: Callable[[bool, int | None], None]) -> None:
        try:
            with classified(self._dsn):
                async with asyncio.timeout(self._timeout_s):
                    number = await self._read()
        except Unavailable as error:
            log.debug("postgres does not answer", reason=str(error))
            await self._leave()
            seen(False, None)
        except Refused as error:
            if not self._refused:
                self._refused = True
                log.warning("the canary can not be read: /readyz knows less", reason=str(error))
            await self._leave()
            seen(True, None)
        else:
            seen(True, number)

    async def _read(self) -> int:
        if self._connection is None:
            self._connection = await connect(self._dsn, purpose="lookout", timeout_s=self._timeout_s)
        return await read_acknowledged(self._connection, timeout_s=self._timeout_s)

    async def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection, timeout_s=0.1)
