from typing import Any, Final, NamedTuple

from listeners.generation import renew_nonce
from listeners.postgres import brief_transaction

__all__ = ["LossWatch"]

_LOOK: Final = """
    SELECT p.losses_settled AS settled, l.last_value::text || l.is_called::text AS losses,
           ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())::text) AS running
    FROM gateway.position p, gateway.loss_seq l
"""


class _Settled(NamedTuple):
    """For this value of the counter, all but the effects of these transactions, which were running."""

    losses: str
    running: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> "_Settled":
        losses, _, running = text.partition(" ")
        return cls(losses, frozenset(running.split()))

    def __str__(self) -> str:
        return " ".join([self.losses, *sorted(self.running)])


class LossWatch:
    """Asks for further generations while transactions end that may have skipped the log.

    A trigger that finds no relay moves gateway.loss_seq at once, but what it has not logged becomes visible
    when its transaction commits, and topics may have been loaded in between. Whoever moves the counter has
    written before and so has an xid: a snapshot that is taken after the counter was seen knows whether it has
    ended. So one more generation is due then, and another one whenever some have ended that were running.

    What is settled is kept in Postgres: every generation is another reign, perhaps of another relay.
    """

    def __init__(self) -> None:
        self._seen: str | None = None

    async def look(self, connection: Any) -> bool:
        """Call it every now and then. True: some of it was loaded too early, and the nonce is a new one."""
        found = await connection.fetchrow(_LOOK)
        losses, running = found["losses"], frozenset(found["running"])
        settled = _Settled.parse(found["settled"])
        if losses == settled.losses:
            remaining = settled.running & running
            if remaining == settled.running:
                return False
        elif losses == self._seen:
            remaining = running
        else:
            self._seen = losses  # this statement's snapshot may be older than what it saw
            return False
        await _settle(connection, _Settled(losses, remaining))
        return True


async def _settle(connection: Any, settled: _Settled) -> None:
    async with brief_transaction(connection):
        await connection.execute("UPDATE gateway.position SET losses_settled = $1", str(settled))
        await renew_nonce(connection)
