import asyncio
from typing import Final

import structlog

from listeners.errors import ListenersError
from listeners.generation import read_place
from listeners.keeper import ReignOver
from listeners.postgres import TRANSIENT_ERRORS, classify, connected

__all__ = ["watch_place"]

_EVERY_S: Final = 2.0
log = structlog.get_logger(__name__)


async def watch_place(dsn: str, place: str, *, timeout_s: float, every_s: float = _EVERY_S) -> None:
    """Raises ReignOver when the database's name leads elsewhere than to `place` (Identity.place).

    After a failover the old primary may go on, and with it every session that nobody has ended: the canary
    would sing there, while the shop writes elsewhere. Only a new connection tells. One that can not be made
    tells nothing: those of the reign say themselves when they are lost.
    """
    while True:
        await asyncio.sleep(every_s)
        try:
            async with connected(dsn, purpose="relay look-out", timeout_s=timeout_s) as connection:
                async with asyncio.timeout(timeout_s):
                    found = await read_place(connection)
        except (*TRANSIENT_ERRORS, ListenersError) as error:
            reason = error if isinstance(error, ListenersError) else classify(error, dsn)
            log.debug("the database's name leads nowhere now", reason=str(reason))
            continue
        if found != place:
            raise ReignOver("the database's name leads to another server, or to another history of it")
