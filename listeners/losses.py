from typing import Any, Final

from listeners.generation import renew_nonce
from listeners.postgres import brief_transaction

__all__ = ["LossWatch"]

_LOOK: Final = """
    SELECT p.losses_settled AS settled, l.last_value::text || l.is_called::text AS losses,
           pg_snapshot_xmin(s.now)::text::bigint AS oldest, pg_snapshot_xmax(s.now)::text::bigint AS next
    FROM gateway.position p, gateway.loss_seq l, (SELECT pg_current_snapshot() AS now) s
"""


class LossWatch:
    """Asks for one more generation when everybody has ended who may have skipped the log.

    A trigger that finds no relay moves gateway.loss_seq at once, but what it has not logged becomes visible
    when its transaction commits, and topics may have been loaded in between. Whoever moves the counter has
    written before and so has an xid: below the xmax of every snapshot that is taken after the counter was
    seen. When no transaction below that runs any more, what is loaded from then on has all of it.

    What is settled is kept in Postgres: a relay that ends meanwhile leaves the rest to the next one.
    """

    def __init__(self) -> None:
        self._seen: str | None = None
        self._barrier: int | None = None

    async def look(self, connection: Any) -> bool:
        """Call it every now and then. True: everything has been loaded too early, and has a new nonce now."""
        found = await connection.fetchrow(_LOOK)
        losses = found["losses"]
        if losses == found["settled"]:
            return False
        if losses != self._seen:
            self._seen, self._barrier = losses, None  # this statement's snapshot is older than what it saw
        elif self._barrier is None:
            self._barrier = found["next"]
        elif found["oldest"] >= self._barrier:
            await _settle(connection, losses)
            return True
        return False


async def _settle(connection: Any, losses: str) -> None:
    async with brief_transaction(connection):
        await connection.execute("UPDATE gateway.position SET losses_settled = $1", losses)
        await renew_nonce(connection)
